"""Images for people: of one training, of the paper, of the leaderboard, over time. Colour-blind-safe; PNG bytes."""

from rkd_pipeline.results.figures.effect_bars import effect_dots
from rkd_pipeline.results.figures.over_time import Point, history_figure
from rkd_pipeline.results.figures.paper import Discrepancy, best_and_worst, feature_discrepancy, recipe_losses
from rkd_pipeline.results.figures.partition import detection_curves, loss_curve, map_strip, score_distribution
from rkd_pipeline.results.figures.ranks import rank_diagram
from rkd_pipeline.results.figures.side_by_side import (
    FewShot,
    Priced,
    Schedule,
    difference_matrices,
    quality_against_cost,
    quality_against_shots,
    quality_against_time,
)
from rkd_pipeline.results.figures.style import (
    BLUE,
    GREY,
    MAP_COLOURS,
    NO_MASK,
    ORANGE,
    SKY,
    message,
    png,
    small_image,
    thumbnail,
    tidy,
)

__all__ = [
    "BLUE",
    "GREY",
    "MAP_COLOURS",
    "NO_MASK",
    "ORANGE",
    "SKY",
    "Discrepancy",
    "FewShot",
    "Point",
    "Priced",
    "Schedule",
    "best_and_worst",
    "detection_curves",
    "difference_matrices",
    "effect_dots",
    "feature_discrepancy",
    "history_figure",
    "loss_curve",
    "map_strip",
    "message",
    "png",
    "quality_against_cost",
    "quality_against_shots",
    "quality_against_time",
    "rank_diagram",
    "recipe_losses",
    "score_distribution",
    "small_image",
    "thumbnail",
    "tidy",
]
