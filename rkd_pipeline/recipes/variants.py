"""Variants: recipes that differ from a named one in some factors; what an ablation trains.

    <recipe>+<factor>=<level>[+<factor>=<level>...]

``rkd+beta2=0.999`` is the paper's recipe with RD4AD's second beta, ``rkd+loss=mkd+lambda=0.5`` trains it on L_MKD with
a fixed lambda. Recipes of all systems have the factor ``shots``: ``padim+shots=8`` learns from eight images. This is
the one place where such names are written and read. What two names would spell has one: that of the named recipe from
which it differs in the fewest factors (``rkd+loss=mkd`` is ``rkd-mkd``), factors in the order of ``FACTORS``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, TypeVar

from rkd_pipeline.errors import BadKey, UnknownName
from rkd_pipeline.models.architectures import architecture
from rkd_pipeline.recipes.named_recipes import RECIPES
from rkd_pipeline.recipes.recipe import EarlyStopping, Recipe, ReverseKD

OFF = "off"
BALANCED = "auto"
ALL = "all"
R = TypeVar("R", bound=Recipe)


@dataclass(frozen=True)
class Factor:
    """One thing that a training may do otherwise.

    Attributes:
        name: in names of variants.
        meaning: for people.
        levels: those that the ablation trains, none where no source differs; names may spell others, such as
            ``batch=8``.
        read: the level of a recipe, as names spell it.
        change: a recipe at another level; raises ``ValueError`` for what is no level.
        needs: a factor and its level without which this one changes nothing.
        only_on: architectures on which it changes something; None: all.
        of: the class of recipes that have it.
    """

    name: str
    meaning: str
    levels: tuple[str, ...]
    read: Callable[[Any], str]
    change: Callable[[Any, str], Any]
    needs: tuple[str, str] | None = None
    only_on: tuple[str, ...] | None = None
    of: type[Recipe] = ReverseKD

    def absent_on(self, arch: str) -> str | None:
        """Why this factor does not exist on an architecture; None where it does."""
        if self.only_on is None or architecture(arch).name in self.only_on:
            return None
        return f"not measurable with {arch}: its levels differ only for {', '.join(self.only_on)}"


def _choice(field: str, *levels: str) -> Callable[[ReverseKD, str], ReverseKD]:
    def change(recipe: ReverseKD, level: str) -> ReverseKD:
        if level not in levels:
            raise ValueError(f"one of {', '.join(levels)}")
        new: dict[str, Any] = {field: level}
        return replace(recipe, **new)

    return change


def _number(text: str, low: float, high: float) -> float:
    """A number written in the one way that names spell it, in the open range."""
    try:
        value = float(text)
    except ValueError:
        value = low
    if not low < value < high or f"{value:g}" != text:
        raise ValueError(f"a number above {low:g}" + (f" and below {high:g}" if high < 1e9 else ""))
    return value


def _whole(text: str, low: int) -> int:
    if not text.isdecimal() or int(text) < low or str(int(text)) != text:
        raise ValueError(f"a whole number from {low}")
    return int(text)


def _with_lambda(recipe: ReverseKD, level: str) -> ReverseKD:
    return replace(recipe, lambda_=None if level == BALANCED else _number(level, 0, 1e9))


def _with_beta2(recipe: ReverseKD, level: str) -> ReverseKD:
    return replace(recipe, betas=(recipe.betas[0], _number(level, 0, 1)))


def _with_batch(recipe: ReverseKD, level: str) -> ReverseKD:
    return replace(recipe, batch_size=_whole(level, 2))  # BatchNorm's statistics need two images


def _with_rate(recipe: ReverseKD, level: str) -> ReverseKD:
    return replace(recipe, learning_rate=_number(level, 0, 1))


def _with_side(recipe: ReverseKD, level: str) -> ReverseKD:
    if _whole(level, 32) % 32:
        raise ValueError("a multiple of 32")
    return replace(recipe, side=int(level))


def _with_stop(recipe: ReverseKD, level: str) -> ReverseKD:
    return replace(recipe, early_stopping=None if level == OFF else EarlyStopping(_whole(level, 1)))


def _with_shots(recipe: Recipe, level: str) -> Recipe:
    return replace(recipe, shots=None if level == ALL else _whole(level, 1))


_L_MKD = ("loss", "mkd")
FACTORS = {
    f.name: f
    for f in (
        Factor("loss", "training loss", ("kd", "kd_flat", "mkd"), lambda r: r.loss,
               _choice("loss", "kd", "kd_flat", "mkd")),
        Factor("val", "L_val over channels", ("sum", "mean"), lambda r: r.val_reduction,
               _choice("val_reduction", "sum", "mean"), needs=_L_MKD),
        Factor("lambda", "weight of L_KD in L_MKD", (BALANCED, "0.5", "100"),
               lambda r: BALANCED if r.lambda_ is None else f"{r.lambda_:g}", _with_lambda, needs=_L_MKD),
        Factor("beta2", "second beta of Adam", ("0.99", "0.999"), lambda r: f"{r.betas[1]:g}", _with_beta2),
        Factor("batch", "images per step", ("16", "32"), lambda r: str(r.batch_size), _with_batch),
        Factor("rate", "learning rate of Adam", (), lambda r: f"{r.learning_rate:g}", _with_rate),
        Factor("schedule", "the learning rate over the epochs", (), lambda r: r.schedule,
               _choice("schedule", "constant", "cosine")),
        Factor("oce", "the one-class embedding, as anomalib or as RD4AD builds it", ("narrow", "wide"),
               lambda r: r.oce_width, _choice("oce_width", "narrow", "wide"), only_on=("wide_resnet50_2", "resnet34")),
        Factor("side", "image side in pixels", ("224", "256"), lambda r: str(r.side), _with_side),
        Factor("stop", "early stopping: patience in epochs", (OFF, "15"),
               lambda r: OFF if r.early_stopping is None else str(r.early_stopping.patience), _with_stop),
        Factor("shots", "how many training images, drawn by the seed", (),
               lambda r: ALL if r.shots is None else str(r.shots), _with_shots, of=Recipe),
    )
}  # fmt: skip


def is_variant(name: str) -> bool:
    """The name spells a variant: it belongs to an ablation, not among the named recipes."""
    return "+" in name


def factor(name: str) -> Factor:
    """The factor of that name; raises ``UnknownName`` with the list of known ones."""
    try:
        return FACTORS[name]
    except KeyError:
        raise UnknownName("factor", name, FACTORS) from None


def levels_of(recipe: Recipe) -> dict[str, str]:
    """The level of every factor that such recipes have."""
    return {name: f.read(recipe) for name, f in FACTORS.items() if isinstance(recipe, f.of)}


def changed(base: R, levels: Mapping[str, str]) -> R:
    """A recipe with some factors at other levels, under its one name.

    Raises ``UnknownName`` for a factor, ``BadKey`` for one that such recipes have not, for a level that is none, or
    one that changes nothing by itself.
    """
    made = base
    for name, level in levels.items():
        if not isinstance(base, factor(name).of):
            has = ", ".join(levels_of(base))
            raise BadKey(f"{base.name} is a recipe of {base.title}, which has no factor {name}, only {has}")
        try:
            made = factor(name).change(made, level)
        except ValueError as error:
            raise BadKey(f"{name}={level}: {name} is {error}") from None
    for name, level in levels.items():
        needs = factor(name).needs
        if needs and levels_of(made)[needs[0]] != needs[1]:
            raise BadKey(f"{name}={level} changes nothing without {needs[0]}={needs[1]}")
    return _named(_without_idle(made))


@cache  # a look at a thousand trainings asks for few names, and each takes milliseconds
def variant(name: str) -> Recipe:
    """The recipe that a name with ``+`` spells, under its one name; errors as those of ``changed``."""
    base, *parts = name.split("+")
    if base not in RECIPES:
        raise UnknownName("recipe", base, RECIPES)
    pairs = [part.partition("=")[::2] for part in parts]
    if len(dict(pairs)) < len(pairs):
        raise BadKey(f"{name!r} names a factor twice")
    return changed(RECIPES[base], dict(pairs))


def _without_idle(recipe: R) -> R:
    """Factors that change nothing, back at their first level: they must not tell two names apart."""
    for name in levels_of(recipe):
        f = FACTORS[name]
        if f.needs and levels_of(recipe)[f.needs[0]] != f.needs[1]:
            recipe = f.change(recipe, f.levels[0])
    return recipe


def _named(recipe: R) -> R:
    wanted = levels_of(recipe)
    spelled: list[tuple[int, R]] = []
    for base in (r for r in RECIPES.values() if type(r) is type(recipe)):
        differing = {name: level for name, level in wanted.items() if levels_of(base)[name] != level}
        made = base
        for name, level in differing.items():
            made = FACTORS[name].change(made, level)
        if _beside_name(made) == _beside_name(recipe):
            parts = "".join(f"+{name}={level}" for name, level in differing.items())
            text = ", ".join(f"{name} {level}" for name, level in differing.items())
            summary = f"{base.summary}; with {text}" if text else base.summary
            spelled.append((len(differing), replace(made, name=base.name + parts, summary=summary)))
    return min(spelled, key=lambda pair: pair[0])[1]  # of equals the first: the order of RECIPES


def _beside_name(recipe: Recipe) -> dict[str, Any]:
    return recipe.settings() | {"name": ""}
