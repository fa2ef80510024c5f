"""Whether an exported model scores as the model that it was made from: numbers that must agree, quality that must stay.

At fp32 scores and maps agree to ``RELATIVE``. In lower precisions they differ, and what counts is quality: the lower
end of the paired bootstrap interval of exported minus original is at least ``-MARGIN``.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from rkd_pipeline.metrics.intervals import FEW_IMAGES
from rkd_pipeline.recipes.score_rules import Quantity
from rkd_pipeline.statistics.contrasts import Term, on_one_target, unit
from rkd_pipeline.statistics.replicates import Evidence

RELATIVE = 1e-4  # of an image's score, and of the largest value of its map
FROM_FILES = 2e-2  # the same, from files: of tall images Pillow rounds some pixels otherwise, by 1 of 255
MARGIN = 0.005  # half a point of a metric
Verdict = Literal["passed", "failed", "cannot be told"]


@dataclass(frozen=True)
class Finding:
    """One thing that was compared: what, how it came out, and why in words."""

    name: str
    verdict: Verdict
    why: str


def relative_difference(reference: np.ndarray, found: np.ndarray) -> float:
    """Of N images ``(N, ...)`` the largest difference, relative to the largest absolute value of the image's reference.

    NaN where one of them holds a NaN, or shapes differ. An image of zeros differs by infinity, or not at all.

    >>> relative_difference(np.array([[1.0, 2.0], [4.0, 4.0]]), np.array([[1.0, 2.1], [4.0, 4.0]])).__round__(3)
    0.05
    """
    if reference.shape != found.shape:
        return float("nan")
    a, b = (np.asarray(x, np.float64).reshape(len(reference), -1) for x in (reference, found))
    largest, apart = np.abs(a).max(axis=1), np.abs(a - b).max(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.where(apart == 0, 0.0, apart / largest).max())


def agreement(name: str, reference: np.ndarray, found: np.ndarray, limit: float) -> Finding:
    """Whether arrays of N images agree; a NaN never does."""
    value = relative_difference(reference, found)
    why = f"largest relative difference {value:.1e} over {len(reference)} images, at most {limit:.0e} is allowed"
    return Finding(name, "passed" if value <= limit else "failed", why)


def no_worse(original: Evidence, exported: Evidence, quantity: Quantity, counts: tuple[int, int]) -> Finding:
    """Whether the exported model keeps the quality of the original, on the same test images.

    It cannot be told with fewer than ``FEW_IMAGES`` of a class, nor where the interval is so wide that not even equal
    models would pass; such a model fails only where the whole interval lies below the margin.

    Args:
        original, exported: of the same images, in the same order.
        quantity: metric and score rule.
        counts: normal and anomalous test images that the metric is of.
    """
    name = quantity[0]
    if quantity not in original.values or quantity not in exported.values:
        return Finding(name, "cannot be told", "it has no value: a class, or every mask, is missing")
    found = on_one_target([unit([Term(1, exported, quantity), Term(-1, original, quantity)])])
    # No interval: the draws do not differ, since both models rank the same way in each of them.
    low, high = (found.low, found.high) if found.known else (found.value, found.value)
    points = f"{100 * found.value:+.2f} points, 95% [{100 * low:+.2f}, {100 * high:+.2f}]"
    least = f"the lower end must be at least {-100 * MARGIN:+.1f}"
    if high < -MARGIN:
        return Finding(name, "failed", f"{points}; {least}")
    if min(counts) < FEW_IMAGES or found.value - low > MARGIN:
        few = f"too few images: {counts[0]} normal and {counts[1]} anomalous"
        return Finding(name, "cannot be told", f"{points}; {least}; {few}")
    return Finding(name, "passed" if low >= -MARGIN else "failed", f"{points}; {least}")


def verdict_of(findings: list[Finding]) -> Verdict:
    """Of all together: failed if one has, else not known if one is not."""
    all_of_them = {finding.verdict for finding in findings}
    if "failed" in all_of_them or not findings:
        return "failed"
    return "cannot be told" if "cannot be told" in all_of_them else "passed"
