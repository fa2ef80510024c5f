"""Any system's training, from images to a trained student."""

from pathlib import Path

import torch
from torch import nn

from rkd_pipeline.data.rows import Images
from rkd_pipeline.detectors import system_of
from rkd_pipeline.device import Compute, full_precision, keep_freed_memory
from rkd_pipeline.errors import RkdError
from rkd_pipeline.progress import bar
from rkd_pipeline.recipes.recipe import GradientRecipe, Recipe
from rkd_pipeline.training.loop import OnEpoch, TrainedStudent, require_finite, train
from rkd_pipeline.training.task import FittingTask, TaskInputs, TrainingTask


def fit(
    recipe: Recipe,
    teacher: nn.Module,
    images: Images,
    validation: Images | None,
    *,
    epochs: int | None,
    seed: int,
    compute: Compute,
    checkpoint: Path,
    identity: str,
    checkpoint_seconds: float = 30.0,
    on_epoch: OnEpoch = lambda epoch: None,
    cache: Path | None = None,
) -> TrainedStudent:
    """Train a student for a recipe; resumes from ``checkpoint`` where that file is of the same training.

    A system that learns in one pass is done in one, without checkpoints.

    On a CPU the same arguments give the same weights, interrupted or not, for the same number of threads and the same
    CPU instructions (``Compute.conditions``).

    Args:
        recipe: system, loss, optimiser and stopping rule.
        teacher: frozen, as its system's ``teacher`` makes it, on the device of ``compute``.
        images: normal training images, uint8 ``(N, H, W, 3)``, H and W multiples of 32, or of a vision
            transformer's patch.
        validation: held-out normal images; needed exactly when the recipe holds some out.
        epochs: length of the schedule; None for a recipe that learns in one pass.
        seed: seeds initialisation and the order of images, per epoch.
        compute: device, precision and memory budget.
        checkpoint, identity, checkpoint_seconds, on_epoch: as those of ``train``.
        cache: folder for what trainings of a system share; None makes it anew.

    Raises:
        ValueError: validation images given and not used, or needed and not given.
        RkdError: the recipe stops early, and its system has no loss to stop by.
        CheckpointError, StoreError: as those of ``train``.
    """
    if (validation is None) == recipe.held_out:
        raise ValueError(f"recipe {recipe.name} and validation images disagree about early stopping or normalisation")
    if compute.device.type == "cpu":
        keep_freed_memory()
    what = " ".join(identity.split()[:2])  # target and training, without the hash
    given = TaskInputs(images, validation, seed, compute, cache, epochs)
    if not isinstance(recipe, GradientRecipe):
        with bar(0, what, "step", inner=True), torch.no_grad(), full_precision():
            fitting = system_of(recipe).task(recipe, teacher, given)
            assert isinstance(fitting, FittingTask)  # what such a recipe's system gives
            return _fitted(fitting, identity)
    assert epochs is not None  # such a recipe has them
    if recipe.early_stopping is not None and not recipe.has_validation_loss:
        raise RkdError(f"{recipe.name}: {recipe.title} has no loss of held-out images to stop early by")
    with bar(epochs * len(images), what, "image", inner=True) as shown, compute.products():
        task = system_of(recipe).task(recipe, teacher, given)
        assert isinstance(task, TrainingTask)
        return train(
            recipe,
            task,
            images=len(images),
            epochs=epochs,
            seed=seed,
            checkpoint=checkpoint,
            identity=identity,
            checkpoint_seconds=checkpoint_seconds,
            on_epoch=on_epoch,
            shown=shown,
        )


def _fitted(task: FittingTask, identity: str) -> TrainedStudent:
    state = task.fit()
    require_finite(state, "in what was learnt", identity)
    kept = {k: v.detach().cpu().contiguous() for k, v in state.items()}
    return TrainedStudent(kept, 0.0, [], best_epoch=0, stopped_early=False, notes=task.notes)
