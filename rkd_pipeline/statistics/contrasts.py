"""Differences between models, with intervals that pair what the models share.

A contrast is a weighted sum of one quantity over models whose weights add up to 0: ``a - b``, or the interaction
``ab - a - b + 0``. Within one target and seed all models see the same images, so everything is paired there.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import t

from rkd_pipeline.recipes.score_rules import Quantity
from rkd_pipeline.statistics.replicates import Evidence

ONE_SEED = "pictures"
SEEDS = "images and seeds"
REPEATS = "repeats"
TARGETS = "targets, independent"
TRAININGS = "trainings"
CATEGORIES = "categories"
NONE = "none"
INTERVAL_METHODS = {
    ONE_SEED: "bootstrap over the test images, the same draws for both models; one seed, so the noise of training is "
    "not in it. Too narrow where hardly an image is placed differently (both models near 1 on ten of a class)",
    SEEDS: "Student's t over seeds and the bootstrap over images together (root of the sum of squares)",
    REPEATS: "over repeats of the split, corrected for what they share (Nadeau and Bengio), at least as wide as test "
    "images alone make it",
    TARGETS: "mean over targets; their images differ, so their errors are independent. It speaks of these targets",
    TRAININGS: "Student's t over trainings",
    CATEGORIES: "Student's t over the categories or datasets of the publication, which gives no interval of its own",
    NONE: "too little was measured for an interval",
}
_IN_WORDS = {ONE_SEED: "images"}  # for names that are stored under another word


def interval_notes(names: Iterable[str]) -> list[str]:
    """What each kind of interval is, a sentence each, for people."""
    return [f"Interval, {_IN_WORDS.get(name, name)}: {INTERVAL_METHODS[name]}." for name in names]


@dataclass(frozen=True)
class Term:
    """One model's part in a contrast."""

    weight: float
    evidence: Evidence
    quantity: Quantity


@dataclass(frozen=True)
class Part:
    """What a contrast asks of one recipe: its weight, and which quantity of the model."""

    weight: float
    recipe: str
    quantity: Quantity


Block = tuple[str, int, int]  # target, seed, repeat
Blocks = Mapping[Block, Mapping[str, Evidence]]  # to recipe's name to evidence


@dataclass(frozen=True)
class Unit:
    """A contrast on one target and seed: value, the same on B draws of the images (None: no draws), and repeat."""

    value: float
    replicates: np.ndarray | None
    repeat: int = 0


@dataclass(frozen=True)
class Estimate:
    """A contrast with its interval.

    Attributes:
        value: of the contrast.
        low, high: 95%; NaN where there is none.
        method: one of ``INTERVAL_METHODS``.
        targets: over how many it is a mean.
        seeds: how many each target has, at least.
    """

    value: float
    low: float
    high: float
    method: str
    targets: int = 1
    seeds: int = 1

    @property
    def known(self) -> bool:
        """There is an interval."""
        return bool(np.isfinite(self.low) and np.isfinite(self.high))


def unit(terms: Sequence[Term]) -> Unit:
    """One contrast out of models that were tested on the same images; raises ``ValueError`` for other images."""
    first = terms[0].evidence.image_ids
    if any(term.evidence.image_ids != first for term in terms):
        raise ValueError("models that were tested on different images cannot be paired")
    value = sum(term.weight * term.evidence.values[term.quantity] for term in terms)
    replicates = sum(term.weight * term.evidence.replicates[term.quantity] for term in terms)
    return Unit(float(value), np.asarray(replicates))


def complete(parts: Sequence[Part], cells: Blocks) -> list[Block]:
    """Where every model of a contrast was measured, in order."""
    return [
        cell
        for cell, models in sorted(cells.items())
        if all(p.recipe in models and p.quantity in models[p.recipe].values for p in parts)
    ]


def units_of(parts: Sequence[Part], cells: Blocks) -> dict[str, list[Unit]]:
    """The contrast wherever it was measured: target to one unit per seed; empty where it was nowhere."""
    units: dict[str, list[Unit]] = {}
    for cell in complete(parts, cells):
        terms = [Term(p.weight, cells[cell][p.recipe], p.quantity) for p in parts]
        units.setdefault(cell[0], []).append(replace(unit(terms), repeat=cell[2]))
    return units


def on_one_target(units: Sequence[Unit], test_to_train: float | None = None) -> Estimate:
    """Over the seeds of one target.

    Args:
        units: one per seed; at least one.
        test_to_train: where repeats of the split draw their own test images: how many of them are drawn anew over
            the number of training images. None: all test on the publisher's images. Seeds of one repeat test on
            the same images and are averaged first.
    """
    values = np.array([u.value for u in units])
    mean, n = float(values.mean()), len(units)
    low, high = (float(b) for b in np.array([_bounds(u) for u in units]).mean(axis=0))
    repeats = sorted({u.repeat for u in units})
    if len(repeats) > 1 and test_to_train is not None:
        means = np.array([np.mean([u.value for u in units if u.repeat == repeat]) for repeat in repeats])
        mean, j = float(means.mean()), len(means)
        factor = float(np.sqrt(1 / j + test_to_train))
        half = float(t.ppf(0.975, j - 1) * means.std(ddof=1)) * factor
        # Repeats may agree by chance: what images alone make of it is the least; nothing at all is no interval.
        low, high = (float(np.fmax(half, factor * b)) or np.nan for b in (low, high))
        return Estimate(mean, mean - low, mean + high, REPEATS if np.isfinite(low + high) else NONE, seeds=n)
    if n == 1:
        return Estimate(mean, mean - low, mean + high, ONE_SEED if np.isfinite(low) else NONE)
    half = float(t.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n))
    return Estimate(mean, mean - float(np.hypot(low, half)), mean + float(np.hypot(high, half)), SEEDS, seeds=n)


def _bounds(u: Unit) -> tuple[float, float]:
    """How far the draws reach below and above the middle of them; NaN where they do not differ."""
    if u.replicates is None:
        return np.nan, np.nan
    low, middle, high = np.quantile(u.replicates, [0.025, 0.5, 0.975])
    if high - low < 1e-12:
        return np.nan, np.nan
    return float(middle - low), float(high - middle)


def over_targets(estimates: Sequence[Estimate]) -> Estimate:
    """The mean over targets; a single target's own estimate as it is."""
    if len(estimates) == 1:
        return estimates[0]
    mean, n = float(np.mean([e.value for e in estimates])), len(estimates)
    low = float(np.sqrt(sum((e.value - e.low) ** 2 for e in estimates))) / n
    high = float(np.sqrt(sum((e.high - e.value) ** 2 for e in estimates))) / n
    method = TARGETS if np.isfinite(low + high) else NONE
    return Estimate(mean, mean - low, mean + high, method, n, min(e.seeds for e in estimates))
