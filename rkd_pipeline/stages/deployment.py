"""From a trained Reverse KD to a file that scores images without this project, and the proof that it does so alike."""

import json
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from rkd_pipeline.data.user_targets import targets_in
from rkd_pipeline.errors import DataError, RkdError
from rkd_pipeline.metrics.threshold import calibrated_threshold
from rkd_pipeline.recipes.recipe import ReverseKD
from rkd_pipeline.recipes.training_key import TrainingKey
from rkd_pipeline.stages.anomaly_scores import read_metrics, read_scores, value_of
from rkd_pipeline.stages.datasets import PreparedArrays, open_prepared, read_verified_split, source_folder
from rkd_pipeline.stages.trained_model import open_detector, read_model_card, training_ids
from rkd_pipeline.statistics.export_parity import (
    FROM_FILES,
    RELATIVE,
    Finding,
    agreement,
    no_worse,
    relative_difference,
    verdict_of,
)
from rkd_pipeline.statistics.replicates import evidence
from rkd_pipeline.store.files import write_atomically
from rkd_pipeline.store.result_store import Ref, Result, Store
from rkd_pipeline.store.stage_versions import (
    ANOMALY_SCORES,
    DATASET_SOURCE,
    EXPORTED_MODEL,
    METRICS,
    SPLIT,
    TRAINED_MODEL,
)

if TYPE_CHECKING:
    from rkd_pipeline.detectors.graph_formats import ExportedFile, Format, GraphPrecision

NAME = "model"  # of the file, before its suffix
PARITY = "parity.json"
FILES = 24  # test images that are read from their files too, evenly spread over all


def export_graph(
    store: Store, target_name: str, training: str, asked_format: str = "onnx", asked_precision: str = "fp32"
) -> Result:
    """``exported_model``: one training as a file, compared with the scores that the training has in the store.

    A file of another format or precision takes its place. The threshold is that of ``metrics``; at int8 it is
    calibrated again, on the same held-out normals as scored by the file.

    Raises ``RkdError`` for other systems than Reverse KD and for what is not made (int8 in torch), ``MissingLibrary``
    where the extra ``export`` is not installed, ``StoreError`` where the training was not scored and measured yet.
    """
    from rkd_pipeline.detectors.graph_formats import require_made

    format_, precision = require_made(asked_format, asked_precision)
    targets_in(store).target(target_name)
    key = TrainingKey.parse(training)
    if not isinstance(key.recipe, ReverseKD):
        raise RkdError(
            f"{training} is of {key.recipe.title}, and only Reverse KD is exported as a graph; `rkd predict --training "
            f"{training}` scores images with it, and so does its model in MLflow"
        )
    model, scored, metrics = (
        store.require(stage, target_name, training) for stage in (TRAINED_MODEL, ANOMALY_SCORES, METRICS)
    )
    split = store.require(SPLIT, target_name)
    prepared, arrays = open_prepared(store, target_name, key.recipe.side)

    def write(folder: Path) -> dict[str, Any]:
        with store.machine_lock("device cpu"), TemporaryDirectory() as scratch:
            threshold = value_of(read_metrics(metrics), "threshold", key.recipe.own_score)
            made = _Making(store, model, scored, split, arrays, key, format_, precision, threshold)
            file, threshold = made.write(folder)
            findings, differences = made.compare(file, Path(scratch))
        record = {"verdict": verdict_of(findings), "findings": [asdict(finding) for finding in findings]}
        write_atomically(folder / PARITY, json.dumps(record, indent=1).encode())
        return {"format": format_, "precision": precision, "file": file.name, "threshold": threshold} | differences

    parameters = {"format": format_, "precision": precision}
    inputs = [model, scored, metrics, split, prepared]
    return store.produce(EXPORTED_MODEL, [target_name, training], write, parameters=parameters, inputs=inputs)


class _Making:
    """One export on its way."""

    def __init__(
        self,
        store: Store,
        model: Result,
        scored: Result,
        split: Result,
        arrays: PreparedArrays,
        key: TrainingKey,
        format_: "Format",
        precision: "GraphPrecision",
        threshold: float | None,
    ) -> None:
        self._store, self._model, self._arrays, self._key = store, model, arrays, key
        self._format, self._precision, self._threshold = format_, precision, threshold
        self._target = model.provenance.key[0]
        self._rows = read_verified_split(split)
        self._scores, self._maps = read_scores(scored)

    def write(self, folder: Path) -> tuple[Path, float | None]:
        """The file, and the threshold in it."""
        import torch

        from rkd_pipeline.detectors.deployed_graph import DeployedGraph
        from rkd_pipeline.detectors.exported_model import ExportCard
        from rkd_pipeline.detectors.graph_formats import SUFFIXES, in_int8, onnx_model, save_onnx, save_torch
        from rkd_pipeline.detectors.graph_formats import with_threshold as set_threshold
        from rkd_pipeline.detectors.reverse_kd import ReverseKDDetector

        detector = open_detector(self._store, self._model, torch.device("cpu"))
        assert isinstance(detector, ReverseKDDetector)  # as its recipe is Reverse KD's
        graph, card = DeployedGraph(detector, self._threshold), read_model_card(self._model)
        file = folder / f"{NAME}{SUFFIXES[self._format]}"
        if self._format == "torch":
            save_torch(graph, file, self._precision, ExportCard(card, self._threshold))
            return file, self._threshold
        made = onnx_model(graph)
        if self._precision == "int8":
            made = in_int8(made, self._training_images())
        save_onnx(made, file, self._format, self._precision, ExportCard(card, self._threshold))
        if self._precision != "int8" or self._threshold is None:
            return file, self._threshold
        threshold = self._calibrated(file)
        set_threshold(made, threshold)
        save_onnx(made, file, self._format, self._precision, ExportCard(card, threshold))
        return file, threshold

    def _training_images(self) -> np.ndarray:
        """What int8 takes its ranges from: images that the model learnt from, evenly spread."""
        from rkd_pipeline.detectors.graph_formats import CALIBRATION_IMAGES

        ids = training_ids(self._rows, targets_in(self._store).target(self._target), self._key)
        return self._arrays.images(_spread(ids, CALIBRATION_IMAGES))[:]

    def _calibrated(self, file: Path) -> float:
        from rkd_pipeline.detectors.graph_formats import ExportedFile

        held_out = self._scores.loc[self._scores["part"] == "calibration", "image_id"].tolist()
        found = calibrated_threshold(_scored(ExportedFile(file, own=True), self._arrays.images(held_out)[:])[0])
        assert found is not None  # as many as there were when the training got its own
        return found

    def compare(self, file: Path, scratch: Path) -> tuple[list[Finding], dict[str, Any]]:
        """The file with the stored scores and maps of the whole test set; also differences, for people."""
        from rkd_pipeline.detectors.graph_formats import in_another_process

        test = np.flatnonzero(self._scores["part"] == "test")
        if not len(test):
            return [Finding("scores", "cannot be told", "the target has no test images")], {}
        assert self._maps is not None  # Reverse KD makes some
        rows, maps = self._scores.iloc[test], np.asarray(self._maps[test])
        ids, own = list(rows["image_id"]), rows[self._key.recipe.own_score].to_numpy()
        scores, found = in_another_process(file, self._arrays.images(ids)[:], scratch)
        differences = {
            "score_difference": relative_difference(own, scores),
            "map_difference": relative_difference(maps, found),
        }
        if self._precision == "fp32":
            findings = [agreement("scores", own, scores, RELATIVE), agreement("maps", maps, found, RELATIVE)]
            return [*findings, *self._from_files(file, ids)], differences
        return self._quality(rows, own, maps, scores.astype(np.float64), found), differences

    def _quality(
        self, rows: pd.DataFrame, own: np.ndarray, maps: np.ndarray, scores: np.ndarray, found: np.ndarray
    ) -> list[Finding]:
        ids, anomalous = list(rows["image_id"]), rows["anomalous"].to_numpy(bool)
        masks = self._arrays.masks(ids) if self._arrays.has_masks else None
        rule = self._key.recipe.own_score
        before = evidence(ids, anomalous, {rule: own}, maps, masks)
        after = evidence(ids, anomalous, {rule: scores}, found, masks)
        normal = int((~anomalous).sum())
        findings = [no_worse(before, after, ("image_auroc", rule), (normal, int(anomalous.sum())))]
        if masks is None:
            return findings  # without a ground truth AUPRO is no question
        with_mask = int((anomalous & masks.any(axis=(1, 2))).sum())
        return [*findings, no_worse(before, after, ("aupro_30", "map"), (normal, with_mask))]

    def _from_files(self, file: Path, ids: list[str]) -> list[Finding]:
        """Scores and maps of images at their own size beside those of the prepared ones, by the same file."""
        from rkd_pipeline.data.image_files import read_rgb
        from rkd_pipeline.detectors.graph_formats import ExportedFile

        chosen, name = _spread(ids, FILES), "from files"
        source = self._store.find(Ref(DATASET_SOURCE.name, self._target))
        try:
            if source is None:
                raise DataError(f"the place of the files of {self._target} is not known any more")
            images = [np.asarray(read_rgb(source_folder(source) / image)) for image in chosen]
        except DataError as error:
            return [Finding(name, "cannot be told", str(error))]
        model = ExportedFile(file, own=True)
        scores, maps = _scored(model, self._arrays.images(chosen)[:])
        whole = [model(image[np.newaxis]) for image in images]
        return [
            agreement(f"scores {name}", scores, np.concatenate([score for score, _, _ in whole]), FROM_FILES),
            agreement(f"maps {name}", maps, np.concatenate([made for _, made, _ in whole]), FROM_FILES),
        ]


def _scored(model: "ExportedFile", images: np.ndarray, at_once: int = 8) -> tuple[np.ndarray, np.ndarray]:
    found = [model(images[start : start + at_once]) for start in range(0, len(images), at_once)]
    return np.concatenate([score for score, _, _ in found]), np.concatenate([made for _, made, _ in found])


def _spread(ids: list[str], most: int) -> list[str]:
    """At most so many of them, evenly spread; all where there are no more.

    >>> _spread(list("abcdefgh"), 3), _spread(["a"], 3)
    (['a', 'e', 'h'], ['a'])
    """
    if len(ids) <= most:
        return ids
    return [ids[place] for place in np.linspace(0, len(ids) - 1, most).round().astype(int)]


def wanted_export(store: Store, target_name: str, training: str, format_: str, precision: str) -> Result | None:
    """The ``exported_model`` of that format and precision as it is in the store, up to date; None where it is not."""
    found = store.find(Ref(EXPORTED_MODEL.name, target_name, training))
    if found is None or found.provenance.parameters != {"format": format_, "precision": precision}:
        return None
    return None if store.why_stale(found) else found


def copy_export(exported: Result, output: Path) -> list[Path]:
    """Write the file of an ``exported_model`` as ``output``, whole or not at all; an OpenVINO pair gets both names.

    Raises ``DataError`` where ``output`` has another suffix than the format's, or is a folder.
    """
    made = model_file(exported)
    if output.suffix != made.suffix or output.is_dir():
        raise DataError(f"--output {output}: name a file that ends in {made.suffix}")
    # The weights first: whoever finds the .xml finds its .bin.
    suffixes = sorted({f".{name.rpartition('.')[2]}" for name in exported.provenance.files if name != PARITY})
    written = [output.with_suffix(suffix) for suffix in suffixes]
    for file in written:
        write_atomically(file, made.with_suffix(file.suffix).read_bytes())
    return written


def read_parity(exported: Result) -> tuple[str, list[Finding]]:
    """The verdict on an ``exported_model``, and what it is made of."""
    record = json.loads(exported.file(PARITY).read_text(encoding="utf-8"))
    return record["verdict"], [Finding(**finding) for finding in record["findings"]]


def model_file(exported: Result) -> Path:
    """The file of an ``exported_model``; OpenVINO's ``.bin`` lies beside it."""
    return exported.folder / str(exported.facts["file"])
