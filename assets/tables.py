"""The tidy benchmark table and the paper's tables."""

import dagster as dg
import pandas as pd

from assets.evaluation import metrics
from assets.reporting import asset_options, column_schema, materialised, pictures, table, user_errors
from resources.storage import StoreResource
from rkd_pipeline.benchmark_columns import COLUMN_TYPES, COLUMNS
from rkd_pipeline.flow import BENCHMARK, TABLE_3
from rkd_pipeline.stages import tables
from rkd_pipeline.tables import CELL_COLUMNS

GROUP = "paper"
# Fires when something upstream changed, also while other cells are still missing (eager() would wait for all).
REFRESH = (
    dg.AutomationCondition.any_deps_updated().since_last_handled() & ~dg.AutomationCondition.any_deps_in_progress()
)


@dg.asset(
    **asset_options(BENCHMARK, GROUP, "parquet"),
    deps=[metrics],
    automation_condition=REFRESH,
    metadata=column_schema(COLUMNS, COLUMN_TYPES),
)
def benchmark(store: StoreResource) -> dg.MaterializeResult:
    """Everything measured and published, one row per number. Trainings that are out of date are left out, by name."""
    with user_errors():
        result = tables.build_benchmark(store.open())
    rows = tables.read_benchmark(result)
    measured = rows[(rows["origin"] == "measured") & (rows["metric"] == "image_auroc")]
    shown = measured[["target", "training", "score_rule", "value", "ci_low", "ci_high"]]
    left_out = pd.DataFrame(result.facts["left_out"].items(), columns=["training", "why it does not count"])
    return materialised(
        result, {"image_auroc": table(shown), "left_out": table(left_out), "dagster/row_count": len(rows)}
    )


@dg.asset(
    **asset_options(TABLE_3, GROUP, "markdown"),
    deps=[benchmark],
    automation_condition=REFRESH,
    metadata=column_schema(CELL_COLUMNS),
    check_specs=[
        dg.AssetCheckSpec("complete", asset=TABLE_3.name, description="Every cell that the paper fills is measured.")
    ],
)
def table_3(store: StoreResource) -> dg.MaterializeResult:
    """Table 3 of the paper: image AUROC on the medical datasets, published beside measured, missing shown as such."""
    with user_errors():
        result = tables.build_table_3(store.open())
    cells = pd.read_parquet(result.folder / "table_3.parquet")
    ours = cells[cells["recipe"].notna()]
    missing = ours[ours["published"].notna() & ours["measured"].isna()]
    check = dg.AssetCheckResult(
        passed=missing.empty,
        check_name="complete",
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"missing": table(missing[["dataset", "system", "recipe", "score_rule"]])},
    )
    text = (result.folder / "table_3.md").read_text(encoding="utf-8")
    strips = sorted(result.folder.glob("maps_*.png"))
    return materialised(result, {"table": dg.MetadataValue.md(text), "example_maps": pictures(*strips)}, [check])
