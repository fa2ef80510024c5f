"""Every recipe for reading: which paper, which code, which deviation, and what was measured with it."""

import pandas as pd

from rkd_pipeline.recipes.named_recipes import RECIPES, trained_as
from rkd_pipeline.recipes.recipe import Recipe
from rkd_pipeline.results.tables.sheet import NOT_MEASURED, Sheet, in_epochs

HEADINGS = ["Recipe", "System", "What it is", "Paper", "Code", "Deviation", "Teacher"]
MEASURED = "Measured with"


def recipe_sheet(benchmark: pd.DataFrame | None = None) -> Sheet:
    """A row per recipe; with a benchmark, the teachers and schedules that were measured, or that none was.

    A recipe whose own teacher's weights are not at hand stays "not measured" with that teacher: what was measured with
    another one names that one.
    """
    sheet = Sheet("Recipes", [*HEADINGS, MEASURED] if benchmark is not None else HEADINGS)
    for recipe in RECIPES.values():
        row = [recipe.name, recipe.title, _what(recipe), recipe.paper, recipe.code, recipe.deviation, recipe.teacher]
        if benchmark is not None:
            row.append(_measured(recipe, benchmark))
        sheet.rows.append(row)
    return sheet


def _what(recipe: Recipe) -> str:
    shared = trained_as(recipe)
    return recipe.summary if shared == recipe else f"{recipe.summary}; shares the training of {shared.name}"


def _measured(recipe: Recipe, benchmark: pd.DataFrame) -> str:
    rows = benchmark[(benchmark["origin"] == "measured") & (benchmark["recipe"] == recipe.name)]
    found = rows[["teacher", "epochs"]].drop_duplicates().sort_values(["teacher", "epochs"])
    texts = [
        f"{teacher}, {in_epochs(epochs) if pd.isna(epochs) else f'{epochs} of {recipe.epochs} epochs'}"
        for teacher, epochs in found.itertuples(index=False)
    ]
    own = (found["teacher"] == recipe.teacher).any()
    return "; ".join([*([] if own else [f"{recipe.teacher}: {NOT_MEASURED}"]), *texts])
