"""A target of only normal images: trained, given a threshold, made champion; what needs anomalies says so."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rkd_pipeline.data.user_targets import OwnTarget, targets_in
from rkd_pipeline.device import Compute
from rkd_pipeline.errors import DataError
from rkd_pipeline.operations import champions, gate
from rkd_pipeline.stages import datasets
from rkd_pipeline.stages.anomaly_scores import evaluate, read_metrics, read_scores, score_images
from rkd_pipeline.stages.trained_model import train_model
from rkd_pipeline.store.result_store import Store

TARGET, NORMALS = "bolts", 48
CALIBRATING, PLAIN = "rkd-cal@resnet18.random~1e-s0", "rkd@resnet18.random~1e-s0"


@pytest.fixture
def bolts(store: Store, tmp_path: Path) -> Store:
    rng = np.random.default_rng(0)
    (tmp_path / "bolts" / "good").mkdir(parents=True)
    for number in range(NORMALS):
        pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "bolts" / "good" / f"{number:02d}.png")
    targets_in(store).add(OwnTarget(TARGET, tmp_path / "bolts"))
    datasets.find_source(store, tmp_path, TARGET)
    datasets.index_images(store, TARGET)
    datasets.split_images(store, TARGET)
    datasets.prepare_images(store, TARGET, datasets.FIRST_SIDE)
    return store


def test_a_champion_reigns_at_a_calibrated_threshold_without_a_test_set(bolts: Store, cpu: Compute) -> None:
    train_model(bolts, TARGET, CALIBRATING, cpu)
    scores, _ = read_scores(score_images(bolts, TARGET, CALIBRATING, cpu))
    assert scores["part"].tolist() == ["calibration"] * 19
    metrics = read_metrics(evaluate(bolts, TARGET, CALIBRATING)).set_index(["metric", "score_rule"])
    # Of 19 the largest is the conformal quantile of 5%: its rank is ceil(20 * .95) = 19.
    assert metrics.loc[("threshold", "map_max"), "value"] == scores["map_max"].max()
    assert metrics.loc[("image_auroc", "map_max"), "protocol"] == "none: no anomalous images"
    assert metrics.loc[("fpr_at_threshold", "map_max"), "protocol"] == "none: no normal test images"
    outcome = champions.challenge(bolts, TARGET)
    assert (outcome.champion.training, outcome.champion.how) == (CALIBRATING, "first")
    assert outcome.champion.threshold == scores["map_max"].max()
    assert outcome.champion.selected["value"] is None
    assert "no anomalous test images" in outcome.champion.why
    assert gate.missing_class(bolts, TARGET) == "anomalous"


def test_a_training_of_which_nothing_could_be_said_is_refused_before_it_starts(bolts: Store, cpu: Compute) -> None:
    with pytest.raises(DataError, match=r"no test image, .*train a recipe that calibrates, such as rkd-cal"):
        train_model(bolts, TARGET, PLAIN, cpu)
