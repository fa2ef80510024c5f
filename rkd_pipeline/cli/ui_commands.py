"""``rkd ui``: Dagster's and MLflow's servers over one store, until Ctrl-C."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rkd_pipeline.addresses import port_fault, web_address
from rkd_pipeline.cli.options import export, group, open_session, with_places
from rkd_pipeline.errors import RkdError

if TYPE_CHECKING:
    from rkd_pipeline.settings import Settings

commands = group()


@commands.command()
@with_places
def ui(
    host: Annotated[
        str,
        typer.Option(
            envvar="RKD_UI_HOST", help="Address to listen at. Anybody who reaches it can start runs: keep it local."
        ),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(envvar="RKD_UI_PORT", help="Of Dagster.")] = 3000,
    mlflow_port: Annotated[int, typer.Option(envvar="RKD_UI_MLFLOW_PORT", help="Of MLflow.")] = 5000,
) -> int:
    """Serve the pages of Dagster and MLflow until Ctrl-C."""
    from rkd_pipeline.cli.cluster_run import launches_elsewhere, require_no_other_daemon
    from rkd_pipeline.settings import Settings

    elsewhere = Settings.from_environment().mlflow_uri.startswith(("http://", "https://", "databricks"))
    _require_ports(host, {"--port": port} if elsewhere else {"--port": port, "--mlflow-port": mlflow_port})
    export(trainings_per_device=_trainings_per_device(Settings.from_environment()))
    session = open_session()
    if launches_elsewhere(session.instance):
        require_no_other_daemon(session.instance)
    session.offer_paper_keys()
    mlflow_pages = web_address(host, mlflow_port)
    tracking = session.tracking(mlflow_pages)
    uri = tracking.tracking_uri(session.store)
    workspace = ["-m", "rkd_pipeline.definitions", "-d", str(Path(__file__).parents[2])]
    servers = [["-m", "dagster_dg_cli.cli", "dev", "-h", host, "-p", str(port), *workspace]]
    if not elsewhere:
        tracking.prepare(session.store)
        mlflow = ["-m", "mlflow", "server", "--backend-store-uri", uri, "--workers", "1"]
        servers.append([*mlflow, "--host", host, "--port", str(mlflow_port)])
    served = {"RKD_MLFLOW_PAGES": mlflow_pages}  # links on asset pages lead there
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    children = [
        # Each leads its own group, so that its own children end with it.
        subprocess.Popen([sys.executable, *server], start_new_session=True, env=os.environ | served | quiet)
        for server in servers
    ]
    print(f"Dagster  {web_address(host, port)}")
    print(f"MLflow   {tracking.address(session.store)}", flush=True)
    return _wait_for(children)


def _trainings_per_device(settings: "Settings") -> int:
    """Chosen once, for all processes: what one of them computes takes memory by which the next would choose.

    A process of its own looks at the GPU: whoever does keeps some of its memory, and this one stays for weeks.
    """
    if settings.trainings_per_device is not None:
        return settings.trainings_per_device
    if settings.device == "cpu":
        return 1
    asked = (settings.device, settings.precision, settings.feature_gib, None)
    program = f"from rkd_pipeline.device import Compute; print(Compute.choose(*{asked!r}).slots)"
    looked = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    if looked.returncode:
        said = (looked.stderr.strip().splitlines() or ["nothing"])[-1]
        raise RkdError(f"looking for a GPU failed: {said}; set RKD_DEVICE, or RKD_TRAININGS_PER_DEVICE")
    return int(looked.stdout)


def _wait_for(children: list[subprocess.Popen[bytes]]) -> int:
    """Until Ctrl-C or SIGTERM (0), or until a server ends by itself (1; its own message is above)."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        while all(child.poll() is None for child in children):
            time.sleep(0.5)
        return 1
    except KeyboardInterrupt:
        return 0
    finally:
        _stop(children)


def _require_ports(host: str, ports: dict[str, int]) -> None:
    """Raise ``RkdError`` unless the servers can listen where they are to: the addresses are printed at once."""
    for option, port in ports.items():
        if fault := port_fault(host, port):
            variable = option.removeprefix("--").replace("-", "_").upper()
            raise RkdError(f"{option}: {fault}; choose another: rkd ui {option} NUMBER, make ui {variable}=NUMBER")
    if len(set(ports.values())) < len(ports):
        raise RkdError(f"--port and --mlflow-port are both {ports['--port']}; each server needs a port of its own")


def _stop(children: list[subprocess.Popen[bytes]]) -> None:
    for number in (signal.SIGINT, signal.SIGKILL):
        for child in children:
            if child.poll() is None:
                os.killpg(child.pid, number)
        deadline = time.monotonic() + 15
        while time.monotonic() < deadline and any(child.poll() is None for child in children):
            time.sleep(0.2)
