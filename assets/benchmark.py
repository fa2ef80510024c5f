"""The tidy benchmark table and the paper's tables."""

import dagster as dg
import pandas as pd

from assets.anomaly_scores import METRIC_COLUMNS, metrics
from assets.partitions import of_all_cells
from assets.reporting import asset_options, column_schema, inline_images, materialised, same_columns, table, user_errors
from resources.compute import TABLES_POOL
from resources.storage import StoreResource
from rkd_pipeline.results.schema import COLUMN_TYPES, COLUMNS
from rkd_pipeline.results.tables import categories
from rkd_pipeline.results.tables.table_3 import CELL_COLUMNS
from rkd_pipeline.stages import benchmark as tables
from rkd_pipeline.store.result_store import Result
from rkd_pipeline.store.stage_versions import BENCHMARK, METRICS, TABLE_1, TABLE_2, TABLE_3, TABLE_4, TABLE_DEMO, Stage

GROUP = "paper"
# Fires when something upstream changed, also while other cells are still missing (eager() would wait for all).
# Not while a run already makes the same asset: it will have seen the change.
REFRESH = (
    dg.AutomationCondition.any_deps_updated().since_last_handled()
    & ~dg.AutomationCondition.any_deps_in_progress()
    & ~dg.AutomationCondition.in_progress()
)

CELL_LINEAGE = {
    **{
        c: [(BENCHMARK.name, c)]
        for c in ("target", "recipe", "metric", "score_rule", "teacher", "epochs", "short_schedule")
    },
    "dataset": [(BENCHMARK.name, "dataset")],
    "system": [(BENCHMARK.name, "system")],
    "published": [(BENCHMARK.name, "value"), (BENCHMARK.name, "source")],
    "compared": [(BENCHMARK.name, "value")],
    "measured": [(BENCHMARK.name, "value")],
    "difference": [(BENCHMARK.name, "value")],
    "ci_low": [(BENCHMARK.name, "ci_low"), (BENCHMARK.name, "value")],
    "ci_high": [(BENCHMARK.name, "ci_high"), (BENCHMARK.name, "value")],
    "interval_method": [(BENCHMARK.name, "interval_method")],
    "seeds": [(BENCHMARK.name, "seed")],
    "best": [(BENCHMARK.name, "ci_low"), (BENCHMARK.name, "ci_high")],
}


@dg.asset(
    **asset_options(BENCHMARK, GROUP, "parquet"),
    deps=of_all_cells(metrics),
    automation_condition=REFRESH,
    pool=TABLES_POOL,
    metadata=column_schema(COLUMNS, COLUMN_TYPES, same_columns(METRICS.name, METRIC_COLUMNS, COLUMNS)),
)
def benchmark(store: StoreResource) -> dg.MaterializeResult:
    """Everything measured and published, one row per number. Trainings that are out of date are left out, by name."""
    with user_errors(), store.looking() as opened:
        result = tables.build_benchmark(opened)
    rows = tables.read_benchmark(result)
    measured = rows[(rows["origin"] == "measured") & (rows["metric"] == "image_auroc")]
    shown = measured[["target", "training", "score_rule", "value", "ci_low", "ci_high"]]
    left_out = pd.DataFrame(result.facts["left_out"].items(), columns=["training", "why it does not count"])
    return materialised(
        result, {"image_auroc": table(shown), "left_out": table(left_out), "dagster/row_count": len(rows)}
    )


COMPLETE = "complete"


def complete(stage: Stage) -> list[dg.AssetCheckSpec]:
    """The check of a paper's table."""
    return [dg.AssetCheckSpec(COMPLETE, asset=stage.name, description="Every cell that the paper fills is measured.")]


def shown_table(result: Result, stage: Stage, **more: dg.MetadataValue) -> dg.MaterializeResult:
    """A table's page: the table itself, and where the paper fills it, which cells are missing."""
    text = dg.MetadataValue.md((result.folder / f"{stage.name}.md").read_text(encoding="utf-8"))
    checks = []
    if stage != TABLE_DEMO:
        missing = tables.missing_cells(tables.read_cells(result))
        columns = [c for c in ("dataset", "target", "system", "recipe", "score_rule") if c in missing]
        checks.append(
            dg.AssetCheckResult(
                passed=missing.empty,
                check_name=COMPLETE,
                severity=dg.AssetCheckSeverity.WARN,
                metadata={"missing": table(missing[columns])},
            )
        )
    return materialised(result, {"table": text, **more}, checks)


def category_asset(stage: Stage, description: str) -> dg.AssetsDefinition:
    """One of the tables of categories as an asset."""

    @dg.asset(
        **asset_options(stage, GROUP, "markdown"),
        deps=[benchmark],
        automation_condition=REFRESH,
        pool=TABLES_POOL,
        metadata=column_schema(categories.CELL_COLUMNS, lineage=CELL_LINEAGE),
        check_specs=[] if stage == TABLE_DEMO else complete(stage),
        description=description,
    )
    def _table(store: StoreResource) -> dg.MaterializeResult:
        with user_errors(), store.looking() as opened:
            return shown_table(tables.build_category_table(opened, stage), stage)

    return _table


table_1 = category_asset(TABLE_1, "Table 1 of the paper: localisation on MVTec AD's textures, published and measured.")
table_2 = category_asset(TABLE_2, "Table 2 of the paper: localisation on MVTec AD's objects, published and measured.")
table_4 = category_asset(TABLE_4, "Table 4 of the paper: MVTec AD's textures with the loss of MKD.")
table_demo = category_asset(TABLE_DEMO, "The generated demonstration images, in the layout of Tables 1 and 2.")


@dg.asset(
    **asset_options(TABLE_3, GROUP, "markdown"),
    deps=[benchmark],
    automation_condition=REFRESH,
    pool=TABLES_POOL,
    metadata=column_schema(CELL_COLUMNS, lineage=CELL_LINEAGE),
    check_specs=complete(TABLE_3),
)
def table_3(store: StoreResource) -> dg.MaterializeResult:
    """Table 3 of the paper: image AUROC on the medical datasets, published beside measured, missing shown as such."""
    with user_errors(), store.looking() as opened:
        result = tables.build_table_3(opened)
    return shown_table(result, TABLE_3, example_maps=inline_images(*sorted(result.folder.glob("maps_*.png"))))


TABLES = [table_1, table_2, table_3, table_4, table_demo]
