"""From a trained model to anomaly maps, image scores, metrics and images."""

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from rkd_pipeline.data.split import part_of
from rkd_pipeline.data.user_targets import targets_in
from rkd_pipeline.progress import bar
from rkd_pipeline.recipes.training_key import TrainingKey
from rkd_pipeline.stages.datasets import open_prepared, read_index, read_verified_split
from rkd_pipeline.stages.trained_model import open_detector, read_history
from rkd_pipeline.store.device_lock import on_device
from rkd_pipeline.store.result_store import Result, Store
from rkd_pipeline.store.stage_versions import ANOMALY_SCORES, IMAGES, METRICS, SPLIT, TRAINED_MODEL
from rkd_pipeline.training.conditions import computed_on

if TYPE_CHECKING:
    from rkd_pipeline.data.rows import Images
    from rkd_pipeline.detectors import Detector
    from rkd_pipeline.device import Compute
    from rkd_pipeline.metrics.pixel_curve import PixelCurve

_log = logging.getLogger(__name__)
MAPS_FILE = "maps.npy"
IN_ONE_PASS = "learns in one pass: there are no losses to draw"
FIGURES = ("maps.png", "scores.png", "curves.png", "losses.png")


def score_images(store: Store, target_name: str, training: str, compute: "Compute") -> Result:
    """``anomaly_scores``: maps and image scores of the test images, and of the calibration normals where held out.

    Of calibration images with the same pixels one is scored: copies would count as evidence twice.
    """
    from rkd_pipeline.training.profiling import Meter

    wanted, key = targets_in(store).target(target_name), TrainingKey.parse(training)
    model = store.require(TRAINED_MODEL, target_name, training)
    split_result = store.require(SPLIT, target_name)
    prepared, arrays = open_prepared(store, target_name, key.recipe.side)

    def write(folder: Path) -> dict[str, Any]:
        rows = read_verified_split(split_result)
        index = read_index(store.require(IMAGES, target_name)).set_index("image_id")
        parts = key.recipe.scored_parts
        ids = {part: part_of(rows, wanted, key.repeat, part) for part in parts}
        if "calibration" in ids:
            ids["calibration"] = index.loc[ids["calibration"]].drop_duplicates("pixel_sha256").index.tolist()
        scored_ids = [name for part in parts for name in ids[part]]
        with on_device(store, compute):
            detector = open_detector(store, model, compute.device)
            images = arrays.images(scored_ids)
            with Meter(compute.device) as meter:
                scores = detector.score(images)
            latency = median_seconds(detector, images)
        table = pd.DataFrame(
            {
                "image_id": scored_ids,
                "part": [part for part in parts for _ in ids[part]],
                "anomalous": index.loc[scored_ids, "anomalous"].to_numpy(),
                "defect": index.loc[scored_ids, "defect"].to_numpy(),
                **scores.images,
            }
        )
        table.to_parquet(folder / "scores.parquet", index=False)
        if scores.maps is not None:
            np.save(folder / MAPS_FILE, scores.maps)
        return {
            "pictures": len(table),
            "side": key.recipe.side,
            "smoothing_sigma": key.recipe.sigma,
            "score_rules": list(scores.images),
            **compute.conditions(training=False),
            "seconds_per_picture": meter.seconds / len(table),
            "latency_seconds": latency,
            "peak_memory_bytes": meter.peak_memory_bytes,
        }

    inputs = [model, split_result, prepared]
    with bar(0, f"score {target_name} {training}", "step", inner=True):
        return store.produce(ANOMALY_SCORES, [target_name, training], write, inputs=inputs)


def median_seconds(detector: "Detector", images: "Images", most: int = 11, budget: float = 5.0) -> float:
    """Seconds to score one image alone, as a caller who has only one waits for it: the median of a few.

    At least one, at most ``most``, and no further one after ``budget`` seconds.
    """
    taken: list[float] = []
    for image in images[:most]:
        started = time.perf_counter()
        detector.score(image[np.newaxis])  # returns arrays on the CPU: a GPU has finished by then
        taken.append(time.perf_counter() - started)
        if sum(taken) > budget:
            break
    return float(np.median(taken))


def read_scores(scores: Result) -> tuple[pd.DataFrame, np.ndarray | None]:
    """Table and memory-mapped maps of an ``anomaly_scores`` result, in the same order; None where it has no maps."""
    file = scores.folder / MAPS_FILE
    maps = np.load(file, mmap_mode="r") if MAPS_FILE in scores.provenance.files else None
    return pd.read_parquet(scores.folder / "scores.parquet"), maps


def evaluate(store: Store, target_name: str, training: str) -> Result:
    """``metrics``: every metric with its interval, and the images that people look at."""
    from rkd_pipeline.metrics.evaluation import measure
    from rkd_pipeline.metrics.regions import with_truth
    from rkd_pipeline.results.figures import (
        NO_MASK,
        detection_curves,
        loss_curve,
        map_strip,
        message,
        score_distribution,
    )

    key = TrainingKey.parse(training)
    model = store.require(TRAINED_MODEL, target_name, training)
    scores_result = store.require(ANOMALY_SCORES, target_name, training)
    prepared, arrays = open_prepared(store, target_name, key.recipe.side)

    def write(folder: Path) -> dict[str, Any]:
        scores, maps = read_scores(scores_result)
        masks = arrays.masks(list(scores["image_id"])) if arrays.has_masks else None
        pixels = read_index(store.require(IMAGES, target_name)).set_index("image_id")["pixel_sha256"]
        copies = pixels.loc[scores["image_id"]].tolist()
        metrics = measure(scores, maps, masks, key.recipe, clusters=copies)
        metrics.to_parquet(folder / "metrics.parquet", index=False)
        if note := mask_note(metrics):
            _log.warning("%s %s: %s", target_name, training, note)

        title = f"{target_name}, {training}"
        shown, captions = example_rows(scores, key.recipe.own_score)
        shown_masks = None if masks is None else masks[shown]
        if shown_masks is not None:
            known = with_truth(scores["anomalous"].to_numpy()[shown], shown_masks)
            captions = [text if has else f"{text}\n{NO_MASK}" for text, has in zip(captions, known, strict=True)]
        images = arrays.images(list(scores["image_id"].iloc[shown]))[:]
        shown_maps = None if maps is None else maps[shown]
        (folder / "maps.png").write_bytes(map_strip(images, shown_maps, captions, title, shown_masks))
        own = key.recipe.own_score
        threshold = value_of(metrics, "threshold", own)
        (folder / "scores.png").write_bytes(score_distribution(scores, own, threshold, title))
        test = (scores["part"] == "test").to_numpy()
        both = scores.loc[test, "anomalous"].nunique() == 2
        curve = None
        if masks is not None and maps is not None and both:
            curve = _curve_of_pixels(scores, maps, masks, test)
        of_test = scores[test]
        curves = detection_curves(of_test["anomalous"].to_numpy(), of_test[own].to_numpy(), curve, title)
        (folder / "curves.png").write_bytes(curves)
        best = model.facts["best_epoch"] if key.recipe.early_stopping else None
        history = read_history(model)
        losses = message(f"{title}\n{IN_ONE_PASS}") if history.empty else loss_curve(history, title, best)
        (folder / "losses.png").write_bytes(losses)
        auroc = {r: value_of(metrics, "image_auroc", r) for r in metrics["score_rule"].unique() if r != "map"}
        return {
            "image_auroc": auroc,
            "pixel_auroc": value_of(metrics, "pixel_auroc", "map"),
            "computed_on": computed_on(model.facts, scores_result.facts),
        }

    with bar(0, f"measure {target_name} {training}", "step", inner=True):
        return store.produce(METRICS, [target_name, training], write, inputs=[model, scores_result, prepared])


def _curve_of_pixels(
    scores: pd.DataFrame, maps: np.ndarray, masks: np.ndarray, test: np.ndarray
) -> "PixelCurve | None":
    """Over the test images with a ground truth; None where none of them shows a defect."""
    from rkd_pipeline.metrics.pixel_curve import pixel_curve
    from rkd_pipeline.metrics.regions import with_truth

    known = np.flatnonzero(test)[with_truth(scores["anomalous"].to_numpy()[test], masks[test])]
    return pixel_curve(np.asarray(maps[known]), masks[known]) if masks[known].any() else None


def mask_note(metrics: pd.DataFrame) -> str:
    """What to say beside the pixel metrics of a table about images without a mask; empty where there are none."""
    without = metrics["n_without_mask"].max() if "n_without_mask" in metrics else pd.NA
    if pd.isna(without) or not without:
        return ""
    of_images = "anomalous test image has" if without == 1 else "anomalous test images have"
    return f"{without} {of_images} no mask that shows a defect, and left the pixel metrics"


def read_metrics(metrics: Result) -> pd.DataFrame:
    """The table of a ``metrics`` result."""
    return pd.read_parquet(metrics.folder / "metrics.parquet")


def value_of(metrics: pd.DataFrame, metric: str, rule: str) -> float | None:
    """One value out of a metrics table; None where it is absent or empty."""
    found = metrics.loc[(metrics["metric"] == metric) & (metrics["score_rule"] == rule), "value"]
    return None if found.empty or pd.isna(found.iloc[0]) else float(found.iloc[0])


def example_rows(scores: pd.DataFrame, rule: str) -> tuple[list[int], list[str]]:
    """Which rows to show, with captions: per class the highest, the median and the lowest score.

    Of the test images; of the calibration normals where nothing tests.
    """
    rows, captions = [], []
    shown = scores[scores["part"] == "test"]
    shown = scores if shown.empty else shown
    for anomalous, name in ((False, "normal"), (True, "anomalous")):
        order = shown.loc[shown["anomalous"] == anomalous, rule].sort_values(ascending=False, kind="stable")
        for place, at in (("highest", 0), ("median", len(order) // 2), ("lowest", len(order) - 1)):
            if not order.empty:
                rows.append(int(order.index[at]))
                captions.append(f"{name}, {place}\n{order.iloc[at]:.3f}")
    return rows, captions
