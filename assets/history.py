"""Numbers over time, and who is told when they move."""

from itertools import count, takewhile

import dagster as dg
import pandas as pd
from dagster._core.execution.backfill import BULK_ACTION_TERMINAL_STATUSES

from assets.benchmark import REFRESH, TABLES_POOL, benchmark
from assets.partitions import TARGET_DIMENSION, TRAINING_DIMENSION
from assets.reporting import (
    asset_options,
    column_schema,
    inline_images,
    materialised,
    nothing_compared,
    same_columns,
    user_errors,
)
from resources.hooks import Hook
from resources.storage import StoreResource
from rkd_pipeline.operations import rebenchmark
from rkd_pipeline.recipes.plans import PlannedTraining
from rkd_pipeline.stages import rounds
from rkd_pipeline.stages.history import FIGURE, POINT_COLUMNS, TEXT, build_history, read_moves
from rkd_pipeline.statistics.regressions import WORSE, comparable
from rkd_pipeline.store.result_store import Result, Store
from rkd_pipeline.store.stage_versions import HISTORY, METRICS

GROUP = "reports"
ROUND_TAG = "rkd/rebenchmark"
NOT_WORSE = "not_worse"
BACKGROUND = {"dagster/priority": "-1"}  # what nobody waits for goes behind what somebody does


@dg.asset(
    **asset_options(HISTORY, GROUP, "parquet"),
    deps=[benchmark],
    automation_condition=REFRESH,
    pool=TABLES_POOL,
    metadata=column_schema(
        POINT_COLUMNS, lineage=same_columns(METRICS.name, ("value", "ci_low", "ci_high"), POINT_COLUMNS)
    ),
    check_specs=[
        dg.AssetCheckSpec(
            NOT_WORSE, asset=HISTORY.name, description="Nothing got worse beyond noise in the last re-benchmark."
        )
    ],
)
def history(context: dg.AssetExecutionContext, store: StoreResource, hook: Hook) -> dg.MaterializeResult:
    """Every target's numbers over all re-benchmarks, with intervals; what moved, by how much, and whether beyond noise.

    Records the rounds that have ended since, and tells the hook what moved and what failed.
    """
    with user_errors():
        opened = store.open()
        for number in record_ended(context.instance, opened):
            context.log.info(f"re-benchmark {number} is on record")
        result = build_history(opened)
    moved = read_moves(result)
    tell(opened, moved, hook)
    last = moved[moved["round"] == moved["round"].max()]
    text = dg.MetadataValue.md((result.folder / TEXT).read_text(encoding="utf-8"))
    shown = {"over_time": inline_images(result.folder / FIGURE, width=1100), "history": text}
    return materialised(
        result, shown | {"rounds": result.facts["rounds"], "last_look": _counts(result)}, [_not_worse(last)]
    )


def _not_worse(last: pd.DataFrame) -> dg.AssetCheckResult:
    """Of the moves of the last look."""
    if not last["verdict"].map(comparable).any():
        reasons = "; ".join(last["verdict"].unique()) or "there is no re-benchmark yet"
        return nothing_compared(NOT_WORSE, reasons)
    worse = last[last["verdict"] == WORSE]
    return dg.AssetCheckResult(
        passed=worse.empty,
        check_name=NOT_WORSE,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"worse": dg.MetadataValue.md(worse.to_markdown(index=False) or "nothing")},
    )


def _counts(result: Result) -> str:
    return ", ".join(f"{n} {verdict}" for verdict, n in result.facts["last_look"].items()) or "no re-benchmark yet"


def record_ended(instance: dg.DagsterInstance, store: Store) -> list[int]:
    """Record the open rounds of which no run is on its way any more; returns their numbers."""
    ended = []
    for begun in rebenchmark.open_rounds(store):
        failures = failures_of(instance, store, begun)
        if failures is not None:
            rebenchmark.close(store, begun, failures)
            ended.append(begun.number)
    return ended


def failures_of(instance: dg.DagsterInstance, store: Store, begun: rebenchmark.Round) -> dict[str, str] | None:
    """Why each unfinished training of a round failed; None while they may still come.

    A round that the daemon carries out is a backfill, and over when that is; one that ``rkd rebenchmark`` carries out
    is over when the command says so.
    """
    unfinished = rebenchmark.unfinished(store, begun)
    if not unfinished:
        return {}
    known = (instance.get_backfill(f"{backfill_id(begun)}-{n}") for n in count(1))
    last = None
    for attempt in takewhile(bool, known):
        last = attempt
    if last is None or last.status not in BULK_ACTION_TERMINAL_STATUSES:
        return None
    return {f"{c.target} {c.training}": _why(instance, c) for c in unfinished}


def backfill_id(begun: rebenchmark.Round) -> str:
    """Identity of a round's backfills in this store's instance."""
    return f"rebenchmark-{begun.number:04d}"


def _why(instance: dg.DagsterInstance, cell: PlannedTraining) -> str:
    tags = {f"dagster/partition/{TARGET_DIMENSION}": cell.target}
    tags[f"dagster/partition/{TRAINING_DIMENSION}"] = cell.training
    runs = instance.get_runs(dg.RunsFilter(tags=tags), limit=1)
    if not runs:
        return "it never started, since what it needs failed: see the page of its backfill"
    return f"run {runs[0].run_id[:8]} ended as {runs[0].status.value.lower()}; its page says why"


def tell(store: Store, moved: pd.DataFrame, hook: Hook) -> None:
    """Tell the hook of every round on record that it has not heard of; what it does not take is told again later."""
    records = {record["round"]: record for record in rounds.records(store)}
    for number in rebenchmark.untold(store):
        of_round = moved[(moved["round"] == number) & moved["moved"]]
        failures = records[number]["failures"]
        lines = [_line(row) for row in of_round.to_dict("records")]
        lines += [f"{name} failed: {why}" for name, why in failures.items()]
        event = "regression" if (of_round["verdict"] == WORSE).any() else "failure" if failures else "move"
        facts = {
            "round": number,
            "plan": records[number]["plan"],
            "moves": of_round[["target", "recipe", "metric", "before", "now", "move", "p_holm"]].to_dict("records"),
            "failures": failures,
        }
        if not lines or hook.tell(event, f"re-benchmark {number}: " + "; ".join(lines), facts):
            rebenchmark.told(store, number, {"event": event if lines else "nothing to tell"})


def _line(row: dict[str, float]) -> str:
    return (
        f"{row['target']} {row['recipe']}: {row['metric']} {row['verdict']} by {100 * abs(row['move']):.1f} points "
        f"({100 * row['before']:.1f} to {100 * row['now']:.1f}, p {row['p_holm']:.2g})"
    )
