import os
from pathlib import Path

import pytest

from rkd_pipeline.errors import RkdError
from rkd_pipeline.settings import Settings


@pytest.fixture(autouse=True)
def _nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in os.environ if n.startswith(("RKD_", "MLFLOW_"))]:  # MLflow sets its own in other tests
        monkeypatch.delenv(name)


def test_defaults_are_local() -> None:
    settings = Settings.from_environment()
    assert (settings.data, settings.store, settings.device, settings.mlflow_uri) == (
        Path("data"),
        Path("store"),
        "auto",
        "",
    )


def test_variables_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RKD_DATA", "/pictures")
    monkeypatch.setenv("RKD_DEVICE", "cpu")
    monkeypatch.setenv("RKD_FEATURE_GIB", "0.5")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    settings = Settings.from_environment()
    assert (settings.data, settings.device, settings.feature_gib) == (Path("/pictures"), "cpu", 0.5)
    assert settings.mlflow_uri == "http://127.0.0.1:5000"


@pytest.mark.parametrize(
    ("variable", "value"), [("RKD_DEVICE", "gpu"), ("RKD_FEATURE_GIB", "much"), ("RKD_CHECKPOINT_SECONDS", "-1")]
)
def test_a_wrong_value_is_named_with_its_variable(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(RkdError, match=f"{variable}='{value}'"):
        Settings.from_environment()
