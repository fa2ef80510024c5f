"""`rkd ui` on ports that are another's, and `make ui` with ports of one's own: nothing is started."""

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from rkd_pipeline.cli.main import main
from tests.integration.servers import free_port


@pytest.fixture
def busy() -> Iterator[int]:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


@pytest.mark.parametrize(
    ("option", "variable", "others"),
    [("--port", "PORT", "--mlflow-port"), ("--mlflow-port", "MLFLOW_PORT", "--port")],
)
def test_a_busy_port_is_named_with_its_option_before_anything_is_printed(
    busy: int,
    option: str,
    variable: str,
    others: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("RKD_STORE", "RKD_DATA"):  # main() sets them; monkeypatch puts them back
        monkeypatch.setenv(name, "")
    asked = ["ui", option, str(busy), others, str(free_port()), "--store", str(tmp_path / "store")]
    assert main(asked) == 1
    said = capfd.readouterr()
    assert f"{option}: port {busy} of 127.0.0.1 is taken" in said.err
    assert f"rkd ui {option} NUMBER, make ui {variable}=NUMBER" in said.err
    assert said.out == ""
    assert not (tmp_path / "store").exists()


def test_one_port_for_both_servers_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RKD_STORE", "RKD_DATA"):
        monkeypatch.setenv(name, "")
    port = str(free_port())
    assert main(["ui", "--port", port, "--mlflow-port", port, "--store", str(tmp_path / "store")]) == 1
    assert f"--port and --mlflow-port are both {port}" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("given", "expected"),
    [([], "--port 3000 --mlflow-port 5000"), (["PORT=3001", "MLFLOW_PORT=5001"], "--port 3001 --mlflow-port 5001")],
)
def test_make_ui_takes_ports_from_its_command_line_alone(given: list[str], expected: str) -> None:
    root = Path(__file__).parents[2]
    environment = {"PATH": "/usr/bin:/bin", "PORT": "8080"}  # of a hosting service, say
    asked = subprocess.run(
        ["make", "-n", "ui", *given], cwd=root, env=environment, capture_output=True, text=True, check=True
    )
    assert asked.stdout.strip().endswith(f"rkd ui {expected}")
    shown = subprocess.run(["make", "help"], cwd=root, env=environment, capture_output=True, text=True, check=True)
    assert "PORT=3001 MLFLOW_PORT=5001" in shown.stdout
