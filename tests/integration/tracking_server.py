"""Real servers for tests: a tracking server that can be killed and stopped, and one that accepts and never answers."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.integration.servers import answers, free_port


def wait_until(done: Callable[[], bool], seconds: float, process: "subprocess.Popen[str] | None" = None) -> None:
    """Look several times a second; raises where time is up or the process has ended."""
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, f"not so within {seconds:.0f} s"
        assert process is None or process.poll() is None, "the process ended too early"
        time.sleep(0.1)


class TrackingServer:
    """``mlflow server`` over a folder, or over a database and a bucket, on one port for all its lives.

    Args:
        database: in the place of one in the folder.
        artifacts: likewise; the server alone reaches them, with the further ``environment``.
    """

    def __init__(
        self, folder: Path, database: str = "", artifacts: str = "", environment: Mapping[str, str] | None = None
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._port = folder, free_port()
        self._database, self._artifacts = (
            database or f"sqlite:///{folder / 'db'}",
            artifacts or str(folder / "artifacts"),
        )
        self._environment = environment or {}
        self.uri = f"http://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", self._database]
        command += ["--artifacts-destination", self._artifacts, "--workers", "1"]
        quiet = {**self._environment, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        with (self._folder / "log").open("a") as log:
            self._process = subprocess.Popen(
                [*command, "--host", "127.0.0.1", "--port", str(self._port)],
                env=os.environ | quiet, stdout=log, stderr=log, text=True, start_new_session=True,
            )  # fmt: skip
        wait_until(lambda: answers(f"{self.uri}/health"), 240, self._process)

    def signal(self, number: signal.Signals) -> None:
        """To the server and its workers."""
        assert self._process is not None
        os.killpg(self._process.pid, number)
        if number == signal.SIGKILL:
            self._process.wait()

    def close(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.signal(signal.SIGKILL)


@contextmanager
def silent_server() -> Iterator[str]:
    """A port that takes connections and never says anything."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(32)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
