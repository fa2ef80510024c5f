"""The paper's claims, re-tested: each with a statistic, its interval, a verdict and the reason.

A verdict is computed from what was measured, per teacher and schedule, and holds for those: a short schedule says
nothing about 200 epochs. What a verdict needs is in ``VERDICTS``; where it is missing, the reason says what to run.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import pandas as pd
from scipy.stats import t

from rkd_pipeline.metrics.pixel_intervals import draws
from rkd_pipeline.recipes.lookup import recipe as recipe_of
from rkd_pipeline.recipes.score_rules import Quantity
from rkd_pipeline.results.published import PAPER
from rkd_pipeline.results.tables.categories import OBJECTS, TEXTURES
from rkd_pipeline.results.tables.seeds import stopping_note
from rkd_pipeline.results.tables.sheet import NOT_MEASURED, Sheet, in_epochs, percent
from rkd_pipeline.statistics.contrasts import (
    CATEGORIES,
    INTERVAL_METHODS,
    NONE,
    TRAININGS,
    Block,
    Blocks,
    Estimate,
    Part,
    Term,
    Unit,
    interval_notes,
    on_one_target,
    over_targets,
    unit,
    units_of,
)
from rkd_pipeline.statistics.replicates import Evidence

SUPPORTED, NOT_SUPPORTED, CANNOT_TELL = "supported", "not supported", "cannot be told"
SAME_SIZE, SAME_ROTATED, SAME_LEVEL = 0.05, 0.02, 0.01  # margins: fractions of overlap, of the metric, of AUPRO
VERDICTS = (
    f"Verdicts. A gain: {SUPPORTED} where the whole interval lies above 0, {NOT_SUPPORTED} where it lies below. An "
    f"equality: {SUPPORTED} where the interval lies within the margin ({100 * SAME_SIZE:.0f} points between sizes of "
    f"regions, {100 * SAME_ROTATED:.0f} between turns, {100 * SAME_LEVEL:.0f} to the level of RD4AD's recipe), "
    f"{NOT_SUPPORTED} where it lies outside. Otherwise, and wherever two trainings are compared on one seed: "
    f"{CANNOT_TELL}. Not corrected for the number of rows. A verdict holds for its teacher, schedule and targets."
)
FULL_EPOCHS, PAPERS_TEACHER = 200, "wide_resnet50_2"
AUPRO, PIXEL_AUROC, PRO_YOUDEN = ("aupro_30", "map"), ("pixel_auroc", "map"), ("pro_youden", "map")
MAP_MAX, L_KD, L_MKD = (("image_auroc", rule) for rule in ("map_max", "l_kd", "l_mkd"))
NAMES = {AUPRO: "AUPRO", PIXEL_AUROC: "pixel AUROC", PRO_YOUDEN: "PRO at Youden's J", MAP_MAX: "image AUROC"}
MKD_RECIPES = ("rkd-mkd", "rkd-mkd-mean", "rkd-mkd-es")
PUBLISHED_MEDICAL = {  # the paper's columns of Table 3
    "early_stopping": (("Ours+ES", "Ours"),),
    "loss_as_score": (("Ours+L_KD AS", "Ours"), ("Ours+L_MKD AS", "Ours+L_MKD")),
}
FEWEST_REGIONS = 9  # of a target: three in each tercile
FEWEST_EPOCHS = 8  # of a history: two in each quarter
COLUMNS = {
    "claim": "which of the paper's claims",
    "compared": "the statistic",
    "where": "teacher and schedule, or the publication",
    "targets": "on which targets, or how many categories",
    "value": "of the statistic, as a fraction; empty where nothing was measured",
    "ci_low": "lower bound, 95%",
    "ci_high": "upper bound, 95%",
    "interval_method": "; ".join(f"{name}: {text}" for name, text in INTERVAL_METHODS.items()),
    "seeds": "how many each target has, at least",
    "verdict": f"{SUPPORTED}, {NOT_SUPPORTED} or {CANNOT_TELL}",
    "reason": "why, and what to run where something is missing",
}


@dataclass(frozen=True)
class Claim:
    """A claim of the paper: what it says, where, and the command that measures it as the paper did."""

    says: str
    source: str
    command: str


_RUN = "rkd run --targets {targets} --recipes {recipes} --seeds 0,1,2{more}"
_MEDICAL = "brain_mri,head_ct"
_TEXTURES = ",".join(f"mvtec_ad.{name}" for name in TEXTURES)
_ALL = "mvtec_ad.carpet,...,mvtec_ad.zipper"  # all fifteen


def _run(targets: str, recipes: str, more: str = "") -> str:
    return _RUN.format(targets=targets, recipes=recipes, more=more)


CLAIMS = {
    "multi_scale": Claim("The multi-scale problem is solved", "abstract, section 5", _run(_ALL, "rkd,rkd-official")),
    "rotation": Claim("Independent of rotation", "abstract", _run("mvtec_ad.screw", "rkd", " --rotated")),
    "overfitting": Claim("Without validation it over-fits", "section 4.2", _run(_TEXTURES, "rkd+stop=200")),
    "early_stopping": Claim("Early stopping generally helps", "section 4.3", _run(_MEDICAL, "rkd,rkd-es")),
    "loss_as_score": Claim("The loss as score helps", "section 4.3", _run(_MEDICAL, "rkd,rkd-mkd")),
    "pro": Claim("Our PRO is better", "section 4.2", _run(_ALL, "rkd,rkd-official")),
    "textures": Claim("L_MKD cures the textures", "section 5", _run(_TEXTURES, "rkd,rkd-mkd,rkd-official")),
}


@dataclass(frozen=True)
class Finding:
    """One row: a claim, what was compared where, what came out, and the verdict with its reason."""

    claim: str
    compared: str
    where: str
    targets: str
    estimate: Estimate | None
    verdict: str
    reason: str


@dataclass(frozen=True)
class Configuration:
    """Everything measured with one teacher and schedule.

    Attributes:
        teacher, epochs: the configuration.
        cells: evidence per target and seed, and recipe.
        rotated: likewise, per turn of the test images in degrees; only where those were scored.
        histories: likewise, losses per epoch.
        kinds: target to texture, object or medical.
        test_to_train: per target, as for ``contrasts.on_one_target``.
    """

    teacher: str
    epochs: int
    cells: Blocks
    rotated: Mapping[Block, Mapping[str, Mapping[int, Evidence]]]
    histories: Mapping[Block, Mapping[str, pd.DataFrame]]
    kinds: Mapping[str, str]
    test_to_train: Mapping[str, float | None]

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.teacher}, {in_epochs(self.epochs)}"

    @property
    def full(self) -> bool:
        """The paper's teacher and schedule."""
        return self.teacher == PAPERS_TEACHER and self.epochs >= FULL_EPOCHS

    @property
    def recipes(self) -> list[str]:
        """Every recipe measured."""
        return sorted({name for models in self.cells.values() for name in models})

    def estimate(self, units: Mapping[str, Sequence[Unit]]) -> Estimate:
        """Over the targets of ``units``, which are not empty."""
        return over_targets([on_one_target(of, self.test_to_train[target]) for target, of in units.items()])

    def of_kind(self, units: Mapping[str, list[Unit]], kind: str) -> dict[str, list[Unit]]:
        """Only the targets of a kind."""
        return {target: of for target, of in units.items() if self.kinds[target] == kind}


def findings(configurations: Sequence[Configuration], published: pd.DataFrame) -> list[Finding]:
    """Every claim re-tested, in the order of ``CLAIMS``; the paper's own configuration first, named where missing.

    Args:
        configurations: what was measured.
        published: rows of the benchmark with published numbers.
    """
    ask = {
        "multi_scale": _multi_scale,
        "rotation": _rotation,
        "overfitting": _overfitting,
        "early_stopping": _early_stopping,
        "loss_as_score": _loss_as_score,
        "pro": _pro,
        "textures": _textures,
    }
    ordered = sorted(configurations, key=lambda c: (not c.full, -c.epochs, c.teacher))
    found: list[Finding] = []
    for name, claim in CLAIMS.items():
        rows = [finding for c in ordered for finding in ask[name](c)]
        if not any(c.full and r.where == c.name for c in ordered for r in rows):
            where = f"{PAPERS_TEACHER}, {FULL_EPOCHS} epochs"
            why = f"not measured with the paper's teacher and schedule; run `{claim.command}`"
            found.append(Finding(name, "the paper's own experiment", where, "", None, CANNOT_TELL, why))
        found += _published(name, published)
        found += rows
    return found


def gain(estimate: Estimate, *, of_training: bool) -> tuple[str, str]:
    """Verdict and reason on a claim that something is higher.

    ``of_training``: the difference is between trainings, whose noise one seed does not show.
    """
    if of_training and estimate.seeds < 2:
        return CANNOT_TELL, "one seed does not show the noise of training; run it with --seeds 0,1,2"
    if not estimate.known:
        return CANNOT_TELL, "too little was measured for an interval"
    if estimate.low > 0:
        return SUPPORTED, "the whole interval lies above 0"
    if estimate.high < 0:
        return NOT_SUPPORTED, "the whole interval lies below 0"
    return CANNOT_TELL, "the interval holds 0"


def equality(estimate: Estimate, margin: float) -> tuple[str, str]:
    """Verdict and reason on a claim that something does not matter."""
    if not estimate.known:
        return CANNOT_TELL, "too little was measured for an interval"
    points = f"{100 * margin:.0f} points"
    if -margin < estimate.low and estimate.high < margin:
        return SUPPORTED, f"the whole interval lies within {points}"
    if estimate.low > margin or estimate.high < -margin:
        return NOT_SUPPORTED, f"the whole interval lies beyond {points}"
    return CANNOT_TELL, f"the interval reaches beyond {points}, but not as a whole"


def _row(
    c: Configuration, claim: str, compared: str, units: Mapping[str, list[Unit]], verdict: tuple[str, str]
) -> Finding:
    return Finding(claim, compared, c.name, ", ".join(units), c.estimate(units), *verdict)


def _multi_scale(c: Configuration) -> Iterator[Finding]:
    """Smallest less largest third of the regions, each target's own thirds; every recipe is a system of its own."""
    for name in c.recipes:
        units: dict[str, list[Unit]] = {}
        thirds: dict[str, list[np.ndarray]] = {}
        for (target, _, repeat), models in sorted(c.cells.items()):
            regions = models[name].regions if name in models else None
            if regions is not None and len(regions) >= FEWEST_REGIONS:
                means, difference = overlap_by_size(regions)
                units.setdefault(target, []).append(replace(difference, repeat=repeat))
                thirds.setdefault(target, []).append(means)
        if units:
            verdict, reason = equality(c.estimate(units), SAME_SIZE)
            means = np.mean([np.mean(of, axis=0) for of in thirds.values()], axis=0)
            small, medium, large = (percent(m) for m in means)
            reason = f"{reason}; smallest third {small}, middle {medium}, largest {large}"
            yield _row(c, "multi_scale", f"overlap of small less large regions, {name}", units, (verdict, reason))


def overlap_by_size(regions: pd.DataFrame) -> tuple[np.ndarray, Unit]:
    """Mean overlap of the smallest, middle and largest third of regions, and smallest less largest.

    Resampled over the images that have regions; the false-positive rates are taken as they are.

    Args:
        regions: as in ``evidence.Evidence``.
    """
    low, high = np.quantile(regions["size"], [1 / 3, 2 / 3])
    size, overlap = regions["size"].to_numpy(), regions["overlap"].to_numpy()
    thirds = np.where(size <= low, 0, np.where(size <= high, 1, 2))
    image, of_image = np.unique(regions["image_id"].to_numpy(str), return_inverse=True)
    weights = _draws(len(image))

    def means(drawn: np.ndarray) -> np.ndarray:
        """``(B, N)`` to ``(B, 3)``."""
        each = drawn[:, of_image]
        with np.errstate(invalid="ignore"):  # a draw may hold no region of some size
            parts = [(each[:, thirds == i] @ overlap[thirds == i]) / each[:, thirds == i].sum(1) for i in range(3)]
        return np.stack(parts, axis=1)

    exact = means(np.ones((1, len(image))))[0]
    drawn = means(weights)
    difference = drawn[:, 0] - drawn[:, 2]
    return exact, Unit(float(exact[0] - exact[2]), difference[np.isfinite(difference)])


@lru_cache(maxsize=16)
def _draws(images: int) -> np.ndarray:
    """The draws of so many images of one kind: all trainings of a target have the same."""
    return draws(np.ones(images, bool))


def _rotation(c: Configuration) -> Iterator[Finding]:
    """Mean over three turns less the images as they are, for the same model."""
    for name in c.recipes:
        for quantity in (AUPRO, MAP_MAX):
            units: dict[str, list[Unit]] = {}
            single: dict[int, list[float]] = {}
            for cell, models in sorted(c.rotated.items()):
                rotations = models.get(name, {})
                if rotations and quantity in rotations[0].values:
                    others = [degrees for degrees in rotations if degrees]
                    terms = [Term(1 / len(others), rotations[degrees], quantity) for degrees in others]
                    difference = unit([*terms, Term(-1, rotations[0], quantity)])
                    units.setdefault(cell[0], []).append(replace(difference, repeat=cell[2]))
                    for degrees in others:
                        change = rotations[degrees].values[quantity] - rotations[0].values[quantity]
                        single.setdefault(degrees, []).append(change)
            if units:
                verdict, reason = equality(c.estimate(units), SAME_ROTATED)
                each = ", ".join(f"{d} degrees {percent(np.mean(v), sign=True)}" for d, v in single.items())
                compared = f"{NAMES[quantity]} of rotated images less as they are, {name}"
                yield _row(c, "rotation", compared, units, (verdict, f"{reason}; {each}"))


def _overfitting(c: Configuration) -> Iterator[Finding]:
    """Loss on held-out normals: the last quarter of the epochs against the one before, in logarithms.

    Only of epochs that no training can lack: early stopping ends a training after 15 epochs without a new minimum, so
    its last quarter lies above the one before by selection, in a flat noisy loss too.
    """
    by_recipe: dict[str, list[float]] = {}
    targets: dict[str, set[str]] = {}
    for (target, _, _), models in sorted(c.histories.items()):
        for name, history in models.items():
            change = late_change(history.head(certain_epochs(name, c.epochs)))
            if change is not None:
                by_recipe.setdefault(name, []).append(change)
                targets.setdefault(name, set()).add(target)
    for name, changes in sorted(by_recipe.items()):
        n, mean, epochs = len(changes), float(np.mean(changes)), certain_epochs(name, c.epochs)
        half = float(t.ppf(0.975, n - 1) * np.std(changes, ddof=1) / np.sqrt(n)) if n > 1 else np.nan
        change, low, high = (float(np.expm1(v)) for v in (mean, mean - half, mean + half))
        estimate = Estimate(change, low, high, TRAININGS, len(targets[name]), n)
        verdict, reason = gain(estimate, of_training=True)
        if verdict == NOT_SUPPORTED and not (c.full and epochs == c.epochs):
            verdict, reason = CANNOT_TELL, f"the loss on held-out normals still falls at the end of {epochs} epochs"
        if epochs < c.epochs:
            reason += f"; early stopping chooses which trainings go on after epoch {epochs}, so no later one is used"
        compared = f"late change of the loss on held-out normals, {name}, {n} training{'s' * (n != 1)}"
        yield Finding("overfitting", compared, c.name, ", ".join(sorted(targets[name])), estimate, verdict, reason)


def certain_epochs(recipe_name: str, epochs: int) -> int:
    """How many epochs every training of a schedule has, whatever its losses: all, or those before stopping can act."""
    stopping = recipe_of(recipe_name).early_stopping
    return epochs if stopping is None else min(epochs, stopping.patience + 1)


def late_change(history: pd.DataFrame) -> float | None:
    """Logarithm of the validation loss's mean over the last quarter of the epochs to that over the quarter before.

    None without validation, or for a history too short. Above 0 the loss rises: over-fitting.
    """
    losses = history["validation_loss"].dropna().to_numpy(float)
    if len(losses) < FEWEST_EPOCHS or losses.min() <= 0:
        return None
    quarter = len(losses) // 4
    return float(np.log(losses[-quarter:].mean() / losses[-2 * quarter : -quarter].mean()))


def _early_stopping(c: Configuration) -> Iterator[Finding]:
    for stopped, plain in (("rkd-es", "rkd"), ("rkd-mkd-es", "rkd-mkd")):
        for quantity in (MAP_MAX, AUPRO):
            every = units_of([Part(1, stopped, quantity), Part(-1, plain, quantity)], c.cells)
            for kind in ("medical", "texture", "object"):
                if units := c.of_kind(every, kind):
                    verdict = gain(c.estimate(units), of_training=True)
                    if note := stopping_note(stopped, c.epochs):
                        verdict = CANNOT_TELL, note
                    yield _row(c, "early_stopping", f"{NAMES[quantity]}, {stopped} less {plain}", units, verdict)


def _loss_as_score(c: Configuration) -> Iterator[Finding]:
    for name, rule in (("rkd", L_KD), ("rkd-mkd", L_MKD)):
        every = units_of([Part(1, name, rule), Part(-1, name, MAP_MAX)], c.cells)
        for kind in ("medical", "texture", "object"):
            if units := c.of_kind(every, kind):
                compared = f"image AUROC by {rule[1]} less by the map's maximum, {name}"
                yield _row(c, "loss_as_score", compared, units, gain(c.estimate(units), of_training=False))


def _pro(c: Configuration) -> Iterator[Finding]:
    """Like for like; and what the paper's definition alone does to the same maps."""
    if units := units_of([Part(1, "rkd", AUPRO), Part(-1, "rkd-official", AUPRO)], c.cells):
        verdict = gain(c.estimate(units), of_training=True)
        yield _row(c, "pro", "like for like: AUPRO, rkd less rkd-official", units, verdict)
    for name in ("rkd", "rkd-official"):
        if units := units_of([Part(1, name, PRO_YOUDEN), Part(-1, name, AUPRO)], c.cells):
            higher, why = gain(c.estimate(units), of_training=False)
            verdict = CANNOT_TELL, why
            if higher == SUPPORTED:
                verdict = NOT_SUPPORTED, "the paper's definition alone, on the same maps, gives the higher number"
            yield _row(c, "pro", f"PRO at Youden's J less AUPRO, same maps, {name}", units, verdict)


def _textures(c: Configuration) -> Iterator[Finding]:
    for name in MKD_RECIPES:
        for quantity in (AUPRO, PIXEL_AUROC):
            every = units_of([Part(1, name, quantity), Part(-1, "rkd", quantity)], c.cells)
            if units := c.of_kind(every, "texture"):
                verdict = gain(c.estimate(units), of_training=True)
                yield _row(c, "textures", f"better: {NAMES[quantity]}, {name} less rkd", units, verdict)
        every = units_of([Part(1, name, AUPRO), Part(-1, "rkd-official", AUPRO)], c.cells)
        if units := c.of_kind(every, "texture"):
            estimate = c.estimate(units)
            above = Estimate(estimate.value + SAME_LEVEL, estimate.low + SAME_LEVEL, estimate.high + SAME_LEVEL,
                             estimate.method, estimate.targets, estimate.seeds)  # fmt: skip
            judged, why = gain(above, of_training=True)
            why = why.replace(" 0", f" -{100 * SAME_LEVEL:.0f}")
            yield _row(c, "textures", f"cured: AUPRO, {name} less rkd-official", units, (judged, why))


def _published(claim: str, published: pd.DataFrame) -> Iterator[Finding]:
    """What the paper's own tables say about its claims: differences over categories or datasets."""
    pro: tuple[tuple[str, Quantity], ...] = (("Ours", ("pro_youden", "map")), ("RKD", ("pro_rd4ad", "map")))
    if claim == "pro":
        for kind, names in (("objects", OBJECTS), ("textures", TEXTURES)):
            estimate = _over_categories(published, names, *pro)
            verdict, reason = gain(estimate, of_training=False)
            reason += "; and the two are not one quantity (PRO at Youden's J on the test labels; the official code's)"
            yield Finding(claim, "PRO, Ours less RKD", f"{PAPER}, Tables 1 and 2", f"{estimate.targets} {kind}",
                          estimate, CANNOT_TELL if verdict == SUPPORTED else verdict, reason)  # fmt: skip
    for system, other in PUBLISHED_MEDICAL.get(claim, ()):
        pair = ((system, MAP_MAX), (other, MAP_MAX))
        estimate = _over_categories(published, ("brain_mri", "head_ct", "half"), *pair)  # half of Retinal OCT
        yield Finding(claim, f"image AUROC, {system} less {other}", f"{PAPER}, Table 3", f"{estimate.targets} datasets",
                      estimate, *gain(estimate, of_training=False))  # fmt: skip
    if claim == "textures":
        for other, what in (("Ours", "better"), ("RKD", "cured")):
            pair = (("Ours+L_MKD", PIXEL_AUROC), (other, PIXEL_AUROC))
            estimate = _over_categories(published, TEXTURES, *pair)
            compared = f"{what}: pixel AUROC, Ours+L_MKD less {other}"
            yield Finding(claim, compared, f"{PAPER}, Table 4", f"{estimate.targets} textures", estimate,
                          *gain(estimate, of_training=False))  # fmt: skip


def _over_categories(
    published: pd.DataFrame, categories: Sequence[str], one: tuple[str, Quantity], other: tuple[str, Quantity]
) -> Estimate:
    rows = published[published["source"].str.startswith(PAPER).fillna(False) & published["category"].isin(categories)]

    def values(system: str, metric: str) -> pd.Series:
        of = rows[(rows["system"] == system) & (rows["metric"] == metric)]
        return of.drop_duplicates("category").set_index("category")["value"].astype(float)

    differences = (values(one[0], one[1][0]) - values(other[0], other[1][0])).dropna()
    n, mean = len(differences), float(differences.mean())
    half = float(t.ppf(0.975, n - 1) * differences.sem())
    return Estimate(mean, mean - half, mean + half, CATEGORIES, n)


def table(found: Sequence[Finding]) -> pd.DataFrame:
    """Columns as in ``COLUMNS``."""
    rows = []
    for f in found:
        e = f.estimate or Estimate(np.nan, np.nan, np.nan, NONE, 0, 0)
        rows.append((f.claim, f.compared, f.where, f.targets, e.value, e.low, e.high, e.method, e.seeds, f.verdict,
                     f.reason))  # fmt: skip
    return pd.DataFrame(rows, columns=list(COLUMNS))


def claims_sheet(found: Sequence[Finding]) -> Sheet:
    """The claims for reading."""
    sheet = Sheet("The paper's claims, re-tested", ["Claim", "Compared", "Where", "Targets", "Found", "Verdict", "Why"])
    said = ""
    for f in found:
        claim = CLAIMS[f.claim]
        first = "" if f.claim == said else f"{claim.says} ({claim.source})"
        said = f.claim
        decided = f.verdict if f.verdict == CANNOT_TELL else f"**{f.verdict}**"
        sheet.rows.append([first, f.compared, f.where, f.targets, _found(f.estimate), decided, f.reason])
    methods = dict.fromkeys(f.estimate.method for f in found if f.estimate)
    sheet.below += [
        "Found: a difference in percentage points [95% interval]; the late change of a loss in percent.",
        VERDICTS,
        *interval_notes(methods),
    ]
    return sheet


def _found(e: Estimate | None) -> str:
    if e is None:
        return NOT_MEASURED
    value = percent(e.value, sign=True)
    return f"{value} [{percent(e.low, sign=True)}, {percent(e.high, sign=True)}]" if e.known else value
