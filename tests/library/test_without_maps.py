"""A system that scores images and makes no maps, on a target with masks: what it lacks is said, the rest works."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from rkd_pipeline.data.user_targets import OwnTarget, targets_in
from rkd_pipeline.device import Compute
from rkd_pipeline.errors import BadKey, DataError
from rkd_pipeline.models.teacher_files import TeacherName
from rkd_pipeline.operations.prediction import predict
from rkd_pipeline.operations.status import image_auroc_summary
from rkd_pipeline.recipes.plans import PlannedTraining, cross
from rkd_pipeline.recipes.training_key import TrainingKey
from rkd_pipeline.stages import datasets
from rkd_pipeline.stages.anomaly_scores import FIGURES, evaluate, read_metrics, read_scores, score_images
from rkd_pipeline.stages.benchmark import build_benchmark, build_category_table, build_table_3, read_benchmark
from rkd_pipeline.stages.evidence import evidence_of, gather_evidence
from rkd_pipeline.stages.export import model_in_place
from rkd_pipeline.stages.trained_model import read_history, train_model
from rkd_pipeline.store.result_store import Store
from rkd_pipeline.store.stage_versions import TABLE_1

TARGET, KEY, FEW = "bolts", "deep-lof@resnet18.random-s0", "deep-lof+shots=4@resnet18.random-s0"


@pytest.fixture
def bolts(store: Store, tmp_path: Path) -> Store:
    rng, root = np.random.default_rng(0), tmp_path / "bolts"
    for folder, count in (("train/good", 12), ("test/good", 4), ("test/bent", 4), ("ground_truth/bent", 4)):
        (root / folder).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            name = f"{number}.png"
            if folder.startswith("ground_truth"):
                pixels, name = np.zeros((16, 16), np.uint8), f"{number}_mask.png"
                pixels[4:8, 4:8] = 255
            Image.fromarray(pixels).save(root / folder / name)
    targets_in(store).add(OwnTarget(TARGET, root))
    datasets.find_source(store, tmp_path, TARGET)
    datasets.index_images(store, TARGET)
    datasets.split_images(store, TARGET)
    datasets.prepare_images(store, TARGET, 224)
    return store


def test_from_training_to_tables(bolts: Store, cpu: Compute, tmp_path: Path) -> None:
    model = train_model(bolts, TARGET, KEY, cpu)
    assert read_history(model).empty
    assert list(read_history(model)) == ["epoch", "train_loss", "validation_loss"]
    assert (model.facts["epochs_trained"], model.facts["final_train_loss"]) == (0, None)
    # Its one pass is what it costs: twelve images, at the rate that is on record.
    seconds = model.facts["train_pictures"] / model.facts["pictures_per_second"]
    assert seconds == pytest.approx(model.facts["timed_seconds"], rel=0.01)
    scores, maps = read_scores(score_images(bolts, TARGET, KEY, cpu))
    assert maps is None
    assert scores["image_score"].notna().all()
    measured = evaluate(bolts, TARGET, KEY)
    metrics = read_metrics(measured).set_index("metric")
    assert 0 <= metrics.loc["image_auroc", "value"] <= 1
    for metric in ("pixel_auroc", "aupro_30", "pro_rd4ad", "pixel_threshold"):
        assert pd.isna(metrics.loc[metric, "value"])
        assert metrics.loc[metric, "protocol"] == "none: the system scores images, and makes no anomaly maps"
    assert all((measured.folder / name).read_bytes()[1:4] == b"PNG" for name in FIGURES)
    found = evidence_of(gather_evidence(bolts, TARGET, KEY))
    assert list(found.values) == [("image_auroc", "image_score")]
    [summary] = image_auroc_summary(bolts, [PlannedTraining(TARGET, KEY)]).to_dict("records")
    assert (summary["score"], summary["pixel"], summary["state"]) == ("image_score", "none", "done")
    assert summary["value [95%]"].startswith(f"{metrics.loc['image_auroc', 'value']:.3f} [")
    rows = read_benchmark(build_benchmark(bolts))
    assert rows.loc[rows["target"] == TARGET, "epochs"].isna().all()
    for table in (build_table_3(bolts), build_category_table(bolts, TABLE_1)):
        assert table.facts["measured_cells"] == 0


def test_predictions_have_scores_and_no_overlays(bolts: Store, cpu: Compute, tmp_path: Path) -> None:
    model = train_model(bolts, TARGET, KEY, cpu)
    images = sorted((tmp_path / "bolts" / "test" / "bent").iterdir())
    found = predict(model_in_place(bolts, model, None), images, tmp_path / "out").table
    assert found["score"].notna().all()
    assert found["overlay"].isna().all()
    assert (found["problem"] == "").all()
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["predictions.csv"]


def test_few_shots_train_on_as_many_images(bolts: Store, cpu: Compute) -> None:
    assert train_model(bolts, TARGET, FEW, cpu).facts["train_pictures"] == 4
    with pytest.raises(DataError, match=r"13 training images are asked for, and there are 12; ask for fewer shots"):
        train_model(bolts, TARGET, FEW.replace("4", "13"), cpu)


def test_a_key_says_no_epochs_where_there_are_none() -> None:
    key = TrainingKey.parse("padim-s0")
    assert (key.epochs, key.short_schedule, str(key)) == (None, False, "padim-s0")
    with pytest.raises(BadKey, match=r"PaDiM \(padim\) learns in one pass: it has no epochs"):
        TrainingKey.parse("padim~5e-s0")


def test_teacher_and_epochs_of_a_plan_are_for_the_recipes_that_have_them() -> None:
    teacher = TeacherName.parse("embedded")
    cells = cross(["bolts"], ["rkd", "padim"], [0], teacher=teacher, epochs=5)
    assert [cell.training for cell in cells] == ["rkd@embedded~5e-s0", "padim@embedded-s0"]
    with pytest.raises(BadKey, match="learns in one pass"):  # where no recipe has any, they are refused
        cross(["bolts"], ["padim"], [0], epochs=5)
