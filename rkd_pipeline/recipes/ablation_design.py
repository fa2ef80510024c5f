"""What an ablation asks: which models answer which question, around a stated centre.

One factor at a time from the centre, each training factor alone and some pairs together; scoring factors from the
same trainings. Every training is a variant of a recipe (``variants.py``) with a key of its own, so an ablation is
resumed by running it again, and whatever else was measured counts too.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

from rkd_pipeline.errors import BadKey
from rkd_pipeline.recipes.lookup import recipe
from rkd_pipeline.recipes.recipe import ReverseKD
from rkd_pipeline.recipes.score_rules import Quantity
from rkd_pipeline.recipes.variants import FACTORS, changed, factor

CENTRES = ("rkd", "rkd-official", "rkd-brief", "rkd-official-brief")
# What the texture riddle asks: the official code differs from the paper in loss, beta2 and batch at once.
INTERACTIONS = (("loss", "beta2"), ("loss", "batch"))
PRODUCT, PRODUCT_MAX = "product", "product_max"
SUM = "sum"
IMAGE_SCORES = ("l_kd", "l_val", "l_mkd")
# Per response, the score rule of each level of the two scoring factors: maps (sum, product), image score (the others).
RESPONSES: dict[str, dict[str, str]] = {
    "aupro_30": {SUM: "map", PRODUCT: PRODUCT},
    "pixel_auroc": {SUM: "map", PRODUCT: PRODUCT},
    "pixel_ap": {SUM: "map", PRODUCT: PRODUCT},
    "image_auroc": {SUM: "map_max", PRODUCT: PRODUCT_MAX, **{rule: rule for rule in IMAGE_SCORES}},
}


@dataclass(frozen=True)
class Arm:
    """One model of a contrast: a recipe, and by which level of a scoring factor it is judged."""

    weight: int
    recipe: str
    scoring: str = SUM


@dataclass(frozen=True)
class Contrast:
    """A question: what a change does. Columns of ``COLUMNS`` and the models that answer it, weights adding up to 0."""

    kind: str
    factor: str
    change: str
    arms: tuple[Arm, ...]

    @property
    def recipes(self) -> list[str]:
        """What has to be trained."""
        return list(dict.fromkeys(arm.recipe for arm in self.arms))


@dataclass
class Design:
    """Everything that an ablation around a centre asks.

    Attributes:
        centre: the recipe.
        contrasts: what the plan answers.
        further: interactions that it does not train for; answered where somebody did.
        absent: factor to the reason why it does not exist on the architecture.
    """

    centre: ReverseKD
    contrasts: list[Contrast] = field(default_factory=list)
    further: list[Contrast] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)

    @property
    def recipes(self) -> list[str]:
        """What the plan trains, the centre first."""
        asked = [name for contrast in self.contrasts for name in contrast.recipes]
        return list(dict.fromkeys([self.centre.name, *asked]))


def design(centre: str, arch: str, interactions: Sequence[tuple[str, str]] = INTERACTIONS) -> Design:
    """The ablation around a recipe on an architecture.

    ``interactions`` names pairs of factors, each taken at its first level that is not the centre's. Raises
    ``UnknownName`` for a recipe, architecture or factor, ``BadKey`` for a factor paired with itself.
    """
    asked = {frozenset(factor(name).name for name in pair) for pair in interactions}
    if any(len(pair) < 2 for pair in asked):
        raise BadKey("an interaction is of two different factors, such as loss*beta2")
    for name in frozenset().union(*asked):
        if not factor(name).levels:
            raise BadKey(
                f"{name} has no levels that the ablation trains; name a variant, such as {centre}+{name}=0.001"
            )
    base = recipe(centre)
    if not isinstance(base, ReverseKD):
        raise BadKey(f"an ablation is of Reverse KD; {centre} is a recipe of {base.title}")
    made = Design(base)
    for name, f in FACTORS.items():
        if reason := f.absent_on(arch):
            made.absent[name] = reason
    present = [f for name, f in FACTORS.items() if name not in made.absent and f.levels]
    for f in present:
        start = changed(base, dict([f.needs])) if f.needs else base
        now = f.read(start)
        with_what = f" (with {'='.join(f.needs)})" if f.needs and start.name != base.name else ""
        for level in f.levels:
            if level != now:
                arms = (Arm(1, changed(start, {f.name: level}).name), Arm(-1, start.name))
                made.contrasts.append(Contrast("training", f.name, f"{now} → {level}{with_what}", arms))
    made.contrasts += _scoring(base)
    first_others = {f.name: next(level for level in f.levels if level != f.read(base)) for f in present if not f.needs}
    for one, other in combinations([f for f in present if not f.needs], 2):
        for at_one in one.levels:
            for at_other in other.levels:
                if at_one == one.read(base) or at_other == other.read(base):
                    continue
                levels = {one.name: at_one, other.name: at_other}
                planned = {one.name, other.name} in asked and levels.items() <= first_others.items()
                (made.contrasts if planned else made.further).append(_together(base, levels))
    return made


def _together(base: ReverseKD, levels: Mapping[str, str]) -> Contrast:
    """What two changes do beyond the sum of each alone."""
    alone = [changed(base, {name: level}).name for name, level in levels.items()]
    arms = (Arm(1, changed(base, levels).name), *(Arm(-1, name) for name in alone), Arm(1, base.name))
    return Contrast("interaction", " × ".join(levels), ", ".join(levels.values()), arms)


def _scoring(base: ReverseKD) -> Iterator[Contrast]:
    """Scoring factors at the centre, the two main ones together with each loss too: no training of their own."""
    losses = [changed(base, {"loss": level}) for level in FACTORS["loss"].levels if level != base.loss]
    for name, start, level in (("maps", SUM, PRODUCT), *(("score", "map_max", rule) for rule in IMAGE_SCORES)):
        arms = (Arm(1, base.name, level), Arm(-1, base.name))
        yield Contrast("scoring", name, f"{start} → {level}", arms)
        for other in losses if level in (PRODUCT, IMAGE_SCORES[0]) else ():
            crossed = (Arm(1, other.name, level), Arm(-1, other.name), Arm(-1, base.name, level), Arm(1, base.name))
            yield Contrast("interaction", f"loss × {name}", f"{other.loss}, {level}", crossed)


def quantity(response: str, scoring: str) -> Quantity | None:
    """Metric and score rule of a response judged that way; None where it cannot be (a pixel has no image score)."""
    rule = RESPONSES[response].get(scoring)
    return (response, rule) if rule else None
