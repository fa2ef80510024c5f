"""Multiresolution KD (Salehi et al. 2021): a cloner learns a source's features of normal images at several depths.

The image's score is its loss; its map is a gradient of that loss with respect to the pixels, or the discrepancy of
both networks at each position. All leave out the first compared layer where the source has four, as the official code
does (``test_functions.py``).
"""

import numpy as np
import torch
from torch import Tensor

from rkd_pipeline.data.rows import Images
from rkd_pipeline.detectors import Detector, System
from rkd_pipeline.detectors.anomaly_map import Scores, anomaly_map, smoothed
from rkd_pipeline.detectors.image_student import ImageStudentTask, pixel_gradient
from rkd_pipeline.device import place
from rkd_pipeline.models.multiresolution import Cloner, Source, guided
from rkd_pipeline.models.weights import TeacherWeights
from rkd_pipeline.progress import batches
from rkd_pipeline.recipes.recipe import MultiresolutionKD
from rkd_pipeline.training.losses import Features, discrepancy, l_kd_flat, l_val
from rkd_pipeline.training.task import TaskInputs, TrainingTask

SCORED_LAYERS = 3
SMOOTHGRAD_SAMPLES, SMOOTHGRAD_SIGMA = 50, 0.05
_CLIP = 0.99  # quantile at which a map is cut before it is stretched


def loss(source: Features, cloner: Features, recipe: MultiresolutionKD) -> Tensor:
    """The loss of each image, ``(N,)``: direction (one cosine per layer) and value (mean squared difference).

    lambda multiplies the value term in the official code and the direction term in the paper's equation.
    """
    direction, value = l_kd_flat(source, cloner), l_val(source, cloner, "mean")
    if recipe.weighted == "value":
        return direction + recipe.lambda_ * value
    return value + recipe.lambda_ * direction


class MultiresolutionKDTask(ImageStudentTask):
    """The cloner learns the source's features."""

    def __init__(self, recipe: MultiresolutionKD, source: Source, given: TaskInputs) -> None:
        super().__init__(new_cloner(recipe, source, given.seed), source, given)
        self.lambda_ = recipe.lambda_
        self._recipe = recipe

    def begin(self) -> float:
        """The recipe's own lambda: nothing is balanced."""
        return self._recipe.lambda_

    def compared(self, source: Features, student: Features) -> Tensor:
        """Mean loss of each image over all compared layers, ``(N,)``."""
        return loss(source, student, self._recipe)


def new_cloner(recipe: MultiresolutionKD, source: Source, seed: int) -> Cloner:
    """An untrained cloner, drawn from ``seed`` on the CPU: the same on every device."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Cloner(source.channels, recipe.cloner)


class MultiresolutionKDDetector(Detector):
    """Source and trained cloner."""

    def __init__(self, recipe: MultiresolutionKD, source: Source, cloner: Cloner) -> None:
        self.recipe, self.source, self.cloner = recipe, source, cloner.eval().requires_grad_(False)

    def score(self, images: Images, *, batch_size: int = 32) -> Scores:
        """Maps by the recipe's localisation, smoothed; scores by loss and map's maximum."""
        device = next(self.cloner.parameters()).device
        maps, losses = [], []
        for start in batches(len(images), batch_size, "score images"):
            batch = torch.from_numpy(np.ascontiguousarray(images[start : start + batch_size])).to(device)
            x = self.source.prepared(batch)
            with torch.no_grad():
                losses.append(self.loss(x).cpu())
            maps.append(self._smooth_map(x, start).cpu())
        stacked = torch.cat(maps).numpy()
        of_images = {
            "loss": torch.cat(losses).double().numpy(),
            "map_max": stacked.max(axis=(1, 2)).astype(np.float64),
        }
        return Scores(stacked, of_images)

    def loss(self, x: Tensor) -> Tensor:
        """Of prepared images ``(N, 3, S, S)``, over the last three layers: ``(N,)``."""
        source, cloned = self.source.layer_outputs(x), self.cloner(x)
        return loss(source[-SCORED_LAYERS:], cloned[-SCORED_LAYERS:], self.recipe)

    def gradient(self, x: Tensor) -> Tensor:
        """Of each image's own loss with respect to its pixels, ``(N, 3, S, S)``."""
        return pixel_gradient(self.loss, x)

    def discrepancy(self, x: Tensor) -> Tensor:
        """Of the scored layers at each position, as Reverse KD's maps are made, smoothed: ``(N, S, S)``."""
        source, cloned = self.source.layer_outputs(x), self.cloner(x)
        layer_outputs = zip(source[-SCORED_LAYERS:], cloned[-SCORED_LAYERS:], strict=True)
        return anomaly_map([discrepancy(a, b) for a, b in layer_outputs], x.shape[-1], sigma=self.recipe.sigma)

    def _smooth_map(self, x: Tensor, first: int) -> Tensor:
        if self.recipe.localisation == "discrepancy":
            with torch.no_grad():
                return self.discrepancy(x)
        return smoothed(self._map(x, first), self.recipe.sigma)

    def _map(self, x: Tensor, first: int) -> Tensor:
        """``(N, S, S)``, not smoothed yet; ``first`` numbers the images, so that noise does not depend on batches."""
        if self.recipe.localisation == "smoothgrad":
            return self._own_range(self._smoothgrad(x, first), cut=False)
        if self.recipe.localisation == "gradient":
            return self._own_range(self.gradient(x).abs().sum(1))
        with guided(self.cloner):  # the code guides the cloner alone, not the source
            return self._own_range(self.gradient(x).abs().sum(1))

    def _smoothgrad(self, x: Tensor, first: int) -> Tensor:
        spread = (x.amax((1, 2, 3)) - x.amin((1, 2, 3))).clamp_min(1e-6)
        deviation = ((SMOOTHGRAD_SIGMA / spread) ** 2).view(-1, 1, 1, 1)
        generators = [torch.Generator().manual_seed(first + i) for i in range(len(x))]
        total = torch.zeros_like(x[:, 0])
        for _ in range(SMOOTHGRAD_SAMPLES):
            noise = torch.stack([torch.randn(x.shape[1:], generator=g) for g in generators]).to(x)
            total += self._own_range(self.gradient(x + deviation * noise).abs().sum(1))
        return total / SMOOTHGRAD_SAMPLES

    def _own_range(self, maps: Tensor, *, cut: bool = True) -> Tensor:
        """Each map cut at its 99th percentile (where ``cut``) and brought to [0, 1], where the recipe says so."""
        if not self.recipe.own_range:
            return maps
        flat = maps.flatten(1)
        low, high = flat.amin(1), flat.quantile(_CLIP, dim=1) if cut else flat.amax(1)
        span = (high - low).clamp_min(torch.finfo(maps.dtype).tiny).view(-1, 1, 1)
        return ((maps - low.view(-1, 1, 1)) / span).clamp(0, 1)


class _MultiresolutionKDSystem(System[MultiresolutionKD, Source]):
    def teacher(self, weights: TeacherWeights, recipe: MultiresolutionKD) -> Source:
        return Source(weights, recipe.normalise)

    def task(self, recipe: MultiresolutionKD, teacher: Source, given: TaskInputs) -> TrainingTask:
        return MultiresolutionKDTask(recipe, teacher, given)

    def detector(
        self, recipe: MultiresolutionKD, teacher: Source, state: dict[str, Tensor], lambda_: float, device: torch.device
    ) -> MultiresolutionKDDetector:
        cloner = Cloner(teacher.channels, recipe.cloner)
        cloner.load_state_dict(state)
        return MultiresolutionKDDetector(recipe, place(teacher, device), place(cloner, device))


SYSTEM = _MultiresolutionKDSystem()
