"""Configuration, from ``RKD_…`` environment variables; the command line overrides them."""

import re
from pathlib import Path
from typing import Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from rkd_pipeline.addresses import bucket_fault, tracking_fault, web_fault
from rkd_pipeline.errors import RkdError
from rkd_pipeline.names import printable

_PREFIX = "RKD_"
_MLFLOW = "MLFLOW_TRACKING_URI"  # MLflow's own variable
# Addresses may hold a password or a token, so no message quotes them.
_NEVER_SHOWN = ("hook_url", "locks", "mlflow_uri", _MLFLOW, "mvtec_ad_urls")


class Settings(BaseSettings):
    """Where things are and how to compute. Field ``data`` reads ``RKD_DATA``, and so on; arguments win.

    Raises ``ValidationError`` for a wrong value; ``from_environment`` says it in words that name the variable.
    """

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX,
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
        populate_by_name=True,
        hide_input_in_errors=True,
        validate_default=False,
    )

    data: Path = Field(Path("data"), description="folder that holds the datasets' folders")
    archives: Path | None = Field(None, description="folder of datasets' archives that were downloaded by hand")
    download: bool = Field(False, description="download datasets that are absent")
    mvtec_ad_urls: str = Field("", repr=False, description="addresses of MVTec AD's archive, separated by commas")
    skip_bad: bool = Field(False, description="go on without images that cannot be used, and say so everywhere")
    store: Path | str = Field(
        Path("store"),
        validate_default=True,
        description="folder of all results, or s3://bucket/prefix; a second store is a second world",
    )
    locks: SecretStr = Field(
        SecretStr(""), description="database of a store's locks, postgresql://...; a store in a bucket needs one"
    )
    lock_silence: float = Field(60.0, gt=0, description="seconds without a sign of life after which a lock is lost")
    cache: Path = Field(Path("cache"), description="folder of this machine for a store in a bucket")
    cache_gib: float = Field(50.0, gt=0, description="bound of the copies in that folder, in GiB")
    dagster_yaml: Path | None = Field(None, description="configuration of Dagster in place of one machine's own")
    upload_seconds: float = Field(300.0, gt=0, description="how often a checkpoint is uploaded to a bucket")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "fp32", "tf32", "bf16"] = "auto"
    mlflow_uri: str = Field(
        "",
        validation_alias=_MLFLOW,
        repr=False,
        description="tracking server; MLFLOW_TRACKING_URI; empty: the store's own",
    )
    mlflow_pages: str = Field("http://127.0.0.1:5000", description="where the store's own MLflow is served, for links")
    trainings_per_device: int | None = Field(
        None, ge=1, description="trainings that share a device; 1 on a CPU and as many as fit on a GPU if not given"
    )
    feature_gib: float = Field(4.0, ge=0, description="memory for cached teacher features, in GiB")
    checkpoint_seconds: float = Field(30.0, ge=0, description="at most this much training is lost when it is killed")
    rebenchmark_plan: str = Field("demo", description="what is trained again: a plan, or measured: all that is there")
    rebenchmark_cron: str = Field("0 3 * * 0", description="when, as cron says it; Sundays at three")
    rebenchmark_timezone: str = Field("UTC", description="of the cron line, e.g. Europe/Rome")
    rebenchmark_seeds: int = Field(2, ge=1, description="fresh seeds per configuration and repeat in a round")
    rebenchmark_new_draws: int = Field(
        0, ge=0, description="trainings per configuration on another draw of the test set"
    )
    hook_url: SecretStr = Field(
        SecretStr(""), description="webhook that is told of failures and of numbers that got worse or better"
    )
    watch: Path | None = Field(None, description="folder whose new images are scored")
    watch_model: str = Field(
        "", description="what scores them: a target (its champion), TARGET|TRAINING, or a file that `rkd export` wrote"
    )

    @field_validator("store")
    @classmethod
    def _is_a_place(cls, given: Path | str) -> Path | str:
        """Dagster and MLflow write a path into an address of SQLite, where ``?`` and ``%`` mean something else."""
        if isinstance(given, str) and "://" in given:
            if fault := bucket_fault(given):
                raise ValueError(fault)
            return given
        store = Path(given)
        path = str(store.resolve())
        if found := [c for c in "?%" if c in path]:
            raise ValueError(f"the path {path} holds {' and '.join(found)}, which databases cannot have in it; rename")
        if printable(path) != path:
            raise ValueError(f"the path {printable(path)} is no UTF-8 text, which databases need; rename")
        if store.exists() and not store.is_dir():
            raise ValueError(f"{path} is a file; name a folder, or a new one")
        return store

    def at(self, store: str) -> "Settings":
        """The same settings for another store. Raises ``RkdError`` where that is no place for one."""
        return _valid(store)

    @property
    def store_address(self) -> str:
        """The store's folder as an absolute path, or its bucket's address."""
        return str(self.store.resolve()) if isinstance(self.store, Path) else self.store

    @field_validator("dagster_yaml")
    @classmethod
    def _is_file(cls, path: Path | None) -> Path | None:
        if path is not None and not path.is_file():
            raise ValueError("there is no such file; the repository's deploy/cluster/dagster.yaml is one to begin with")
        return path

    @field_validator("rebenchmark_timezone")
    @classmethod
    def _is_timezone(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise ValueError("not a time zone, such as Europe/Rome") from error
        return name

    @field_validator("hook_url", "mlflow_pages")
    @classmethod
    def _is_web(cls, address: SecretStr | str) -> SecretStr | str:
        text = address.get_secret_value() if isinstance(address, SecretStr) else address
        if text and (fault := web_fault(text)):
            raise ValueError(f"it {fault}; a web address looks like http://localhost:5000")
        return address

    @field_validator("mlflow_uri")
    @classmethod
    def _is_tracking(cls, address: str) -> str:
        if address and (fault := tracking_fault(address)):
            raise ValueError(f"it {fault}")
        return address

    @classmethod
    def from_environment(cls) -> "Settings":
        """The settings that the environment asks for; raises ``RkdError`` naming the variable that is wrong."""
        return _valid()


def _valid(store: str | None = None) -> Settings:
    try:
        return Settings() if store is None else Settings(store=store)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        found, given = str(first["loc"][0]), first["input"]
        variable = found if found == _MLFLOW else f"{_PREFIX}{found.upper()}"
        given = re.sub("://[^/]*@", "://", given) if isinstance(given, str) else given  # who may come in, and how
        said = "(not shown)" if found in _NEVER_SHOWN else repr(given)
        # Without its cause, which quotes what was given, secret or not.
        raise RkdError(f"{variable}={said}: {first['msg']}") from None
