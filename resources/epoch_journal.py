"""When each epoch of a training ended, in the store: what MLflow is told while it runs, or later where it is away."""

import json
from pathlib import Path

from rkd_pipeline.store.document import Document


class Journal:
    """A file of one line per epoch, under a line that says whose they are.

    It adds times to a history that the store has, and is no result: a line that was cut short is passed over.
    """

    def __init__(self, file: Path) -> None:
        self._file = file

    @classmethod
    def beside(cls, record: Document) -> "Journal":
        """That of the training whose mirror is on this record; it stays on the machine that trains."""
        return cls((record.place.root / record.name).with_suffix(".epochs"))

    def begin(self, mark: str) -> None:
        """Go on with the lines of this training; those of another are gone."""
        if not self.times(mark):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._file.write_text(json.dumps({"begun": mark}) + "\n", encoding="utf-8")

    def note(self, epoch: int, time: int) -> None:
        """An epoch ended, at a time in ms since 1970."""
        with self._file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps({"epoch": epoch, "time": time}) + "\n")

    def times(self, mark: str) -> dict[int, int]:
        """Time of each epoch that was noted; an epoch that was trained twice ended when it did first.

        Empty where there is no such file, or one of another training.
        """
        if not self._file.exists():
            return {}
        first, *lines = [_read(line) for line in self._file.read_text(encoding="utf-8").splitlines()] or [{}]
        if first.get("begun") != mark:
            return {}
        found: dict[int, int] = {}
        for line in lines:
            if line.keys() == {"epoch", "time"}:
                found.setdefault(int(line["epoch"]), int(line["time"]))
        return found

    def delete(self) -> None:
        """Its times are in MLflow."""
        self._file.unlink(missing_ok=True)


def _read(line: str) -> dict[str, int | str]:
    try:
        return dict(json.loads(line))
    except ValueError:
        return {}
