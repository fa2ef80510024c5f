"""From stored scores, or a stored model judged in another way, to what comparisons need (``evidence.py``)."""

from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from PIL import Image

from rkd_pipeline.data.split import part_of
from rkd_pipeline.data.user_targets import targets_in
from rkd_pipeline.recipes.ablation_design import PRODUCT, PRODUCT_MAX
from rkd_pipeline.recipes.score_rules import SCORE_RULES
from rkd_pipeline.recipes.training_key import TrainingKey
from rkd_pipeline.stages.anomaly_scores import read_scores
from rkd_pipeline.stages.datasets import (
    PreparedArrays,
    open_prepared,
    read_index,
    read_verified_split,
    require_prepared,
)
from rkd_pipeline.stages.trained_model import open_model
from rkd_pipeline.statistics.replicates import Evidence, evidence, read_evidence, write_evidence
from rkd_pipeline.store.device_lock import on_device
from rkd_pipeline.store.result_store import Ref, Result, Store
from rkd_pipeline.store.stage_versions import (
    ANOMALY_SCORES,
    EVIDENCE,
    IMAGES,
    PRODUCT_MAPS,
    ROTATED_IMAGES,
    SPLIT,
    TRAINED_MODEL,
)

if TYPE_CHECKING:
    import torch

    from rkd_pipeline.device import Compute

ROTATIONS = (0, 90, 180, 270)  # degrees: by quarters no pixel is made up


def gather_evidence(store: Store, target_name: str, training: str) -> Result:
    """``evidence``: of a training's stored scores and maps, made now if nobody has yet."""
    scored = store.require(ANOMALY_SCORES, target_name, training)
    side = TrainingKey.parse(training).recipe.side
    prepared = require_prepared(store, target_name, side)

    def write(folder: Path) -> dict[str, Any]:
        _, arrays = open_prepared(store, target_name, side)
        scores, maps = read_scores(scored)
        test = np.flatnonzero(scores["part"] == "test")
        of_test = scores.iloc[test]
        rules = {rule: of_test[rule].to_numpy() for rule in SCORE_RULES if rule in of_test}
        found = _evidence(arrays, of_test, rules, None if maps is None else np.asarray(maps[test]))
        write_evidence(found, folder)
        return {"pictures": len(found.image_ids), "regions": len(found.regions)}

    return store.produce(EVIDENCE, [target_name, training], write, inputs=[scored, prepared])


def _evidence(
    arrays: PreparedArrays,
    rows: pd.DataFrame,
    rules: dict[str, np.ndarray],
    maps: np.ndarray | None,
    map_rule: str = "map",
) -> Evidence:
    ids = list(rows["image_id"])
    masks = arrays.masks(ids) if arrays.has_masks and maps is not None else None
    return evidence(ids, rows["anomalous"].to_numpy(bool), rules, maps, masks, map_rule)


def score_product_maps(store: Store, target_name: str, training: str, compute: "Compute") -> Result:
    """``product_maps``: the test images judged by maps multiplied over scales, as the anomalib of June 2022 did."""
    model = store.require(TRAINED_MODEL, target_name, training)
    split_result = store.require(SPLIT, target_name)
    key = TrainingKey.parse(training)
    prepared, arrays = open_prepared(store, target_name, key.recipe.side)

    def write(folder: Path) -> dict[str, Any]:
        rows = _test_rows(store, target_name, key, split_result)
        with on_device(store, compute):
            maps = _product_maps(store, model, arrays.images(list(rows["image_id"]))[:], key, compute.device)
        highest = {PRODUCT_MAX: maps.max(axis=(1, 2)).astype(np.float64)}
        write_evidence(_evidence(arrays, rows, highest, maps, PRODUCT), folder)
        return {"pictures": len(rows), "fusion": "product", **compute.conditions(training=False)}

    inputs = [model, split_result, prepared]
    return store.produce(PRODUCT_MAPS, [target_name, training], write, inputs=inputs)


def _test_rows(store: Store, target_name: str, key: TrainingKey, split_result: Result) -> pd.DataFrame:
    """Test images and their labels, in the split's order, which is that of ``anomaly_scores``."""
    ids = part_of(read_verified_split(split_result), targets_in(store).target(target_name), key.repeat, "test")
    index = read_index(store.require(IMAGES, target_name)).set_index("image_id")
    return pd.DataFrame({"image_id": ids, "anomalous": index.loc[ids, "anomalous"].to_numpy()})


def _product_maps(
    store: Store, model: Result, images: np.ndarray, key: TrainingKey, device: "torch.device", batch_size: int = 32
) -> np.ndarray:
    """float32 ``(N, S, S)`` of uint8 images ``(N, S, S, 3)``."""
    import torch

    from rkd_pipeline.detectors.anomaly_map import anomaly_map
    from rkd_pipeline.device import full_precision
    from rkd_pipeline.training.losses import discrepancy

    teacher, student = open_model(store, model, device)
    student.eval()
    maps = []
    with torch.inference_mode(), full_precision():
        for start in range(0, len(images), batch_size):
            features = teacher(torch.from_numpy(images[start : start + batch_size]).to(device))
            scales = [discrepancy(a, b) for a, b in zip(features, student(features), strict=True)]
            fused = anomaly_map(scales, images.shape[1], fusion="product", sigma=key.recipe.sigma)
            maps.append(fused.cpu())
    return torch.cat(maps).numpy()


def score_rotated_images(store: Store, target_name: str, training: str, compute: "Compute") -> Result:
    """``turned_pictures``: the test images and masks rotated by quarters and scored by the exported model, on the CPU.

    The model was trained on images as they are. Turning before or after the resizing is the same up to rounding.
    """
    from rkd_pipeline.detectors.exported_model import CARD, STUDENT, TEACHER, ExportedModel
    from rkd_pipeline.stages.export import export_model

    model = store.require(TRAINED_MODEL, target_name, training)
    split_result = store.require(SPLIT, target_name)
    key = TrainingKey.parse(training)
    prepared, arrays = open_prepared(store, target_name, key.recipe.side)

    def write(folder: Path) -> dict[str, Any]:
        rows = _test_rows(store, target_name, key, split_result)
        ids = list(rows["image_id"])
        labels = rows["anomalous"].to_numpy(bool)
        images = arrays.images(ids)[:]
        masks = arrays.masks(ids) if arrays.has_masks else None
        with TemporaryDirectory() as scratch, on_device(store, compute.on_cpu()):
            export = Path(scratch)
            export_model(store, model, None, export)
            scorer = ExportedModel.load(export / STUDENT, export / TEACHER, export / CARD)
            for degrees in ROTATIONS:
                quarters = degrees // 90
                files = [export / f"{i}.png" for i in range(len(ids))]
                for file, image in zip(files, images, strict=True):
                    Image.fromarray(np.rot90(image, quarters)).save(file, compress_level=1)
                table, maps = scorer.score(files)
                rotated = None if masks is None else np.rot90(masks, quarters, axes=(1, 2))
                rules = {rule: table[rule].to_numpy() for rule in SCORE_RULES if rule in table}
                write_evidence(evidence(ids, labels, rules, maps, rotated), folder / f"{degrees:03d}")
        return {"pictures": len(ids), "turns": list(ROTATIONS)}

    inputs = [model, split_result, prepared]
    return store.produce(ROTATED_IMAGES, [target_name, training], write, inputs=inputs)


def evidence_of(*results: Result) -> Evidence:
    """What ``evidence`` and ``product_maps`` results of one training hold, together."""
    return read_evidence(*(partial(_folder, result) for result in results))


def read_rotated(rotated: Result) -> dict[int, Evidence]:
    """Degrees to evidence of a ``turned_pictures`` result."""
    return {degrees: read_evidence(partial(_folder, rotated, f"{degrees:03d}")) for degrees in ROTATIONS}


def _folder(result: Result, part: str = "") -> Path:
    return result.folder / part


def fresh(store: Store, ref: Ref) -> Result | None:
    """The stored result if it is there and up to date."""
    found = store.find(ref)
    return None if found is None or store.why_stale(found) else found


def values_of(result: Result) -> pd.DataFrame:
    """Metric, score rule and value of an ``evidence`` or ``product_maps`` result."""
    rows = [(m, r, v) for (m, r), v in evidence_of(result).values.items()]
    return pd.DataFrame(rows, columns=["metric", "score_rule", "value"])


def values_by_rotation(rotated: Result) -> pd.DataFrame:
    """Metric, score rule and, a column per turn, the value of a ``turned_pictures`` result."""
    found = {f"{degrees} degrees": of.values for degrees, of in read_rotated(rotated).items()}
    table = pd.DataFrame(found).rename_axis(["metric", "score_rule"])
    return table.reset_index()
