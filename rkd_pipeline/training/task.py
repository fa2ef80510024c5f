"""What a training's steps compute: the interface between the loop and a system."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from rkd_pipeline.data.rows import Images
    from rkd_pipeline.device import Compute


@dataclass(frozen=True)
class TaskInputs:
    """What every system gets for a training, besides its recipe and its teacher.

    Attributes:
        images: normal training images, uint8 ``(N, S, S, 3)``.
        validation: held-out normal images, where the recipe holds some out.
        seed: of the initial weights.
        compute: device, precision and memory budget.
        cache: a folder for what trainings of a system share; None makes it anew.
    """

    images: "Images"
    validation: "Images | None"
    seed: int
    compute: "Compute"
    cache: Path | None = None


class TrainingTask(ABC):
    """One training: what its steps compute.

    Attributes:
        student: on the device; its parameters that take gradients are trained, its whole state is the result.
        lambda_: set by the loop, from ``begin`` or from the checkpoint.
        notes: what went into the training besides images and teacher, for provenance.
    """

    student: "nn.Module"
    lambda_: float
    notes: dict[str, str]

    @abstractmethod
    def begin(self) -> float:
        """Before the first step of a new training, never of a resumed one; returns lambda, 0 where there is none."""

    @abstractmethod
    def batch(self, indices: "Tensor", generator: "torch.Generator") -> "list[Tensor]":
        """What a step needs of the training images at ``indices``, on the device; what is drawn, by ``generator``."""

    @abstractmethod
    def losses(self, batch: "list[Tensor]") -> "Tensor":
        """The loss of each image of a batch, ``(N,)``, by operations on the device alone.

        A GPU records them once for each shape of batch and repeats them (``step.py``): nothing here may depend on
        values that are read back, or differ from call to call but for the batch and the student's weights.
        """

    @abstractmethod
    def validation_loss(self) -> float:
        """Mean loss of the held-out images; the student is in eval mode, gradients are off."""

    @abstractmethod
    def finish(self) -> None:
        """After the last step, with the weights that are kept: fills the student's buffers that normalise scores."""
