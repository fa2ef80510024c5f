"""What stands at the end: the leaderboard and the report."""

import dagster as dg

from assets.benchmark import REFRESH, TABLES, benchmark
from assets.comparisons import ablation, claims, systems
from assets.history import history
from assets.paper_figures import FIGURES
from assets.reporting import asset_options, column_schema, inline_images, materialised, user_errors
from resources.compute import TABLES_POOL
from resources.storage import StoreResource
from rkd_pipeline.recipes.score_rules import QUALITY
from rkd_pipeline.results.ranking import COLUMNS
from rkd_pipeline.stages.leaderboard import DIAGRAM, TEXT, build_leaderboard
from rkd_pipeline.stages.report import FILE, build_report
from rkd_pipeline.store.stage_versions import BENCHMARK, LEADERBOARD, REPORT

GROUP = "reports"


@dg.asset(
    **asset_options(LEADERBOARD, GROUP, "markdown"),
    deps=[benchmark],
    automation_condition=REFRESH,
    pool=TABLES_POOL,
    metadata=column_schema(
        COLUMNS,
        lineage={name: [(BENCHMARK.name, name)] for name in ("recipe", "teacher", "epochs")}
        | {name: [(BENCHMARK.name, "value"), (BENCHMARK.name, "metric")] for name in ("mean_rank", *QUALITY)}
        | {"targets": [(BENCHMARK.name, "target")]},
    ),
)
def leaderboard(store: StoreResource) -> dg.MaterializeResult:
    """All measured recipes over all targets: mean ranks, tests where there are enough targets, cost beside quality."""
    with user_errors(), store.looking() as opened:
        result = build_leaderboard(opened)
    text = dg.MetadataValue.md((result.folder / TEXT).read_text(encoding="utf-8"))
    shown = {"leaderboard": text, "ranks": inline_images(result.folder / DIAGRAM), "verdict": result.facts["verdict"]}
    return materialised(result, shown)


@dg.asset(
    **asset_options(REPORT, GROUP, "html"),
    deps=[benchmark, *TABLES, *FIGURES, leaderboard, systems, ablation, claims, history],
    automation_condition=REFRESH,
    pool=TABLES_POOL,
)
def report(store: StoreResource) -> dg.MaterializeResult:
    """Tables, figures, leaderboard, systems, ablation, claims and provenance in one HTML file; a page per training."""
    with user_errors(), store.looking() as opened:
        result = build_report(opened)
    facts = {name: int(value) for name, value in result.facts.items()}
    return materialised(result, {"file": dg.MetadataValue.path(str(result.folder / FILE)), **facts})
