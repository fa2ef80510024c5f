"""File systems with little room, for tests of full disks."""

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.conftest import need


@contextmanager
def disk_of_its_own(folder: Path, size: int) -> Iterator[None]:
    """A file system of ``size`` bytes, in memory, at an existing folder."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "rkd", str(folder)]
    mounted = os.geteuid() == 0 and subprocess.run(mount).returncode == 0
    need(mounted, "a file system of its own can only be mounted by root")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(file: Path) -> None:
    """Write until the kernel refuses, and for two seconds more whatever is freed meanwhile."""
    refused = None
    with file.open("ab", buffering=0) as stream:
        while refused is None or time.monotonic() < refused + 2:
            try:
                stream.write(b"\0" * 2**16)
            except OSError:
                refused = refused or time.monotonic()
                time.sleep(0.05)
