"""A recipe by its name: a named one, or the variant that the name spells."""

from rkd_pipeline.errors import UnknownName
from rkd_pipeline.recipes.named_recipes import RECIPES
from rkd_pipeline.recipes.recipe import Recipe
from rkd_pipeline.recipes.variants import is_variant, variant


def recipe(name: str) -> Recipe:
    """The recipe of that name, or the variant that it spells (``variants.py``).

    Raises ``UnknownName`` with the list of known ones, or ``BadKey`` for a variant that does not exist.
    """
    if is_variant(name):
        return variant(name)
    try:
        return RECIPES[name]
    except KeyError:
        raise UnknownName("recipe", name, RECIPES) from None


def own_score(name: str) -> str:
    """The image score that the authors of a recipe's system use: what it is ranked by."""
    return recipe(name).own_score
