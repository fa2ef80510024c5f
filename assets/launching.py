"""Jobs for what people want whole: a plan, a target, an ablation, a re-benchmark.

Data and trainings have different partitions, which no single run can hold; so each of these jobs places an order
(``rkd_pipeline/operations/work_orders.py``), which the sensor ``orders_followed`` turns into one run per target and
training, data first. Tables follow by themselves. What is in the store already is reported, not made again.
"""

from collections.abc import Sequence

import dagster as dg
from pydantic import Field

from assets.jobs import SCORE_PRODUCT_MAPS
from assets.reporting import user_errors
from resources.rebenchmarks import RebenchmarkResource
from resources.storage import StoreResource
from rkd_pipeline.data.catalog import targets_of
from rkd_pipeline.data.user_targets import targets_in
from rkd_pipeline.models.teacher_files import EMBEDDED, TeacherName
from rkd_pipeline.operations import rebenchmark, work_orders
from rkd_pipeline.recipes.ablation_design import INTERACTIONS
from rkd_pipeline.recipes.plans import (
    ABLATION_CENTRE,
    ABLATION_EPOCHS,
    PLANS,
    PlannedTraining,
    ablation,
    cross,
    named,
)

ROUND_TAG = "rkd/rebenchmark"
BACKGROUND = {"dagster/priority": "-1"}  # what nobody waits for goes behind what somebody does
_DEMO_TEXTURES = [t.name for t in targets_of("demo") if t.kind == "texture"]


def _said(context: dg.OpExecutionContext, order: work_orders.WorkOrder) -> None:
    context.log.info(
        f"{order.title}: {len(order.cells)} trainings, order {order.identity}; runs with the tag "
        f"rkd/order={order.identity} carry it out while the daemon runs, as `rkd ui` starts it"
    )


def plan_job(name: str) -> dg.JobDefinition:
    """The job that starts one plan."""
    further = [SCORE_PRODUCT_MAPS.name] if name == "ablation" else []

    @dg.op(name=f"start_{name}")
    def _start(context: dg.OpExecutionContext, store: StoreResource) -> None:
        with user_errors():
            tags = {"rkd/plan": name}
            order = work_orders.place(
                store.open(), f"plan-{name}", f"plan {name}", named(name), further=further, tags=tags
            )
        _said(context, order)

    first_line = str(PLANS[name].__doc__ or "").partition("\n")[0]

    @dg.job(name=f"plan_{name}", description=f"{first_line} Orders everything that plan {name} needs.")
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
    """Order targets by recipes by seeds."""
    with user_errors():
        teacher = TeacherName.parse(config.teacher) if config.teacher else None
        cells = cross(config.targets, config.recipes, config.seeds, teacher=teacher, epochs=config.epochs or None)
        order = _placed(context, store, config.targets, cells, f"train {', '.join(config.targets)}")
    _said(context, order)


def _placed(
    context: dg.OpExecutionContext,
    store: StoreResource,
    targets: Sequence[str],
    cells: Sequence[PlannedTraining],
    title: str,
    further: Sequence[str] = (),
) -> work_orders.WorkOrder:
    """An order of this run's; a retry of the run places no second one. Raises ``UnknownName`` for no target."""
    opened = store.open()
    for target in targets:
        targets_in(opened).target(target)
    return work_orders.place(opened, context.run.root_run_id or context.run_id, title, cells, further=further)


@dg.job(
    description="One target, or several: data, trainings, scores and metrics for the recipes and seeds that you name."
)
def train_targets() -> None:
    """The job of ``start_training``."""
    start_training()


class AblationConfig(dg.Config):
    """What to take apart; the default needs no download."""

    targets: list[str] = Field(_DEMO_TEXTURES, description="such as mvtec_ad.screw")
    centres: list[str] = Field([ABLATION_CENTRE], description="recipes from which one factor at a time is changed")
    seeds: list[int] = Field([0], description="of initialisation and order; each reads its own repeat of the split")
    teacher: str = Field(EMBEDDED, description="as in keys: wide_resnet50_2, resnet18.4c740094, embedded")
    epochs: int | None = Field(ABLATION_EPOCHS, description="schedule; null: the recipe's own")
    interactions: list[str] = Field(
        ["*".join(pair) for pair in INTERACTIONS], description="pairs of factors that are changed together too"
    )

    def cells(self) -> list[PlannedTraining]:
        """Every training; raises ``RkdError`` for what cannot be trained."""
        pairs = [(one, other) for one, _, other in (text.partition("*") for text in self.interactions)]
        teacher = TeacherName.parse(self.teacher)
        return ablation(self.targets, self.centres, self.seeds, teacher=teacher, epochs=self.epochs, interactions=pairs)


@dg.op(name="ablate")
def order_ablation(context: dg.OpExecutionContext, config: AblationConfig, store: StoreResource) -> None:
    """Order every training of an ablation, each judged by maps multiplied too."""
    with user_errors():
        title = f"ablation of {', '.join(config.targets)}"
        order = _placed(context, store, config.targets, config.cells(), title, [SCORE_PRODUCT_MAPS.name])
    _said(context, order)


@dg.job(
    description="The ablation of some targets: whatever training and scoring is missing; tables and report follow. "
    "Launch it again to go on."
)
def run_ablation() -> None:
    """The job of ``order_ablation``."""
    order_ablation()


class WantedRound(dg.Config):
    """What to train again; what is empty comes from the settings."""

    plan: str = Field(
        "", description="a plan, or measured: every configuration in the store; empty: RKD_REBENCHMARK_PLAN"
    )


@dg.op
def start_round(
    context: dg.OpExecutionContext, config: WantedRound, store: StoreResource, rebenchmarks: RebenchmarkResource
) -> None:
    """Begin a re-benchmark, or go on with the one that is open, and order its trainings."""
    with user_errors():
        opened = store.open()
        if waiting := rebenchmark.open_rounds(opened):
            begun = waiting[0]
        else:
            begun = rebenchmark.begin(
                opened,
                config.plan or rebenchmarks.plan,
                f"run {context.run.root_run_id or context.run_id}",
                seeds=rebenchmarks.seeds,
                new_draws=rebenchmarks.new_draws,
            )
        order = work_orders.place(
            opened,
            rebenchmark.order_name(begun),
            f"re-benchmark {begun.number}, {begun.plan}",
            begun.cells,
            tags={ROUND_TAG: str(begun.number), **BACKGROUND},
        )
    _said(context, order)


@dg.job(name="rebenchmark", tags=BACKGROUND)
def rebenchmark_job() -> None:
    """Train a plan again with fresh seeds over fixed repeats; ``history`` then says what moved, and if beyond noise."""
    start_round()


JOBS = [*(plan_job(name) for name in PLANS), train_targets, run_ablation, rebenchmark_job]
