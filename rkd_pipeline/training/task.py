"""What a training computes: the interface between ``detectors/fit.py``, the loop, and a system.

A system learns by steps (``TrainingTask``), or in one pass over the images (``FittingTask``).
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from torch.optim import Optimizer

    from rkd_pipeline.data.rows import Images
    from rkd_pipeline.device import Compute
    from rkd_pipeline.recipes.recipe import GradientRecipe


@dataclass(frozen=True)
class TaskInputs:
    """What every system gets for a training, besides its recipe and its teacher.

    Attributes:
        images: normal training images, uint8 ``(N, S, S, 3)``.
        validation: held-out normal images, where the recipe holds some out.
        seed: of the initial weights, and of what is drawn.
        compute: device, precision and memory budget.
        cache: a folder for what trainings of a system share; None makes it anew.
        epochs: length of the schedule; None where the recipe learns in one pass.
    """

    images: "Images"
    validation: "Images | None"
    seed: int
    compute: "Compute"
    cache: Path | None = None
    epochs: int | None = None


class FittingTask(ABC):
    """A system that learns in one pass, without steps: a Gaussian, a bank of features, a support vector machine.

    Attributes:
        notes: what went into it besides images and teacher, for provenance.
    """

    notes: dict[str, str]

    @abstractmethod
    def fit(self) -> "dict[str, Tensor]":
        """Learn from all training images; returns what a detector needs, of any size."""


class TrainingTask(ABC):
    """One training: what its steps compute.

    Attributes:
        student: on the device; its parameters that take gradients are trained, its whole state is the result.
        lambda_: set by the loop, from ``begin`` or from the checkpoint.
        epoch: the one that is trained now, from 0.
        notes: what went into the training besides images and teacher, for provenance.
        indices_on: where ``batch`` takes its indices; a device where all that it gathers lies on it, so that an epoch's
            order goes there once and not in each step.
    """

    # A step can be recorded as a CUDA graph. Not one whose learning rate changes, or that has several updates in turn.
    recordable: ClassVar[bool] = True

    student: "nn.Module"
    lambda_: float
    epoch: int
    notes: dict[str, str]
    indices_on: "torch.device | str" = "cpu"

    def optimisers(self, recipe: "GradientRecipe", *, on_gpu: bool) -> "list[Optimizer]":
        """What updates the student: Adam over all that learns, unless a system has others. Checkpoints hold them."""
        import torch

        learning = [p for p in self.student.parameters() if p.requires_grad]
        adam = torch.optim.Adam(
            learning, recipe.learning_rate, recipe.betas, weight_decay=recipe.weight_decay, fused=True,
            capturable=on_gpu,
        )  # fmt: skip
        return [adam]

    def start_epoch(self, epoch: int, epochs: int, optimisers: "list[Optimizer]") -> None:
        """Before an epoch (from 0) of ``epochs``; a system whose learning rate changes sets it here."""
        self.epoch = epoch

    def update(self, batch: "list[Tensor]", optimisers: "list[Optimizer]") -> "Tensor":
        """One step: updates the student, and returns the losses before that, ``(N,)``, without gradients."""
        from rkd_pipeline.training.weight_gradients import by_products

        [optimiser] = optimisers
        with by_products(self.student):
            losses = self.losses(batch)
        losses.mean().backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        return losses.detach()

    @abstractmethod
    def begin(self) -> float:
        """Before the first step of a new training, never of a resumed one; returns lambda, 0 where there is none."""

    @abstractmethod
    def batch(self, indices: "Tensor", generator: "torch.Generator") -> "list[Tensor]":
        """What a step needs of the training images at ``indices``, on the device; what is drawn, by ``generator``.

        Indices come on ``indices_on``. What goes to a GPU goes there by ``device.upload``, which does not wait for it.
        """

    @abstractmethod
    def losses(self, batch: "list[Tensor]") -> "Tensor":
        """The loss of each image of a batch, ``(N,)``, by operations on the device alone.

        A GPU records them once for each shape of batch and repeats them (``step.py``): nothing here may depend on
        values that are read back, or differ from call to call but for the batch and the student's weights.
        """

    def validation_loss(self) -> float | None:
        """Mean loss of the held-out images; the student is in eval mode, gradients are off.

        None of a system that has no such loss: its recipes say so (``has_validation_loss``), and cannot stop early.
        """
        return None

    @abstractmethod
    def finish(self) -> None:
        """After the last step, with the weights that are kept: fills the student's buffers that normalise scores."""
