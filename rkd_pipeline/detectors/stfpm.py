"""Student-Teacher Feature Pyramid Matching (Wang et al. 2021): a student of the teacher's shape learns directions.

Both networks' features are brought to length 1 at each position; their squared distance is the loss, and its product
over three scales the map (official code, ``main.py``).
"""

import torch
from torch import Tensor
from torch.optim import SGD, Optimizer

from rkd_pipeline.detectors import System
from rkd_pipeline.detectors.anomaly_map import anomaly_map
from rkd_pipeline.detectors.image_student import BatchDetector, ImageStudentTask
from rkd_pipeline.device import place
from rkd_pipeline.models.multiresolution import Source
from rkd_pipeline.models.twin import Twin, new_twin
from rkd_pipeline.models.weights import TeacherWeights
from rkd_pipeline.recipes.distillation_recipes import STFPM
from rkd_pipeline.recipes.recipe import GradientRecipe
from rkd_pipeline.training.losses import Features, discrepancy
from rkd_pipeline.training.task import TaskInputs, TrainingTask


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Of features ``(N, C, H, W)`` brought to length 1 at each position: ``(N, H, W)``, in [0, 4].

    Between vectors of length 1 that is ``2 - 2 cos``. Where a feature is zero it has no direction, and this is 2.
    """
    return 2 * discrepancy(a, b)


def loss(teacher: Features, student: Features) -> Tensor:
    """The loss of each image, ``(N,)``: squared distances, averaged over positions, summed over scales.

    As the official code has it. The paper's equations 1 to 3 and anomalib have half of that; anomalib adds the losses
    of a batch, where the paper and the official code average them.
    """
    scales = [squared_distances(a, b).mean((1, 2)) for a, b in zip(teacher, student, strict=True)]
    return torch.stack(scales).sum(0)


class STFPMTask(ImageStudentTask):
    """The student learns by SGD with momentum."""

    def __init__(self, recipe: STFPM, source: Source, given: TaskInputs) -> None:
        super().__init__(new_twin(source.arch.name, given.seed), source, given)
        self._recipe = recipe

    def optimisers(self, recipe: GradientRecipe, *, on_gpu: bool) -> list[Optimizer]:
        """SGD over all of the student."""
        own = self._recipe
        sgd = SGD(self.student.parameters(), own.learning_rate, momentum=own.momentum, weight_decay=own.weight_decay)
        return [sgd]

    def compared(self, source: Features, student: Features) -> Tensor:
        """See ``loss``."""
        return loss(source, student)


class STFPMDetector(BatchDetector):
    """Teacher and trained student."""

    def __init__(self, recipe: STFPM, source: Source, student: Twin, device: torch.device) -> None:
        super().__init__(device)
        self.recipe, self.source, self.student = recipe, source, student.eval().requires_grad_(False)

    @torch.inference_mode()
    def scored(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Squared distances, multiplied on the grid of the finest scale, brought to the image's size and smoothed."""
        x = self.source.prepared(images)
        pairs = zip(self.source.layer_outputs(x), self.student(x), strict=True)
        scales = [squared_distances(a, b) for a, b in pairs]
        product = anomaly_map(scales, scales[0].shape[-1], fusion="product", sigma=0, aligned=False)
        return anomaly_map([product], x.shape[-1], sigma=self.recipe.sigma, aligned=False), {}


class _STFPMSystem(System[STFPM, Source]):
    def teacher(self, weights: TeacherWeights, recipe: STFPM) -> Source:
        return Source(weights, normalise=True)

    def task(self, recipe: STFPM, teacher: Source, given: TaskInputs) -> TrainingTask:
        return STFPMTask(recipe, teacher, given)

    def detector(
        self, recipe: STFPM, teacher: Source, state: dict[str, Tensor], lambda_: float, device: torch.device
    ) -> STFPMDetector:
        student = Twin(teacher.arch.name)
        student.load_state_dict(state)
        return STFPMDetector(recipe, place(teacher, device), place(student, device), device)


SYSTEM = _STFPMSystem()
