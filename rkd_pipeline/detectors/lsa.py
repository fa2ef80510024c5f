"""Latent space autoregression (Abati et al. 2019): what is rebuilt badly, or has a code that surprises, is anomalous.

The image's score is the sum of both, each brought to [0, 1] on held-out normal images (equations 9 and 10). There is no
map: the authors classify images.
"""

import torch
from torch import Tensor

from rkd_pipeline.data.rows import Images
from rkd_pipeline.detectors import Detector
from rkd_pipeline.detectors.anomaly_map import Scores
from rkd_pipeline.detectors.reconstruction import WithoutTeacher, colour
from rkd_pipeline.device import place
from rkd_pipeline.models.frozen import NoTeacher
from rkd_pipeline.models.latent_autoregression import LatentAutoregression
from rkd_pipeline.progress import batches
from rkd_pipeline.recipes.reconstruction_recipes import LatentSpaceAutoregression
from rkd_pipeline.training.task import TaskInputs, TrainingTask

_EVALUATION_BATCH = 32


def error_and_surprise(model: LatentAutoregression, images: Tensor) -> Tensor:
    """Of each image: squared error, summed, and negative log-likelihood of its code, in nats: ``(2, N)``."""
    rebuilt, code, logits = model(images)
    error = (images - rebuilt.to(images)).square().sum((1, 2, 3))
    return torch.stack([error, model.density.surprise(code.to(images), logits.to(images))])


class LatentSpaceAutoregressionTask(TrainingTask):
    """Error plus lambda times surprise."""

    def __init__(self, recipe: LatentSpaceAutoregression, given: TaskInputs) -> None:
        assert given.validation is not None  # the recipe asks for it
        self.lambda_, self.notes = recipe.lambda_, {}
        self._recipe, self._compute = recipe, given.compute
        self._images, self._validation = given.images, given.validation
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(given.seed)
            self._model = self.student = place(model_of(recipe), given.compute.device)

    def begin(self) -> float:
        """The recipe's own lambda: nothing is balanced."""
        return self._recipe.lambda_

    def batch(self, indices: Tensor, generator: torch.Generator) -> list[Tensor]:
        """The images, ``(N, 3, S, S)`` in [0, 1]."""
        return [colour(self._images[indices.numpy()], self._compute.device)]

    def losses(self, batch: list[Tensor]) -> Tensor:
        """Equation 4 of each image, ``(N,)``."""
        with self._compute.autocast():
            error, surprise = error_and_surprise(self._model, batch[0])
        return error + self._recipe.lambda_ * surprise

    def validation_loss(self) -> float:
        """Mean of the same over the held-out images."""
        error, surprise = self._of_validation()
        return float((error + self._recipe.lambda_ * surprise).mean())

    def finish(self) -> None:
        """Lowest and highest error and surprise of the held-out images."""
        found = self._of_validation()
        self._model.lowest.copy_(found.amin(1))
        self._model.highest.copy_(found.amax(1))

    def _of_validation(self) -> Tensor:
        starts = range(0, len(self._validation), _EVALUATION_BATCH)
        images = (colour(self._validation[s : s + _EVALUATION_BATCH], self._compute.device) for s in starts)
        return torch.cat([error_and_surprise(self._model, batch) for batch in images], 1)


def model_of(recipe: LatentSpaceAutoregression) -> LatentAutoregression:
    """An untrained model."""
    return LatentAutoregression(recipe.side, recipe.width, recipe.code_length, recipe.bins, recipe.density)


class LatentSpaceAutoregressionDetector(Detector):
    """The trained model, which scores whole images.

    In float64: a rounding error of float32, which depends on the batch, may put an entry of a code into the next bin.
    """

    def __init__(self, recipe: LatentSpaceAutoregression, model: LatentAutoregression) -> None:
        self.recipe, self.model = recipe, model.double().eval().requires_grad_(False)

    @torch.inference_mode()
    def score(self, images: Images, *, batch_size: int = 32) -> Scores:
        """Equation 10: normalised error plus normalised surprise; 0 to 2 for images like the held-out ones."""
        device = self.model.lowest.device
        found = [
            error_and_surprise(self.model, colour(images[start : start + batch_size], device).double())
            for start in batches(len(images), batch_size, "score images")
        ]
        span = (self.model.highest - self.model.lowest).clamp_min(torch.finfo(torch.float32).tiny)
        normalised = (torch.cat(found, 1) - self.model.lowest[:, None]) / span[:, None]
        return Scores(None, {"image_score": normalised.sum(0).cpu().numpy()})


class _LatentSpaceAutoregressionSystem(WithoutTeacher[LatentSpaceAutoregression]):
    def task(self, recipe: LatentSpaceAutoregression, teacher: NoTeacher, given: TaskInputs) -> TrainingTask:
        return LatentSpaceAutoregressionTask(recipe, given)

    def detector(
        self,
        recipe: LatentSpaceAutoregression,
        teacher: NoTeacher,
        state: dict[str, Tensor],
        lambda_: float,
        device: torch.device,
    ) -> LatentSpaceAutoregressionDetector:
        model = model_of(recipe)
        model.load_state_dict(state)
        return LatentSpaceAutoregressionDetector(recipe, place(model, device))


SYSTEM = _LatentSpaceAutoregressionSystem()
