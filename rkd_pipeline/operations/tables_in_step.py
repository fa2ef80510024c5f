"""Whether what is made of all results is what it would be now: then nobody has to start Dagster to read it."""

from collections.abc import Callable
from functools import partial

from rkd_pipeline.errors import StoreError
from rkd_pipeline.stages.ablation import build_ablation
from rkd_pipeline.stages.benchmark import build_benchmark, build_category_table, build_table_3
from rkd_pipeline.stages.claims import build_claims
from rkd_pipeline.stages.history import build_history
from rkd_pipeline.stages.leaderboard import build_leaderboard
from rkd_pipeline.stages.paper_figures import FIGURES, build_figure
from rkd_pipeline.stages.report import build_report
from rkd_pipeline.stages.systems import build_systems
from rkd_pipeline.store.result_store import Result, Store
from rkd_pipeline.store.stage_versions import TABLE_1, TABLE_2, TABLE_4, TABLE_DEMO

# Each after what it reads.
BUILT: tuple[Callable[[Store], Result], ...] = (
    build_benchmark,
    build_table_3,
    *(partial(build_category_table, stage=stage) for stage in (TABLE_1, TABLE_2, TABLE_4, TABLE_DEMO)),
    *(partial(build_figure, stage=stage) for stage in FIGURES),
    build_leaderboard,
    build_systems,
    build_ablation,
    build_claims,
    build_history,
    build_report,
)


def tables_are_in_step(store: Store) -> bool:
    """Benchmark, tables, figures and report are there, and would not change if they were made now."""
    looking = store.to_look_at()
    try:
        with looking.one_look():
            for build in BUILT:
                build(looking)
    except StoreError:
        return False
    return True
