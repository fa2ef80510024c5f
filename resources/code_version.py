"""Which code a process runs: on every node of a cluster the same, or a run is refused."""

import importlib.metadata
import json
import os
import platform
import socket
from functools import cache
from pathlib import Path

from rkd_pipeline.errors import RkdError
from rkd_pipeline.store.files import text_sha256

EXPECTED = "RKD_EXPECTED_CODE"  # what the launcher runs itself, in the environment of what it starts
_FOLDERS = ("rkd_pipeline", "resources", "assets")
_PACKAGES = ("dagster", "mlflow", "numpy", "ray", "scipy", "torch", "torchvision")


@cache
def this_code() -> str:
    """Python, the packages that numbers and messages depend on, and a hash of the project's own code, as JSON."""
    found = {"python": platform.python_version(), "rkd-pipeline": _own_code()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "absent"
    return json.dumps(found, sort_keys=True)


def require_expected_code() -> None:
    """Raises ``RkdError`` where a launcher started this process and runs other code than this machine has."""
    expected = os.environ.get(EXPECTED)
    if not expected or expected == this_code():
        return
    there, here = json.loads(expected), json.loads(this_code())
    differ = [f"{n} {here.get(n)} here, {there.get(n)} there" for n in there if here.get(n) != there.get(n)]
    raise RkdError(
        f"{socket.gethostname()} has other code than the machine that launched this run: {'; '.join(differ)}. Install "
        "the same version of rkd-pipeline and of constraints.txt on every machine, then run it again"
    )


def _own_code() -> str:
    root = Path(__file__).parents[1]
    files = sorted(file for folder in _FOLDERS for file in (root / folder).rglob("*.py"))
    return text_sha256("".join(f"{file.relative_to(root)}\n{file.read_text(encoding='utf-8')}" for file in files))[:16]
