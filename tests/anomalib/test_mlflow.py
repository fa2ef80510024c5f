"""A model of anomalib in MLflow: mirrored like any other training, and scored by the code that it carries."""

import subprocess
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import mlflow
import pandas as pd
import pytest

from resources.mlflow_client import MODEL_TAG
from resources.tracking import MlflowTracking
from rkd_pipeline.device import Compute
from rkd_pipeline.stages import anomaly_scores, datasets, trained_model
from rkd_pipeline.stages.trained_model import list_teachers
from tests.conftest import need
from tests.integration.test_models import ALONE
from tests.library.arena import TARGET, build

pytestmark = pytest.mark.slow
TRAINING = "anomalib-dfm-brief@resnet18.random-s0"


def test_a_training_is_mirrored_and_its_model_scores_as_the_store_does(cpu: Compute, tmp_path: Path) -> None:
    need(find_spec("anomalib"), "anomalib is not installed; make test-all makes an environment that has it")
    store = build(tmp_path)
    list_teachers(store)
    datasets.prepare_images(store, TARGET, 128)
    trained_model.train_model(store, TARGET, TRAINING, cpu)
    scored, _ = anomaly_scores.read_scores(anomaly_scores.score_images(store, TARGET, TRAINING, cpu))
    metrics = anomaly_scores.read_metrics(anomaly_scores.evaluate(store, TARGET, TRAINING))
    tracking = MlflowTracking()
    run = mlflow.MlflowClient(tracking.tracking_uri(store)).get_run(tracking.mirror(store, TARGET, TRAINING, {}))
    assert run.info.status == "FINISHED"
    assert run.data.params["recipe.model"] == "Dfm"
    known = metrics.set_index(["metric", "score_rule"])["value"]
    assert run.data.metrics["image_auroc.image_score"] == pytest.approx(known["image_auroc", "image_score"])

    mlflow.set_tracking_uri(tracking.tracking_uri(store))
    logged = mlflow.MlflowClient().get_logged_model(run.data.tags[MODEL_TAG])
    folder = Path(str(logged.artifact_location).removeprefix("file://"))
    assert (folder / "code" / "rkd_pipeline" / "detectors" / "anomalib_model.py").exists()
    assert f"anomalib=={version('anomalib')}" in (folder / "requirements.txt").read_text().split()
    of_test = scored[scored["part"] == "test"].iloc[0]
    [image] = [str(p) for p in (tmp_path / "pictures").rglob("*.png") if str(p).endswith(of_test["image_id"])]
    found = mlflow.pyfunc.load_model(str(folder)).predict(pd.DataFrame({"picture": [image]}))
    assert found["score"].tolist() == [pytest.approx(of_test["image_score"], rel=1e-4)]
    assert len(found["map"][0]) == 128

    # In a process that finds this repository nowhere but in the model.
    command = [sys.executable, "-I", "-c", ALONE, str(folder), image]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    code, score = done.stdout.strip().splitlines()[-2:]
    assert code.startswith(str(folder / "code"))
    assert float(score) == pytest.approx(of_test["image_score"], rel=1e-4)
