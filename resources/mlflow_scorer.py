"""MLflow's view of a trained model (models-from-code: this file is the model, the weights are its artifacts).

Input: a table with one string per image, column ``picture``: the path of an image file, or the file itself as a data
URI (``data:image/png;base64,...``), for clients that share no disk with the server. Where a row cannot be scored, the
request is refused (a client's error, 400 from a server): each such row with its fault and the fix, never its content.

Output: one row per image. ``score``: what the model's system decides by (the map's maximum; Multiresolution KD: its
loss); ``threshold``: the honest one, from held-out normal images, empty where the recipe has none; ``anomalous``:
score above threshold, empty without one; ``map``: the anomaly map, rows of a square,
unless parameter ``maps`` is false.
"""

import base64
import binascii
import os
import re
import tempfile
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

from rkd_pipeline.data.image_files import BadImage, decode
from rkd_pipeline.detectors.exported_model import ExportedModel

_COLUMN = "picture"
_URI = "data:image/png;base64,..."
_WANTED = f"a string: the path of an image file, or {_URI}"
_WHOLE = "send the whole image file, encoded as base64 without line breaks"
_SHOWN = 20  # rows named in one answer
_LONGEST_NAME = 300  # of a missing file: what is longer may be content, which is not repeated


class BadInput(MlflowException):
    """Input that cannot be scored. Its message stays as it was made: a server would put the input before it."""

    def __init__(self, message: str) -> None:
        self._said = message
        super().__init__(message, error_code=INVALID_PARAMETER_VALUE)

    @property
    def message(self) -> str:
        """What was wrong, and the fix."""
        return self._said

    @message.setter
    def message(self, _: str) -> None:
        """The scoring server's "Failed to predict data ...", which repeats what was sent."""


class MlflowScorer(mlflow.pyfunc.PythonModel):
    """Loads the exported files and scores images."""

    def load_context(self, context: Any) -> None:
        """Called once by MLflow with the artifacts' places."""
        files = context.artifacts
        self._scorer = ExportedModel.load(Path(files["student"]), Path(files["teacher"]), Path(files["card"]))

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Score, threshold, decision and map of the images in column ``picture``.

        Raises ``BadInput`` naming every row that cannot be used.
        """
        with tempfile.TemporaryDirectory(prefix="rkd-") as folder:
            scored, maps = self._scorer.score(_files(_column(model_input), Path(folder)))
        threshold = self._scorer.card.threshold
        score = scored["score"].astype(float)
        table = pd.DataFrame({"score": score})
        # None, not NaN: it becomes JSON's null.
        table["threshold"] = pd.Series([threshold] * len(table), dtype=object)
        called = [None if threshold is None else bool(s > threshold) for s in score]
        table["anomalous"] = pd.Series(called, dtype=object)
        if (params or {}).get("maps", True):
            table["map"] = [None] * len(table) if maps is None else [m.astype(float).round(5).tolist() for m in maps]
        return table


def _column(table: pd.DataFrame) -> list[object]:
    if _COLUMN not in table:
        raise BadInput(f"the input has no column '{_COLUMN}'; give it one, with an image in each row: {_WANTED}")
    if table.empty:
        raise BadInput(f"the input has no rows; send one for each image, column '{_COLUMN}': {_WANTED}")
    return list(table[_COLUMN])


def _files(rows: list[object], folder: Path) -> list[Path]:
    """The image files of all rows; what came as a data URI is written into ``folder``. Raises ``BadInput``."""
    files, problems = [], []
    for number, row in enumerate(rows):
        try:
            files.append(_file(row, folder / str(number)))
        except ValueError as error:
            problems.append(f"row {number}: {error}")
    if problems:
        rest = len(problems) - _SHOWN
        raise BadInput("\n".join(problems[:_SHOWN] + [f"and {rest} rows more"] * (rest > 0)))
    return files


def _file(row: object, place: Path) -> Path:
    """The file of one row. Raises ``ValueError``: fault, and fix."""
    if not isinstance(row, str):
        kind = "null" if row is None or row != row else f"of type {type(row).__name__}"  # NaN is null in a table
        raise ValueError(f"is {kind}; send {_WANTED}")
    if not row.strip():
        raise ValueError(f"is an empty string; send {_WANTED}")
    if row[:5].lower() == "data:":
        place.write_bytes(_content(row))
        return _decodable(place, "the data", _WHOLE)
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", row):
        raise ValueError(f"is an address, and nothing is fetched; send {_WANTED}")
    if os.path.isfile(row):  # not of pathlib, which raises for what can be no path
        return _decodable(Path(row), row, f"send the path of an image file that this machine can read, or {_URI}")
    if os.path.exists(row):
        raise ValueError(f"{row}: is no file; send the path of one image file in each row")
    if _is_base64(row):
        raise ValueError("is base64 alone; put data:image/png;base64, before it (or image/jpeg, and so on)")
    if len(row) > _LONGEST_NAME or not row.isprintable():
        raise ValueError(f"is neither the path of a file nor a data URI; send {_WANTED}")
    raise ValueError(f"{row}: the file does not exist; send a path that this machine has, or {_URI}")


def _content(uri: str) -> bytes:
    head, comma, encoded = uri.partition(",")
    if not comma or not head.lower().endswith(";base64"):
        raise ValueError(f"is not a data URI like {_URI}: no ';base64,' in its head; {_WHOLE}")
    try:
        content = base64.b64decode(encoded, validate=True)
    except (ValueError, binascii.Error):  # without its words, which may repeat the content
        raise ValueError(f"is not a data URI like {_URI}: no valid base64; {_WHOLE}") from None
    if not content:
        raise ValueError(f"is a data URI without data; {_WHOLE}")
    return content


def _is_base64(text: str) -> bool:
    """Whether a text that is no path of a file is base64: of an image by its beginning, of anything if it is long."""
    images = ("iVBORw0KGgo", "/9j/", "R0lGOD", "UklGR", "SUkqA", "TU0AK")  # PNG, JPEG, GIF, WebP, TIFF
    return text.startswith(images) or re.fullmatch(r"[A-Za-z0-9+/_=\s-]{100,}", text) is not None


def _decodable(path: Path, name: str, unreadable: str) -> Path:
    """The path, once its image can be decoded. Raises ``ValueError`` under ``name``."""
    try:
        decode(path, name)
    except BadImage as error:
        problem = error.problem
        # What a dataset is advised, to restore a damaged file from its source, is of no use to a client.
        fix = problem.fix if problem.fix.startswith(("save", "scale")) else unreadable
        raise ValueError(f"{name}: {problem.what}; {fix}") from None
    return path


mlflow.models.set_model(MlflowScorer())
