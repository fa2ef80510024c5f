"""RD++ (Tien et al. 2023): Reverse KD from projected features, which are taught to leave out what is not normal.

In training a part of each image is covered with noise, a pseudo-anomaly. Projected features of the noisy image are to
be those of the clean one (reconstruction), those of the clean one near the teacher's of the noisy one (contrast), and
those of different images alike wherever they are (optimal transport). Maps are those of Reverse KD.
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rkd_pipeline.data.rows import Images
from rkd_pipeline.detectors import System
from rkd_pipeline.detectors.anomaly_map import anomaly_map
from rkd_pipeline.detectors.image_student import BatchDetector
from rkd_pipeline.device import place, upload
from rkd_pipeline.models.projection import ProjectedReverseDistillation
from rkd_pipeline.models.teacher import Teacher
from rkd_pipeline.models.weights import TeacherWeights
from rkd_pipeline.recipes.distillation_recipes import RDPlusPlus
from rkd_pipeline.recipes.recipe import GradientRecipe
from rkd_pipeline.training.features import EVALUATION_BATCH, FeatureSource
from rkd_pipeline.training.loss_sum import LossSum
from rkd_pipeline.training.losses import Features, discrepancy, l_kd, l_kd_flat
from rkd_pipeline.training.optimal_transport import transport_cost
from rkd_pipeline.training.task import TaskInputs, TrainingTask

_OCTAVES, _PERSISTENCE, _WAVELENGTH = 6, 0.6, 32  # of the noise: halved wavelengths, in pixels, at falling amplitudes
_SMALLEST, _OF_SIDE = 10, 256  # pixels of a patch of noise, on an image of that side; the largest is an eighth of it
_TRANSPORT_SIDE = 8  # positions along a side between which features are transported
_RECONSTRUCTION, _CONTRAST = 0.01, 0.1
_VALIDATION_DRAW = 1  # seed of the noise on held-out images: the same in every epoch


def octave_noise(height: int, width: int, generator: torch.Generator) -> Tensor:
    """Value noise of six octaves, one slice per colour, ``(height, width, 3)``, around 0 and rarely beyond -1 and 1.

    Numbers in [-1, 1] on a lattice in three dimensions, interpolated linearly; colours are a pixel apart in the third.
    Simplex noise, which the official code uses, has the same octaves and interpolates more smoothly.
    """
    total = torch.zeros(height, width, 3)
    for octave in range(_OCTAVES):
        spacing = _WAVELENGTH / 2**octave
        weights = [_interpolation(length, spacing) for length in (height, width, 3)]
        lattice = 2 * torch.rand([w.shape[1] for w in weights], generator=generator) - 1
        total += _PERSISTENCE**octave * torch.einsum("ya,xb,zc,abc->yxz", *weights, lattice)
    return total


def _interpolation(length: int, spacing: float) -> Tensor:
    """Weights of lattice points for each pixel of a line, ``(length, points)``."""
    at = torch.arange(length) / spacing
    points = torch.arange(math.floor((length - 1) / spacing) + 2)
    return (1 - (at[:, None] - points).abs()).clamp_min(0)


def pseudo_anomalies(images: np.ndarray, strength: float, generator: torch.Generator) -> Tensor:
    """uint8 images ``(N, S, S, 3)`` with noise added in a rectangle of each, in [0, 255] and a little beyond.

    Sides of rectangles are drawn as the official code draws them: 10 to 31 pixels of 256.
    """
    side = images.shape[1]
    smallest, largest = max(2, _SMALLEST * side // _OF_SIDE), side // 8
    noisy = torch.from_numpy(np.ascontiguousarray(images)).float()
    for image in noisy:
        height, width = torch.randint(smallest, max(largest, smallest + 1), (2,), generator=generator).tolist()
        top, left = (int(torch.randint(1, side - s, (), generator=generator)) for s in (height, width))
        image[top : top + height, left : left + width] += 255 * strength * octave_noise(height, width, generator)
    return noisy


def partners(count: int, generator: torch.Generator) -> Tensor:
    """Another image of the batch for each, int64 ``(count,)``: a random cycle; itself where there is but one."""
    cycle = torch.randperm(count, generator=generator)
    return torch.empty_like(cycle).scatter_(0, cycle, cycle.roll(1))


def projection_loss(
    noisy: Features, projected_noisy: Features, projected: Features, partner: Tensor, transport: float
) -> Tensor:
    """What teaches the projections, ``(N,)``: transport, reconstruction and contrast, each summed over scales.

    Weights are the official code's. So is the contrast: it draws the clean image's projection towards the teacher's
    features of the noisy image, which keeps it from losing what those hold.
    """
    reconstruction, contrast = l_kd(projected_noisy, projected), l_kd_flat(noisy, projected)
    total = _RECONSTRUCTION * reconstruction + _CONTRAST * contrast
    if transport:
        coarse = [torch.nn.functional.adaptive_avg_pool2d(f, min(_TRANSPORT_SIDE, f.shape[-1])) for f in projected]
        total = total + transport * torch.stack([transport_cost(f, f[partner]) for f in coarse]).sum(0)
    return total / (1 + _RECONSTRUCTION + _CONTRAST)


class RDPlusPlusTask(TrainingTask):
    """Features of clean images are kept where the memory budget allows; those of noisy ones are new in every step."""

    student: ProjectedReverseDistillation

    def __init__(self, recipe: RDPlusPlus, teacher: Teacher, given: TaskInputs) -> None:
        self.lambda_, self.notes = 0.0, {}
        self._recipe, self._teacher, self._compute = recipe, teacher, given.compute
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(given.seed)
            student = ProjectedReverseDistillation(teacher.arch, recipe.oce_width)
        self.student = place(student, given.compute.device)
        self._images, self._validation = given.images, given.validation
        sources = FeatureSource.within_one_budget(teacher, given.images, given.validation, given.compute)
        self._features, self._held_out = sources

    def optimisers(self, recipe: GradientRecipe, *, on_gpu: bool) -> list[torch.optim.Optimizer]:
        """Adam, with a rate of its own for the projections."""
        own = self._recipe
        groups: list[dict[str, Any]] = [
            {"params": self.student.projections.parameters(), "lr": own.projection_rate},
            {"params": self.student.distillation.parameters()},
        ]
        return [torch.optim.Adam(groups, own.learning_rate, own.betas, fused=True, capturable=on_gpu)]

    def begin(self) -> float:
        """No lambda."""
        return 0.0

    def batch(self, indices: Tensor, generator: torch.Generator) -> list[Tensor]:
        """The teacher's features of clean images and of noisy ones, and each image's partner."""
        return self._batch(self._features, self._images, indices, generator)

    def losses(self, batch: list[Tensor]) -> Tensor:
        """Reverse KD's loss as the official code has it, and that of the projections by its weight."""
        scales = len(self._teacher.channels)
        clean, noisy, partner = batch[:scales], batch[scales : 2 * scales], batch[-1]
        with self._compute.autocast():
            projected, projected_noisy = self.student.projected(clean), self.student.projected(noisy)
            reconstructed = self.student.distillation(projected)
        of_projections = projection_loss(noisy, projected_noisy, projected, partner, self._recipe.transport)
        return l_kd_flat(clean, reconstructed) + self._recipe.projection_weight * of_projections

    def validation_loss(self) -> float:
        """Mean of the same loss over the held-out images, always with the same noise."""
        assert self._validation is not None  # the loop asks only where there are some
        assert self._held_out is not None
        generator, losses = torch.Generator().manual_seed(_VALIDATION_DRAW), LossSum.of(self._compute.device)
        for indices in torch.arange(len(self._validation)).split(EVALUATION_BATCH):
            batch = self._batch(self._held_out, self._validation, indices, generator)
            losses.add(self.losses(batch))
        return losses.total() / len(self._validation)

    def finish(self) -> None:
        """Nothing: scores are not normalised."""

    def _batch(
        self, features: FeatureSource, images: Images, indices: Tensor, generator: torch.Generator
    ) -> list[Tensor]:
        device = self._compute.device
        noisy = upload(pseudo_anomalies(images[indices.numpy()], self._recipe.noise, generator), device)
        partner = upload(partners(len(indices), generator), device)
        return [*features.batch(indices), *self._teacher(noisy), partner]


class RDPlusPlusDetector(BatchDetector):
    """Teacher and trained student."""

    def __init__(
        self, recipe: RDPlusPlus, teacher: Teacher, student: ProjectedReverseDistillation, device: torch.device
    ) -> None:
        super().__init__(device)
        self.recipe, self.teacher, self.student = recipe, teacher, student.eval().requires_grad_(False)

    @torch.inference_mode()
    def scored(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Discrepancies of the teacher's features and their reconstruction, added and smoothed as Reverse KD does."""
        features = self.teacher(images)
        scales = [discrepancy(a, b) for a, b in zip(features, self.student(features), strict=True)]
        return anomaly_map(scales, images.shape[1], sigma=self.recipe.sigma), {}


class _RDPlusPlusSystem(System[RDPlusPlus, Teacher]):
    def teacher(self, weights: TeacherWeights, recipe: RDPlusPlus) -> Teacher:
        return Teacher(weights)

    def task(self, recipe: RDPlusPlus, teacher: Teacher, given: TaskInputs) -> TrainingTask:
        return RDPlusPlusTask(recipe, teacher, given)

    def detector(
        self, recipe: RDPlusPlus, teacher: Teacher, state: dict[str, Tensor], lambda_: float, device: torch.device
    ) -> RDPlusPlusDetector:
        student = ProjectedReverseDistillation(teacher.arch, recipe.oce_width)
        student.load_state_dict(state)
        return RDPlusPlusDetector(recipe, place(teacher, device), place(student, device), device)


SYSTEM = _RDPlusPlusSystem()
