"""Configuration, from ``RKD_…`` environment variables; the command line overrides them."""

import os
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rkd_pipeline.errors import RkdError


class Settings(BaseModel):
    """Where things are and how to compute. Field ``data`` reads ``RKD_DATA``, and so on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: Path = Field(Path("data"), description="folder that holds the datasets' folders")
    archives: Path | None = Field(None, description="folder of datasets' archives that were downloaded by hand")
    download: bool = Field(False, description="download datasets that are absent")
    mvtec_ad_urls: str = Field("", description="addresses of MVTec AD's archive, separated by commas")
    skip_bad: bool = Field(False, description="go on without pictures that cannot be used, and say so everywhere")
    store: Path = Field(Path("store"), description="folder of all results; a second store is a second world")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    mlflow_uri: str = Field("", description="tracking server; MLFLOW_TRACKING_URI; empty: the store's own")
    feature_gib: float = Field(4.0, ge=0, description="memory for cached teacher features, in GiB")
    checkpoint_seconds: float = Field(30.0, ge=0, description="at most this much training is lost when it is killed")

    @classmethod
    def from_environment(cls) -> "Settings":
        """The settings that the environment asks for; raises ``RkdError`` naming the variable that is wrong."""
        variables = {name: f"RKD_{name.upper()}" for name in cls.model_fields} | {"mlflow_uri": "MLFLOW_TRACKING_URI"}
        given = {name: value for name, variable in variables.items() if (value := os.environ.get(variable))}
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            first = error.errors()[0]
            raise RkdError(f"{variables[str(first['loc'][0])]}={first['input']!r}: {first['msg']}") from error
