"""The graph on real images, asset by asset through ``materialize()``: Head CT whole, Brain MRI up to its split."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import numpy as np
import pandas as pd
import pytest
from safetensors.torch import load_file
from sklearn.metrics import roc_auc_score

from assets.partitions import TRAINING_DIMENSION, grid_key, offer_targets
from rkd_pipeline.data.user_targets import targets_in
from rkd_pipeline.definitions import ASSETS, CHECKS, build_defs
from rkd_pipeline.models.teacher_files import TeacherRegistry
from rkd_pipeline.models.weights import register_weights
from rkd_pipeline.settings import Settings
from rkd_pipeline.stages.anomaly_scores import read_metrics, read_scores
from rkd_pipeline.stages.datasets import read_index, read_verified_split
from rkd_pipeline.stages.mirror_records import mlflow_run_id
from rkd_pipeline.store.result_store import Ref, Store
from rkd_pipeline.store.stage_versions import (
    ANOMALY_SCORES,
    IMAGES,
    METRICS,
    PREPARED_IMAGES,
    SPLIT,
    SYSTEMS,
    TABLE_3,
    TRAINED_MODEL,
)

TRAINING = "rkd-es@resnet18.4c740094~1e-s0"
GRID_ASSETS = ["resized_images", "trained_model", "anomaly_scores", "metrics", "mlflow_run"]


@dataclass(frozen=True)
class Graph:
    """The definitions over one store, with an instance that lives as long as the test."""

    store: Store
    settings: Settings
    instance: dg.DagsterInstance

    def materialise(self, *assets: str, partition: str | None = None, ok: bool = True) -> dg.ExecuteInProcessResult:
        result = dg.materialize(
            [*ASSETS, *CHECKS],
            selection=list(assets),
            partition_key=partition,
            instance=self.instance,
            resources=build_defs(self.settings).resources,
            raise_on_error=False,
        )
        assert result.success is ok
        return result

    def data(self, target: str) -> None:
        self.materialise("dataset_source", "images", "split", "prepared_images", "dataset_card", partition=target)


@pytest.fixture(scope="module")
def make_graph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Graph]]:
    with dg.DagsterInstance.ephemeral() as instance:

        def make(data: Path, **settings: object) -> Graph:
            store = Store(tmp_path_factory.mktemp("graph") / "store")
            offer_targets(instance, targets_in(store))
            return Graph(store, Settings(data=data, store=store.root, device="cpu", **settings), instance)

        yield make


@pytest.fixture(scope="module")
def head_ct(make_graph: Callable[..., Graph], real_data: Path, real_weights: Path) -> Graph:
    """Head CT, one epoch of ``rkd-es`` with the real ResNet-18, through every asset."""
    graph = make_graph(real_data)
    register_weights(TeacherRegistry(graph.store.teachers_file), real_weights)
    graph.data("head_ct")
    graph.materialise("teachers")
    graph.instance.add_dynamic_partitions(TRAINING_DIMENSION, [TRAINING])
    graph.materialise(*GRID_ASSETS, partition=grid_key("head_ct", TRAINING))
    graph.materialise("benchmark", "table_3")
    return graph


def test_head_ct_is_split_by_the_paper_s_rule(head_ct: Graph) -> None:
    rows = read_verified_split(head_ct.store.require(SPLIT, "head_ct"))
    index = read_index(head_ct.store.require(IMAGES, "head_ct"))
    assert (len(index), int(index["anomalous"].sum()), index["mode"].eq("RGBA").sum()) == (200, 100, 12)
    anomalous = index.set_index("image_id")["anomalous"]
    first = rows[rows["repeat"] == 0].set_index("image_id")
    assert first["part"].value_counts().to_dict()["test"] == 110
    assert anomalous[first.index[first["part"] == "test"]].sum() == 100
    assert rows["repeat"].nunique() == 25
    normal = rows[(rows["part"] == "test") & ~rows["image_id"].map(anomalous)]
    assert normal[normal["repeat"] < 9]["image_id"].is_unique  # 99 distinct normals: nine disjoint tens
    pair = ["head_ct/188.png", "head_ct/189.png"]  # equal pixels in different files
    for _, group in rows[rows["image_id"].isin(pair)].groupby("repeat"):
        sides = set(group["part"]) - {"set_aside"}
        assert len(sides) == 1


def test_brain_mri_s_copies_never_stand_on_both_sides(make_graph: Callable[..., Graph], real_data: Path) -> None:
    graph = make_graph(real_data)
    graph.data("brain_mri")
    index = read_index(graph.store.require(IMAGES, "brain_mri"))
    assert (len(index), int(index["anomalous"].sum())) == (253, 155)
    assert index["mode"].value_counts().to_dict() == {"RGB": 217, "L": 30, "RGBA": 5, "P": 1}
    assert index["file_sha256"].value_counts().gt(1).sum() == 22
    rows = read_verified_split(graph.store.require(SPLIT, "brain_mri"))
    used = rows[rows["part"] != "set_aside"].merge(index, on="image_id")
    assert (used.groupby(["repeat", "pixel_sha256"])["part_x"].nunique() == 1).all()
    images = np.load(graph.store.require(PREPARED_IMAGES, "brain_mri", "224px").folder / "pictures.npy", mmap_mode="r")
    assert (images.shape, images.dtype) == ((253, 224, 224, 3), np.uint8)


def test_the_model_its_maps_and_its_numbers(head_ct: Graph) -> None:
    model = head_ct.store.require(TRAINED_MODEL, "head_ct", TRAINING)
    assert model.facts["train_pictures"] + model.facts["validation_pictures"] >= 88
    assert len(load_file(model.folder / "student.safetensors")) > 100
    assert model.provenance.parameters["teacher_sha256"].startswith("4c740094")
    scores, maps = read_scores(head_ct.store.require(ANOMALY_SCORES, "head_ct", TRAINING))
    test = scores[scores["part"] == "test"]
    assert (len(test), int(test["anomalous"].sum())) == (110, 100)
    assert maps.shape == (len(scores), 224, 224)
    np.testing.assert_allclose(scores["map_max"], np.asarray(maps).max((1, 2)), rtol=1e-6)
    metrics = read_metrics(head_ct.store.require(METRICS, "head_ct", TRAINING)).set_index(["metric", "score_rule"])
    auroc = metrics.loc[("image_auroc", "map_max")]
    assert 0 <= auroc["ci_low"] < auroc["value"] < auroc["ci_high"] <= 1
    assert auroc["interval_method"] == "score interval over images"
    for name in ("threshold", "tpr_at_threshold", "fpr_at_threshold"):  # the held-out normals stop the training
        assert pd.isna(metrics.loc[(name, "map_max"), "value"])
        assert metrics.loc[(name, "map_max"), "protocol"].startswith("none: the recipe's held-out normals stop")


def test_table_3_shows_what_was_measured_and_what_is_missing(head_ct: Graph) -> None:
    folder = head_ct.store.require(TABLE_3).folder
    cells = pd.read_parquet(folder / "table_3.parquet").set_index(["dataset", "system"])
    metrics = read_metrics(head_ct.store.require(METRICS, "head_ct", TRAINING)).set_index(["metric", "score_rule"])
    cell = cells.loc[("head_ct", "Ours+ES")]
    assert cell["measured"] == pytest.approx(metrics.loc[("image_auroc", "map_max"), "value"])
    assert (cell["published"], cell["seeds"], bool(cell["short_schedule"])) == (pytest.approx(0.813), 1, True)
    assert cells["measured"].notna().sum() == 1
    text = (folder / "table_3.md").read_text()
    assert "1 epochs are too few for early stopping to act" in text
    assert "not measured" in text
    assert (folder / "maps_head_ct.png").stat().st_size > 10_000


def test_mlflow_holds_the_run_and_a_model_that_scores_as_the_store_says(head_ct: Graph, real_data: Path) -> None:
    import mlflow

    mlflow.set_tracking_uri(f"sqlite:///{head_ct.store.mlflow_folder / 'mlflow.db'}")
    run_id = mlflow_run_id(head_ct.store, "head_ct", TRAINING)
    run = mlflow.get_run(run_id)
    for asset in ("trained_model", "metrics"):  # whose pages lead to the run
        [seen] = head_ct.instance.fetch_observations(dg.AssetKey(asset), limit=1).records
        assert (
            seen.asset_observation.metadata["mlflow"].value
            == f"http://127.0.0.1:5000/#/experiments/1/runs/{run_id}?workflowType=machine_learning"
        )
    assert run.data.params["recipe.loss"] == "kd"
    assert run.data.tags["rkd.target"] == "head_ct"
    used = {given.dataset.name for given in run.inputs.dataset_inputs}
    assert used == {"head_ct training", "head_ct validation", "head_ct testing"}
    metrics = read_metrics(head_ct.store.require(METRICS, "head_ct", TRAINING)).set_index(["metric", "score_rule"])
    value = metrics.loc[("image_auroc", "map_max"), "value"]
    assert run.data.metrics["image_auroc.map_max"] == pytest.approx(value)
    history = mlflow.MlflowClient().get_metric_history(run_id, "train_loss")
    assert [point.step for point in history] == [1]

    model = mlflow.pyfunc.load_model(f"models:/{run.outputs.model_outputs[0].model_id}")
    scores, _ = read_scores(head_ct.store.require(ANOMALY_SCORES, "head_ct", TRAINING))
    chosen = scores.iloc[[0, 40, 100]]
    given = pd.DataFrame({"picture": [str(real_data / "head_ct" / name) for name in chosen["image_id"]]})
    predicted = model.predict(given)
    np.testing.assert_allclose(predicted["score"].astype(float), chosen["map_max"], rtol=1e-3)
    assert predicted["threshold"].isna().all()  # the recipe has none: nothing is decided
    assert predicted["anomalous"].isna().all()


def test_checks_say_what_a_training_is_worth(head_ct: Graph) -> None:
    """One epoch with another teacher: its loss is one number, and no error where it is not the published experiment."""
    again = head_ct.materialise(*GRID_ASSETS, partition=grid_key("head_ct", TRAINING))
    found = {check.check_name: check for check in again.get_asset_check_evaluations()}
    # One epoch, and no champion: loss_fell and keeps_up_with_champion have nothing to compare, and are skipped.
    assert set(found) == {"finite", "better_than_chance", "not_below_published"}
    published = found["not_below_published"]
    assert "0.8130" in str(published.metadata["compared"].value)  # Ours+ES of Table 3
    assert published.severity == dg.AssetCheckSeverity.WARN
    auroc = read_metrics(head_ct.store.require(METRICS, "head_ct", TRAINING)).set_index(["metric", "score_rule"])
    assert published.passed == (auroc.loc[("image_auroc", "map_max"), "ci_high"] >= 0.813)


def test_what_is_done_is_not_done_again(head_ct: Graph) -> None:
    again = head_ct.materialise(*GRID_ASSETS, partition=grid_key("head_ct", TRAINING))
    for event in again.get_asset_materialization_events():
        metadata = event.step_materialization_data.materialization.metadata
        if "already_in_store" in metadata:
            assert metadata["already_in_store"].value is True
    client_runs = head_ct.store.root / "tracking" / "head_ct"
    assert len(list(client_runs.iterdir())) == 1


def test_training_refuses_a_split_that_was_not_verified(head_ct: Graph) -> None:
    """A check blocks only inside its own run; the guard is in the data."""
    file = head_ct.store.require(SPLIT, "head_ct").folder / "split.parquet"
    original = file.read_bytes()
    swapped = pd.read_parquet(file).assign(part=lambda t: t["part"].replace({"test": "train", "train": "test"}))
    swapped.to_parquet(file, index=False)
    file.write_bytes(file.read_bytes()[: len(original)].ljust(len(original), b"\0"))
    try:
        with pytest.raises(Exception, match="not the split that was verified"):
            read_verified_split(head_ct.store.find(Ref("split", "head_ct")))
        key = TRAINING.replace("-s0", "-s1")
        head_ct.instance.add_dynamic_partitions(TRAINING_DIMENSION, [key])
        failed = head_ct.materialise("resized_images", "trained_model", partition=grid_key("head_ct", key), ok=False)
        [failure] = [e for e in failed.all_events if e.is_step_failure]
        assert "split.parquet is damaged: its SHA-256 begins with" in str(failure.step_failure_data.user_failure_data)
        assert head_ct.store.find(Ref("trained_model", "head_ct", key)) is None
    finally:
        file.write_bytes(original)


def test_tracking_that_is_down_loses_nothing_and_fails_nothing(head_ct: Graph) -> None:
    """Nobody listens at that address: the training stays done, the mirror is simply not materialised."""
    away = Graph(
        head_ct.store, head_ct.settings.model_copy(update={"mlflow_uri": "http://127.0.0.1:9"}), head_ct.instance
    )
    run = away.materialise("metrics", "mlflow_run", partition=grid_key("head_ct", TRAINING))
    materialised = {str(e.asset_key.path[-1]) for e in run.get_asset_materialization_events()}
    assert materialised == {"metrics"}
    assert mlflow_run_id(head_ct.store, "head_ct", TRAINING) is not None  # the embedded mirror of before


def test_a_system_without_epochs_and_maps_goes_the_same_way(head_ct: Graph, real_data: Path) -> None:
    import mlflow

    key = "deep-lof@resnet18.4c740094-s0"
    head_ct.instance.add_dynamic_partitions(TRAINING_DIMENSION, [key])
    done = head_ct.materialise(*GRID_ASSETS, partition=grid_key("head_ct", key))
    found = {check.check_name: check for check in done.get_asset_check_evaluations()}
    assert found["finite"].metadata["maps"].value == 0
    assert "loss_fell" not in found  # there are no losses to compare
    head_ct.materialise("benchmark", "systems", "leaderboard")
    systems = pd.read_parquet(head_ct.store.require(SYSTEMS).folder / "systems.parquet").set_index("recipe")
    assert systems["epochs"].isna().to_dict() == {"deep-lof": True, "rkd-es": False}
    scores, maps = read_scores(head_ct.store.require(ANOMALY_SCORES, "head_ct", key))
    assert maps is None
    tested = scores[scores["part"] == "test"]
    auroc = roc_auc_score(tested["anomalous"], tested["image_score"])
    assert systems.loc["deep-lof", "image_auroc"] == pytest.approx(auroc)

    mlflow.set_tracking_uri(f"sqlite:///{head_ct.store.mlflow_folder / 'mlflow.db'}")
    run = mlflow.get_run(mlflow_run_id(head_ct.store, "head_ct", key))
    assert not mlflow.MlflowClient().get_metric_history(run.info.run_id, "train_loss")
    model = mlflow.pyfunc.load_model(f"models:/{run.outputs.model_outputs[0].model_id}")
    chosen = tested.iloc[[0, 100]]
    predicted = model.predict(pd.DataFrame({"picture": [str(real_data / "head_ct" / n) for n in chosen["image_id"]]}))
    np.testing.assert_allclose(predicted["score"].astype(float), chosen["image_score"], rtol=1e-3)
    assert predicted["map"].isna().all()
