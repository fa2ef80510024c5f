"""From work orders to runs, one per target and training: data first, then what is trained from it.

The daemon carries runs out one training at a time. An order goes on past what fails, and ends when nothing of it can
still come.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

import dagster as dg

from assets.jobs import LIST_TEACHERS, PREPARE, SCORE_PRODUCT_MAPS, SCORE_ROTATED_IMAGES, TRAIN, TRAIN_MODEL
from assets.partitions import (
    grid_key,
    offered_targets,
    target_partitions,
    targets_to_change,
    training_partitions,
    trainings_to_add,
)
from resources.liveness import UNFINISHED
from resources.storage import StoreResource
from rkd_pipeline.data.user_targets import targets_in
from rkd_pipeline.operations import work_orders
from rkd_pipeline.operations.work_orders import WorkOrder
from rkd_pipeline.recipes.plans import PlannedTraining, training_keys

ORDER_TAG = "rkd/order"
Step = tuple[str, str | None]  # a job's name, and the partition that it is run for
BUSY, DONE = "busy", "done"


@dataclass
class Progress:
    """How far an order has come.

    Attributes:
        wanted: steps that can start now.
        failures: ``target training`` to why it failed.
        waiting: cells that may still come.
    """

    wanted: list[Step] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    waiting: int = 0


@dg.sensor(
    minimum_interval_seconds=15,
    default_status=dg.DefaultSensorStatus.RUNNING,
    jobs=[PREPARE, LIST_TEACHERS, TRAIN_MODEL, TRAIN, SCORE_PRODUCT_MAPS, SCORE_ROTATED_IMAGES],
)
def orders_followed(context: dg.SensorEvaluationContext, store: StoreResource) -> dg.SensorResult | dg.SkipReason:
    """Runs what has been ordered: the data of each target, then each training, then what judges it further."""
    opened = store.open()
    orders = work_orders.open_orders(opened)
    if not orders:
        return dg.SkipReason("nothing is on order")
    new_targets, _ = targets_to_change(context.instance, targets_in(opened))
    new_keys = trainings_to_add(context.instance, training_keys(c for order in orders for c in order.cells))
    if new_targets or new_keys:
        # Runs for them can be asked for at the next look, when the instance offers them.
        return dg.SensorResult(
            dynamic_partitions_requests=[
                *([target_partitions.build_add_request(new_targets)] if new_targets else []),
                *([training_partitions.build_add_request(new_keys)] if new_keys else []),
            ]
        )
    offered, requests = offered_targets(context.instance), []
    for order in orders:
        progress = progress_of(order, run_states(context.instance, order), offered)
        requests += [_request(order, step) for step in progress.wanted]
        if not progress.wanted and not progress.waiting:
            work_orders.end(opened, order, progress.failures)
            context.log.info(f"order {order.identity} has ended, {len(progress.failures)} failed")
    return dg.SensorResult(run_requests=requests)


def steps_of(order: WorkOrder, cell: PlannedTraining) -> Iterator[Step]:
    """What has to be done for a cell, one after the other."""
    key = grid_key(cell.target, cell.training)
    yield PREPARE.name, cell.target
    if cell.shared is not None:
        yield TRAIN_MODEL.name, grid_key(cell.shared.target, cell.shared.training)
    yield TRAIN.name, key
    for job in order.further:
        yield job, key


def progress_of(order: WorkOrder, states: dict[Step, str], offered: set[str]) -> Progress:
    """What of an order comes next, given how its runs stand: ``BUSY``, ``DONE``, or why it failed."""
    teachers: Step = (LIST_TEACHERS.name, None)
    progress = Progress([teachers] if teachers not in states else [])
    for cell in order.cells:
        if cell.target not in offered:
            progress.failures[f"{cell.target} {cell.training}"] = f"there is no target {cell.target} any more"
            continue
        step = next((s for s in steps_of(order, cell) if states.get(s) != DONE), None)
        if step is None:
            continue
        state = states.get(step)
        if state in (None, BUSY):
            progress.waiting += 1
            progress.wanted += [step] if state is None and step not in progress.wanted else []
        else:
            progress.failures[f"{cell.target} {cell.training}"] = f"{step[0]}: {state}"
    return progress


def run_states(instance: dg.DagsterInstance, order: WorkOrder) -> dict[Step, str]:
    """How the runs of an order stand, by what they do; a run and its retries are one."""
    runs = defaultdict(list)  # newest first
    for run in instance.get_runs(dg.RunsFilter(tags={ORDER_TAG: order.identity})):
        runs[run.job_name, run.tags.get("dagster/partition")].append(run)
    return {step: _state(of_step) for step, of_step in runs.items()}


def _state(runs: list[dg.DagsterRun]) -> str:
    if any(run.status == dg.DagsterRunStatus.SUCCESS for run in runs):
        return DONE
    last = runs[0]
    comes_again = last.status == dg.DagsterRunStatus.FAILURE and last.tags.get("dagster/will_retry") == "true"
    if comes_again or any(run.status in UNFINISHED for run in runs):
        return BUSY
    return f"run {last.run_id[:8]} ended as {last.status.value.lower()}; its page says why"


def _request(order: WorkOrder, step: Step) -> dg.RunRequest:
    job, partition = step
    return dg.RunRequest(
        run_key=f"{order.identity} {job} {partition or ''}".strip(),
        job_name=job,
        partition_key=partition,
        tags=order.tags | {ORDER_TAG: order.identity},
    )
