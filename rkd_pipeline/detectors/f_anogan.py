"""f-AnoGAN (Schlegl et al. 2019): a GAN learns what normal images look like; an encoder finds an image's own code.

First a Wasserstein GAN with gradient penalty is trained, then, with its weights fixed, the encoder (``izi_f``). An
image is anomalous where the GAN's version of it differs, in pixels and in the discriminator's features. A recipe with a
search scores as AnoGAN (Schlegl et al. 2017) did, without the encoder: by gradient steps on the code.

All in float32, whatever the precision of training: the penalty is a gradient of a gradient. A history of losses has two
parts: the discriminator's (which may be negative), and the encoder's.
"""

import math
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.optim import Adam, Optimizer, RMSprop

from rkd_pipeline.data.rows import Images
from rkd_pipeline.detectors import Detector
from rkd_pipeline.detectors.anomaly_map import Scores, smoothed
from rkd_pipeline.detectors.reconstruction import WithoutTeacher, grey
from rkd_pipeline.device import place, upload
from rkd_pipeline.models.frozen import NoTeacher
from rkd_pipeline.models.generative import FAnoGANNetworks
from rkd_pipeline.progress import batches
from rkd_pipeline.recipes.recipe import GradientRecipe
from rkd_pipeline.recipes.reconstruction_recipes import FAnoGAN
from rkd_pipeline.training.task import TaskInputs, TrainingTask

_FIRST_CODE = 0  # seed of the code from which every search begins
# TensorFlow's, of which epsilon stands under the root.
_RMS_DECAY, _RMS_EPSILON = 0.9, 1e-5


def prepared(images: np.ndarray, device: torch.device) -> Tensor:
    """uint8 ``(N, S, S, 3)`` as grey float32 ``(N, 1, S, S)`` in [-1, 1]."""
    return 2 * grey(images, device) - 1


def rebuilding_error(networks: FAnoGANNetworks, images: Tensor, rebuilt: Tensor, kappa: float) -> Tensor:
    """Mean squared difference of pixels plus kappa times that of the discriminator's features: ``(N,)``.

    The loss ``izi_f`` of the encoder, and the score of images.
    """
    of_pixels = (images - rebuilt).square().mean((1, 2, 3))
    of_features = (networks.features(images) - networks.features(rebuilt)).square().mean(1)
    return of_pixels + kappa * of_features


class FAnoGANTask(TrainingTask):
    """Steps of the discriminator, with one of the generator after some of them; then steps of the encoder."""

    recordable: ClassVar[bool] = False

    def __init__(self, recipe: FAnoGAN, given: TaskInputs) -> None:
        self.lambda_, self.notes = 0.0, {}
        self._recipe, self._images, self._device = recipe, given.images, given.compute.device
        self._step, self._gan_steps = 0, 0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(given.seed)
            self._networks = self.student = place(networks_of(recipe), self._device)

    def begin(self) -> float:
        """No lambda."""
        return 0.0

    def optimisers(self, recipe: GradientRecipe, *, on_gpu: bool) -> list[Optimizer]:
        """Adam for the discriminator and for the generator, RMSprop for the encoder, as the official code has them."""
        networks = self._networks
        discriminator = [*networks.features.parameters(), *networks.judge.parameters()]
        return [
            Adam(discriminator, recipe.learning_rate, recipe.betas, fused=True),
            Adam(networks.generator.parameters(), recipe.learning_rate, recipe.betas, fused=True),
            RMSprop(networks.encoder.parameters(), self._recipe.encoder_rate, _RMS_DECAY, _RMS_EPSILON),
        ]

    def start_epoch(self, epoch: int, epochs: int, optimisers: list[Optimizer]) -> None:
        """Counts steps from the first epoch's on: a resumed training is where it was."""
        self.epoch = epoch
        per_epoch = math.ceil(len(self._images) / self._recipe.batch_size)
        self._step, self._gan_steps = epoch * per_epoch, round(self._recipe.gan_share * epochs * per_epoch)

    def batch(self, indices: Tensor, generator: torch.Generator) -> list[Tensor]:
        """Images, codes for the discriminator and for the generator, and where between real and generated is looked."""
        n, latent = len(indices), self._recipe.latent
        codes = torch.randn(2, n, latent, generator=generator)
        between = torch.rand(n, 1, 1, 1, generator=generator)
        images = prepared(self._images[indices.numpy()], self._device)
        return [images, *(upload(drawn, self._device) for drawn in (*codes, between))]

    def update(self, batch: list[Tensor], optimisers: list[Optimizer]) -> Tensor:
        """One step of the discriminator, where it is due one of the generator; or one of the encoder."""
        images, codes, other_codes, between = batch
        step, every = self._step, self._recipe.critic_steps
        self._step += 1
        with_gan = step < self._gan_steps
        self._networks.generator.train(with_gan).requires_grad_(with_gan)
        self._networks.discriminator_learns(with_gan)
        if not with_gan:
            return _taken(self.losses(batch), optimisers[2])
        found = _taken(self._discriminator_losses(images, codes, between), optimisers[0])
        if step % every == every - 1:
            self._networks.discriminator_learns(False)
            _taken(-self._networks.judged(self._networks.generator(other_codes)), optimisers[1])
        return found

    def _discriminator_losses(self, images: Tensor, codes: Tensor, between: Tensor) -> Tensor:
        networks = self._networks
        with torch.no_grad():
            generated = networks.generator(codes)
        penalty = networks.gradient_penalty(images + between * (generated - images))
        return networks.judged(generated) - networks.judged(images) + self._recipe.penalty * penalty

    def losses(self, batch: list[Tensor]) -> Tensor:
        """The encoder's loss of each image, ``(N,)``."""
        images = batch[0]
        rebuilt = self._networks.generator(self._networks.encoder(images))
        return rebuilding_error(self._networks, images, rebuilt, self._recipe.kappa)

    def finish(self) -> None:
        """Nothing: scores are not normalised."""


def _taken(losses: Tensor, optimiser: Optimizer) -> Tensor:
    losses.mean().backward()
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    return losses.detach()


def networks_of(recipe: FAnoGAN) -> FAnoGANNetworks:
    """Untrained networks."""
    return FAnoGANNetworks(recipe.side, recipe.width, recipe.latent)


class FAnoGANDetector(Detector):
    """Trained networks; scores by the encoder, or by AnoGAN's search where the recipe has one."""

    def __init__(self, recipe: FAnoGAN, networks: FAnoGANNetworks) -> None:
        self.recipe, self.networks = recipe, networks.eval().requires_grad_(False)

    @torch.no_grad()
    def score(self, images: Images, *, batch_size: int = 32) -> Scores:
        """Maps of absolute differences, at most 2; the score is ``rebuilding_error``, or AnoGAN's."""
        device = next(self.networks.parameters()).device
        maps, found = [], []
        for start in batches(len(images), batch_size, "score images"):
            x = prepared(images[start : start + batch_size], device)
            rebuilt, scores = self._by_search(x) if self.recipe.search_steps else self._by_encoder(x)
            maps.append(smoothed((x - rebuilt).abs().squeeze(1), self.recipe.sigma).cpu())
            found.append(scores.cpu())
        stacked = torch.cat(maps).numpy()
        of_images = {
            "image_score": torch.cat(found).double().numpy(),
            "map_max": stacked.max(axis=(1, 2)).astype(np.float64),
        }
        return Scores(stacked, of_images)

    def _by_encoder(self, x: Tensor) -> tuple[Tensor, Tensor]:
        rebuilt = self.networks.generator(self.networks.encoder(x))
        return rebuilt, rebuilding_error(self.networks, x, rebuilt, self.recipe.kappa)

    def _by_search(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Adam on codes; all images' searches begin at the same code, and none depends on the others."""
        first = torch.randn(1, self.recipe.latent, generator=torch.Generator().manual_seed(_FIRST_CODE))
        codes = first.to(x).repeat(len(x), 1).requires_grad_()
        optimiser = Adam([codes], self.recipe.search_rate)
        wanted = self.networks.features(x)
        with torch.enable_grad():
            for _ in range(self.recipe.search_steps):
                self._anogan_loss(x, wanted, self.networks.generator(codes)).sum().backward()
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)
        rebuilt = self.networks.generator(codes)
        return rebuilt, self._anogan_loss(x, wanted, rebuilt)

    def _anogan_loss(self, x: Tensor, wanted: Tensor, rebuilt: Tensor) -> Tensor:
        """Residual and discrimination loss of AnoGAN, summed over pixels and features, and weighed: ``(N,)``."""
        residual = (x - rebuilt).abs().sum((1, 2, 3))
        discrimination = (wanted - self.networks.features(rebuilt)).abs().sum(1)
        return (1 - self.recipe.search_weight) * residual + self.recipe.search_weight * discrimination


class _FAnoGANSystem(WithoutTeacher[FAnoGAN]):
    def task(self, recipe: FAnoGAN, teacher: NoTeacher, given: TaskInputs) -> TrainingTask:
        return FAnoGANTask(recipe, given)

    def detector(
        self, recipe: FAnoGAN, teacher: NoTeacher, state: dict[str, Tensor], lambda_: float, device: torch.device
    ) -> FAnoGANDetector:
        networks = networks_of(recipe)
        networks.load_state_dict(state)
        return FAnoGANDetector(recipe, place(networks, device))


SYSTEM = _FAnoGANSystem()
