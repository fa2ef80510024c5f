"""Any system's training, from images to a trained student."""

from pathlib import Path

from torch import nn

from rkd_pipeline.data.rows import Images
from rkd_pipeline.detectors import system_of
from rkd_pipeline.device import Compute
from rkd_pipeline.progress import bar
from rkd_pipeline.recipes.recipe import Recipe
from rkd_pipeline.training.loop import OnEpoch, TrainedStudent, train
from rkd_pipeline.training.task import TaskInputs


def fit(
    recipe: Recipe,
    teacher: nn.Module,
    images: Images,
    validation: Images | None,
    *,
    epochs: int,
    seed: int,
    compute: Compute,
    checkpoint: Path,
    identity: str,
    checkpoint_seconds: float = 30.0,
    on_epoch: OnEpoch = lambda epoch: None,
    cache: Path | None = None,
) -> TrainedStudent:
    """Train a student for a recipe; resumes from ``checkpoint`` where that file is of the same training.

    On a CPU the same arguments give the same weights, interrupted or not, for the same number of threads and the same
    CPU instructions (``Compute.conditions``).

    Args:
        recipe: system, loss, optimiser and stopping rule.
        teacher: frozen, as its system's ``teacher`` makes it, on the device of ``compute``.
        images: normal training images, uint8 ``(N, H, W, 3)``, H and W multiples of 32.
        validation: held-out normal images; needed exactly when the recipe holds some out.
        epochs: length of the schedule.
        seed: seeds initialisation and the order of images, per epoch.
        compute: device, precision and memory budget.
        checkpoint, identity, checkpoint_seconds, on_epoch: as those of ``train``.
        cache: folder for what trainings of a system share; None makes it anew.

    Raises:
        ValueError: validation images given and not used, or needed and not given.
        CheckpointError, StoreError: as those of ``train``.
    """
    if (validation is None) == recipe.held_out:
        raise ValueError(f"recipe {recipe.name} and validation images disagree about early stopping or normalisation")
    what = " ".join(identity.split()[:2])  # target and training, without the hash
    with bar(epochs * len(images), what, "image", inner=True) as shown, compute.products():
        return train(
            recipe,
            system_of(recipe).task(recipe, teacher, TaskInputs(images, validation, seed, compute, cache)),
            images=len(images),
            epochs=epochs,
            seed=seed,
            checkpoint=checkpoint,
            identity=identity,
            checkpoint_seconds=checkpoint_seconds,
            on_epoch=on_epoch,
            shown=shown,
        )
