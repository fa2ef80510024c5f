"""What happens by itself: sensors and the schedule. What costs training is off until somebody turns it on."""

from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pandas as pd

from assets.benchmark import benchmark
from assets.following import orders_followed
from assets.jobs import PREPARE, REFRESH, SCORE, TRAIN, TRAIN_MODEL
from assets.launching import BACKGROUND, ROUND_TAG, rebenchmark_job
from assets.partitions import grid_key, target_partitions, targets_to_change, training_partitions, trainings_to_add
from assets.reporting import table, user_errors
from assets.watching import Watch
from resources.hooks import Hook
from resources.liveness import UNFINISHED, fail_dead_runs, fail_runs_that_never_began
from resources.storage import StoreResource
from rkd_pipeline.data.user_targets import targets_in
from rkd_pipeline.errors import RkdError
from rkd_pipeline.operations import freshness, rebenchmark, watched_folder
from rkd_pipeline.recipes.plans import training_keys
from rkd_pipeline.settings import Settings

REASON_TAG = "rkd/reason"


@dg.sensor(minimum_interval_seconds=15, default_status=dg.DefaultSensorStatus.RUNNING)
def targets_in_step(context: dg.SensorEvaluationContext, store: StoreResource) -> dg.SensorResult | dg.SkipReason:
    """Offers the targets of the catalog and of ``targets.toml`` as partitions; withdraws those that are gone."""
    new, gone = targets_to_change(context.instance, targets_in(store.open()))
    if not new and not gone:
        return dg.SkipReason("the partitions are the targets that there are")
    return dg.SensorResult(
        dynamic_partitions_requests=[
            *([target_partitions.build_add_request(new)] if new else []),
            *([target_partitions.build_delete_request(gone)] if gone else []),
        ]
    )


def rebenchmark_schedule(settings: Settings) -> dg.ScheduleDefinition:
    """The schedule with the settings' cron line and time zone. Raises ``RkdError`` for a cron line that is none."""

    @dg.schedule(
        job=rebenchmark_job,
        name="rebenchmark",
        cron_schedule=settings.rebenchmark_cron,
        execution_timezone=settings.rebenchmark_timezone,
        description=f"Trains {settings.rebenchmark_plan} again, {settings.rebenchmark_seeds} fresh seeds for each "
        "of its repeats; history then says what moved, and whether beyond noise.",
    )
    def _scheduled() -> dg.RunRequest:
        return dg.RunRequest(tags=BACKGROUND)

    return _scheduled


@dg.sensor(minimum_interval_seconds=30, default_status=dg.DefaultSensorStatus.RUNNING, job=REFRESH)
def rebenchmarks_recorded(
    context: dg.SensorEvaluationContext, store: StoreResource, hook: Hook
) -> dg.RunRequest | dg.SkipReason:
    """Records a re-benchmark that has ended, well or badly, tells the hook of it, and has the tables refreshed."""
    opened = store.open()
    for begun in rebenchmark.open_rounds(opened):
        failures = rebenchmark.failures_of(opened, begun)
        if failures is not None:
            rebenchmark.record_and_tell(opened, begun, failures, hook.tell)
            return dg.RunRequest(run_key=f"re-benchmark {begun.number} ended", tags={ROUND_TAG: str(begun.number)})
    # Once an hour: a webhook that is down must not be called at every look.
    hour = datetime.now(UTC).strftime("%Y-%m-%dT%H")
    if rebenchmark.untold(opened) and context.cursor != hour:
        rebenchmark.tell_untold(opened, hook.tell)
        context.update_cursor(hour)
        return dg.SkipReason("the hook was told again of what it had not taken")
    return dg.SkipReason("no re-benchmark has ended since the last look")


@dg.sensor(minimum_interval_seconds=120, jobs=[PREPARE, TRAIN_MODEL, TRAIN])
def changes_followed(context: dg.SensorEvaluationContext, store: StoreResource) -> dg.SensorResult | dg.SkipReason:
    """Brings results up to date when files of a dataset or versions of the code have changed; trains, so it is off.

    First the data of a target, then its trainings. Each change is followed once: what fails is not tried for ever.
    """
    opened = store.open()
    changed = freshness.changed_targets(opened)
    busy = _being_prepared(context.instance)
    requests = [
        _follow(PREPARE.name, target, f"data of {target}", changed[target]) for target in sorted(changed.keys() - busy)
    ]
    waiting = changed.keys() | busy
    stale = {cell: change for cell, change in freshness.stale_trainings(opened).items() if cell.target not in waiting}
    # A lost event log does not know the keys; the store does. Their runs are asked for at the next look.
    unknown = trainings_to_add(context.instance, sorted(training_keys(stale)))
    for cell, change in stale.items():
        if not set(training_keys([cell])).isdisjoint(unknown):
            continue
        what, job = cell, TRAIN
        if cell.shared is not None and not freshness.is_trained(opened, cell.shared):
            if cell.shared in stale:
                continue  # it has a request of its own, and comes first
            what, job = cell.shared, TRAIN_MODEL
        key = grid_key(what.target, what.training)
        requests.append(_follow(job.name, key, f"{what.target} {what.training}", change))
    if not requests and not unknown:
        return dg.SkipReason("files and code are what the results were made from")
    added = [training_partitions.build_add_request(unknown)] if unknown else []
    return dg.SensorResult(run_requests=requests, dynamic_partitions_requests=added)


def _follow(job: str, partition: str, what: str, change: freshness.Change) -> dg.RunRequest:
    """The request for one change. Its key is the change's own: the same words may be true of the next one too."""
    return dg.RunRequest(
        run_key=f"{what}, change {change.key}",
        job_name=job,
        partition_key=partition,
        tags=BACKGROUND | {REASON_TAG: change.why},
    )


def _being_prepared(instance: dg.DagsterInstance) -> set[str]:
    """Targets whose data a run is making, or about to: half of it is new, so nothing of it can be judged."""
    runs = instance.get_runs(dg.RunsFilter(job_name=PREPARE.name, statuses=UNFINISHED))
    return {run.tags.get("dagster/partition", "") for run in runs}


@dg.sensor(minimum_interval_seconds=30, default_status=dg.DefaultSensorStatus.RUNNING, job=SCORE)
def new_images(store: StoreResource, watch: Watch) -> dg.RunRequest | dg.SkipReason:
    """Scores what is new in the watched folder (``RKD_WATCH``), with a model that is there already."""
    if not watch.folder:
        return dg.SkipReason("no folder is watched; RKD_WATCH names one")
    try:
        found = watched_folder.look(store.open(), Path(watch.folder), watch.model)
    except RkdError as error:
        return dg.SkipReason(str(error))
    if not found.new:
        return dg.SkipReason(f"nothing new in {watch.folder}")
    # A look that failed is made again, once an hour: a full disk must neither fill the list of runs nor end the watch.
    hour = datetime.now(UTC).strftime("%Y-%m-%dT%H")
    return dg.RunRequest(run_key=f"images {found.key}, {hour}")


@dg.run_failure_sensor(
    minimum_interval_seconds=15, default_status=dg.DefaultSensorStatus.RUNNING, monitor_all_code_locations=False
)
def failures_told(context: dg.RunFailureSensorContext, hook: Hook) -> None:
    """Tells the hook of every run that failed for good; whoever ended one by Ctrl-C or SIGTERM knows."""
    run = context.dagster_run
    if run.tags.get("dagster/will_retry") == "true" or any(map(_interrupted, context.get_step_failure_events())):
        return
    what = run.tags.get("dagster/partition", "").replace("|", " ")
    text = f"{run.job_name} {what} failed: {context.failure_event.message}".replace("  ", " ")
    hook.tell("failure", text, {"job": run.job_name, "partition": what, "run_id": run.run_id})


def _interrupted(event: dg.DagsterEvent) -> bool:
    error = event.step_failure_data.error
    return error is not None and error.cls_name == "DagsterExecutionInterruptedError"


@dg.sensor(minimum_interval_seconds=30, default_status=dg.DefaultSensorStatus.RUNNING)
def dead_runs_reported(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    """Reports runs as failed whose process is gone, so that they are retried and hold no slot.

    Of this host, and on a cluster those that ended before they began.
    """
    dead = fail_dead_runs(context.instance) + fail_runs_that_never_began(context.instance)
    return dg.SkipReason(f"reported as failed: {', '.join(dead)}" if dead else "no run is without its process")


HALF_HOURLY: dg.AutomationCondition = dg.AutomationCondition.cron_tick_passed("*/30 * * * *")


# A freshness policy knows times only: the benchmark of a store in which nothing happens stays right for ever, and one
# that is a minute old is wrong where a result was deleted since. So a check compares it with what the store holds.
@dg.asset_check(
    asset=benchmark,
    name="in_step_with_store",
    description="Made from what the store holds now.",
    automation_condition=HALF_HOURLY,
)
def in_step_with_store(store: StoreResource) -> dg.AssetCheckResult:
    """Compares what ``benchmark`` was made from with the store: what it lacks, has too much, or has in an old form."""
    with user_errors():
        behind = freshness.benchmark_behind(store.open())
    rows = pd.DataFrame(behind.items(), columns=["result", "how it differs"])
    return dg.AssetCheckResult(
        passed=not behind, severity=dg.AssetCheckSeverity.WARN, metadata={"behind": table(rows), "number": len(behind)}
    )


# Tables and checks follow what changes. Without a sensor of our own, Dagster's would be there, turned off.
refresh = dg.AutomationConditionSensorDefinition(
    "refresh",
    target=dg.AssetSelection.all() | dg.AssetSelection.all_asset_checks(),
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=15,
    run_tags=BACKGROUND,
)

SENSORS = [
    targets_in_step,
    orders_followed,
    rebenchmarks_recorded,
    changes_followed,
    new_images,
    failures_told,
    dead_runs_reported,
    refresh,
]
