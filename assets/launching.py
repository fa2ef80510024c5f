"""Jobs for what people want whole: a plan, a target, a re-benchmark.

Data and trainings have different partitions, which no single run can hold; so each of these jobs starts a backfill over
exactly the cells that it needs, data first, which the daemon carries out one training at a time. Tables follow by
themselves. What is in the store already is reported, not made again.
"""

import time
from collections.abc import Sequence

import dagster as dg
from dagster._core.definitions.assets.graph.asset_graph import AssetGraph
from dagster._core.definitions.assets.graph.asset_graph_subset import AssetGraphSubset
from dagster._core.definitions.events import AssetKeyPartitionKey
from dagster._core.execution.backfill import BULK_ACTION_TERMINAL_STATUSES, PartitionBackfill
from pydantic import Field

from assets import anomaly_scores as evaluation
from assets import datasets
from assets import mlflow_run as tracking
from assets import trained_model as training
from assets.history import BACKGROUND, ROUND_TAG, backfill_id
from assets.partitions import TRAINING_DIMENSION, grid_key, offer_targets
from assets.reporting import user_errors
from resources.storage import StoreResource
from rkd_pipeline.data.user_targets import targets_in
from rkd_pipeline.models.teacher_files import TeacherName
from rkd_pipeline.operations import rebenchmark
from rkd_pipeline.recipes.plans import PLANS, PlannedTraining, cross, named
from rkd_pipeline.settings import Settings
from rkd_pipeline.store.result_store import Store

DATA = [datasets.dataset_source, datasets.images, datasets.split_asset, datasets.prepared_images, datasets.dataset_card]
GRID = [training.trained_model, evaluation.anomaly_scores, evaluation.metrics, tracking.mlflow_run]


def start_backfill(
    context: dg.OpExecutionContext,
    store: Store,
    cells: Sequence[PlannedTraining],
    title: str,
    tags: dict[str, str],
    identity: str | None = None,
) -> str:
    """Ask the daemon for cells, and for the data that they need; returns the backfill's id.

    ``identity`` makes it the same backfill however often it is asked for; one that has ended is asked for again.
    """
    instance, graph = context.instance, AssetGraph.from_assets([*DATA, *GRID, training.teachers])
    offer_targets(instance, targets_in(store))
    instance.add_dynamic_partitions(TRAINING_DIMENSION, list(dict.fromkeys(c.training for c in cells)))
    wanted = {AssetKeyPartitionKey(a.key, target) for a in DATA for target in dict.fromkeys(c.target for c in cells)}
    wanted |= {AssetKeyPartitionKey(a.key, grid_key(c.target, c.training)) for a in GRID for c in cells}
    wanted.add(AssetKeyPartitionKey(training.teachers.key))
    name = identity or context.run_id
    attempt = 1
    while (known := instance.get_backfill(f"{name}-{attempt}")) is not None:
        if known.status not in BULK_ACTION_TERMINAL_STATUSES:
            return known.backfill_id
        attempt += 1
    backfill = PartitionBackfill.from_asset_graph_subset(
        backfill_id=f"{name}-{attempt}",
        backfill_timestamp=time.time(),
        tags=tags,
        dynamic_partitions_store=instance,
        asset_graph_subset=AssetGraphSubset.from_asset_partition_set(wanted, graph),
        title=title,
        description=None,
        run_config=None,
    )
    instance.add_backfill(backfill)
    context.log.info(f"{title}: {len(cells)} trainings, backfill {backfill.backfill_id}")
    return backfill.backfill_id


def plan_job(name: str) -> dg.JobDefinition:
    """The job that starts one plan."""

    @dg.op(name=f"start_{name}")
    def _start(context: dg.OpExecutionContext, store: StoreResource) -> None:
        with user_errors():
            start_backfill(context, store.open(), named(name), f"plan {name}", {"rkd/plan": name})

    first_line = str(PLANS[name].__doc__ or "").partition("\n")[0]

    @dg.job(name=f"plan_{name}", description=f"{first_line} Starts a backfill of everything that plan {name} needs.")
    def _job() -> None:
        _start()

    return _job


class Wanted(dg.Config):
    """What to train, as ``rkd run`` takes it."""

    targets: list[str] = Field(description="e.g. [brain_mri, mvtec_ad.screw]")
    recipes: list[str] = Field(["rkd"], description="e.g. [rkd, rkd-es, rkd-mkd]")
    seeds: list[int] = Field([0], description="of training; each reads its own repeat of the split")
    teacher: str = Field("", description="as in a training key, e.g. resnet18; empty: the recipe's own")
    epochs: int = Field(0, description="a shorter schedule; 0: the recipe's own")


@dg.op
def start_training(context: dg.OpExecutionContext, config: Wanted, store: StoreResource) -> None:
    """Start a backfill of targets by recipes by seeds."""
    with user_errors():
        opened = store.open()
        for target in config.targets:
            targets_in(opened).target(target)
        teacher = TeacherName.parse(config.teacher) if config.teacher else None
        cells = cross(config.targets, config.recipes, config.seeds, teacher=teacher, epochs=config.epochs or None)
        start_backfill(context, opened, cells, f"train {', '.join(config.targets)}", {})


@dg.job(
    description="One target, or several: data, trainings, scores and metrics for the recipes and seeds that you name."
)
def train_targets() -> None:
    """The job of ``start_training``."""
    start_training()


class WantedRound(dg.Config):
    """What to train again; what is empty comes from the settings."""

    plan: str = Field(
        "", description="a plan, or measured: every configuration in the store; empty: RKD_REBENCHMARK_PLAN"
    )


@dg.op
def start_round(context: dg.OpExecutionContext, config: WantedRound, store: StoreResource) -> None:
    """Begin a re-benchmark, or go on with the one that is open, and start its backfill."""
    settings = Settings.from_environment()
    with user_errors():
        opened = store.open()
        if waiting := rebenchmark.open_rounds(opened):
            begun = waiting[0]
        else:
            begun = rebenchmark.begin(
                opened,
                config.plan or settings.rebenchmark_plan,
                f"run {context.run.root_run_id or context.run_id}",
                seeds=settings.rebenchmark_seeds,
                new_draws=settings.rebenchmark_new_draws,
            )
        tags = {ROUND_TAG: str(begun.number), **BACKGROUND}
        start_backfill(
            context, opened, begun.cells, f"re-benchmark {begun.number}, {begun.plan}", tags, backfill_id(begun)
        )


@dg.job(name="rebenchmark", tags=BACKGROUND)
def rebenchmark_job() -> None:
    """Train a plan again with fresh seeds over fixed repeats; ``history`` then says what moved, and if beyond noise."""
    start_round()


JOBS = [*(plan_job(name) for name in PLANS), train_targets, rebenchmark_job]
