"""From prepared images and a teacher to a trained model."""

import json
import logging
from dataclasses import asdict, fields, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow.parquet as pq

from rkd_pipeline.data.catalog import Target
from rkd_pipeline.data.split import few_of, fewest_for_calibration, part_of
from rkd_pipeline.data.user_targets import targets_in
from rkd_pipeline.detectors import system_of
from rkd_pipeline.detectors.model_card import ModelCard
from rkd_pipeline.errors import BadKey, CheckpointError, DataError, StoreError
from rkd_pipeline.models.architectures import architecture
from rkd_pipeline.models.teacher_files import TeacherRegistry
from rkd_pipeline.recipes.recipe import ReverseKD
from rkd_pipeline.recipes.training_key import TrainingKey
from rkd_pipeline.stages.datasets import open_prepared, read_verified_split
from rkd_pipeline.store.device_lock import on_device
from rkd_pipeline.store.files import canonical_json, link_or_copy, remove_leftovers, text_sha256, write_atomically
from rkd_pipeline.store.result_store import Result, Store
from rkd_pipeline.store.stage_versions import SPLIT, TEACHERS, TRAINED_MODEL

if TYPE_CHECKING:
    import torch

    from rkd_pipeline.detectors import Detector
    from rkd_pipeline.device import Compute
    from rkd_pipeline.models.reverse_distillation import ReverseDistillation
    from rkd_pipeline.models.teacher import Teacher
    from rkd_pipeline.models.weights import TeacherWeights
    from rkd_pipeline.training.loop import OnEpoch

_log = logging.getLogger(__name__)
WEIGHTS_FILE = "student.safetensors"
MODEL_FILE = "model.json"
HISTORY_FILE = "history.parquet"
CHECKPOINTS = "checkpoints"
CHECKPOINT, SET_ASIDE = ".safetensors", ".set-aside"  # suffixes: one to go on from, and one that could not be resumed
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")  # of BatchNorm: kept, not trained


def checkpoint_file(store: Store, target_name: str, training: str) -> Path:
    """Where a training in progress keeps its checkpoint; gone once the training is done."""
    return store.root / CHECKPOINTS / target_name / f"{training}{CHECKPOINT}"


def begun_trainings(store: Store, *target_name: str) -> set[tuple[str, str]]:
    """Target and training of every checkpoint that a training can go on from, of all targets or of one."""
    found = (PurePosixPath(name) for name in store.place.backups("/".join((CHECKPOINTS, *target_name))))
    return {(file.parent.name, file.stem) for file in found if file.suffix == CHECKPOINT}


def list_teachers(store: Store) -> Result:
    """``teachers``: the registered weights files. Named torchvision sets need no entry."""
    files = TeacherRegistry(store.teachers_file).files()
    rows = [{"teacher": name, "path": str(f.path), "sha256": f.sha256} for name, f in sorted(files.items())]

    def write(folder: Path) -> dict[str, Any]:
        pd.DataFrame(rows, columns=["teacher", "path", "sha256"]).to_parquet(folder / "teachers.parquet", index=False)
        return {"files": len(rows)}

    return store.produce(TEACHERS, [], write, parameters={"files": rows})


def open_teacher(store: Store, key: TrainingKey) -> "TeacherWeights":
    """The weights that a key names; raises ``TeacherError`` with the fix."""
    from rkd_pipeline.models.weights import load_weights

    return load_weights(TeacherRegistry(store.teachers_file), key.teacher)


def training_parameters(key: TrainingKey) -> dict[str, Any]:
    """Everything in a key that shapes the model, as plain values."""
    parameters = {
        "recipe": key.recipe.settings(),
        "teacher": str(key.teacher),
        "epochs": key.epochs,
        "seed": key.seed,
        "repeat": key.repeat,
    }
    return parameters | _built_otherwise(key)


def _built_otherwise(key: TrainingKey) -> dict[str, Any]:
    """Where a recipe came to build its model otherwise; nothing for all others, so that their trainings stay valid."""
    if not isinstance(key.recipe, ReverseKD):
        return {}
    arch = architecture(key.teacher.arch)
    depth = arch.oce_depth_in(key.recipe.oce_width)
    return {} if depth == arch.oce_depth else {"oce_depth": depth}


def train_model(
    store: Store,
    target_name: str,
    training: str,
    compute: "Compute",
    *,
    checkpoint_seconds: float = 30.0,
    on_epoch: "OnEpoch" = lambda epoch: None,
) -> Result:
    """``trained_model``: the student of one target and training key; resumes a training that was killed.

    A recipe that differs from another in scoring alone uses that one's training, which must be there. A checkpoint that
    is damaged, or of other data, code or precision, is set aside with a warning.

    Raises ``BadKey``, ``DataError``, ``TeacherError`` or ``StoreError``, each saying what to do.
    """
    from safetensors.torch import save_file

    from rkd_pipeline.detectors.fit import fit
    from rkd_pipeline.device import place
    from rkd_pipeline.training.loop import Epoch
    from rkd_pipeline.training.profiling import Meter

    wanted, key = targets_in(store).target(target_name), TrainingKey.parse(training)
    if key.training != key:
        return _share(store, _shared_training(store, target_name, key), target_name, key)
    recipe = key.recipe
    split_result = store.require(SPLIT, target_name)
    rows = read_verified_split(split_result)
    weights = open_teacher(store, key)
    prepared, arrays = open_prepared(store, target_name, recipe.side)

    held_out = recipe.held_out
    require_something_to_score(rows, wanted, key)
    train_ids = training_ids(rows, wanted, key)
    validation_ids = part_of(rows, wanted, key.repeat, "validation") if held_out else []
    parameters = training_parameters(key) | {"teacher_sha256": weights.sha256}
    inputs = [split_result, prepared]
    versions = {str(i.provenance.stage): i.data_version for i in inputs}
    made_of = [TRAINED_MODEL.version, parameters, versions, compute.precision]
    identity = f"{target_name} {key} {text_sha256(canonical_json(made_of))[:16]}"
    checkpoint = checkpoint_file(store, target_name, training)

    def write(folder: Path) -> dict[str, Any]:
        remove_leftovers(checkpoint)
        store.place.restore(checkpoint)
        timed = 0  # epochs of this process: a resumed training has others behind it

        def count(epoch: Epoch) -> None:
            nonlocal timed
            timed += 1
            on_epoch(epoch)

        with (
            on_device(store, compute),
            store.place.backing_up(checkpoint),
            Meter(compute.device) as meter,
        ):
            teacher = place(system_of(recipe).teacher(weights, recipe), compute.device)
            go = partial(
                fit,
                recipe,
                teacher,
                arrays.images(train_ids),
                arrays.images(validation_ids) if held_out else None,
                epochs=key.epochs,
                seed=key.seed,
                compute=compute,
                checkpoint=checkpoint,
                identity=identity,
                checkpoint_seconds=checkpoint_seconds,
                on_epoch=count,
                cache=store.root / "shared" / recipe.system,
            )
            try:
                trained = go()
            except CheckpointError as error:
                # Work that cannot be resumed is lost either way: say so, keep it for a look, and train.
                kept = checkpoint.with_suffix(SET_ASIDE)
                checkpoint.replace(kept)
                _log.warning("%s. It was moved to %s, and the training starts anew", error, kept)
                trained = go()
        save_file(trained.state, folder / WEIGHTS_FILE)
        losses = pd.DataFrame([asdict(e) for e in trained.history], columns=[f.name for f in fields(Epoch)])
        losses.to_parquet(folder / HISTORY_FILE, index=False)
        passes = timed if trained.history else 1  # of this process, over the training images
        model = ModelCard(
            target=target_name,
            training=training,
            teacher=str(key.teacher),
            teacher_sha256=weights.sha256,
            lambda_=trained.lambda_,
        )
        write_atomically(folder / MODEL_FILE, json.dumps(asdict(model), indent=1).encode())
        return {
            "train_pictures": len(train_ids),
            "validation_pictures": len(validation_ids),
            "calibration_pictures": len(part_of(rows, wanted, key.repeat, "calibration")) if recipe.calibrates else 0,
            "epochs_trained": len(trained.history),
            "best_epoch": trained.best_epoch,
            "stopped_early": trained.stopped_early,
            "final_train_loss": trained.history[-1].train_loss if trained.history else None,
            "lambda": trained.lambda_,
            "teacher_origin": weights.origin,
            **compute.conditions(training=True),
            "parameters": sum(v.numel() for k, v in trained.state.items() if not k.endswith(_STATISTICS)),
            "timed_epochs": timed,
            "timed_seconds": round(meter.seconds, 3),
            "pictures_per_second": passes * len(train_ids) / meter.seconds,
            "peak_memory_bytes": meter.peak_memory_bytes,
            **trained.notes,
        }

    result = store.produce(TRAINED_MODEL, [target_name, training], write, parameters=parameters, inputs=inputs)
    store.place.forget(checkpoint)  # only now: until the result stands, the checkpoint is the work
    return result


def training_ids(rows: pd.DataFrame, wanted: Target, key: TrainingKey) -> list[str]:
    """The images that a training learns from: its parts of the split, or some of them (``few_of``)."""
    return few_of(part_of(rows, wanted, key.repeat, *key.recipe.training_parts), key.recipe.shots, key.seed)


def require_something_to_score(rows: pd.DataFrame, wanted: Target, key: TrainingKey) -> None:
    """Raises ``DataError`` for a training that nothing could ever be said of: no test image, none to calibrate on."""
    if not part_of(rows, wanted, key.repeat, *key.recipe.scored_parts):
        raise DataError(
            f"{wanted.name} has no test image, and {key} would hold none out for calibration: nothing could be scored. "
            f"Add anomalous images, or train a recipe that calibrates, such as rkd-cal; a calibration part needs "
            f"{fewest_for_calibration()} distinct normal images"
        )


def _shared_training(store: Store, target_name: str, key: TrainingKey) -> Result:
    """The training that a key scores otherwise. Raises ``StoreError`` where it is missing or out of date."""
    try:
        return store.require(TRAINED_MODEL, target_name, str(key.training))
    except StoreError as error:
        raise StoreError(
            f"{target_name} {key} scores the training {key.training} otherwise, and needs it first: {error}. `rkd run` "
            f"trains both; in the UI, run the job train_model for {target_name} and {key.training}"
        ) from error


def _share(store: Store, shared: Result, target_name: str, key: TrainingKey) -> Result:
    """The same weights and history under the key of a recipe that scores them otherwise: links, not copies."""

    def write(folder: Path) -> dict[str, Any]:
        for name in (WEIGHTS_FILE, HISTORY_FILE):
            link_or_copy(shared.folder / name, folder / name)
        card = replace(read_model_card(shared), training=str(key))
        write_atomically(folder / MODEL_FILE, json.dumps(asdict(card), indent=1).encode())
        return shared.facts | {"shares_training_of": str(key.training)}

    teacher = {"teacher_sha256": shared.provenance.parameters["teacher_sha256"]}
    parameters = training_parameters(key) | teacher
    prepared, _ = open_prepared(store, target_name, key.recipe.side)
    inputs = [shared, store.require(SPLIT, target_name), prepared]
    return store.produce(TRAINED_MODEL, [target_name, str(key)], write, parameters=parameters, inputs=inputs)


def stale_reason(store: Store, metrics: Result) -> str | None:
    """Why a ``metrics`` result does not count: an input or a version changed, or the recipe behind its key did."""
    if reason := store.why_stale(metrics):
        return reason
    return recipe_changed(store.require(TRAINED_MODEL, *metrics.provenance.key))


def recipe_changed(model: Result) -> str | None:
    """Why a ``trained_model`` is not what its key stands for now; None where it is."""
    try:
        asked = training_parameters(TrainingKey.parse(model.provenance.key[1]))
    except BadKey as error:
        return str(error)
    trained = model.provenance.parameters
    changed = [name for name, value in asked.items() if trained.get(name) != value]
    return f"its {', '.join(changed)} changed since" if changed else None


def read_model_card(model: Result) -> ModelCard:
    """The card of a ``trained_model`` result."""
    return ModelCard(**json.loads((model.folder / MODEL_FILE).read_text(encoding="utf-8")))


def read_history(model: Result) -> pd.DataFrame:
    """Losses per epoch of a ``trained_model`` result."""
    with pq.ParquetFile(model.file(HISTORY_FILE)) as opened:  # a third of pandas's time: the claims read thousands
        return opened.read(use_threads=False).to_pandas()


def open_detector(store: Store, model: Result, device: "torch.device") -> "Detector":
    """A trained model on a device; raises ``StoreError`` where the teacher is not the one trained with."""
    from safetensors.torch import load_file

    card = read_model_card(model)
    key = TrainingKey.parse(card.training)
    weights = open_teacher(store, key)
    if weights.sha256 != card.teacher_sha256:
        raise StoreError(
            f"{card.target} {card.training} was trained with teacher {card.teacher_sha256[:8]}, but {key.teacher} is "
            f"now {weights.sha256[:8]} ({weights.origin}); restore the former weights or train again"
        )
    system = system_of(key.recipe)
    teacher = system.teacher(weights, key.recipe)
    return system.detector(key.recipe, teacher, load_file(model.folder / WEIGHTS_FILE), card.lambda_, device)


def open_model(store: Store, model: Result, device: "torch.device") -> "tuple[Teacher, ReverseDistillation]":
    """Teacher and student of a Reverse KD training, for a look at their features."""
    from rkd_pipeline.detectors.reverse_kd import ReverseKDDetector

    detector = open_detector(store, model, device)
    if not isinstance(detector, ReverseKDDetector):
        raise StoreError(f"{model.provenance.key} is no training of Reverse KD; it has no student of that kind")
    return detector.teacher, detector.student
