"""Reverse KD (Deng and Li 2022; the paper, 4.1): the student gives the teacher's features back from one embedding.

Equations 1 to 4 are the training losses, equation 5 the map.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from rkd_pipeline.data.rows import Images
from rkd_pipeline.detectors import Detector, System
from rkd_pipeline.detectors.anomaly_map import Scores, anomaly_map
from rkd_pipeline.device import Compute, place
from rkd_pipeline.models.reverse_distillation import ReverseDistillation
from rkd_pipeline.models.teacher import Teacher
from rkd_pipeline.models.weights import TeacherWeights
from rkd_pipeline.progress import batches
from rkd_pipeline.recipes.recipe import GradientRecipe, ReverseKD
from rkd_pipeline.training.features import EVALUATION_BATCH, FeatureSource
from rkd_pipeline.training.loss_sum import LossSum
from rkd_pipeline.training.losses import Features, discrepancy, l_kd, l_val, training_loss
from rkd_pipeline.training.rate_schedule import relative_rate
from rkd_pipeline.training.task import TaskInputs, TrainingTask


class ReverseKDTask(TrainingTask):
    """Features are kept where the memory budget allows, so that a step runs the student alone."""

    def __init__(self, recipe: ReverseKD, teacher: Teacher, given: TaskInputs) -> None:
        self.lambda_, self.notes = 0.0, {}
        self._recipe, self._compute = recipe, given.compute
        self._student = self.student = place(new_student(recipe, teacher, given.seed), given.compute.device)
        sources = FeatureSource.within_one_budget(teacher, given.images, given.validation, given.compute)
        self._features, self._held_out = sources
        self.indices_on = self._features.indices_on

    def optimisers(self, recipe: GradientRecipe, *, on_gpu: bool) -> list[torch.optim.Optimizer]:
        """Adam; where a GPU repeats recorded steps, which would repeat a number, its changing rate is a tensor."""
        made = super().optimisers(recipe, on_gpu=on_gpu)
        if on_gpu and self._recipe.schedule != "constant":
            for group in made[0].param_groups:
                group["lr"] = torch.tensor(recipe.learning_rate, device=self._compute.device)
        return made

    def start_epoch(self, epoch: int, epochs: int, optimisers: list[torch.optim.Optimizer]) -> None:
        """Sets the learning rate."""
        super().start_epoch(epoch, epochs, optimisers)
        rate = self._recipe.learning_rate * relative_rate(self._recipe.schedule, epoch, epochs)
        for group in optimisers[0].param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def begin(self) -> float:
        """lambda of equation 4."""
        return loss_balance(self._student, self._features, self._recipe, self._compute)

    def batch(self, indices: Tensor, generator: torch.Generator) -> list[Tensor]:
        """The teacher's features."""
        return self._features.batch(indices)

    def losses(self, batch: list[Tensor]) -> Tensor:
        """Equation 2 or 4, or the official code's loss."""
        loss_of: Callable[[Features, Features], Tensor] = training_loss(
            self._recipe.loss, self.lambda_, self._recipe.val_reduction
        )
        with self._compute.autocast():
            reconstructed = self._student(batch)
        return loss_of(batch, reconstructed)

    def validation_loss(self) -> float:
        """Mean of the same loss over the held-out images."""
        assert self._held_out is not None  # the loop asks only where there are some
        losses = LossSum.of(self._compute.device)
        for batch in self._held_out.in_order(EVALUATION_BATCH):
            losses.add(self.losses(batch))
        return losses.total() / len(self._held_out)

    def finish(self) -> None:
        """Nothing: scores are not normalised."""


def new_student(recipe: ReverseKD, teacher: Teacher, seed: int) -> ReverseDistillation:
    """An untrained student, drawn from ``seed`` on the CPU: the same on every device."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ReverseDistillation(teacher.arch, recipe.oce_width)


def _oce_depth_in(state: dict[str, Tensor]) -> int:
    """Of a trained student: recipes that follow anomalib once had as many blocks for ResNet-34 as RD4AD."""
    return len({name.split(".")[2] for name in state if name.startswith("ocbe.oce.")})


@torch.no_grad()
def loss_balance(student: ReverseDistillation, features: FeatureSource, recipe: ReverseKD, compute: Compute) -> float:
    """lambda of equation 4: the recipe's, or L_val / L_KD over all training images, before the first step.

    The paper: lambda scales the cosine term to the order of magnitude of the other. BatchNorm uses batch statistics,
    as in the first step; its running statistics are put back.
    """
    if recipe.lambda_ is not None:
        return recipe.lambda_
    before = {k: v.clone() for k, v in student.named_buffers()}
    student.train()
    val = kd = 0.0
    for batch in features.in_order(recipe.batch_size):
        with compute.autocast():
            reconstructed = student(batch)
        val += float(l_val(batch, reconstructed, recipe.val_reduction).sum())
        kd += float(l_kd(batch, reconstructed).sum())
    for name, buffer in student.named_buffers():
        buffer.copy_(before[name])
    return val / kd


@torch.inference_mode()
def score(
    teacher: Teacher,
    student: ReverseDistillation,
    images: Images,
    recipe: ReverseKD,
    lambda_: float,
    *,
    batch_size: int = 32,
) -> Scores:
    """Score images, uint8 ``(N, S, S, 3)``, on the device where teacher and student are."""
    device = next(student.parameters()).device
    student.eval()
    maps, kd, val = [], [], []
    for start in batches(len(images), batch_size, "score images"):
        batch = torch.from_numpy(np.ascontiguousarray(images[start : start + batch_size])).to(device)
        features = teacher(batch)
        reconstructed = student(features)
        scales = [discrepancy(a, b) for a, b in zip(features, reconstructed, strict=True)]
        maps.append(anomaly_map(scales, images.shape[1], fusion=recipe.fusion, sigma=recipe.sigma).cpu())
        kd.append(l_kd(features, reconstructed).cpu())
        val.append(l_val(features, reconstructed, recipe.val_reduction).cpu())
    stacked = torch.cat(maps).numpy()
    l_kd_score, l_val_score = (torch.cat(part).double().numpy() for part in (kd, val))
    return Scores(
        stacked,
        {
            "map_max": stacked.max(axis=(1, 2)).astype(np.float64),
            "l_kd": l_kd_score,
            "l_val": l_val_score,
            "l_mkd": l_val_score + lambda_ * l_kd_score,
        },
    )


class ReverseKDDetector(Detector):
    """Teacher and trained student."""

    def __init__(self, recipe: ReverseKD, teacher: Teacher, student: ReverseDistillation, lambda_: float) -> None:
        self.recipe, self.teacher, self.student, self.lambda_ = recipe, teacher, student, lambda_

    def score(self, images: Images, *, batch_size: int = 32) -> Scores:
        """Maps by equation 5; scores by the map's maximum and equations 2 to 4."""
        return score(self.teacher, self.student, images, self.recipe, self.lambda_, batch_size=batch_size)


class _ReverseKDSystem(System[ReverseKD, Teacher]):
    def teacher(self, weights: TeacherWeights, recipe: ReverseKD) -> Teacher:
        return Teacher(weights)

    def task(self, recipe: ReverseKD, teacher: Teacher, given: TaskInputs) -> TrainingTask:
        return ReverseKDTask(recipe, teacher, given)

    def detector(
        self, recipe: ReverseKD, teacher: Teacher, state: dict[str, Tensor], lambda_: float, device: torch.device
    ) -> ReverseKDDetector:
        student = ReverseDistillation(teacher.arch, recipe.oce_width, _oce_depth_in(state))
        student.load_state_dict(state)
        return ReverseKDDetector(recipe, place(teacher, device), place(student, device), lambda_)


SYSTEM = _ReverseKDSystem()
