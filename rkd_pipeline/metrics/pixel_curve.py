"""How the anomalous pixels rank among the normal ones: what every pixel metric is computed from, exactly.

A threshold at a pixel's score calls that pixel and all above it. Between two anomalous scores nothing but false
positives changes, so the thresholds at anomalous scores are all that matter, and for each of them it is enough to
know how many normal pixels lie above it and how many are equal to it. No sort of all pixels is needed for that: count
all pixels in 2^20 or so narrow bins of scores; where a bin holds no anomalous pixel its count is all that is needed.
Only the pixels in the other bins (and in those below an FPR limit none) are then told apart.

>>> import numpy as np
>>> curve = pixel_curve(np.array([[[0.1, 0.9], [0.9, 0.3]]]), np.array([[[0, 1], [0, 1]]], bool))
>>> curve.scores.tolist(), curve.above.tolist(), curve.at_or_above.tolist(), curve.called.tolist(), curve.n_normal
([0.9, 0.3], [0, 1], [1, 1], [1, 2], 2)
"""

from dataclasses import dataclass

import numpy as np

from rkd_pipeline.metrics.arrays import Array
from rkd_pipeline.metrics.pixel_blocks import Division, Grid, Pixels, Steps, bins_of, pixels_of
from rkd_pipeline.metrics.regions import AnomalousPixels, Undefined, anomalous_pixels

PIXELS_PER_BIN = 5  # fewer: the bins outgrow the cache; more: too many pixels share a bin with an anomalous one
MIN_BITS, MAX_BITS = 16, 22  # of the bins; 2^22 counts of 8 bytes are 32 MiB
DIVISION_BITS = 23
SORTED_SHARE = 0.25  # of all pixels: where more share bins with anomalous ones, dividing bins is faster than sorting


@dataclass(frozen=True)
class PixelCurve:
    """Anomalous pixels, highest score first; equal scores have equal entries in all but ``overlap`` and ``image``.

    With an FPR limit L only those are kept that fewer than ``L n_normal`` normal pixels exceed, K of A.

    Attributes:
        scores: ``(K,)``.
        called: int64 ``(K,)``, anomalous pixels at or above each score: true positives.
        above: int64 ``(K,)``, normal pixels above each score.
        at_or_above: int64 ``(K,)``, normal pixels at or above: false positives.
        overlap: ``(K,)``, what each pixel adds to the mean overlap of regions, ``1 / (R size)``.
        n_anomalous: A.
        n_normal: how many normal pixels there are.
    """

    scores: np.ndarray
    called: np.ndarray
    above: np.ndarray
    at_or_above: np.ndarray
    overlap: np.ndarray
    n_anomalous: int
    n_normal: int


def pixel_curve(
    maps: Array, masks: Array, *, limit: float | None = None, anomalous: AnomalousPixels | None = None
) -> PixelCurve:
    """The curve of maps ``(N, H, W)`` against ground truth ``(N, H, W)`` of bool or integers.

    Args:
        maps: floats, higher is more anomalous; NumPy or torch, on any device.
        masks: likewise.
        limit: leave out what lies at or beyond this FPR, in (0, 1]; faster the smaller it is. None: keep all.
        anomalous: what ``anomalous_pixels`` found, where the caller has it already.

    Raises:
        ValueError: a NaN or an infinity (the message says where), shapes that do not match, a limit outside (0, 1].
        TypeError: see ``anomalous_pixels``.
        Undefined: no anomalous or no normal pixel.
    """
    if limit is not None and not 0 < limit <= 1:
        raise ValueError(f"an FPR limit lies in (0, 1]; this one is {limit}")
    found = anomalous or anomalous_pixels(maps, masks)
    pixels = pixels_of(maps)
    n_anomalous = len(found.scores)
    n_normal = pixels.n - n_anomalous
    low, high = pixels.extremes()
    if n_normal == 0:
        raise Undefined(f"no normal pixel in {found.n_maps} maps")
    order = np.argsort(-found.scores)
    scores = found.scores[order]
    more, called = higher_and_equal(scores)
    grid = Grid.spanning(low, high, scores.dtype, _bits(pixels.n))
    most = np.inf if limit is None else limit * n_normal
    above, at_or_above = outranking(pixels, grid, scores, most, own=(more, called))
    kept = len(above)
    return PixelCurve(
        scores[:kept], called[:kept], above, at_or_above, found.overlap[order[:kept]], n_anomalous, n_normal
    )


def _bits(n: int) -> int:
    return min(max((n // PIXELS_PER_BIN).bit_length(), MIN_BITS), MAX_BITS)


def higher_and_equal(descending: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each of the scores, int64: how many are higher; how many are higher or equal."""
    first = np.flatnonzero(np.r_[True, descending[1:] != descending[:-1]])
    last = np.r_[first[1:], len(descending)]
    return np.repeat(first, last - first), np.repeat(last, last - first)


def outranking(
    pixels: Pixels,
    grid: Grid,
    scores: np.ndarray,
    limit: float,
    own: tuple[np.ndarray, np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """How many of the pixels lie above, and at or above, each of K descending scores, int64.

    Args:
        pixels: what to count.
        grid: bins that hold all pixels and scores.
        scores: ``(A,)``, descending.
        limit: scores that this many pixels or more exceed are left out: the results have K <= A entries.
        own: the scores' own pixels are among ``pixels`` and do not count: ``higher_and_equal(scores)``.
    """
    steps: Steps = (grid,)
    counts = pixels.counts(steps)
    at = bins_of(scores, steps)
    # Pixels in higher bins are certain to lie above. Where they alone reach the limit, the score is left out.
    certain = _from_top(counts)[at]
    if own is not None:
        certain -= higher_and_equal(at)[0]
    kept = int(np.searchsorted(certain, limit))
    scores, at = scores[:kept], at[:kept]
    above = np.zeros(len(scores), np.int64)
    while steps[-1].shift > 0 and len(scores):
        marked = np.zeros(len(counts), bool)
        marked[at] = True
        above += _from_top(np.where(marked, 0, counts))[at]
        n = int(counts[marked].sum())
        if n <= SORTED_SHARE * pixels.n:
            near = pixels.sorted_within(steps, marked, n)
            ascending = scores[::-1].copy()
            to = np.searchsorted(near, ascending, "right")[::-1]
            above += n - to
            equal = to - np.searchsorted(near, ascending, "left")[::-1]
            break
        steps = (*steps, _division(steps[-1], marked))
        counts = pixels.counts(steps)
        at = bins_of(scores, steps)
    else:  # a bin holds one score only
        above += _from_top(counts)[at]
        equal = counts[at]
    at_or_above = above + equal
    if own is not None:
        above, at_or_above = above - own[0][: len(above)], at_or_above - own[1][: len(above)]
    kept = int(np.searchsorted(above, limit))
    return above[:kept], at_or_above[:kept]


def _division(step: Grid | Division, marked: np.ndarray) -> Division:
    n = int(marked.sum())
    place = np.where(marked, np.cumsum(marked) - 1, -1).astype(np.int32)
    bits = min(step.shift, max(1, DIVISION_BITS - n.bit_length()))
    return Division(place, bits, step.shift - bits, n << bits)


def _from_top(counts: np.ndarray) -> np.ndarray:
    """For each bin, how many pixels the higher bins hold together."""
    up_to = np.cumsum(counts)
    return up_to[-1] - up_to
