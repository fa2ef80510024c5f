"""ReContrast (Guo et al. 2023): Reverse KD whose encoder learns, too, and is held by a frozen one.

What the decoder makes of the learning encoder's features is to be the frozen encoder's, and the other way round; what
is to be met stops gradients, so that the encoder cannot give way to the decoder. Positions that are reconstructed well
already teach nothing. Written from the paper as it is recalled; the authors' code has no licence, and was not read.
"""

import math
from typing import Any

import torch
from torch import Tensor

from rkd_pipeline.data.rows import Images
from rkd_pipeline.detectors import System
from rkd_pipeline.detectors.anomaly_map import anomaly_map
from rkd_pipeline.detectors.image_student import BatchDetector, ImagesAndFeatures
from rkd_pipeline.device import place, upload
from rkd_pipeline.models.contrastive_reconstruction import ContrastiveReconstruction
from rkd_pipeline.models.multiresolution import Source
from rkd_pipeline.models.weights import TeacherWeights
from rkd_pipeline.recipes.distillation_recipes import ReContrast
from rkd_pipeline.recipes.recipe import GradientRecipe
from rkd_pipeline.training.features import FeatureSource
from rkd_pipeline.training.losses import Features, discrepancy, l_kd_flat
from rkd_pipeline.training.task import TaskInputs, TrainingTask


def mined(wanted: Features, reconstructed: Features, hardness: Tensor) -> Tensor:
    """Global cosine distance of each image, summed over scales: ``(N,)``; easy positions send no gradient back.

    Easy are, of each scale, those whose discrepancy is below the batch's mean plus ``hardness`` deviations. The value
    does not depend on ``hardness``, a scalar on the device.
    """
    hard = []
    for a, b in zip(wanted, reconstructed, strict=True):
        with torch.no_grad():
            at_each = discrepancy(a, b)
            easy = at_each < at_each.mean() + hardness * at_each.std()
        hard.append(torch.where(easy[:, None], b.detach(), b))
    return l_kd_flat(wanted, hard)


class ReContrastTask(ImagesAndFeatures):
    """The encoder starts as the frozen one, and learns slowly; embedding and decoder are drawn anew."""

    # The learning rate drops, which a recorded step would not see.
    recordable = False

    student: ContrastiveReconstruction

    def __init__(self, recipe: ReContrast, source: Source, given: TaskInputs) -> None:
        super().__init__(new_student(recipe, source, given.seed), source, given)
        self._recipe = recipe
        self._steps = math.ceil(len(given.images) / recipe.batch_size)
        self._done, self._total = 0, self._steps

    def optimisers(self, recipe: GradientRecipe, *, on_gpu: bool) -> list[torch.optim.Optimizer]:
        """AdamW, with a rate of its own for the encoder."""
        own = self._recipe
        groups: list[dict[str, Any]] = [
            {"params": self.student.distillation.parameters(), "lr": own.learning_rate},
            {"params": self.student.encoder.parameters(), "lr": own.encoder_rate},
        ]
        return [torch.optim.AdamW(groups, betas=own.betas, weight_decay=own.weight_decay, fused=True)]

    def start_epoch(self, epoch: int, epochs: int, optimisers: list[torch.optim.Optimizer]) -> None:
        """Sets the learning rates, and where in the training the epoch's steps are."""
        super().start_epoch(epoch, epochs, optimisers)
        own = self._recipe
        self._done, self._total = epoch * self._steps, epochs * self._steps
        factor = own.drop if epoch >= own.drop_at * epochs else 1.0
        for group, rate in zip(optimisers[0].param_groups, (own.learning_rate, own.encoder_rate), strict=True):
            group["lr"] = factor * rate
        if not own.renews_statistics:
            self.student.encoder.eval()

    def batch(self, indices: Tensor, generator: torch.Generator) -> list[Tensor]:
        """The images, the frozen encoder's features of them, and how hard a position must be to teach."""
        gathered = super().batch(indices, generator)
        self._done += 1
        return gathered

    def losses(self, batch: list[Tensor]) -> Tensor:
        """Half of what is decoded from the learning encoder, half of what is decoded from the frozen one."""
        images, *frozen, hardness = batch
        with self._compute.autocast():
            own, from_own, from_frozen = self.student(self._source.prepared(images), frozen)
        stopped = [f.detach() for f in own]
        return (mined(frozen, from_own, hardness) + mined(stopped, from_frozen, hardness)) / 2

    def _batch(self, features: FeatureSource, images: Images, indices: Tensor) -> list[Tensor]:
        first, last = self._recipe.mining
        grown = min(1.0, self._done / (self._recipe.mining_grows * self._total))
        hardness = upload(torch.tensor(first + (last - first) * grown), self._compute.device)
        return [*super()._batch(features, images, indices), hardness]


def new_student(recipe: ReContrast, source: Source, seed: int) -> ContrastiveReconstruction:
    """A decoder drawn from ``seed`` on the CPU, and an encoder with the source's weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        student = ContrastiveReconstruction(source.arch.name, recipe.oce_width)
    student.encoder.parts.load_state_dict(source.parts.state_dict())
    return student


class ReContrastDetector(BatchDetector):
    """Frozen encoder, and what was trained."""

    def __init__(
        self, recipe: ReContrast, source: Source, student: ContrastiveReconstruction, device: torch.device
    ) -> None:
        super().__init__(device)
        self.recipe, self.source, self.student = recipe, source, student.eval().requires_grad_(False)

    @torch.inference_mode()
    def scored(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Discrepancies of both encoders' features and what is decoded from the other's: six maps, added, smoothed."""
        x = self.source.prepared(images)
        frozen = self.source.layer_outputs(x)
        own, from_own, from_frozen = self.student(x, frozen)
        pairs = [*zip(frozen, from_own, strict=True), *zip(own, from_frozen, strict=True)]
        return anomaly_map([discrepancy(a, b) for a, b in pairs], x.shape[-1], sigma=self.recipe.sigma), {}


class _ReContrastSystem(System[ReContrast, Source]):
    def teacher(self, weights: TeacherWeights, recipe: ReContrast) -> Source:
        return Source(weights, normalise=True)

    def task(self, recipe: ReContrast, teacher: Source, given: TaskInputs) -> TrainingTask:
        return ReContrastTask(recipe, teacher, given)

    def detector(
        self, recipe: ReContrast, teacher: Source, state: dict[str, Tensor], lambda_: float, device: torch.device
    ) -> ReContrastDetector:
        student = ContrastiveReconstruction(teacher.arch.name, recipe.oce_width)
        student.load_state_dict(state)
        return ReContrastDetector(recipe, place(teacher, device), place(student, device), device)


SYSTEM = _ReContrastSystem()
