"""``rkd`` in a process of its own that has the libraries imported already: it saves eight seconds a command.

A server process imports them once and forks (``multiprocessing``'s forkserver). Of the project's own modules, what
reads the environment at import (``definitions``) is not among them.
"""

import atexit
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(
    [
        *("dagster", "mlflow", "torch", "torchvision", "pandas", "scipy.stats", "sklearn.metrics", "matplotlib.pyplot"),
        *("assets.upkeep", "resources.tracking"),
    ]
)


def rkd(arguments: Sequence[str], environment: dict[str, str], timeout: float) -> "subprocess.CompletedProcess[str]":
    """Run a command to its end, in a process group of its own.

    Args:
        arguments: what follows ``rkd``.
        environment: the whole of it.
        timeout: seconds after which it is killed, and ``TimeoutExpired`` raised.
    """
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder) / "out", Path(folder) / "err"
        process = _SERVER.Process(target=_become, args=(list(arguments), environment, out, err))
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(arguments, timeout, out.read_text(), err.read_text())
        return subprocess.CompletedProcess(arguments, process.exitcode, out.read_text(), err.read_text())


def _become(arguments: list[str], environment: dict[str, str], out: Path, err: Path) -> None:
    os.setsid()
    for stream, path in ((1, out), (2, err)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, stream)
        os.close(file)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["rkd", *arguments]
    try:
        runpy.run_module("rkd_pipeline.cli", run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()  # as at the end of any process; a forked one would leave without
