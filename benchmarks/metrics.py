"""Pixel metrics against their rivals, side by side in one run: seconds of CPU, peak memory, and how far they agree.

    python benchmarks/metrics.py                # 150 maps of 256 x 256, all rivals: some minutes
    python benchmarks/metrics.py --large        # and 160 maps of 1024 x 1024: ten minutes, 16 GB of memory

Needs anomalib and adeval: `make bench` makes such an environment. Rivals take turns in each round, so that
a machine's bad minute hits all of them; what is printed are medians over rounds of CPU seconds (all threads), and of
each rival's ratio to ours within the round. The slow rivals run once. Maps are generated: smooth, heavy-tailed as those
of reverse distillation are, two thirds of the images with one to three defects; about 1.4% of the pixels anomalous.
"""

import argparse
import time
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import records
import torch
from adeval import EvalAccumulator
from anomalib.metrics.aupro import _AUPRO
from scipy.ndimage import gaussian_filter, label
from sklearn.metrics import roc_auc_score

from rkd_pipeline.metrics import aupro, pixel_metrics
from rkd_pipeline.metrics.aupimo import aupimo
from rkd_pipeline.metrics.pro_rd4ad import pro_rd4ad

if not hasattr(np, "trapz"):  # adeval 1.1.0 calls it by the name that NumPy 2 dropped
    np.trapz = np.trapezoid  # noqa: NPY201


def make_maps(n: int, side: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Maps float32 ``(n, side, side)`` and ground truth of bool, the same for the same arguments."""
    rng = np.random.default_rng(seed)
    fields = [gaussian_filter(rng.standard_normal((side, side)).astype(np.float32), side / 32) for _ in range(8)]
    fields = [f / f.std() for f in fields]
    rows, columns = np.mgrid[:side, :side]
    maps, masks = np.empty((n, side, side), np.float32), np.zeros((n, side, side), bool)
    for i in range(n):
        height = np.roll(fields[rng.integers(8)], rng.integers(0, side, 2), (0, 1)) / 2
        height = height + np.roll(fields[rng.integers(8)], rng.integers(0, side, 2), (0, 1)) / 4
        for _ in range(rng.integers(1, 4) if i >= n / 3 else 0):
            (y, x), (a, b) = rng.integers(side // 10, side - side // 10, 2), side * rng.uniform(0.02, 0.1, 2)
            distance = ((rows - y) / a) ** 2 + ((columns - x) / b) ** 2
            masks[i] |= distance < 1
            height = height + rng.uniform(0.25, 2) * np.exp(-distance / 1.5)
        maps[i] = 0.01 + 0.2 * np.exp(height) + 1e-5 * rng.standard_normal((side, side))
    return maps, masks


def adeval(maps: np.ndarray, masks: np.ndarray) -> tuple[float, float, float]:
    """AUROC, AP and AUPRO at 0.3 in 1000 bins (its default), whose range it has to be told."""
    found = EvalAccumulator(0.0, 1.0, float(maps.min()), float(maps.max()))
    found.add_anomap_batch(maps, masks.view(np.uint8))
    return found._auroc(found._pixel_acc), found._aupr(found._pixel_acc), float(found._aupro())


def anomalib_aupro(maps: np.ndarray, masks: np.ndarray) -> float:
    metric = _AUPRO(fpr_limit=0.3)
    metric.update(torch.from_numpy(maps), torch.from_numpy(masks).int())
    return float(metric.compute())


def threshold_loop(maps: np.ndarray, masks: np.ndarray, steps: int = 200, limit: float = 0.3) -> float:
    """The loop of many papers' code, over the whole set; regions are labelled once, outside it."""
    regions = [(i, *np.nonzero(k == r)) for i, m in enumerate(masks) for k, n in [label(m, np.ones((3, 3)))]
               for r in range(1, n + 1)]  # fmt: skip
    rates, overlaps = [], []
    for threshold in np.linspace(maps.max(), maps.min(), steps):
        called = maps >= threshold
        rates.append((called & ~masks).sum() / (~masks).sum())
        overlaps.append(np.mean([called[region].mean() for region in regions]))
    rate = np.array(rates)
    kept = rate <= limit
    return float(np.trapezoid(np.array(overlaps)[kept], rate[kept]) / rate[kept].max())


def sklearn_auroc(maps: np.ndarray, masks: np.ndarray) -> float:
    return float(roc_auc_score(masks.ravel(), maps.ravel()))


OURS: dict[str, Callable[..., object]] = {
    "aupro (exact, limit 0.3)": aupro,
    "pixel_metrics (all seven)": pixel_metrics,
    "aupimo": aupimo,
    "pro_rd4ad": pro_rd4ad,
}
FAST: dict[str, Callable[..., object]] = {"adeval (3 metrics, binned)": adeval}
SLOW: dict[str, Callable[..., object]] = {
    "scikit-learn pixel AUROC": sklearn_auroc,
    "anomalib AUPRO": anomalib_aupro,
    "200-threshold loop": threshold_loop,
}


def compare(n: int, side: int, rounds: int) -> list[dict[str, object]]:
    """Print the table for one size; returns its rows."""
    maps, masks = make_maps(n, side)
    print(f"\n{n} maps of {side} x {side}, {masks.mean():.2%} anomalous; {rounds} rounds, slow rivals once")
    seconds: dict[str, list[float]] = {}
    values: dict[str, object] = {}
    for turn in range(rounds):
        for name, function in {**OURS, **FAST, **(SLOW if turn == 0 else {})}.items():
            begun = time.process_time()
            values[name] = function(maps, masks)
            seconds.setdefault(name, []).append(time.process_time() - begun)
    one, every = seconds["aupro (exact, limit 0.3)"], seconds["pixel_metrics (all seven)"]
    print(f"{'':28}{'CPU s':>8}{'/ aupro':>10}{'/ pixel_metrics':>17}  value")
    rows: list[dict[str, object]] = []
    for name, spent in seconds.items():
        ratios = [median(a / b for a, b in zip(spent, ours, strict=False)) for ours in (one, every)]
        rows.append(
            {
                "maps": n,
                "side": side,
                "what": name,
                "CPU s": round(median(spent), 3),
                "times aupro": round(ratios[0], 2),
                "times pixel_metrics": round(ratios[1], 2),
            }
        )
        print(f"{name:28}{median(spent):8.3f}{ratios[0]:10.2f}{ratios[1]:17.2f}  {values[name]}")
    for name in ("aupro (exact, limit 0.3)", "pixel_metrics (all seven)"):
        tracemalloc.start()
        OURS[name](maps, masks)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        print(f"peak memory above the inputs, {name}: {peak / 2**20:.0f} MiB (inputs {maps.nbytes / 2**20:.0f} MiB)")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large", action="store_true", help="160 maps of 1024 x 1024 too, which takes 16 GB")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the table there too")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    torch.set_num_threads(2)
    rows = compare(150, 256, arguments.rounds)
    if arguments.large:
        rows += compare(160, 1024, max(1, arguments.rounds // 2))
    records.write(arguments.json, "metrics", rows)


if __name__ == "__main__":
    main()
