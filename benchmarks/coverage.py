"""How often 95% intervals hold the truth, and how wide they are: the tables of docs/metrics.md.

    python benchmarks/coverage.py                      # image AUROC, 300 samples each: about an hour
    python benchmarks/coverage.py --sizes 155x10,5x5 --samples 100
    python benchmarks/coverage.py --of differences     # of two systems' image AUROCs on the same images
    python benchmarks/coverage.py --of pixels --samples 200

Each row is a pair of class sizes (anomalous x normal).

- ``auroc``: for a shape of scores whose AUROC is known, the lowest coverage over AUROCs from .5 to .998 with the AUROC
  where it is, and the mean width. DeLong's own stands beside.
- ``differences``: normal scores of two systems, correlated; the part of the interval that images make.
- ``pixels``: smooth maps with heavy tails; the truth is the value of 4,000 images. In brackets the coverage if a
  replicate draws as many images as there are.
"""

import argparse
from collections.abc import Callable
from dataclasses import asdict

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.optimize import brentq
from scipy.stats import norm, t

from rkd_pipeline.metrics.aupimo import aupimo
from rkd_pipeline.metrics.image_auroc import image_auroc_interval, placements
from rkd_pipeline.metrics.paired_auroc import Pair, paired_auroc
from rkd_pipeline.metrics.pixel_intervals import REPLICATES, image_counts, pixel_intervals, resampled
from rkd_pipeline.metrics.pixel_metrics import pixel_metrics
from rkd_pipeline.metrics.regions import anomalous_pixels

AUROCS = (0.5, 0.7, 0.85, 0.93, 0.97, 0.99, 0.998)
SIZES = {
    "auroc": "5x5,10x10,155x10,10x155,30x12,100x5,5x100,20x100,50x50,250x750,1000x1000",
    "differences": "5x5,10x10,155x10,10x155,30x12,50x50",
    "pixels": "10x10,20x10,20x20,30x10,30x30",
}
PAIRS = [(first, second) for first in (0.7, 0.9, 0.97, 0.995) for second in (0.7, 0.9, 0.97, 0.99) if first >= second]
PIXEL_METRICS = ("pixel_auroc", "pixel_ap", "pixel_f1_max", "aupro_30", "pro_youden", "aupimo")
Draw = Callable[[np.random.Generator, float, int, int], tuple[np.ndarray, np.ndarray]]
CUTS = np.array([-0.5, 0.5, 1.5, 2.5])


def _normal(width: float) -> tuple[Draw, Callable[[float], float]]:
    def draw(rng: np.random.Generator, x: float, m: int, n: int) -> tuple[np.ndarray, np.ndarray]:
        return rng.normal(x, width, m), rng.normal(0, 1, n)

    return draw, lambda x: float(norm.cdf(x / np.hypot(1, width)))


def _missed(rng: np.random.Generator, x: float, m: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """A share x of the anomalous images looks normal."""
    return np.where(rng.random(m) < x, rng.normal(0, 1, m), rng.normal(6, 1, m)), rng.normal(0, 1, n)


def _odd_normals(rng: np.random.Generator, x: float, m: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """A share x of the normal images scores above nearly all anomalous ones."""
    return rng.normal(4, 1, m), np.where(rng.random(n) < x, rng.normal(6, 1.5, n), rng.normal(0, 1, n))


def _tied(rng: np.random.Generator, x: float, m: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores of five values."""
    return np.digitize(rng.normal(x, 1, m), CUTS), np.digitize(rng.normal(0, 1, n), CUTS)


def _tied_auroc(x: float) -> float:
    of_anomalous, of_normal = (np.diff(np.r_[0, norm.cdf(CUTS - mean), 1]) for mean in (x, 0))
    return float(np.sum(of_anomalous * (np.cumsum(of_normal) - of_normal / 2)))


SHAPES: dict[str, tuple[Draw, Callable[[float], float], tuple[float, float]]] = {
    "normal": (*_normal(1), (-1, 30)),
    "anomalous twice as wide": (*_normal(2), (-1, 30)),
    "anomalous four times as wide": (*_normal(4), (-1, 60)),
    "anomalous half as wide": (*_normal(0.5), (-1, 30)),
    "exponential": (lambda rng, x, m, n: (rng.exponential(x, m), rng.exponential(1, n)), lambda x: x / (1 + x),
                    (0.5, 1e4)),
    "some anomalous look normal": (_missed, lambda x: float(x / 2 + (1 - x) * norm.cdf(6 / 2**0.5)), (0, 1)),
    "some normals look anomalous": (
        _odd_normals, lambda x: float((1 - x) * norm.cdf(4 / 2**0.5) + x * norm.cdf(-2 / np.hypot(1, 1.5))), (0, 0.62),
    ),
    "five values": (_tied, _tied_auroc, (-1, 30)),
}  # fmt: skip


def delong(labels: np.ndarray, scores: np.ndarray) -> tuple[float, float]:
    """Its interval by the definition, clipped."""
    of_anomalous, of_normal = placements(labels, scores)
    error = np.sqrt(sum(p.var(ddof=1) / len(p) for p in (of_anomalous, of_normal)))
    auroc, half = of_anomalous.mean(), norm.ppf(0.975) * error
    return max(0.0, auroc - half), min(1.0, auroc + half)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--of", choices=SIZES, default="auroc")
    parser.add_argument("--sizes", help="anomalous x normal, comma-separated")
    parser.add_argument("--samples", type=int, default=300)
    given = parser.parse_args()
    sizes = [tuple(int(part) for part in size.split("x")) for size in (given.sizes or SIZES[given.of]).split(",")]
    {"auroc": auroc_table, "differences": differences_table, "pixels": pixels_table}[given.of](sizes, given.samples)


def auroc_table(sizes: list[tuple[int, ...]], samples: int) -> None:
    print("| anomalous x normal | scores | lowest coverage (at AUROC) | width | DeLong: lowest | width |")
    print("|---|---|---|---|---|---|")
    for m, n in sizes:
        for name, (draw, auroc_of, (low, high)) in SHAPES.items():
            reached = [a for a in AUROCS if (auroc_of(low) - a) * (auroc_of(high) - a) <= 0]
            parameters = [_parameter(auroc_of, a, low, high) for a in reached]
            found = [_coverage(draw, x, a, m, n, samples) for x, a in zip(parameters, reached, strict=True)]
            worst = min(range(len(found)), key=lambda i: found[i][0])
            width, _, delong_width = (np.mean([f[i] for f in found]) for i in (1, 2, 3))
            print(f"| {m} x {n} | {name} | {found[worst][0]:.1%} ({reached[worst]}) | {width:.3f} | "
                  f"{min(f[2] for f in found):.1%} | {delong_width:.3f} |", flush=True)  # fmt: skip


def differences_table(sizes: list[tuple[int, ...]], samples: int) -> None:
    print("| anomalous x normal | correlation | lowest coverage (at AUROCs) | width |")
    print("|---|---|---|---|")
    for m, n in sizes:
        for correlation in (0.3, 0.9):
            found = {pair: _difference_coverage(pair, correlation, m, n, samples) for pair in PAIRS}
            worst = min(found, key=lambda pair: found[pair][0])
            width = np.mean([width for _, width in found.values()])
            print(f"| {m} x {n} | {correlation} | {found[worst][0]:.1%} ({worst[0]}, {worst[1]}) | {width:.3f} |",
                  flush=True)  # fmt: skip


def _difference_coverage(
    aurocs: tuple[float, float], correlation: float, m: int, n: int, samples: int
) -> tuple[float, float]:
    rng, labels = np.random.default_rng(1), np.arange(m + n) < m
    ids, means = [str(i) for i in range(m + n)], norm.ppf(aurocs) * 2**0.5
    inside, width = 0, 0.0
    for _ in range(samples):
        scores = rng.multivariate_normal([0, 0], [[1, correlation], [correlation, 1]], m + n)
        scores[labels] += means
        found = paired_auroc([Pair(ids, labels, [scores[:, 0]], [scores[:, 1]])])
        half = float(t.ppf(0.975, found.freedom_of_images)) * found.error_of_images
        inside += abs(found.difference - (aurocs[0] - aurocs[1])) <= half
        width += 2 * half
    return inside / samples, width / samples


def pixels_table(sizes: list[tuple[int, ...]], samples: int) -> None:
    truth = _values(*_maps(np.random.default_rng(0), 2000, 2000))
    print("| anomalous x normal | " + " | ".join(PIXEL_METRICS) + " |")
    print("|---" * (len(PIXEL_METRICS) + 1) + "|")
    print("| truth | " + " | ".join(f"{truth[name]:.3f}" for name in PIXEL_METRICS) + " |", flush=True)
    for m, n in sizes:
        rng = np.random.default_rng(1)
        inside = np.mean([_pixels_inside(*_maps(rng, m, n), truth) for _ in range(samples)], axis=0)
        print(f"| {m} x {n} | " + " | ".join(f"{own:.1%} ({plain:.1%})" for own, plain in inside) + " |", flush=True)


def _maps(rng: np.random.Generator, m: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Maps ``(m + n, 64, 64)`` and masks; how well an image's one or two defects are seen differs."""
    maps = np.stack([gaussian_filter(rng.normal(size=(64, 64)), 3) for _ in range(m + n)])
    masks, deviation = np.zeros(maps.shape, bool), 0.1  # of such noise
    for i in range(m):
        for _ in range(rng.integers(1, 3)):
            row, column = rng.integers(0, 52, 2)
            masks[i, row : row + rng.integers(3, 12), column : column + rng.integers(3, 12)] = True
        maps[i] += masks[i] * rng.uniform(0, 4 * deviation)
    return np.exp(maps / deviation).astype(np.float32), masks


def _values(maps: np.ndarray, masks: np.ndarray) -> dict[str, float]:
    return asdict(pixel_metrics(maps, masks)) | {"aupimo": aupimo(maps, masks)}


def _pixels_inside(maps: np.ndarray, masks: np.ndarray, truth: dict[str, float]) -> np.ndarray:
    """Whether the interval, and that of as many draws as images, holds the truth: ``(metrics, 2)``."""
    values, found = _values(maps, masks), anomalous_pixels(maps, masks)
    own, counts = pixel_intervals(maps, found, values), image_counts(maps, found)
    rng, weights = np.random.default_rng(2), np.zeros((REPLICATES, len(maps)))
    for group in (np.flatnonzero(counts.regions), np.flatnonzero(counts.regions == 0)):
        weights[:, group] = rng.multinomial(len(group), np.full(len(group), 1 / len(group)), REPLICATES)
    batches = [resampled(counts, part) for part in np.array_split(weights, 10)]
    rows = []
    for name in PIXEL_METRICS:
        low, high = np.quantile(np.concatenate([batch[name] for batch in batches]), [0.025, 0.975])
        mine = name in own and own[name].low <= truth[name] <= own[name].high
        rows.append((mine, low <= truth[name] <= high))
    return np.array(rows)


def _parameter(auroc_of: Callable[[float], float], auroc: float, low: float, high: float) -> float:
    return float(brentq(lambda x: auroc_of(x) - auroc, low, high))


def _coverage(draw: Draw, x: float, truth: float, m: int, n: int, samples: int) -> tuple[float, float, float, float]:
    """Coverage and mean width of the interval, then of DeLong's."""
    rng, labels = np.random.default_rng(1), np.arange(m + n) < m
    rows = []
    for _ in range(samples):
        scores = np.concatenate(draw(rng, x, m, n))
        interval = image_auroc_interval(labels, scores)
        for low, high in ((interval.low, interval.high), delong(labels, scores)):
            rows += [low <= truth <= high, high - low]
    inside, width, of_delong, delong_width = np.reshape(np.array(rows, float), (samples, 4)).mean(axis=0)
    return float(inside), float(width), float(of_delong), float(delong_width)


if __name__ == "__main__":
    main()
