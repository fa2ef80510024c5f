"""MLflow's view of a trained model (models-from-code: this file is the model, the weights are its artifacts).

Input: a table with column ``picture``, paths of picture files. Output: one row per picture, a column per score
of the system and ``anomalous`` (by its own score; empty where the recipe has no honest threshold).
"""

from pathlib import Path
from typing import Any

import mlflow
import pandas as pd

from rkd_pipeline.scorer import Scorer


class MlflowScorer(mlflow.pyfunc.PythonModel):
    """Loads the exported files and scores pictures."""

    def load_context(self, context: Any) -> None:
        """Called once by MLflow with the artifacts' places."""
        files = context.artifacts
        self._scorer = Scorer(Path(files["student"]), Path(files["teacher"]), Path(files["card"]))

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Scores of the pictures named in column ``picture``."""
        table, _ = self._scorer.score([Path(p) for p in model_input["picture"]])
        return table


mlflow.models.set_model(MlflowScorer())
