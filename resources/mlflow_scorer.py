"""MLflow's view of a trained model (models-from-code: this file is the model, the weights are its artifacts).

Input: a table with one string per picture, column ``picture``: the path of a picture file, or the file itself as a data
URI (``data:image/png;base64,...``), for clients that share no disk with the server.

Output: one row per picture. ``score``: what the model's system decides by (the map's maximum; Multiresolution KD: its
loss); ``threshold``: the honest one, from held-out normal pictures, empty where the recipe has none; ``anomalous``:
score above threshold, empty without one; ``map``: the anomaly map, rows of a square,
unless parameter ``maps`` is false.
"""

import base64
import binascii
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.exceptions import MlflowException

from rkd_pipeline.errors import RkdError
from rkd_pipeline.scorer import Scorer


class MlflowScorer(mlflow.pyfunc.PythonModel):
    """Loads the exported files and scores pictures."""

    def load_context(self, context: Any) -> None:
        """Called once by MLflow with the artifacts' places."""
        files = context.artifacts
        self._scorer = Scorer(Path(files["student"]), Path(files["teacher"]), Path(files["card"]))

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Score, threshold, decision and map of the pictures in column ``picture``.

        Raises ``MlflowException`` (a client's error, 400 from a server) naming a picture that cannot be used.
        """
        try:
            with _files(list(model_input["picture"])) as pictures:
                scored, maps = self._scorer.score(pictures)
        except RkdError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from error
        threshold = self._scorer.card.threshold
        score = scored["score"].astype(float)
        table = pd.DataFrame({"score": score})
        # None, not NaN: it becomes JSON's null.
        table["threshold"] = pd.Series([threshold] * len(table), dtype=object)
        called = [None if threshold is None else bool(s > threshold) for s in score]
        table["anomalous"] = pd.Series(called, dtype=object)
        if (params or {}).get("maps", True):
            table["map"] = [m.astype(float).round(5).tolist() for m in maps]
        return table


@contextmanager
def _files(pictures: Sequence[str]) -> Iterator[list[Path]]:
    """Paths of the pictures; what came as a data URI lies in a folder that goes away afterwards."""
    with tempfile.TemporaryDirectory(prefix="rkd-") as folder:
        yield [_file(text, Path(folder) / f"picture {number}") for number, text in enumerate(pictures)]


def _file(picture: str, place: Path) -> Path:
    if not picture.startswith("data:"):
        return Path(picture)
    head, comma, content = picture.partition(",")
    try:
        if not comma or not head.endswith(";base64"):
            raise ValueError("no ';base64,' in its head")
        place.write_bytes(base64.b64decode(content, validate=True))
    except (ValueError, binascii.Error) as error:
        raise MlflowException.invalid_parameter_value(
            f"{place.name}: not a data URI like data:image/png;base64,... ({error})"
        ) from error
    return place


mlflow.models.set_model(MlflowScorer())
