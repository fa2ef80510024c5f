"""What a comparison of two models needs of each: its numbers, and the same numbers on resampled test images.

Both models are resampled with the same draws of images (``metrics/pixel_intervals.py``), so the interval of a
difference is over images and paired: what makes an image hard for both drops out. Nothing here needs a model.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from rkd_pipeline.metrics.image_auroc import image_auroc
from rkd_pipeline.metrics.pixel_curve import pixel_curve
from rkd_pipeline.metrics.pixel_intervals import BATCH, draws, image_counts, resampled
from rkd_pipeline.metrics.pixel_metrics import pixel_metrics_of
from rkd_pipeline.metrics.region_overlap import region_overlap
from rkd_pipeline.metrics.regions import Undefined, anomalous_pixels, with_truth
from rkd_pipeline.recipes.score_rules import Quantity

PIXEL_METRICS = ("pixel_auroc", "aupro_30", "pixel_ap", "pro_youden")
_VALUES, _REPLICATES, _REGIONS, _IMAGES = "values.parquet", "replicates.npz", "regions.parquet", "pictures.parquet"
REGION_COLUMNS = ["image_id", "size", "overlap"]


@dataclass(frozen=True)
class Evidence:
    """Of one model on one test set.

    Attributes:
        image_ids: the test images, in the order of the draws.
        values: metric and score rule to value, a fraction from 0 to 1.
        replicates: the same keys to float64 ``(B,)``; equal image_ids (and, for pixels, masks) have equal draws.
        regions: columns image_id, size (pixels) and overlap (``metrics/region_overlap.py``); empty without masks.
    """

    image_ids: tuple[str, ...]
    values: Mapping[Quantity, float]
    replicates: Mapping[Quantity, np.ndarray]
    regions: pd.DataFrame


def evidence(
    image_ids: Sequence[str],
    anomalous: np.ndarray,
    image_scores: Mapping[str, np.ndarray],
    maps: np.ndarray | None,
    masks: np.ndarray | None,
    map_rule: str = "map",
) -> Evidence:
    """Reduce a model's scores on its test images.

    Args:
        image_ids: of N test images.
        anomalous: labels ``(N,)`` of bool; where a class is missing there are no values.
        image_scores: score rule to ``(N,)``.
        maps: anomaly maps ``(N, S, S)``, or None.
        masks: ground truth ``(N, S, S)`` of bool, or None: then there are no pixel metrics. Anomalous images whose mask
            is empty are left out of those.
        map_rule: the score rule under which pixel metrics are kept.
    """
    values: dict[Quantity, float] = {}
    replicates: dict[Quantity, np.ndarray] = {}
    if anomalous.all() or not anomalous.any():
        return Evidence(tuple(image_ids), values, replicates, pd.DataFrame(columns=REGION_COLUMNS))
    weights = draws(anomalous)
    for rule, scores in image_scores.items():
        values["image_auroc", rule] = image_auroc(anomalous, scores)
        replicates["image_auroc", rule] = resampled_auroc(anomalous, scores, weights)
    regions = pd.DataFrame(columns=REGION_COLUMNS)
    if maps is not None and masks is not None:
        known = with_truth(anomalous, masks)
        if not known.all():
            maps, masks, weights = maps[known], masks[known], draws(anomalous[known])
        try:
            found = anomalous_pixels(maps, masks)
            exact = pixel_metrics_of(pixel_curve(maps, masks, anomalous=found))
        except Undefined:
            return Evidence(tuple(image_ids), values, replicates, regions)
        counts = image_counts(maps, found)
        parts = [resampled(counts, weights[at : at + BATCH]) for at in range(0, len(weights), BATCH)]
        for name in PIXEL_METRICS:
            values[name, map_rule] = getattr(exact, name)
            replicates[name, map_rule] = np.concatenate([p[name] for p in parts])
        overlap = region_overlap(maps, masks, anomalous=found)
        names = np.asarray(image_ids, dtype=object)[known][overlap.image]
        regions = pd.DataFrame({"image_id": names, "size": overlap.size, "overlap": overlap.overlap})
    return Evidence(tuple(image_ids), values, replicates, regions)


def resampled_auroc(anomalous: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Image AUROC for B sets of images, float64 ``(B,)``; ``weights`` as for ``pixel_intervals.resampled``.

    >>> labels, scores = np.array([False, False, True, True]), np.array([0.1, 0.4, 0.35, 0.8])
    >>> resampled_auroc(labels, scores, np.array([[1.0, 1, 1, 1], [0, 2, 1, 1]])).tolist()
    [0.75, 0.5]
    """
    anomalous = np.asarray(anomalous, bool)
    above = scores[anomalous][:, None] - scores[~anomalous][None, :]
    wins = (above > 0) + 0.5 * (above == 0)
    positive, negative = weights[:, anomalous], weights[:, ~anomalous]
    pairs = positive.sum(axis=1) * negative.sum(axis=1)
    return np.asarray(((positive @ wins) * negative).sum(axis=1) / pairs)


def write_evidence(found: Evidence, folder: Path) -> None:
    """Four small files in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [(metric, rule, value) for (metric, rule), value in found.values.items()]
    pd.DataFrame(rows, columns=["metric", "score_rule", "value"]).to_parquet(folder / _VALUES, index=False)
    arrays: dict[str, Any] = {f"{m} {r}": v for (m, r), v in found.replicates.items()}
    np.savez(folder / _REPLICATES, **arrays)
    found.regions.astype({"image_id": "string", "size": "int64", "overlap": "float64"}).to_parquet(
        folder / _REGIONS, index=False
    )
    pd.DataFrame({"image_id": found.image_ids}).to_parquet(folder / _IMAGES, index=False)


def read_evidence(*folders: Callable[[], Path]) -> Evidence:
    """What was written, of one model on one test set; the quantities of several folders together.

    Replicates are read when one is asked for: claims look at thousands of trainings, and compare few of them. So where
    a folder is, is asked anew then: a copy of what lies in a bucket may have gone, and comes again.
    """
    values: dict[Quantity, float] = {}
    for folder in folders:
        table = _columns(folder() / _VALUES)
        values |= {
            (m, r): float(v) for m, r, v in zip(table["metric"], table["score_rule"], table["value"], strict=True)
        }
    image_ids = tuple(_columns(folders[0]() / _IMAGES)["image_id"])
    regions = _columns(folders[0]() / _REGIONS)
    as_read = {"image_id": np.asarray(regions["image_id"], object)} | {
        name: np.asarray(regions[name], kind) for name, kind in (("size", np.int64), ("overlap", np.float64))
    }
    return Evidence(image_ids, values, _StoredReplicates(folders), pd.DataFrame(as_read, columns=REGION_COLUMNS))


class _StoredReplicates(Mapping[Quantity, np.ndarray]):
    """The arrays of ``replicates.npz`` in some folders, each read when it is first asked for."""

    def __init__(self, folders: Sequence[Callable[[], Path]]) -> None:
        self._folders = folders
        self._read: dict[Quantity, np.ndarray] = {}

    @cached_property
    def _folder_of(self) -> dict[Quantity, Callable[[], Path]]:
        found: dict[Quantity, Callable[[], Path]] = {}
        for folder in self._folders:
            with np.load(folder() / _REPLICATES) as arrays:
                found |= {_quantity(name): folder for name in arrays.files}
        return found

    def __getitem__(self, quantity: Quantity) -> np.ndarray:
        if quantity not in self._read:
            with np.load(self._folder_of[quantity]() / _REPLICATES) as arrays:
                self._read[quantity] = arrays[" ".join(quantity)]
        return self._read[quantity]

    def __iter__(self) -> Iterator[Quantity]:
        return iter(self._folder_of)

    def __len__(self) -> int:
        return len(self._folder_of)


def _quantity(name: str) -> Quantity:
    metric, _, rule = name.partition(" ")
    return metric, rule


def _columns(file: Path) -> dict[str, list[Any]]:
    """A small parquet file: a fifth of the time that pandas takes, and the systems table reads thousands."""
    with pq.ParquetFile(file) as opened:
        return dict(opened.read(use_threads=False).to_pydict())
