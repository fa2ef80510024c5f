"""The autoencoders of Bergmann et al. (2018): what cannot be rebuilt is anomalous, by SSIM or by squared difference.

Training rebuilds random squares of the images. In scoring a grid of overlapping squares covers each image; all of them
go through the network at once, and their maps are averaged where they overlap. (The layer that makes the code has the
size of a square, so that the network cannot be slid over an image as a convolution.) A recipe whose squares are as
large as the images rebuilds whole images.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from rkd_pipeline.data.rows import Images
from rkd_pipeline.detectors import Detector
from rkd_pipeline.detectors.anomaly_map import Scores, smoothed
from rkd_pipeline.detectors.reconstruction import WithoutTeacher, grey
from rkd_pipeline.device import place, upload
from rkd_pipeline.models.convolutional_autoencoder import ConvolutionalAutoencoder
from rkd_pipeline.models.frozen import NoTeacher
from rkd_pipeline.progress import batches
from rkd_pipeline.recipes.reconstruction_recipes import Autoencoder
from rkd_pipeline.training.structural_similarity import ssim
from rkd_pipeline.training.task import TaskInputs, TrainingTask


def residuals(recipe: Autoencoder, squares: Tensor, rebuilt: Tensor) -> Tensor:
    """How grey squares ``(N, 1, S, S)`` differ from their reconstructions at every pixel: ``(N, S, S)``, not negative.

    1 - SSIM, at most 2, or the squared difference.
    """
    if recipe.compare == "ssim":
        return 1 - ssim(squares, rebuilt)
    return (squares - rebuilt).square().squeeze(1)


def random_squares(images: Tensor, each: int, side: int, generator: torch.Generator) -> Tensor:
    """``each`` squares from everywhere in every image: ``(N, 1, S, S)`` to ``(N * each, 1, side, side)``, by image."""
    n, spare = len(images), images.shape[-1] - side
    corners = upload(torch.randint(spare + 1, (n * each, 2), generator=generator), images.device)
    along = torch.arange(side, device=images.device)
    rows, columns = corners[:, :1] + along, corners[:, 1:] + along
    which = torch.arange(n, device=images.device).repeat_interleave(each)
    return images[which[:, None, None], 0, rows[:, :, None], columns[:, None, :]].unsqueeze(1)


def grid_of_squares(images: Tensor, side: int, stride: int) -> Tensor:
    """The squares that cover images, by image and row: ``(N, 1, S, S)`` to ``(N * k * k, 1, side, side)``.

    Raises ``ValueError`` where steps of ``stride`` do not end at the border.
    """
    if (images.shape[-1] - side) % stride:
        raise ValueError(f"squares of {side} pixels, {stride} apart, do not cover an image of {images.shape[-1]}")
    grid = images.unfold(2, side, stride).unfold(3, side, stride)
    return grid.reshape(-1, 1, side, side)


def averaged(maps: Tensor, n: int, image_side: int, stride: int) -> Tensor:
    """Maps of the squares of ``n`` images put back where they were cut, averaged where they overlap: ``(n, S, S)``."""
    side = maps.shape[-1]
    columns = maps.reshape(n, -1, side * side).transpose(1, 2)
    total = F.fold(columns, image_side, side, stride=stride)
    times = F.fold(torch.ones_like(columns[:1]), image_side, side, stride=stride)
    return (total / times).squeeze(1)


class AutoencoderTask(TrainingTask):
    """The mean residual of random squares."""

    def __init__(self, recipe: Autoencoder, given: TaskInputs) -> None:
        self.lambda_, self.notes = 0.0, {}
        self._recipe, self._images, self._compute = recipe, given.images, given.compute
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(given.seed)
            self.student = place(network_of(recipe), given.compute.device)

    def begin(self) -> float:
        """No lambda."""
        return 0.0

    def batch(self, indices: Tensor, generator: torch.Generator) -> list[Tensor]:
        """Random squares of the images, ``(N * crops, 1, patch, patch)``."""
        images = grey(self._images[indices.numpy()], self._compute.device)
        return [random_squares(images, self._recipe.crops, self._recipe.patch, generator)]

    def losses(self, batch: list[Tensor]) -> Tensor:
        """Mean over all pixels of each image's squares, ``(N,)``."""
        [squares] = batch
        with self._compute.autocast():
            rebuilt = self.student(squares)
        return residuals(self._recipe, squares, rebuilt.float()).mean((1, 2)).view(-1, self._recipe.crops).mean(1)

    def finish(self) -> None:
        """Nothing: scores are not normalised."""


def network_of(recipe: Autoencoder) -> ConvolutionalAutoencoder:
    """An untrained network."""
    return ConvolutionalAutoencoder(recipe.patch, recipe.latent, recipe.width)


class AutoencoderDetector(Detector):
    """The trained autoencoder."""

    def __init__(self, recipe: Autoencoder, network: ConvolutionalAutoencoder) -> None:
        self.recipe, self.network = recipe, network.eval().requires_grad_(False)

    @torch.inference_mode()
    def score(self, images: Images, *, batch_size: int = 8) -> Scores:
        """Maps of residuals; the score is the map's maximum."""
        device = next(self.network.parameters()).device
        maps = [
            smoothed(self._map(grey(images[start : start + batch_size], device)), self.recipe.sigma).cpu()
            for start in batches(len(images), batch_size, "score images")
        ]
        stacked = torch.cat(maps).numpy()
        return Scores(stacked, {"map_max": stacked.max(axis=(1, 2)).astype(np.float64)})

    def _map(self, images: Tensor) -> Tensor:
        recipe = self.recipe
        squares = grid_of_squares(images, recipe.patch, recipe.stride)
        found = residuals(recipe, squares, self.network(squares))
        return averaged(found, len(images), images.shape[-1], recipe.stride)


class _AutoencoderSystem(WithoutTeacher[Autoencoder]):
    def task(self, recipe: Autoencoder, teacher: NoTeacher, given: TaskInputs) -> TrainingTask:
        return AutoencoderTask(recipe, given)

    def detector(
        self, recipe: Autoencoder, teacher: NoTeacher, state: dict[str, Tensor], lambda_: float, device: torch.device
    ) -> AutoencoderDetector:
        network = network_of(recipe)
        network.load_state_dict(state)
        return AutoencoderDetector(recipe, place(network, device))


SYSTEM = _AutoencoderSystem()
