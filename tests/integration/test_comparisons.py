"""Ablation and claims on real trainings of the demo: the scorings that need a model, the command, the job."""

from collections.abc import Callable
from pathlib import Path

import dagster as dg
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.ndimage import gaussian_filter

from rkd_pipeline.definitions import build_defs
from rkd_pipeline.detectors.reverse_kd import score
from rkd_pipeline.device import Compute
from rkd_pipeline.metrics.image_auroc import image_auroc
from rkd_pipeline.metrics.pixel_auroc import pixel_auroc
from rkd_pipeline.operations import work_orders
from rkd_pipeline.recipes.ablation_design import design
from rkd_pipeline.recipes.training_key import TrainingKey
from rkd_pipeline.settings import Settings
from rkd_pipeline.stages.ablation import FIGURE, NOTHING, TEXT, build_ablation, read_effects, read_missing
from rkd_pipeline.stages.anomaly_scores import read_scores
from rkd_pipeline.stages.benchmark import build_benchmark
from rkd_pipeline.stages.claims import build_claims, read_claims
from rkd_pipeline.stages.datasets import open_prepared
from rkd_pipeline.stages.evidence import gather_evidence, read_rotated, score_product_maps, score_rotated_images
from rkd_pipeline.stages.trained_model import open_model, read_model_card
from rkd_pipeline.store.result_store import Store
from rkd_pipeline.store.stage_versions import ABLATION, ANOMALY_SCORES, PRODUCT_MAPS, TRAINED_MODEL
from rkd_pipeline.training.losses import discrepancy
from tests.integration.conftest import TRAINING, Rkd

TARGET = "demo.weave"


@pytest.fixture(scope="module")
def model(demo: Rkd) -> tuple[torch.nn.Module, torch.nn.Module]:
    teacher, student = open_model(demo.store, demo.store.require(TRAINED_MODEL, TARGET, TRAINING), torch.device("cpu"))
    return teacher, student.eval()


@pytest.fixture(scope="module")
def tested(demo: Rkd) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images, labels and masks of the test, in the order of the scores."""
    scores, _ = read_scores(demo.store.require(ANOMALY_SCORES, TARGET, TRAINING))
    _, arrays = open_prepared(demo.store, TARGET, TrainingKey.parse(TRAINING).recipe.side)
    ids = list(scores["image_id"])
    return arrays.images(ids)[:], scores["anomalous"].to_numpy(bool), arrays.masks(ids)


def test_product_maps_are_the_product_of_upsampled_scales(
    demo: Rkd, model: tuple[torch.nn.Module, torch.nn.Module], tested: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> None:
    result = score_product_maps(demo.store, TARGET, TRAINING, Compute.choose("cpu"))
    values = {(r.metric, r.score_rule): r.value for r in _values(result.folder).itertuples()}
    teacher, student = model
    images, labels, masks = tested
    with torch.inference_mode():
        features = teacher(torch.from_numpy(images))
        scales = [discrepancy(a, b)[:, None] for a, b in zip(features, student(features), strict=True)]
        side = images.shape[1]
        up = [torch.nn.functional.interpolate(m, (side, side), mode="bilinear", align_corners=True) for m in scales]
    product = torch.stack(up).prod(0)[:, 0].numpy()
    maps = np.stack([gaussian_filter(m, 4.0) for m in product])
    assert values["image_auroc", "product_max"] == pytest.approx(image_auroc(labels, maps.max((1, 2))), abs=2e-3)
    assert values["pixel_auroc", "product"] == pytest.approx(pixel_auroc(maps, masks), abs=1e-4)
    assert score_product_maps(demo.store, TARGET, TRAINING, Compute.choose("cpu")).reused


def _values(folder: Path) -> pd.DataFrame:
    return pd.read_parquet(folder / "values.parquet")


@pytest.mark.slow
def test_turned_images_take_their_masks_along(
    demo: Rkd, model: tuple[torch.nn.Module, torch.nn.Module], tested: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> None:
    rotated = read_rotated(score_rotated_images(demo.store, TARGET, TRAINING, Compute.choose("cpu")))
    as_they_are = _values(gather_evidence(demo.store, TARGET, TRAINING).folder)
    for row in as_they_are.itertuples():
        assert rotated[0].values[row.metric, row.score_rule] == pytest.approx(row.value, abs=1e-3)
    images, labels, masks = tested
    key = TrainingKey.parse(TRAINING)
    card = read_model_card(demo.store.require(TRAINED_MODEL, TARGET, TRAINING))
    quarter = np.ascontiguousarray(np.rot90(images, 1, axes=(1, 2)))
    scores = score(*model, quarter, key.recipe, card.lambda_)
    expected = pixel_auroc(scores.maps, np.ascontiguousarray(np.rot90(masks, 1, axes=(1, 2))))
    assert rotated[90].values["pixel_auroc", "map"] == pytest.approx(expected, abs=1e-4)
    assert rotated[90].values["image_auroc", "map_max"] == pytest.approx(
        image_auroc(labels, scores.images["map_max"]), abs=2e-3
    )


def test_a_single_training_is_no_ablation_and_the_claims_use_what_there_is(demo: Rkd) -> None:
    build_benchmark(demo.store)
    ablation = build_ablation(demo.store)
    assert NOTHING in (ablation.folder / TEXT).read_text(encoding="utf-8")
    assert (ablation.folder / FIGURE).exists()
    assert read_effects(ablation).empty
    claims = read_claims(build_claims(demo.store))
    of_demo = claims[claims["targets"] == TARGET]
    assert {"multi_scale", "pro"} <= set(of_demo["claim"])
    assert of_demo["value"].notna().all()


@pytest.mark.slow
def test_an_ablation_by_command(rkd_in: Callable[..., Rkd], tmp_path: Path) -> None:
    rkd = rkd_in(tmp_path)
    asked = ("run", "--targets", TARGET, "--recipes", "rkd", "--teacher", "resnet18", "--weights", "random")
    asked += ("--epochs", "1", "--ablation", "--interactions", "")
    done = rkd(*asked)
    assert done.returncode == 0, done.stderr
    planned = len(design("rkd", "resnet18", []).recipes)
    assert f"{planned} trainings: 0 were done before, 0 failed" in done.stdout
    assert len(rkd.store.keys(PRODUCT_MAPS)) == planned
    missing = read_missing(rkd.store.require(ABLATION))
    recipes = {TrainingKey.parse(text).recipe.name for text in missing["training"]}
    assert recipes == set(design("rkd", "resnet18").recipes) - set(design("rkd", "resnet18", []).recipes)
    effects = read_effects(rkd.store.require(ABLATION))
    assert {"loss", "beta2", "batch", "side", "stop", "maps", "score"} <= set(effects["factor"])


def test_the_job_orders_every_training_of_an_ablation_and_its_product_maps(tmp_path: Path) -> None:
    """A second launch, or a retry, while it is on order changes nothing."""
    settings = Settings(store=tmp_path / "store", data=tmp_path / "data", device="cpu")
    config = {"targets": [TARGET], "centres": ["rkd"], "teacher": "resnet18.random", "epochs": 1, "interactions": []}
    with dg.DagsterInstance.ephemeral() as instance:
        job = build_defs(settings).resolve_job_def("run_ablation")
        assert job.execute_in_process(instance=instance, run_config={"ops": {"ablate": {"config": config}}}).success
        assert instance.get_runs_count() == 1  # no run within the run
    [order] = work_orders.open_orders(Store(tmp_path / "store"))
    assert order.further == ["score_product_maps"]
    assert {cell.target for cell in order.cells} == {TARGET}
    recipes = {TrainingKey.parse(cell.training).recipe.name for cell in order.cells}
    assert recipes == set(design("rkd", "resnet18", []).recipes)
    assert {TrainingKey.parse(cell.training).epochs for cell in order.cells} == {1}
