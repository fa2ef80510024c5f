"""Intervals of pixel metrics: a bootstrap over images, without sorting pixels again.

Pixels of an image depend on each other, so images are what is drawn anew: the normal and the anomalous ones each
among themselves, with replacement (percentiles of 1000 replicates; how many are drawn: ``draws``). Each image is
reduced once to how many of its normal and anomalous pixels lie in each of about 2000 bins of the score; a replicate is
then a weighted sum of the images' counts. The bins end at quantiles of the anomalous and the normal scores, close to
each other where scores are high.

What is approximated: the order of pixels within a bin, taken as random. For the images as they are the metric so
computed differs from the exact one by less than 0.001, and the interval is moved by that difference. In replicates it
differs by less than 0.001 too, but for two cases: PRO at Youden's J jumps where two thresholds are as good (0.004), and
maps of few distinct values are whole bins of ties, whose order is no chance (AP: 0.05). Measured and tested;
docs/metrics.md. PRO of RD4AD and rates at a threshold are averages over images or ratios of sums: nothing is
approximated there. How often intervals of few images hold the truth: docs/metrics.md. Copies of an image count as
images of their own here: with many of them the intervals are too narrow.
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import norm, t

from rkd_pipeline.metrics.arrays import Array, to_numpy
from rkd_pipeline.metrics.aupimo import BOUNDS, area_of
from rkd_pipeline.metrics.intervals import FEW_IMAGES, Interval
from rkd_pipeline.metrics.pixel_blocks import ArrayPixels, Grid, bins_of, pixels_of
from rkd_pipeline.metrics.regions import AnomalousPixels

METHOD = "bootstrap over images"
TOO_NARROW = f"{METHOD}; too narrow: fewer than {FEW_IMAGES} of a class"
REPLICATES = 1000
BATCH = 100  # replicates at a time: each takes a dozen arrays of 2000 numbers
GRID_BITS = 20
EVEN, TOP = 1000, 300  # quantiles at even steps; and in steps of the logarithm from the highest score down


@dataclass(frozen=True)
class ImageCounts:
    """Of N images in G bins, the highest score's bin first.

    Attributes:
        normal: float64 ``(N, G)``, normal pixels.
        anomalous: float64 ``(N, G)``, anomalous pixels.
        overlap: float64 ``(N, G)``, the sum over the image's regions of the share that lies in the bin.
        regions: int64 ``(N,)``; 0 for a normal image.
    """

    normal: np.ndarray
    anomalous: np.ndarray
    overlap: np.ndarray
    regions: np.ndarray


def image_counts(maps: Array, found: AnomalousPixels) -> ImageCounts:
    """Reduce maps ``(N, H, W)``, whose anomalous pixels are ``found``, to counts: two passes over the pixels."""
    pixels = pixels_of(maps)
    grid = Grid.spanning(*pixels.extremes(), found.scores.dtype, GRID_BITS)
    at = bins_of(found.scores, (grid,))
    coarse = _coarse(pixels.counts((grid,)), np.bincount(at, minlength=grid.bins))
    n_bins = int(coarse[0]) + 1
    image = found.region_image[found.region]
    cell = image * n_bins + coarse[at]
    n = found.n_maps * n_bins
    share = 1 / found.region_size[found.region]
    anomalous = np.bincount(cell, minlength=n).reshape(-1, n_bins)
    everything = [np.bincount(coarse[_bins_of_image(maps, i, grid)], minlength=n_bins) for i in range(found.n_maps)]
    return ImageCounts(
        normal=np.stack(everything) - anomalous.astype(float),
        anomalous=anomalous.astype(float),
        overlap=np.bincount(cell, share, minlength=n).reshape(-1, n_bins),
        regions=np.bincount(found.region_image, minlength=found.n_maps),
    )


def _bins_of_image(maps: Array, image: int, grid: Grid) -> np.ndarray:
    """The bin of every pixel of one map, intp ``(H W,)``."""
    return np.concatenate(
        [bins_of(block, (grid,)) for block in ArrayPixels(to_numpy(maps[image : image + 1])).blocks()]
    )


def _coarse(counts: np.ndarray, of_anomalous: np.ndarray) -> np.ndarray:
    """For every fine bin, its coarse one, int64; coarse bins end at quantiles and count from the highest score."""
    starts = np.zeros(len(counts), bool)
    for part in (of_anomalous, counts - of_anomalous):
        from_top = np.cumsum(part[::-1])
        total = from_top[-1]
        ranks = np.r_[np.linspace(0, total, EVEN + 1)[1:], np.geomspace(1, total, TOP)]
        starts[np.minimum(np.searchsorted(from_top, ranks), len(counts) - 1)] = True
    coarse = np.cumsum(starts) - starts  # a quantile's bin ends its coarse bin
    return coarse[::-1]


def resampled(counts: ImageCounts, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Every pixel metric for B sets of images, by name, float64 ``(B,)``.

    Args:
        counts: of N images.
        weights: float64 ``(B, N)``, how often each image is in each set; at least one anomalous in each.
    """
    normal, anomalous = weights @ counts.normal, weights @ counts.anomalous
    overlap = (weights @ counts.overlap) / (weights @ counts.regions)[:, None]
    false, true = np.cumsum(normal, axis=1), np.cumsum(anomalous, axis=1)
    n_normal, n_anomalous = false[:, -1:], true[:, -1:]
    first, last = (false - normal) / n_normal, false / n_normal
    after = np.divide(true, true + false, out=np.zeros_like(true), where=true > 0)
    # Within a bin precision goes from one end's to the other's; the first bin with anomalous pixels has but one end.
    before = np.c_[after[:, :1], after[:, :-1]]
    before = np.where(true > anomalous, before, after)
    best = np.argmax(true / n_anomalous - last, axis=1)[:, None]
    found = {
        "pixel_auroc": 1 - np.sum(anomalous * (first + last) / 2, axis=1) / n_anomalous[:, 0],
        "pixel_ap": np.sum(anomalous * (before + after) / 2, axis=1) / n_anomalous[:, 0],
        "pixel_f1_max": np.max(2 * true / (true + false + n_anomalous), axis=1),
        "pro_youden": np.take_along_axis(np.cumsum(overlap, axis=1), best, axis=1)[:, 0],
    }
    for name, limit in (("aupro_30", 0.3), ("aupro_10", 0.1), ("aupro_05", 0.05)):
        found[name] = np.sum(overlap * _up_to(first, last, limit), axis=1) / limit
    is_normal = counts.regions == 0
    if is_normal.any():
        of_normal = np.cumsum(weights[:, is_normal] @ counts.normal[is_normal], axis=1)
        last = of_normal / of_normal[:, -1:]
        area = area_of(np.c_[np.zeros(len(last)), last[:, :-1]], last, *BOUNDS)
        share = counts.anomalous[~is_normal] / counts.anomalous[~is_normal].sum(axis=1, keepdims=True)
        of_image = area @ share.T
        chosen = weights[:, ~is_normal]
        found["aupimo"] = np.sum(of_image * chosen, axis=1) / chosen.sum(axis=1)
    return found


def _up_to(first: np.ndarray, last: np.ndarray, limit: float) -> np.ndarray:
    """What is left up to the limit where the rate goes, in a line, from ``first`` to ``last``."""
    cut = np.clip(limit - first, 0, None) ** 2 / (2 * np.maximum(last - first, np.finfo(float).tiny))
    return np.where(last <= limit, limit - (first + last) / 2, cut)


def draws(anomalous: np.ndarray, replicates: int = REPLICATES, seed: int = 0) -> np.ndarray:
    """How much each image counts in each replicate, float64 ``(replicates, N)``; both groups keep their weight.

    Of n images fewer than n are drawn, so that percentiles spread as Student's t at the rarer group's degrees of
    freedom does: drawing n makes them too narrow by ``sqrt((n - 1) / n) z / t``, a fifth with ten images.

    Labels ``(N,)`` of bool.
    """
    rng = np.random.default_rng(seed)
    weights = np.ones((replicates, len(anomalous)))
    groups = [g for g in (np.flatnonzero(anomalous), np.flatnonzero(~anomalous)) if len(g) > 1]
    rarer = min((len(g) for g in groups), default=0)
    for group in groups:
        n = len(group)
        drawn = max(1, round((n - 1) * float(norm.ppf(0.975) / t.ppf(0.975, rarer - 1)) ** 2))
        weights[:, group] = rng.multinomial(drawn, np.full(n, 1 / n), replicates) * (n / drawn)
    return weights


def percentile_interval(values: np.ndarray, level: float = 0.95, moved_by: float = 0.0) -> Interval | None:
    """The middle ``level`` of the replicates' values ``(B,)``, moved, and clipped to [0, 1].

    None where the replicates do not differ (every region found, or none): no image shows how much values vary.
    """
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    if high - low < 1e-12:
        return None
    low, high = low + moved_by, high + moved_by
    return Interval(max(0.0, float(low)), min(1.0, float(high)), METHOD)


def pixel_intervals(maps: Array, found: AnomalousPixels, exact: dict[str, float]) -> dict[str, Interval]:
    """Intervals of the metrics in ``exact`` that rank pixels, by name.

    There is none for fewer than two images of a kind, nor where the replicates do not differ.

    Args:
        maps: ``(N, H, W)``.
        found: their anomalous pixels.
        exact: value by the names of ``resampled``; the interval is moved by exact less binned.
    """
    counts = image_counts(maps, found)
    anomalous = counts.regions > 0
    if anomalous.sum() < 2 or (~anomalous).sum() < 2:
        return {}
    weights = draws(anomalous)
    parts = [resampled(counts, weights[at : at + BATCH]) for at in range(0, len(weights), BATCH)]
    binned = resampled(counts, np.ones((1, len(anomalous))))
    intervals = {
        name: percentile_interval(np.concatenate([p[name] for p in parts]), moved_by=value - float(binned[name][0]))
        for name, value in exact.items()
        if name in binned
    }
    few = min(anomalous.sum(), (~anomalous).sum()) < FEW_IMAGES
    return {
        name: replace(interval, method=TOO_NARROW) if few and name in ("pro_youden", "aupimo") else interval
        for name, interval in intervals.items()
        if interval
    }


def ratio_interval(part: np.ndarray, whole: np.ndarray, weights: np.ndarray) -> Interval | None:
    """Of ``sum part / sum whole``, both ``(N,)`` by image, over the ``draws`` of the images."""
    return percentile_interval((weights @ part) / (weights @ whole))
