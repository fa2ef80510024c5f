"""Why a run failed, where the disk has no room left for Dagster to write it down.

Such a run's process ends without a word, and its page could only say that the process is gone. So room for a few
sentences is set aside when a run starts, and overwritten in place.
"""

from contextlib import suppress
from pathlib import Path

import dagster as dg

SIZE = 4096  # bytes; the block of most file systems
_mine: list[Path] = []  # of the run that this process works on


def set_aside(home: Path, run_id: str) -> None:
    """Room for the last words of a run of this process, in Dagster's home."""
    file = _file(home, run_id)
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(b" " * SIZE)
    _mine[:] = [file]


def speak(text: str) -> None:
    """Leave the last words of this process's run, where it has one."""
    for file in _mine:
        with suppress(OSError), file.open("r+b") as stream:  # the error that is told of must not be lost to another
            stream.write(text.encode(errors="backslashreplace")[:SIZE].ljust(SIZE))


def heard(home: Path, run_id: str) -> str:
    """The last words of a run; empty where it left none."""
    file = _file(home, run_id)
    return file.read_bytes().decode(errors="ignore").strip() if file.exists() else ""


def forget_ended(instance: dg.DagsterInstance, home: Path) -> None:
    """Delete the words of every run that has ended: what matters of them is in its events by now."""
    for file in _folder(home).glob("*"):
        run = instance.get_run_by_id(file.name)
        if run is None or run.is_finished:
            file.unlink(missing_ok=True)


def _folder(home: Path) -> Path:
    return home / "last_words"


def _file(home: Path, run_id: str) -> Path:
    return _folder(home) / run_id
