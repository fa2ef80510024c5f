"""What is compared with the paper: the numbers of its systems, and those published of the same target and metric."""

import pandas as pd

from rkd_pipeline.models.teacher_files import TeacherName
from rkd_pipeline.recipes.lookup import recipe
from rkd_pipeline.recipes.recipe import PAPERS_SYSTEMS
from rkd_pipeline.recipes.training_key import TrainingKey
from rkd_pipeline.recipes.variants import is_variant
from rkd_pipeline.results.published import published_rows

# Which system's published numbers a recipe repeats, as the literature's rows name them.
REPEATS = {"rkd": "Ours", "rkd-es": "Ours+ES", "rkd-mkd": "Ours+L_MKD", "rkd-official": "RKD"}
SCORE_RULE = {"image_auroc": "map_max"}


def of_papers_systems(rows: pd.DataFrame) -> pd.DataFrame:
    """Measured rows of recipes of the systems that the paper compares: what its tables, claims and figures are about.

    Without variants, which answer the ablation.
    """
    measured = rows[rows["origin"] == "measured"]
    asked = [r for r in measured["recipe"].unique() if not is_variant(r) and recipe(r).system in PAPERS_SYSTEMS]
    return measured[measured["recipe"].isin(asked)]


def with_published(target_name: str, training: str, metrics: pd.DataFrame) -> tuple[pd.DataFrame, bool]:
    """The metrics that the literature has a number for, and whether it is the same experiment.

    Args:
        target_name: whose numbers.
        training: its key; recipes that repeat no published system are compared with nothing.
        metrics: the table of a ``metrics`` result.

    Returns:
        Columns metric, value, ci_low, ci_high, published (fractions from 0 to 1) and source; and True where teacher and
        schedule are the recipe's own, so that a number below the published one is a finding, not an explanation.
    """
    key = TrainingKey.parse(training)
    system = REPEATS.get(key.recipe.name)
    rows = published_rows()
    rows = rows[(rows["target"] == target_name) & (rows["system"] == system) & rows["metric"].isin(metrics["metric"])]
    ours = metrics[metrics["score_rule"] == metrics["metric"].map(SCORE_RULE).fillna("map")]
    compared = ours.merge(
        rows[["metric", "value", "source"]].rename(columns={"value": "published"}).drop_duplicates("metric"),
        on="metric",
    )
    same_experiment = key.teacher == TeacherName(key.recipe.teacher) and not key.short_schedule
    return compared[["metric", "value", "ci_low", "ci_high", "published", "source"]], same_experiment
