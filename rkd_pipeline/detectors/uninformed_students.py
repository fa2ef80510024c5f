"""Uninformed Students (Bergmann et al. 2020): students regress descriptors of normal patches, and disagree elsewhere.

Per receptive field (17, 33, 65 pixels) a descriptor network, distilled once from the given teacher, and an ensemble of
students. A pixel's score is the error of the students' mean plus their variance, each normalised on held-out normal
images, averaged over the receptive fields.

Dense training costs four networks at every pixel, so students train on part of each image: on patches around random
pixels, or at every pixel of a random window, which costs far less per pixel since neighbours share their convolutions.
Either is drawn alike over the whole image: in the mean over draws it is the dense loss. Test images are evaluated
densely.
"""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from rkd_pipeline.data.rows import Images
from rkd_pipeline.detectors import Detector, System
from rkd_pipeline.detectors.anomaly_map import Scores, smoothed
from rkd_pipeline.device import Compute, place, upload
from rkd_pipeline.errors import StoreError
from rkd_pipeline.models.patch_network import PatchNetwork, padded, patches_at
from rkd_pipeline.models.pretraining.formulas import formula
from rkd_pipeline.models.teacher import Teacher
from rkd_pipeline.models.weights import TeacherWeights, not_finite
from rkd_pipeline.progress import batches
from rkd_pipeline.recipes.recipe import UninformedStudents
from rkd_pipeline.store.files import canonical_json, keep
from rkd_pipeline.training.task import TaskInputs, TrainingTask

DESCRIPTOR_VERSION = 1  # bumped by hand when the same settings would give other descriptors
_DESCRIPTOR_SEED = 0
_FORMULA_SIDE = 128
_DESCRIPTOR_RATE, _DESCRIPTOR_DECAY = 2e-4, 1e-5
_SHAPES_DESCRIPTORS = (
    "receptive_fields", "width", "descriptor", "descriptor_pictures", "descriptor_steps", "descriptor_batch",
)  # fmt: skip
_VALIDATION_DRAW = 1  # seed of the patches on which the validation loss is taken: the same in every epoch


class Scale(nn.Module):
    """One receptive field: frozen descriptor network, students, and what normalises them.

    Buffers: mean and deviation of the descriptors of normal patches, ``(descriptor,)``; mean and deviation of error
    and variance over held-out normal pixels, ``(2,)`` each.
    """

    mean: Tensor
    deviation: Tensor
    normal_mean: Tensor
    normal_deviation: Tensor

    def __init__(self, recipe: UninformedStudents, receptive_field: int) -> None:
        super().__init__()
        self.receptive_field = receptive_field
        self.descriptor = PatchNetwork(receptive_field, recipe.width, recipe.descriptor).requires_grad_(False)
        self.students = nn.ModuleList(
            PatchNetwork(receptive_field, recipe.width, recipe.descriptor) for _ in range(recipe.students)
        )
        self.register_buffer("mean", torch.zeros(recipe.descriptor))
        self.register_buffer("deviation", torch.ones(recipe.descriptor))
        self.register_buffer("normal_mean", torch.zeros(2))
        self.register_buffer("normal_deviation", torch.ones(2))

    def losses(self, patches: Tensor) -> Tensor:
        """Mean over students of the squared distance to the normalised descriptor, of each patch: ``(N,)``."""
        with torch.no_grad():
            target = (self.descriptor(patches).float() - self.mean) / self.deviation
        distances = [(student(patches).float() - target).square().sum(1) for student in self._students()]
        return torch.stack(distances).mean(0)

    def dense_losses(self, images: Tensor) -> Tensor:
        """The same at every pixel, ``(N, 3, S, S)`` to ``(N, S, S)``: what random patches estimate."""
        target, predictions = self._dense(padded(images, self.receptive_field))
        return (predictions - target).square().sum(2).mean(0)

    def window_losses(self, windows: Tensor) -> Tensor:
        """Their mean over each window, which comes with its margin: ``(N, 3, W + p - 1, W + p - 1)`` to ``(N,)``."""
        target, predictions = self._dense(windows)
        return (predictions - target).square().sum(2).mean((0, 2, 3))

    def error_and_variance(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Per pixel, ``(N, S, S)`` each: squared distance of the students' mean, and their variance around it."""
        target, predictions = self._dense(padded(images, self.receptive_field))
        mean = predictions.mean(0)
        return (mean - target).square().sum(1), (predictions - mean).square().sum(2).mean(0)

    def score(self, images: Tensor) -> Tensor:
        """Normalised error plus normalised variance, ``(N, S, S)``."""
        found = torch.stack(self.error_and_variance(images))
        shape = (2, 1, 1, 1)
        return ((found - self.normal_mean.view(shape)) / self.normal_deviation.view(shape)).sum(0)

    def _dense(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Of padded images: targets ``(N, D, S, S)`` and predictions ``(students, N, D, S, S)``."""
        target = (self.descriptor.dense(x) - self.mean.view(1, -1, 1, 1)) / self.deviation.view(1, -1, 1, 1)
        return target, torch.stack([student.dense(x) for student in self._students()])

    def _students(self) -> list[PatchNetwork]:
        return cast(list[PatchNetwork], list(self.students))


class Ensemble(nn.Module):
    """All scales."""

    def __init__(self, recipe: UninformedStudents) -> None:
        super().__init__()
        self.scales = nn.ModuleList(Scale(recipe, p) for p in recipe.receptive_fields)

    def __iter__(self) -> Iterator[Scale]:
        return iter(cast(list[Scale], list(self.scales)))


def prepared(images: np.ndarray, device: torch.device) -> Tensor:
    """uint8 ``(N, S, S, 3)`` to ``(N, 3, S, S)`` around zero."""
    x = upload(images, device)
    return x.permute(0, 3, 1, 2).float() / 127.5 - 1


def random_patches(images: Tensor, each: int, receptive_field: int, generator: torch.Generator) -> Tensor:
    """``each`` patches of every image around pixels drawn alike over it: ``(N * each, 3, p, p)``, by image."""
    n, side = len(images), images.shape[-1]
    places = upload(torch.randint(side, (2, n * each), generator=generator), images.device)
    which = torch.arange(n, device=images.device).repeat_interleave(each)
    return patches_at(padded(images, receptive_field), which, places[0], places[1], receptive_field)


def random_windows(
    images: Tensor, window: int, receptive_fields: Sequence[int], generator: torch.Generator
) -> list[Tensor]:
    """One window of every image, the same for each receptive field: ``(N, 3, window + p - 1, window + p - 1)``.

    Windows tile the image and one tile is drawn, so that each pixel is as likely as any other. Raises ``ValueError``
    where they cannot tile it.
    """
    n, side = len(images), images.shape[-1]
    if side % window:
        raise ValueError(f"windows of {window} pixels do not tile an image of {side}")
    corners = (torch.randint(side // window, (n, 2), generator=generator) * window).tolist()
    return [
        torch.stack([
            image[:, r : r + window + p - 1, c : c + window + p - 1]
            for image, (r, c) in zip(padded(images, p), corners, strict=True)
        ])
        for p in receptive_fields
    ]  # fmt: skip


class UninformedStudentsTask(TrainingTask):
    """Students of all scales, trained together on fresh random patches or windows in every step."""

    def __init__(self, recipe: UninformedStudents, teacher: Teacher, given: TaskInputs) -> None:
        assert given.validation is not None  # the recipe asks for it
        self.lambda_ = 0.0
        self._recipe, self._teacher, self._compute, self._cache = recipe, teacher, given.compute, given.cache
        self._images, self._validation = given.images, given.validation
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(given.seed)
            self._ensemble = self.student = place(Ensemble(recipe), given.compute.device)
        self.notes = {
            "descriptors": f"distilled from block 3 of {teacher.arch.name} {teacher.sha256[:8]}, pooled, on "
            f"{recipe.descriptor_pictures} images by formula, {recipe.descriptor_steps} steps of "
            f"{recipe.descriptor_batch} patches"
        }

    def begin(self) -> float:
        """Descriptor networks, and the mean and deviation of the descriptors of training patches."""
        state = descriptors(self._recipe, self._teacher, self._cache, self._compute)
        generator = torch.Generator().manual_seed(_VALIDATION_DRAW)
        for scale in self._ensemble:
            p = scale.receptive_field
            scale.descriptor.load_state_dict(_under(f"{p}.", state))
            with torch.no_grad():
                found = torch.cat([
                    scale.descriptor(random_patches(batch, self._recipe.patches, p, generator))
                    for batch in self._batches(self._images)
                ])  # fmt: skip
            scale.mean.copy_(found.mean(0))
            scale.deviation.copy_(found.std(0).clamp_min(1e-6))
        return 0.0

    def batch(self, indices: Tensor, generator: torch.Generator) -> list[Tensor]:
        """Random patches or windows of each image, one tensor a scale."""
        return self._drawn(prepared(self._images[indices.numpy()], self._compute.device), generator)

    def losses(self, batch: list[Tensor]) -> Tensor:
        """Mean over each image's patches or window, summed over scales."""
        with self._compute.autocast():
            if self._recipe.window:
                of_scales = [s.window_losses(x) for s, x in zip(self._ensemble, batch, strict=True)]
            else:
                of_patches = [s.losses(x) for s, x in zip(self._ensemble, batch, strict=True)]
                of_scales = [losses.view(-1, self._recipe.patches).mean(1) for losses in of_patches]
        return torch.stack(of_scales).sum(0)

    def validation_loss(self) -> float:
        """The same over the held-out images, always on the same patches."""
        generator = torch.Generator().manual_seed(_VALIDATION_DRAW)
        of_batches = [self.losses(self._drawn(b, generator)).sum() for b in self._batches(self._validation)]
        return sum(map(float, of_batches)) / len(self._validation)

    def finish(self) -> None:
        """Mean and deviation of errors and variances over all pixels of the held-out images."""
        for scale in self._ensemble:
            count, total, squares = 0, torch.zeros(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
            for batch in self._batches(self._validation, 4):  # sums, since all pixels would fill the memory
                pixels = torch.stack(scale.error_and_variance(batch)).flatten(1).double().cpu()
                count += pixels.shape[1]
                total += pixels.sum(1)
                squares += pixels.square().sum(1)
            mean = total / count
            variance = (squares - count * mean**2) / (count - 1)
            scale.normal_mean.copy_(mean)
            scale.normal_deviation.copy_(variance.clamp_min(0).sqrt().clamp_min(1e-12))

    def _drawn(self, images: Tensor, generator: torch.Generator) -> list[Tensor]:
        recipe = self._recipe
        if recipe.window:
            return random_windows(images, recipe.window, recipe.receptive_fields, generator)
        return [random_patches(images, recipe.patches, s.receptive_field, generator) for s in self._ensemble]

    def _batches(self, images: Images, size: int = 32) -> Iterator[Tensor]:
        for start in range(0, len(images), size):
            yield prepared(images[start : start + size], self._compute.device)


def _under(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def descriptors(
    recipe: UninformedStudents, teacher: Teacher, cache: Path | None, compute: Compute
) -> dict[str, Tensor]:
    """Weights of the descriptor networks, ``<receptive field>.<name>``; made once per teacher and settings.

    They do not depend on the target, so trainings share them through ``cache``, a folder.
    """
    shaping = {name: getattr(recipe, name) for name in _SHAPES_DESCRIPTORS}
    settings = [DESCRIPTOR_VERSION, teacher.sha256, compute.precision, shaping]
    if cache is None:
        return _distilled(recipe, teacher, compute)
    file = cache / f"{hashlib.sha256(canonical_json(settings).encode()).hexdigest()[:16]}.safetensors"
    return load_file(keep(file, lambda path: save_file(_distilled(recipe, teacher, compute), path)))


def _distilled(recipe: UninformedStudents, teacher: Teacher, compute: Compute) -> dict[str, Tensor]:
    images = prepared(_formula_images(recipe.descriptor_pictures), compute.device)
    state: dict[str, Tensor] = {}
    for p in recipe.receptive_fields:
        network = _distil(recipe, teacher, images, p, compute)
        state |= {f"{p}.{k}": v.detach().cpu().contiguous() for k, v in network.state_dict().items()}
    if bad := not_finite(state):  # they are kept for every later training
        raise StoreError(
            f"descriptors distilled from {teacher.arch.name} {teacher.sha256[:8]} hold NaN or infinity in {bad[0]}; "
            "nothing was kept. Try precision fp32"
        )
    return state


def _distil(
    recipe: UninformedStudents, teacher: Teacher, images: Tensor, receptive_field: int, compute: Compute
) -> PatchNetwork:
    """A descriptor network that a linear layer can turn into the teacher's pooled features of the same patch.

    Losses as in the paper: squared distance of the decoded descriptor (knowledge distillation), and the correlations
    between the entries of descriptors over a batch (compactness).
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_DESCRIPTOR_SEED)
        network = place(PatchNetwork(receptive_field, recipe.width, recipe.descriptor), compute.device)
        decoder = nn.Linear(recipe.descriptor, teacher.channels[-1]).to(compute.device)
    learning = [*network.parameters(), *decoder.parameters()]
    optimiser = torch.optim.Adam(learning, _DESCRIPTOR_RATE, weight_decay=_DESCRIPTOR_DECAY, fused=True)
    generator = torch.Generator().manual_seed(_DESCRIPTOR_SEED)
    what = f"descriptors of {receptive_field} pixels"
    for _ in batches(recipe.descriptor_steps, 1, what, "step"):
        chosen = torch.randint(len(images), (recipe.descriptor_batch,), generator=generator).to(compute.device)
        patches = random_patches(images[chosen], 1, receptive_field, generator)
        wanted = pooled_features(teacher, patches)
        with compute.autocast():
            described = network(patches)
        described = described.float()
        loss = (decoder(described) - wanted).square().sum(1).mean() + correlation(described)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
    return network


def pooled_features(teacher: Teacher, patches: Tensor) -> Tensor:
    """The teacher's last features of patches in [-1, 1], averaged over positions: ``(N, C)``."""
    pixels = ((patches + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1)
    return teacher(pixels)[-1].float().mean((2, 3))


def correlation(described: Tensor) -> Tensor:
    """Sum of absolute correlations between different entries over a batch ``(N, D)``."""
    centred = described - described.mean(0)
    scaled = F.normalize(centred, dim=0)
    matrix = scaled.T @ scaled
    return matrix.abs().sum() - matrix.diagonal().abs().sum()


def _formula_images(count: int) -> np.ndarray:
    """uint8 ``(count, 128, 128, 3)``: one image each of as many classes of the package's formulas."""
    drawn = (formula(i, _DESCRIPTOR_SEED)(np.random.default_rng([_DESCRIPTOR_SEED, i]), _FORMULA_SIDE)
             for i in range(count))  # fmt: skip
    return (np.clip(np.stack(list(drawn)), 0, 1) * 255).round().astype(np.uint8)


class UninformedStudentsDetector(Detector):
    """All scales, evaluated densely."""

    def __init__(self, recipe: UninformedStudents, ensemble: Ensemble) -> None:
        self.recipe, self.ensemble = recipe, ensemble.eval()

    @torch.inference_mode()
    def score(self, images: Images, *, batch_size: int = 4) -> Scores:
        """Maps averaged over scales; the score is the map's maximum."""
        device = next(self.ensemble.parameters()).device
        maps = []
        for start in batches(len(images), batch_size, "score images"):
            x = prepared(images[start : start + batch_size], device)
            mean = torch.stack([scale.score(x) for scale in self.ensemble]).mean(0)
            maps.append(smoothed(mean, self.recipe.sigma).cpu())
        stacked = torch.cat(maps).numpy()
        return Scores(stacked, {"map_max": stacked.max(axis=(1, 2)).astype(np.float64)})


class _UninformedStudentsSystem(System[UninformedStudents, Teacher]):
    def teacher(self, weights: TeacherWeights, recipe: UninformedStudents) -> Teacher:
        return Teacher(weights)

    def task(self, recipe: UninformedStudents, teacher: Teacher, given: TaskInputs) -> TrainingTask:
        return UninformedStudentsTask(recipe, teacher, given)

    def detector(
        self,
        recipe: UninformedStudents,
        teacher: Teacher,
        state: dict[str, Tensor],
        lambda_: float,
        device: torch.device,
    ) -> UninformedStudentsDetector:
        ensemble = Ensemble(recipe)
        ensemble.load_state_dict(state)
        return UninformedStudentsDetector(recipe, place(ensemble, device))


SYSTEM = _UninformedStudentsSystem()
