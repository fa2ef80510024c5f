"""Relation-based KD (RKDAD, Cheng et al. 2021): a student of the teacher's shape learns relations between layers.

What is distilled is the matrix of inner products of the features of two adjacent layers (the "flow of solution
procedure" of Yim et al. 2017). It sums over positions, so the image's score is the loss; the map is its gradient with
respect to the pixels, as Multiresolution KD makes one.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from rkd_pipeline.detectors import System
from rkd_pipeline.detectors.anomaly_map import smoothed
from rkd_pipeline.detectors.image_student import BatchDetector, ImageStudentTask, pixel_gradient
from rkd_pipeline.device import place
from rkd_pipeline.models.multiresolution import Source
from rkd_pipeline.models.twin import Twin, new_twin
from rkd_pipeline.models.weights import TeacherWeights
from rkd_pipeline.recipes.distillation_recipes import RKDAD
from rkd_pipeline.training.losses import Features
from rkd_pipeline.training.task import TaskInputs, TrainingTask


def relation(finer: Tensor, coarser: Tensor) -> Tensor:
    """Inner products of the channels of two layers, averaged over positions: ``(N, C_finer, C_coarser)``.

    Yim et al., equation 1. Of layers of different size the finer is max-pooled to the other's, as they do.
    """
    pooled = F.adaptive_max_pool2d(finer.float(), coarser.shape[-2:])
    return torch.bmm(pooled.flatten(2), coarser.float().flatten(2).mT) / (coarser.shape[-2] * coarser.shape[-1])


def relations(features: Features) -> list[Tensor]:
    """Of each layer and the next: one matrix less than there are layers."""
    return [relation(a, b) for a, b in pairwise(features)]


def loss(teacher: Sequence[Tensor], student: Sequence[Tensor]) -> Tensor:
    """Squared difference of both networks' matrices, summed over entries and matrices: ``(N,)`` (Yim et al., eq. 2)."""
    of_pairs = [(a - b).square().sum((1, 2)) for a, b in zip(teacher, student, strict=True)]
    return torch.stack(of_pairs).sum(0)


class RKDADTask(ImageStudentTask):
    """The student learns the relations between the teacher's layers."""

    def __init__(self, recipe: RKDAD, source: Source, given: TaskInputs) -> None:
        super().__init__(new_twin(source.arch.name, given.seed), source, given)

    def compared(self, source: Features, student: Features) -> Tensor:
        """See ``loss``."""
        return loss(relations(source), relations(student))


class RKDADDetector(BatchDetector):
    """Teacher and trained student."""

    def __init__(self, recipe: RKDAD, source: Source, student: Twin, device: torch.device) -> None:
        super().__init__(device)
        self.recipe, self.source, self.student = recipe, source, student.eval().requires_grad_(False)

    def loss(self, x: Tensor) -> Tensor:
        """Of prepared images ``(N, 3, S, S)``: ``(N,)``."""
        return loss(relations(self.source.layer_outputs(x)), relations(self.student(x)))

    def scored(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Sums over colours of the gradient's absolute values, smoothed; ``image_score`` is the loss."""
        x = self.source.prepared(images)
        with torch.no_grad():
            of_images = self.loss(x)
        gradient = pixel_gradient(self.loss, x).abs().sum(1)
        return smoothed(gradient, self.recipe.sigma), {"image_score": of_images}


class _RKDADSystem(System[RKDAD, Source]):
    def teacher(self, weights: TeacherWeights, recipe: RKDAD) -> Source:
        return Source(weights, normalise=True)

    def task(self, recipe: RKDAD, teacher: Source, given: TaskInputs) -> TrainingTask:
        return RKDADTask(recipe, teacher, given)

    def detector(
        self, recipe: RKDAD, teacher: Source, state: dict[str, Tensor], lambda_: float, device: torch.device
    ) -> RKDADDetector:
        student = Twin(teacher.arch.name)
        student.load_state_dict(state)
        return RKDADDetector(recipe, place(teacher, device), place(student, device), device)


SYSTEM = _RKDADSystem()
