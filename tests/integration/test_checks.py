"""What the graph says of results where there is little to say, and what it follows: over small stores made here."""

import json
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from assets.anomaly_scores import _numbers
from assets.datasets import split_asset
from assets.following import BUSY, DONE, Progress, progress_of
from assets.history import _not_worse
from assets.partitions import TRAINING_DIMENSION, grid, grid_key, offer_targets
from assets.reporting import NothingCompared
from assets.training_checks import CHECKS, above_chance, as_published
from assets.upkeep import changes_followed
from resources.storage import StoreResource
from rkd_pipeline.data.user_targets import OwnTarget, targets_in
from rkd_pipeline.definitions import ASSETS, build_defs
from rkd_pipeline.operations import freshness, rebenchmark
from rkd_pipeline.operations.work_orders import WorkOrder
from rkd_pipeline.recipes.plans import PlannedTraining
from rkd_pipeline.recipes.training_key import TrainingKey
from rkd_pipeline.settings import Settings
from rkd_pipeline.stages import datasets as data
from rkd_pipeline.stages import rounds
from rkd_pipeline.stages.trained_model import training_parameters
from rkd_pipeline.statistics.regressions import moves
from rkd_pipeline.store.result_store import Ref, Store
from rkd_pipeline.store.stage_versions import ANOMALY_SCORES, METRICS, PREPARED_IMAGES, SPLIT, TRAINED_MODEL
from tests.integration.conftest import look
from tests.library.test_regressions import rows, table

TARGET, TRAINING = "mine", "rkd@resnet18.random~1e-s0"


def paint(folder: Path, name: str, seed: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / name)


@pytest.fixture
def images(tmp_path: Path, store: Store) -> Path:
    """Eight good images and two bad ones, which are the target ``mine``."""
    folder = tmp_path / "pictures"
    for number in range(10):
        paint(folder / ("good" if number < 8 else "bad"), f"{number}.png", number)
    targets_in(store).add(OwnTarget(TARGET, folder))
    return folder


def prepare(store: Store) -> None:
    data.find_source(store, store.root, TARGET)
    data.index_images(store, TARGET)
    data.split_images(store, TARGET)
    data.prepare_images(store, TARGET, data.FIRST_SIDE)


def finish(store: Store) -> None:
    """A training as if done: the chain of its results, of the data as it is now."""
    parts = [store.require(SPLIT, TARGET), store.require(PREPARED_IMAGES, TARGET, f"{data.FIRST_SIDE}px")]
    parameters = training_parameters(TrainingKey.parse(TRAINING)) | {"teacher_sha256": ""}

    def write(folder: Path) -> dict[str, Any]:
        (folder / "made_of.txt").write_text(" ".join(p.data_version for p in parts))
        return {}

    model = store.produce(TRAINED_MODEL, [TARGET, TRAINING], write, parameters=parameters, inputs=parts)
    scores = store.produce(ANOMALY_SCORES, [TARGET, TRAINING], write, inputs=[model, *parts])
    store.produce(METRICS, [TARGET, TRAINING], write, inputs=[model, scores])


def asked(store: Store, instance: dg.DagsterInstance) -> list[dg.RunRequest]:
    offer_targets(instance, targets_in(store))
    return look(changes_followed, store, instance)


def test_every_change_is_followed_and_each_only_once(images: Path, store: Store) -> None:
    """Two changes, and one back to what was before: Dagster starts a run per key that it has not seen."""
    prepare(store)
    finish(store)
    keys, reasons = [], []
    with dg.DagsterInstance.ephemeral() as instance:
        assert asked(store, instance) == []
        for seed in (100, 101, 0):
            paint(images / "good", "0.png", seed)
            [of_data] = asked(store, instance)
            assert (of_data.job_name, of_data.partition_key) == ("prepare_target", TARGET)
            assert [r.run_key for r in asked(store, instance)] == [of_data.run_key]
            prepare(store)
            [of_training] = asked(store, instance)
            assert (of_training.job_name, of_training.partition_key) == (
                "train_and_evaluate",
                grid_key(TARGET, TRAINING),
            )
            assert [r.run_key for r in asked(store, instance)] == [of_training.run_key]
            finish(store)
            keys += [of_data.run_key, of_training.run_key]
            reasons.append(of_training.tags["rkd/reason"])
        assert len(set(keys)) == 6
        assert len(set(reasons)) == 1  # what the reason says is the same each time: it is no key

        paint(images / "good", "0.png", 102)
        begun = dg.DagsterRun("prepare_target", status=dg.DagsterRunStatus.STARTED, tags={"dagster/partition": TARGET})
        instance.add_run(begun)
        assert asked(store, instance) == []  # half of its data may be new
    targets_in(store).file.delete()
    assert freshness.changed_targets(store) == {}  # a target that was removed is none whose data can be made


def test_a_leak_fails_its_check(images: Path, store: Store) -> None:
    """A good image with the pixels of a bad one: the split is refused, and the check says which images they are."""
    (images / "good" / "twin.png").write_bytes((images / "bad" / "9.png").read_bytes())
    data.find_source(store, store.root, TARGET)
    data.index_images(store, TARGET)
    resources = {"store": StoreResource(root=str(store.root))}
    with dg.DagsterInstance.ephemeral() as instance:
        offer_targets(instance, targets_in(store))
        options = {"partition_key": TARGET, "instance": instance, "resources": resources, "raise_on_error": False}
        failed = dg.materialize([split_asset], **options)
        assert not failed.success
        [check] = failed.get_asset_check_evaluations()
        assert (check.check_name, check.passed, check.severity) == ("no_leak", False, dg.AssetCheckSeverity.ERROR)
        assert "twin.png" in str(check.description)
        assert store.find(Ref(SPLIT.name, TARGET)) is None

        (images / "good" / "twin.png").unlink()
        data.find_source(store, store.root, TARGET)
        data.index_images(store, TARGET)
        [check] = dg.materialize([split_asset], **options).get_asset_check_evaluations()
        assert check.passed
        assert check.metadata["test"].value == 2 + 2  # a fifth of eight good images, and all bad ones


def test_a_leak_stops_what_comes_after_it(images: Path, store: Store) -> None:
    """The check blocks within its run; in any other run the missing record does."""
    prepared = build_defs(Settings(store=store.root)).resolve_job_def("prepare_target")
    (images / "good" / "twin.png").write_bytes((images / "bad" / "9.png").read_bytes())
    with dg.DagsterInstance.ephemeral() as instance:
        offer_targets(instance, targets_in(store))
        done = prepared.execute_in_process(instance=instance, partition_key=TARGET, raise_on_error=False)
        made = {
            event.asset_key.to_user_string() for event in done.get_asset_materialization_events() if event.asset_key
        }
    assert made == {"dataset_source", "images", "prepared_images"}  # neither the split nor the card, which reads it
    blocking = {spec.name for asset in ASSETS for spec in asset.check_specs if spec.blocking}
    assert blocking == {"no_leak", "finite", "parity"}


@dg.asset(name=TRAINED_MODEL.name, partitions_def=grid)
def as_if_trained() -> None:
    """In the place of a training, whose results are in the store."""


def test_a_check_that_compares_nothing_is_skipped_and_the_log_says_why(images: Path, store: Store) -> None:
    """Planned, not evaluated, and no failure: Dagster shows it as skipped."""
    prepare(store)
    finish(store)
    history = pd.DataFrame({"epoch": [1], "train_loss": [0.5], "validation_loss": [np.nan]})
    for epochs, outcome in ((1, []), (2, [True])):
        if epochs == 2:
            history = pd.concat([history, history.assign(epoch=2, train_loss=0.4)])
        history.to_parquet(store.folder(Ref(TRAINED_MODEL.name, TARGET, TRAINING)) / "history.parquet")
        with dg.DagsterInstance.ephemeral() as instance:
            offer_targets(instance, targets_in(store))
            instance.add_dynamic_partitions(TRAINING_DIMENSION, [TRAINING])
            done = dg.materialize(
                [as_if_trained, *CHECKS],
                selection=dg.AssetSelection.assets(as_if_trained),
                partition_key=grid_key(TARGET, TRAINING),
                instance=instance,
                resources={"store": StoreResource(root=str(store.root))},
            )
            assert done.success
            assert [e.passed for e in done.get_asset_check_evaluations()] == outcome
            said = " ".join(entry.user_message for entry in instance.all_logs(done.run_id))
            assert ("loss_fell is skipped, nothing was compared: one epoch has one loss" in said) == (outcome == [])


def test_a_check_has_an_outcome_where_there_is_something_to_compare() -> None:
    auroc = {"metric": "image_auroc", "score_rule": "map_max", "value": 0.9, "ci_low": 0.8, "ci_high": 0.95}
    measured = pd.DataFrame([auroc])
    none = measured.assign(value=np.nan, ci_low=np.nan, ci_high=np.nan)
    other_data = moves(table(rows(0, {0: [0.9, 0.91]}), rows(1, {0: [0.2, 0.21]}, images="other")))
    for check, why in (
        (as_published("mine", "rkd-s0", measured), "nothing is published that mine rkd-s0 repeats"),
        (above_chance(none), "there is no image AUROC"),
        (_not_worse(other_data), "not comparable: earlier rounds are of other data"),
        (_not_worse(other_data.iloc[:0]), "there is no re-benchmark yet"),
    ):
        assert isinstance(check, NothingCompared)
        assert why in check.why
    # Where there is something: Table 3's 0.813 of Ours+ES on Head CT lies within the interval, or above it.
    assert as_published("head_ct", "rkd-es-s0", measured).passed
    assert not as_published("head_ct", "rkd-es-s0", measured.assign(ci_high=0.8)).passed
    assert above_chance(measured).passed
    within = moves(table(rows(0, {0: [0.9, 0.91]}), rows(1, {0: [0.9, 0.91]})))
    assert _not_worse(within).passed


def test_a_page_of_metrics_shows_every_number_and_names_what_has_none_once_per_reason() -> None:
    sizes = {"ci_low": None, "ci_high": None, "interval_method": None, "n_normal": 16, "n_anomalous": 24}
    lines = [
        ("image_auroc", "map_max", "last epoch", 0.875),
        ("threshold", "map_max", "none: why", None),
        ("threshold", "l_kd", "none: why", None),
        ("aupro_30", "map", "none: no masks", None),
    ]
    named = ["metric", "score_rule", "protocol", "value"]
    found = _numbers(
        pd.DataFrame([dict(zip(named, line, strict=True)) | sizes | {"n_without_mask": 0} for line in lines])
    )
    text = {name: str(value.value) for name, value in found.items()}
    assert "image_auroc | map_max | last epoch | 0.8750" in text["metrics"]
    assert "none: why" not in text["metrics"]
    assert "| none: why | threshold |" in text["without_a_number"]
    assert "| none: no masks | aupro_30 |" in text["without_a_number"]
    assert "| 16 | 24 |" in text["test_images"]
    assert "without_a_number" not in _numbers(
        pd.DataFrame([dict(zip(named, lines[0], strict=True)) | sizes | {"n_without_mask": 0}])
    )


def test_an_order_runs_data_then_the_shared_training_then_what_scores_it() -> None:
    """mkd-brief-discrepancy differs from mkd-brief in how it localises alone. What fails stops what needs it."""
    cells = [PlannedTraining("demo.weave", "mkd-brief-discrepancy-s0"), PlannedTraining("demo.weave", "rkd-s0")]
    order = WorkOrder("x", 1, "x", cells, further=["score_product_maps"])
    shared, scored, other = (
        str(grid_key("demo.weave", f"{name}-s0")) for name in ("mkd-brief", "mkd-brief-discrepancy", "rkd")
    )
    states = {("list_teachers", None): DONE}
    for wanted in (
        [("prepare_target", "demo.weave")],
        [("train_model", shared), ("train_and_evaluate", other)],
        [("train_and_evaluate", scored), ("score_product_maps", other)],
        [("score_product_maps", scored)],
    ):
        progress = progress_of(order, states, {"demo.weave"})
        assert [(job, str(key)) for job, key in progress.wanted] == wanted
        states |= dict.fromkeys(progress.wanted, BUSY)
        assert progress_of(order, states, {"demo.weave"}).wanted == []
        states |= dict.fromkeys(progress.wanted, DONE)
    assert progress_of(order, states, {"demo.weave"}) == Progress()

    states = {("list_teachers", None): DONE, ("prepare_target", "demo.weave"): "no disk"}
    assert progress_of(order, states, {"demo.weave"}).failures == {
        f"demo.weave {cell.training}": "prepare_target: no disk" for cell in cells
    }
    gone = progress_of(order, states, set())
    assert (gone.waiting, set(gone.failures.values())) == (0, {"there is no target demo.weave any more"})


def test_nobody_is_told_of_other_data(store: Store) -> None:
    """Nor of nothing; the same numbers on the same data are told of, once."""
    told: list[str] = []

    def tell(event: str, text: str, facts: dict[str, Any]) -> bool:
        told.append(event)
        return True

    for number, images in ((1, "old"), (2, "other"), (3, "other")):
        level = {1: 0.9, 2: 0.6, 3: 0.3}[number]
        values = rows(number, {0: [level, level + 0.01, level + 0.005]}, images=images)
        record = {"round": number, "plan": "demo", "failures": {}, "values": values}
        folder = store.root / rounds.FOLDER / f"{number:04d}"
        folder.mkdir(parents=True)
        (folder / rounds.RECORD).write_text(json.dumps(record))
        for _ in range(2):
            rebenchmark.tell_untold(store, tell)
        assert told == (["regression"] if number == 3 else [])
    assert rebenchmark.untold(store) == []
