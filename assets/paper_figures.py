"""The paper's figures, from measured results."""

import dagster as dg

from assets.benchmark import GROUP, REFRESH, benchmark
from assets.reporting import asset_options, inline_images, materialised, user_errors
from resources.compute import TABLES_POOL
from resources.storage import StoreResource
from rkd_pipeline.stages.paper_figures import build_figure, figure_file
from rkd_pipeline.store.stage_versions import FIGURE_3, FIGURE_5, FIGURE_6, FIGURE_7, Stage


def figure_asset(stage: Stage, description: str) -> dg.AssetsDefinition:
    """A figure as an asset; where it cannot be drawn, its image and its metadata say why."""

    @dg.asset(
        **asset_options(stage, GROUP, "png"),
        deps=[benchmark],
        automation_condition=REFRESH,
        pool=TABLES_POOL,
        description=description,
    )
    def _figure(store: StoreResource) -> dg.MaterializeResult:
        with user_errors(), store.looking() as opened:
            result = build_figure(opened, stage)
        facts = {name: str(value) for name, value in result.facts.items()}
        return materialised(result, {"figure": inline_images(figure_file(result)), **facts})

    return _figure


figure_3 = figure_asset(
    FIGURE_3, "Teacher and student features compared, per scale, on a normal and a defective region."
)
figure_5 = figure_asset(FIGURE_5, "Image, map and ground truth of the best and the worst texture.")
figure_6 = figure_asset(FIGURE_6, "Image, map and ground truth of the best and the worst object.")
figure_7 = figure_asset(FIGURE_7, "Training and validation loss of the recipes on one target.")

FIGURES = [figure_3, figure_5, figure_6, figure_7]
