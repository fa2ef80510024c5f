import os
from pathlib import Path

import pytest
import sqlalchemy

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
    monkeypatch.setenv("RKD_DATA", "/images")
    monkeypatch.setenv("RKD_DEVICE", "cpu")
    monkeypatch.setenv("RKD_FEATURE_GIB", "0.5")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    settings = Settings.from_environment()
    assert (settings.data, settings.device, settings.feature_gib) == (Path("/images"), "cpu", 0.5)
    assert settings.mlflow_uri == "http://127.0.0.1:5000"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("RKD_DEVICE", "gpu"),
        ("RKD_FEATURE_GIB", "much"),
        ("RKD_CHECKPOINT_SECONDS", "-1"),
        ("RKD_TRAININGS_PER_DEVICE", "0"),
    ],
)
def test_a_wrong_value_is_named_with_its_variable(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(RkdError, match=f"{variable}='{value}'"):
        Settings.from_environment()


@pytest.mark.parametrize("name", ["a?b", "100%", "c%20d", b"sch\xf6n"])
def test_a_store_whose_path_databases_would_misread_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str | bytes
) -> None:
    path = tmp_path / os.fsdecode(name) / "store"
    monkeypatch.setenv("RKD_STORE", str(path))
    with pytest.raises(RkdError, match=r"RKD_STORE=.*which databases"):
        Settings.from_environment()
    assert list(tmp_path.iterdir()) == []


def test_a_relative_store_is_judged_by_where_it_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "a?b").mkdir()
    monkeypatch.chdir(tmp_path / "a?b")
    with pytest.raises(RkdError, match="which databases"):
        Settings.from_environment()


@pytest.mark.parametrize("name", ["with a blank", "a#b", "a&b=c;d", "样品"])
def test_sqlite_opens_what_is_allowed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    """By the very address that Dagster and MLflow write."""
    monkeypatch.setenv("RKD_STORE", str(tmp_path / name))
    store = Settings.from_environment().store
    store.mkdir()
    with sqlalchemy.create_engine(f"sqlite:///{store / 'x.db'}").connect() as connection:
        connection.execute(sqlalchemy.text("create table t (i integer)"))
    assert [p.name for p in store.iterdir()] == ["x.db"]


def test_a_store_that_is_a_file_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "store").write_text("")
    monkeypatch.setenv("RKD_STORE", str(tmp_path / "store"))
    with pytest.raises(RkdError, match="is a file"):
        Settings.from_environment()


@pytest.mark.parametrize(
    "value", ["localhost:5000", "127.0.0.1:5000", "mlruns", "/srv/mlruns", "http://", "http://host:port", "http:/host"]
)
def test_a_tracking_address_that_is_none_is_refused_in_our_words(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", value)
    with pytest.raises(
        RkdError, match=r"MLFLOW_TRACKING_URI=\(not shown\).*looks like http://localhost:5000"
    ) as refused:
        Settings.from_environment()
    assert "pydantic" not in str(refused.value)


@pytest.mark.parametrize(
    "value",
    [
        "https://robot:s3cret@host.example.org/team",
        "sqlite:////srv/mlflow.db",
        "postgresql+psycopg2://db/x",
        "databricks",
    ],
)
def test_a_tracking_address_of_any_kind_that_mlflow_has_is_taken(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", value)
    assert Settings.from_environment().mlflow_uri == value


@pytest.mark.parametrize("variable", ["RKD_MLFLOW_PAGES", "RKD_HOOK_URL"])
def test_other_web_addresses_too(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "localhost:5000")
    with pytest.raises(RkdError, match=rf"{variable}=.*begins with neither http:// nor https://"):
        Settings.from_environment()


SECRET = "t0ken"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("RKD_HOOK_URL", f"https://hooks.example.org/{SECRET}"),
        ("MLFLOW_TRACKING_URI", f"https://robot:{SECRET}@host.example.org"),
        ("RKD_MVTEC_AD_URLS", f"https://host.example.org/x?signature={SECRET}"),
    ],
)
def test_what_may_hold_a_secret_shows_in_no_text(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    monkeypatch.setenv(variable, value)
    settings = Settings.from_environment()
    assert SECRET not in f"{settings!r} {settings}"


def test_the_webhook_is_a_secret_that_is_read_on_purpose(monkeypatch: pytest.MonkeyPatch) -> None:
    address = f"https://hooks.example.org/{SECRET}"
    monkeypatch.setenv("RKD_HOOK_URL", address)
    settings = Settings.from_environment()
    assert SECRET not in str(settings.model_dump(include={"hook_url"}))
    assert SECRET not in settings.model_dump_json(include={"hook_url"})
    assert settings.hook_url.get_secret_value() == address


@pytest.mark.parametrize("variable", ["RKD_HOOK_URL", "MLFLOW_TRACKING_URI"])
def test_a_wrong_secret_is_not_quoted(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, f"ftp:{SECRET}")
    with pytest.raises(RkdError, match=rf"{variable}=\(not shown\)") as refused:
        Settings.from_environment()
    assert SECRET not in str(refused.value)
    assert refused.value.__cause__ is None


def test_arguments_win_and_empty_variables_are_as_good_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RKD_DEVICE", "cuda")
    monkeypatch.setenv("RKD_REBENCHMARK_SEEDS", "")
    settings = Settings(device="cpu", mlflow_uri="http://127.0.0.1:9")
    assert (settings.device, settings.mlflow_uri, settings.rebenchmark_seeds) == ("cpu", "http://127.0.0.1:9", 2)


@pytest.mark.parametrize(("value", "says"), [("gpu", "'auto', 'cpu' or 'cuda'"), ("", "")])
def test_a_wrong_value_is_answered_with_what_would_fit(monkeypatch: pytest.MonkeyPatch, value: str, says: str) -> None:
    monkeypatch.setenv("RKD_DEVICE", value)
    if not says:
        assert Settings.from_environment().device == "auto"
        return
    with pytest.raises(RkdError, match=says):
        Settings.from_environment()
