"""Re-benchmarks, watched folders, and what follows changes: over a copy of the demo's store, in this process."""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from assets.following import ORDER_TAG, orders_followed
from assets.partitions import TRAINING_DIMENSION, grid_key, offer_targets
from assets.upkeep import changes_followed, new_images, rebenchmarks_recorded
from assets.watching import Watch
from resources.hooks import Hook
from resources.storage import StoreResource
from rkd_pipeline.cli.session import _FURTHER
from rkd_pipeline.data.user_targets import OwnTarget, targets_in
from rkd_pipeline.definitions import ASSETS, CHECKS, build_defs
from rkd_pipeline.device import Compute
from rkd_pipeline.errors import RkdError, StoreError
from rkd_pipeline.operations import freshness, rebenchmark, watched_folder
from rkd_pipeline.operations.champions import Champion, NoChampion
from rkd_pipeline.recipes.plans import PlannedTraining
from rkd_pipeline.recipes.training_key import TrainingKey
from rkd_pipeline.settings import Settings
from rkd_pipeline.stages import rounds
from rkd_pipeline.stages.anomaly_scores import read_scores
from rkd_pipeline.stages.benchmark import build_benchmark
from rkd_pipeline.stages.datasets import find_source, prepare_images
from rkd_pipeline.stages.export import export_model
from rkd_pipeline.stages.history import TEXT, read_moves, read_points
from rkd_pipeline.stages.trained_model import checkpoint_file, read_history, train_model
from rkd_pipeline.store.files import file_sha256
from rkd_pipeline.store.folder_place import FolderPlace
from rkd_pipeline.store.place import Record
from rkd_pipeline.store.result_store import Ref, Store
from rkd_pipeline.store.stage_versions import ANOMALY_SCORES, HISTORY, METRICS, TRAINED_MODEL
from tests.integration.conftest import EPOCHS, RECIPE, TRAINING, Rkd, look
from tests.integration.test_hooks import Server, server  # noqa: F401

CELL = PlannedTraining("demo.weave", TRAINING)


@pytest.fixture
def store(demo: Rkd, tmp_path: Path) -> Store:
    """A copy of the demo's store in which one training is all that was ever measured."""
    store = Store(Path(shutil.copytree(demo.store.root, tmp_path / "store")))
    for folder in store.root.glob("*/demo.weave/*s*"):
        if folder.name.startswith("rkd") and folder.is_dir() and folder.name != TRAINING:
            shutil.rmtree(folder)
    build_benchmark(store)
    return store


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def materialise(store: Store, instance: dg.DagsterInstance) -> Callable[..., dg.ExecuteInProcessResult]:
    def run(*assets: str, **settings: object) -> dg.ExecuteInProcessResult:
        resources = build_defs(Settings(store=store.root, device="cpu", **settings)).resources
        return dg.materialize([*ASSETS, *CHECKS], selection=list(assets), instance=instance, resources=resources)

    return run


def pretend(store: Store, begun: rebenchmark.Round, shift: float = 0.0) -> None:
    """The trainings of a round as if done: copies of the one that is, with every number shifted."""
    for cell in begun.cells:
        for stage in (TRAINED_MODEL, ANOMALY_SCORES, METRICS):
            source, folder = store.folder(Ref(stage.name, CELL.target, CELL.training)), None
            folder = Path(shutil.copytree(source, store.folder(Ref(stage.name, cell.target, cell.training))))
            record = json.loads((folder / "provenance.json").read_text())
            record["key"] = [cell.target, cell.training]
            key = TrainingKey.parse(cell.training)
            if stage == TRAINED_MODEL:
                record["parameters"] |= {"seed": key.seed, "repeat": key.repeat}
            record["inputs"] = {k.replace(CELL.training, cell.training): v for k, v in record["inputs"].items()}
            if stage == METRICS:
                table = pd.read_parquet(folder / "metrics.parquet")
                table["value"] = (table["value"] + shift + 0.001 * (key.seed % 7)).clip(0, 1)
                table.to_parquet(folder / "metrics.parquet", index=False)
                changed = folder / "metrics.parquet"
                record["files"]["metrics.parquet"] = {"sha256": file_sha256(changed), "bytes": changed.stat().st_size}
            (folder / "provenance.json").write_text(json.dumps(record))


def test_a_round_has_fresh_seeds_on_the_plan_s_repeats(store: Store) -> None:
    begun = rebenchmark.begin(store, "measured", "Sunday", seeds=2)
    keys = [TrainingKey.parse(cell.training) for cell in begun.cells]
    assert [(k.seed, k.repeat, k.epochs, k.recipe.name) for k in keys] == [
        (1000, 0, EPOCHS, RECIPE),
        (1001, 0, EPOCHS, RECIPE),
    ]
    assert begun.baseline == [CELL]
    assert rebenchmark.begin(store, "measured", "Sunday", seeds=2) == begun  # asked again, by a retry
    pretend(store, begun)
    rebenchmark.close(store, begun, {})
    second = rebenchmark.begin(store, "measured", "Monday", seeds=1)
    assert [TrainingKey.parse(c.training).seed for c in second.cells] == [2000]
    assert second.baseline == []  # on record already, and not a plan of re-benchmarks of re-benchmarks


def test_a_record_is_written_once_and_only_when_all_is_there(store: Store) -> None:
    begun = rebenchmark.begin(store, "measured", "Sunday", seeds=2)
    with pytest.raises(StoreError, match=r"still trains demo\.weave"):
        rebenchmark.close(store, begun, {})
    names = [f"{c.target} {c.training}" for c in begun.cells]
    record = rebenchmark.close(store, begun, dict.fromkeys(names, "no power"))
    assert record["failures"] == dict.fromkeys(names, "no power")
    assert {row["round"] for row in record["values"]} == {0}  # the baseline
    pretend(store, begun)
    assert rebenchmark.close(store, begun, {}) == record
    assert rebenchmark.open_rounds(store) == []


def test_nothing_to_repeat_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(RkdError, match="train something first"):
        rebenchmark.begin(Store(tmp_path), "measured", "x", seeds=1)
    with pytest.raises(RkdError, match="unknown plan"):
        rebenchmark.begin(Store(tmp_path), "everything", "x", seeds=1)


def test_a_regression_reaches_the_hook_once_and_history_and_its_check(
    store: Store,
    instance: dg.DagsterInstance,
    materialise: Callable[..., dg.ExecuteInProcessResult],
    server: Server,  # noqa: F811
) -> None:
    """Whoever ends the round tells of it; what was not delivered is told again, and materialising tells nobody."""
    server.answers = [500]
    hook = Hook(address=server.address, pause_seconds=0.01)
    for number, shift in enumerate((0.0, 0.0, 0.0, -0.3)):
        begun = rebenchmark.begin(store, "measured", f"look {number}", seeds=2)
        pretend(store, begun, shift)
        rebenchmark.record_and_tell(store, begun, {}, hook.tell)
    assert rebenchmark.untold(store) == [4]  # the webhook was down for that one; nothing to tell of the others
    server.answers, server.received = [200], []
    run = materialise("history")
    assert server.received == []
    cursor = None
    for _ in range(3):  # looks of the sensor
        context = dg.build_sensor_context(instance=instance, cursor=cursor)
        rebenchmarks_recorded(context, store=StoreResource(root=str(store.root)), hook=hook)
        cursor = context.cursor
    [sent] = server.received
    assert (sent["event"], sent["round"], sent["failures"]) == ("regression", 4, {})
    assert f"demo.weave {RECIPE}: image_auroc worse by" in str(sent["text"])
    [check] = run.get_asset_check_evaluations()
    assert (check.check_name, check.passed, check.severity) == ("not_worse", False, dg.AssetCheckSeverity.WARN)
    result = store.require(HISTORY)
    moved = read_moves(result)
    assert moved[moved["moved"]]["round"].unique().tolist() == [4]
    over_time = read_points(result)
    assert over_time.groupby("metric")["round"].apply(list).loc["image_auroc"] == [0, 1, 2, 3, 4]
    assert over_time["interval_method"].eq("over_seeds").all()
    text = (result.folder / TEXT).read_text()
    assert "**worse**" in text
    assert "### Over time" in text


def test_new_images_are_scored_once_and_as_in_the_test(
    store: Store, materialise: Callable[..., dg.ExecuteInProcessResult], tmp_path: Path
) -> None:
    scores, _ = read_scores(store.require(ANOMALY_SCORES, *(CELL.target, CELL.training)))
    source = store.folder(Ref("dataset_source", "demo.weave"))
    watched = tmp_path / "watched"
    watched.mkdir()
    chosen = scores.iloc[[0, 20]]
    for name in chosen["image_id"]:
        shutil.copy2(next(source.rglob(str(name).split("/", 1)[-1])), watched / str(name).replace("/", "-"))
    (watched / "broken.png").write_bytes(b"not an image")
    (watched / "notes.txt").write_text("not even meant as one")
    for file in watched.iterdir():
        _settle(file)
    settings = {"watch": watched, "watch_model": f"{CELL.target}|{CELL.training}"}
    run = materialise("scored_pictures", **settings)
    found = watched_folder.read_scored(store.find(Ref("scored_pictures"))).set_index("picture")
    assert len(found) == 3
    assert "cannot be decoded" in found.loc["broken.png", "problem"]
    for row in chosen.itertuples():
        np.testing.assert_allclose(found.loc[row.image_id.replace("/", "-"), "score"], row.map_max, rtol=1e-3)
    assert "newest" in run.asset_materializations_for_node("scored_pictures")[0].metadata

    Image.new("RGB", (32, 32), "white").save(watched / "still being written.png")
    look = watched_folder.look(store, watched, str(settings["watch_model"]))
    assert look.new == []
    _settle(watched / "still being written.png")
    assert watched_folder.look(store, watched, str(settings["watch_model"])).new == ["still being written.png"]
    again = watched_folder.score_new(store, watched_folder.look(store, watched, str(settings["watch_model"])))
    assert (again.facts["new"], again.facts["pictures"]) == (1, 4)
    with pytest.raises(NoChampion, match=r"demo\.weave has no champion yet"):
        watched_folder.look(store, watched, "demo.weave")


def test_a_target_s_champion_scores(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own copy of the weights, so that it does after its training is gone."""
    model = store.require(TRAINED_MODEL, *(CELL.target, CELL.training))
    export_model(store, model, 0.5, tmp_path)
    alone = {"record": Record(".", b""), "place": FolderPlace(tmp_path)}
    champion = Champion(
        CELL.target, CELL.training, 1, model.data_version, "", "forced", "a test", "", 0.5, {}, {}, **alone
    )
    monkeypatch.setattr(watched_folder, "require_champion", lambda store, target: champion)
    shutil.rmtree(model.folder)
    watched = tmp_path / "watched"
    watched.mkdir()
    Image.effect_noise((64, 64), 90).convert("RGB").save(watched / "noise.png")
    _settle(watched / "noise.png")
    [row] = watched_folder.read_scored(
        watched_folder.score_new(store, watched_folder.look(store, watched, "demo.weave"))
    ).to_dict("records")
    assert (row["picture"], row["threshold"], row["problem"]) == ("noise.png", 0.5, "")
    assert row["anomalous"] == (row["score"] > 0.5)


def _settle(file: Path) -> None:
    before = file.stat().st_mtime - 60
    os.utime(file, (before, before))


def test_benchmark_knows_what_it_lacks(store: Store, materialise: Callable[..., dg.ExecuteInProcessResult]) -> None:
    assert freshness.benchmark_behind(store) == {}
    begun = rebenchmark.begin(store, "measured", "Sunday", seeds=1)
    pretend(store, begun)
    name = f"metrics[demo.weave, {begun.cells[0].training}]"
    assert freshness.benchmark_behind(store) == {name: "measured, not in it"}
    defs = build_defs(Settings(store=store.root))
    check = defs.resolve_implicit_global_asset_job_def().get_subset(
        asset_check_selection={dg.AssetCheckKey(dg.AssetKey("benchmark"), "in_step_with_store")}
    )
    [evaluation] = check.execute_in_process(resources=defs.resources).get_asset_check_evaluations()
    assert not evaluation.passed
    assert evaluation.metadata["number"].value == 1
    shutil.rmtree(store.folder(Ref("metrics", CELL.target, CELL.training)))
    gone = freshness.benchmark_behind(store)
    assert gone[f"metrics[demo.weave, {TRAINING}]"] == "in it, and no longer counts"


def test_changes_are_followed_data_first(store: Store, instance: dg.DagsterInstance, tmp_path: Path) -> None:
    for name in ("good", "bad"):
        (tmp_path / "mine" / name).mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(tmp_path / "mine" / name / "0.png")
    targets_in(store).add(OwnTarget("mine", tmp_path / "mine"))
    find_source(store, tmp_path, "mine")
    offer_targets(instance, targets_in(store))
    assert look(changes_followed, store, instance) == []
    Image.new("RGB", (32, 32)).save(tmp_path / "mine" / "good" / "1.png")
    metrics = store.folder(Ref("metrics", CELL.target, CELL.training)) / "provenance.json"
    metrics.write_text(re.sub(r'"stage_version": \d+', '"stage_version": 0', metrics.read_text()))
    asked = look(changes_followed, store, instance)
    assert [(r.job_name, str(r.partition_key)) for r in asked] == [
        ("prepare_target", "mine"),
        ("train_and_evaluate", str(grid_key(CELL.target, CELL.training))),
    ]
    assert {r.run_key for r in asked} == {r.run_key for r in look(changes_followed, store, instance)}


def test_tables_are_refreshed_while_other_cells_are_missing(store: Store, instance: dg.DagsterInstance) -> None:
    """Two cells are planned, one is measured: benchmark, tables, history and report are asked for all the same."""
    defs = build_defs(Settings(store=store.root))
    offer_targets(instance, targets_in(store))
    instance.add_dynamic_partitions(TRAINING_DIMENSION, [TRAINING, "rkd-s0"])
    first = dg.evaluate_automation_conditions(defs=defs, instance=instance)
    instance.report_runless_asset_event(
        dg.AssetMaterialization("metrics", partition=str(grid_key(CELL.target, CELL.training)))
    )
    second = dg.evaluate_automation_conditions(defs=defs, instance=instance, cursor=first.cursor)
    for name in ("benchmark", "table_3", "table_demo", "figure_7", "leaderboard", "history", "report"):
        assert second.get_num_requested(dg.AssetKey(name)) == 1, name
    assert second.get_num_requested(dg.AssetKey("trained_model")) == 0


def test_a_folder_without_a_model_is_said_in_the_sensor(store: Store, tmp_path: Path) -> None:
    settings = Settings(store=store.root, watch=tmp_path, watch_model="demo.weave")
    resources = build_defs(settings).resources
    watch = resources["watch"]
    assert isinstance(watch, Watch)
    found = new_images.evaluate_tick(dg.build_sensor_context(resources={"store": resources["store"], "watch": watch}))
    assert "demo.weave has no champion yet" in str(found.skip_message)


def test_the_schedule_is_off_and_says_when_and_what(store: Store) -> None:
    settings = Settings(store=store.root, rebenchmark_cron="30 2 * * 6", rebenchmark_timezone="Europe/Rome")
    schedule = build_defs(settings).resolve_schedule_def("rebenchmark")
    assert schedule.default_status == dg.DefaultScheduleStatus.STOPPED
    assert (schedule.cron_schedule, schedule.execution_timezone) == ("30 2 * * 6", "Europe/Rome")
    [asked] = schedule.evaluate_tick(dg.build_schedule_context()).run_requests or []
    assert asked.tags["dagster/priority"] == "-1"
    with pytest.raises(RkdError, match="RKD_REBENCHMARK_CRON='on Sundays'"):
        build_defs(Settings(store=store.root, rebenchmark_cron="on Sundays"))


def test_orders_may_be_for_every_job_that_scores_further() -> None:
    """Dagster ends a sensor's tick, with all orders in it, at a request for a job that the sensor has not named."""
    assert set(_FURTHER) <= {job.name for job in orders_followed.jobs}


def test_a_round_is_an_order_and_what_fails_of_it_is_told(
    store: Store,
    instance: dg.DagsterInstance,
    server: Server,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RKD_STORE", str(store.root))
    monkeypatch.setenv("RKD_REBENCHMARK_PLAN", "measured")
    monkeypatch.setenv("RKD_REBENCHMARK_SEEDS", "1")
    job = build_defs(Settings.from_environment()).resolve_job_def("rebenchmark")
    for _ in range(2):  # a second click, or the schedule's next tick, while the first is on its way
        assert job.execute_in_process(instance=instance).success
    [begun] = rebenchmark.open_rounds(store)
    key = str(grid_key("demo.weave", begun.cells[0].training))

    asked = look(orders_followed, store, instance)
    assert [(r.job_name, r.partition_key) for r in asked] == [("list_teachers", None), ("prepare_target", "demo.weave")]
    tags = {ORDER_TAG: "rebenchmark-0001-1", "rkd/rebenchmark": "1", "dagster/priority": "-1"}
    assert all(tags.items() <= r.tags.items() for r in asked)
    for request in asked:
        as_if_run(instance, request, dg.DagsterRunStatus.SUCCESS)
    [training] = look(orders_followed, store, instance)
    assert (training.job_name, training.partition_key) == ("train_and_evaluate", key)
    run_id = as_if_run(instance, training, dg.DagsterRunStatus.FAILURE, {"dagster/will_retry": "true"})
    assert look(orders_followed, store, instance) == []
    told = {"store": StoreResource(root=str(store.root)), "hook": Hook(address=server.address)}
    rebenchmarks_recorded(dg.build_sensor_context(instance=instance), **told)
    assert rounds.records(store) == []  # its retry is still to come
    run_id = as_if_run(instance, training, dg.DagsterRunStatus.FAILURE)
    assert look(orders_followed, store, instance) == []
    asked_for = rebenchmarks_recorded(dg.build_sensor_context(instance=instance), **told)
    assert asked_for.run_key == "re-benchmark 1 ended"
    name = f"demo.weave {begun.cells[0].training}"
    [record] = rounds.records(store)
    assert record["failures"][name] == f"train_and_evaluate: run {run_id[:8]} ended as failure; its page says why"
    [sent] = server.received
    assert (sent["event"], list(sent["failures"])) == ("failure", [name])


def as_if_run(
    instance: dg.DagsterInstance,
    request: dg.RunRequest,
    status: dg.DagsterRunStatus,
    more: dict[str, str] | None = None,
) -> str:
    """A run as the daemon would have started it for a request, as if it had ended; its id."""
    partition = {"dagster/partition": str(request.partition_key)} if request.partition_key else {}
    run = dg.DagsterRun(str(request.job_name), status=status, tags={**request.tags, **partition, **(more or {})})
    instance.add_run(run)
    return run.run_id


def test_a_checkpoint_that_cannot_be_resumed_is_set_aside(
    store: Store, cpu: Compute, caplog: pytest.LogCaptureFixture
) -> None:
    key = "mkd-brief@resnet18.random~1e-s7"  # the smallest student
    prepare_images(store, "demo.weave", TrainingKey.parse(key).recipe.side)
    checkpoint = checkpoint_file(store, "demo.weave", key)
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.write_bytes(b"half of somethi")
    made = train_model(store, "demo.weave", key, cpu)
    assert len(read_history(made)) == 1
    assert "is damaged" in caplog.text
    assert "the training starts anew" in caplog.text
    assert checkpoint.with_suffix(".set-aside").read_bytes() == b"half of somethi"
    assert not checkpoint.exists()
