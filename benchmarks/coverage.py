"""How often the 95% interval of an image AUROC holds the truth, and how wide it is: the table of docs/metrics.md.

    python benchmarks/coverage.py                      # all sizes and shapes, 300 samples each: about an hour
    python benchmarks/coverage.py --sizes 155x10,5x5 --samples 100

Each row is a pair of class sizes (anomalous x normal) and a shape of scores whose AUROC is known; printed are the
lowest coverage over AUROCs from .5 to .998 with the AUROC where it is, and the mean width. DeLong's own stands beside.
"""

import argparse
from collections.abc import Callable

import numpy as np
from scipy.optimize import brentq
from scipy.stats import norm

from rkd_pipeline.metrics.image_auroc import image_auroc_interval, placements

AUROCS = (0.5, 0.7, 0.85, 0.93, 0.97, 0.99, 0.998)
SIZES = "5x5,10x10,155x10,10x155,30x12,100x5,5x100,20x100,50x50,250x750"
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
    parser.add_argument("--sizes", default=SIZES, help="anomalous x normal, comma-separated")
    parser.add_argument("--samples", type=int, default=300)
    given = parser.parse_args()
    print("| anomalous x normal | scores | lowest coverage (at AUROC) | width | DeLong: lowest | width |")
    print("|---|---|---|---|---|---|")
    for size in given.sizes.split(","):
        m, n = (int(part) for part in size.split("x"))
        for name, (draw, auroc_of, (low, high)) in SHAPES.items():
            reached = [a for a in AUROCS if (auroc_of(low) - a) * (auroc_of(high) - a) <= 0]
            parameters = [_parameter(auroc_of, a, low, high) for a in reached]
            found = [_coverage(draw, x, a, m, n, given.samples) for x, a in zip(parameters, reached, strict=True)]
            worst = min(range(len(found)), key=lambda i: found[i][0])
            width, _, delong_width = (np.mean([f[i] for f in found]) for i in (1, 2, 3))
            print(f"| {size} | {name} | {found[worst][0]:.1%} ({reached[worst]}) | {width:.3f} | "
                  f"{min(f[2] for f in found):.1%} | {delong_width:.3f} |", flush=True)  # fmt: skip


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
