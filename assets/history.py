"""Numbers over time."""

from collections.abc import Iterator

import dagster as dg
import pandas as pd

from assets.benchmark import REFRESH, benchmark
from assets.reporting import (
    NothingCompared,
    asset_options,
    check_of,
    column_schema,
    inline_images,
    materialised,
    outcomes,
    same_columns,
    user_errors,
)
from resources.compute import TABLES_POOL
from resources.storage import StoreResource
from rkd_pipeline.stages.history import FIGURE, POINT_COLUMNS, TEXT, build_history, read_moves
from rkd_pipeline.statistics.regressions import WORSE, comparable
from rkd_pipeline.store.result_store import Result
from rkd_pipeline.store.stage_versions import HISTORY, METRICS

GROUP = "reports"
NOT_WORSE = "not_worse"


@dg.asset(
    **asset_options(HISTORY, GROUP, "parquet"),
    deps=[benchmark],
    automation_condition=REFRESH,
    pool=TABLES_POOL,
    metadata=column_schema(
        POINT_COLUMNS, lineage=same_columns(METRICS.name, ("value", "ci_low", "ci_high"), POINT_COLUMNS)
    ),
)
def history(store: StoreResource) -> dg.MaterializeResult:
    """Every target's numbers over all re-benchmarks, with intervals; what moved, by how much, and whether beyond noise.

    Of the rounds on record: ``rkd rebenchmark``, or the sensor ``rebenchmarks_recorded``, records one when it ends.
    """
    with user_errors(), store.looking() as opened:
        result = build_history(opened)
    text = dg.MetadataValue.md((result.folder / TEXT).read_text(encoding="utf-8"))
    shown = {"over_time": inline_images(result.folder / FIGURE), "history": text}
    return materialised(result, shown | {"rounds": result.facts["rounds"], "last_look": _counts(result)})


@check_of(history, (NOT_WORSE, "Nothing got worse beyond noise in the last re-benchmark."))
def check_history(context: dg.AssetCheckExecutionContext, store: StoreResource) -> Iterator[dg.AssetCheckResult]:
    """A regression is red on the page of ``history``."""
    with user_errors():
        moved = read_moves(store.open().require(HISTORY))
    yield from outcomes(context, {NOT_WORSE: lambda: _not_worse(moved[moved["round"] == moved["round"].max()])})


CHECKS = [check_history]


def _not_worse(last: pd.DataFrame) -> dg.AssetCheckResult | NothingCompared:
    """Of the moves of the last look."""
    if not last["verdict"].map(comparable).any():
        reasons = "; ".join(last["verdict"].unique()) or "there is no re-benchmark yet"
        return NothingCompared(reasons)
    worse = last[last["verdict"] == WORSE]
    return dg.AssetCheckResult(
        passed=worse.empty,
        check_name=NOT_WORSE,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"worse": dg.MetadataValue.md(worse.to_markdown(index=False) or "nothing")},
    )


def _counts(result: Result) -> str:
    return ", ".join(f"{n} {verdict}" for verdict, n in result.facts["last_look"].items()) or "no re-benchmark yet"
