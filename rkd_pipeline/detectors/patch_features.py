"""Systems that describe every patch of an image by a frozen network's features, and learn in one pass what is normal.

Shared by PaDiM, PatchCore, SubspaceAD, one Gaussian and the feature dictionary: how patches are described, and how the
distances of patches become maps and scores. What differs is their modules' own: what is learnt, and the distance.
"""

import logging
from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import Literal, TypeVar

import numpy as np
import psutil
import torch
from torch import Tensor
from torch.nn import functional as F

from rkd_pipeline.data.rows import Images
from rkd_pipeline.detectors import Detector, System
from rkd_pipeline.detectors.anomaly_map import Scores, anomaly_map
from rkd_pipeline.device import place
from rkd_pipeline.errors import RkdError
from rkd_pipeline.models.backbone import Backbone, backbone
from rkd_pipeline.models.weights import TeacherWeights
from rkd_pipeline.progress import batches
from rkd_pipeline.recipes.patch_recipes import PatchRecipe
from rkd_pipeline.training.task import FittingTask, TaskInputs

_log = logging.getLogger(__name__)
FIT_BATCH = 32
Interpolation = Literal["nearest", "bilinear"]


class PatchFeatures:
    """The features of several scales of a network, joined at each position of the finest of them.

    Args:
        network: frozen; on the device where images will be.
        recipe: which scales (from 0, the finest) or blocks, averaged over how many positions, how coarser scales are
            brought to the finest one's grid, and how all are joined.
    """

    def __init__(self, network: Backbone, recipe: PatchRecipe) -> None:
        if max(recipe.taken) >= len(network.channels):
            raise RkdError(
                f"{recipe.name} compares scale {max(recipe.taken) + 1}, and {network.arch.name} has "
                f"{len(network.channels)}; name another teacher"
            )
        self._network, self._recipe = network, recipe
        self._widths = [network.channels[k] for k in recipe.taken]
        if recipe.joined == "mean" and len(set(self._widths)) > 1:
            raise RkdError(f"{recipe.name} averages scales, and those of {network.arch.name} differ in length")

    @property
    def made_with(self) -> dict[str, str]:
        """What computes the features besides torch and torchvision, for provenance."""
        return self._network.made_with

    @property
    def channels(self) -> int:
        """Length of a patch's description."""
        return self._widths[0] if self._recipe.joined == "mean" else sum(self._widths)

    @property
    def stride(self) -> int:
        """Pixels of the image per position."""
        return self._network.strides[min(self._recipe.taken)]

    def __call__(self, images: np.ndarray, device: torch.device) -> Tensor:
        """Of uint8 images ``(N, S, S, 3)``: float32 ``(N, S / stride, S / stride, channels)``."""
        found = self._network(torch.from_numpy(np.ascontiguousarray(images)).to(device))
        scales = [self._pooled(found[k]) for k in self._recipe.taken]
        size = scales[0].shape[-2:]
        grid = [f if f.shape[-2:] == size else self._brought_to(f, size) for f in scales]
        joined = torch.stack(grid).mean(0) if self._recipe.joined == "mean" else torch.cat(grid, 1)
        return joined.permute(0, 2, 3, 1)

    def _pooled(self, features: Tensor) -> Tensor:
        size = self._recipe.neighbourhood
        return features if size == 1 else F.avg_pool2d(features, size, stride=1, padding=size // 2)

    def _brought_to(self, features: Tensor, size: torch.Size) -> Tensor:
        mode = self._recipe.interpolation
        return F.interpolate(features, size=size, mode=mode, align_corners=False if mode == "bilinear" else None)

    def of_all(self, given: TaskInputs) -> Iterator[Tensor]:
        """The descriptions of all training images, batch by batch."""
        for start in batches(len(given.images), FIT_BATCH, "features of the teacher"):
            yield self(given.images[start : start + FIT_BATCH], given.compute.device)

    def drawn(self, given: TaskInputs, at_most: int | None) -> Tensor:
        """Descriptions of all training patches, ``(M, channels)``, or of ``at_most``, drawn by the seed.

        Says before how much memory they take. Raises ``RkdError`` where there is not as much.
        """
        places = (given.images.shape[1] // self.stride) ** 2
        in_all = len(given.images) * places
        kept = in_all if at_most is None else min(in_all, at_most)
        needed = 4 * kept * self.channels
        require_memory(needed, f"{kept:,} of {in_all:,} patches of {self.channels} numbers each")
        order = np.random.default_rng(given.seed).permutation(in_all)[:kept] if kept < in_all else np.arange(in_all)
        wanted = np.sort(order)
        rows, filled, seen = torch.empty(kept, self.channels, device=given.compute.device), 0, 0
        for features in self.of_all(given):
            flat = features.flatten(0, 2)
            chosen = wanted[filled : np.searchsorted(wanted, seen + len(flat))] - seen
            rows[filled : filled + len(chosen)] = flat[torch.from_numpy(chosen).to(flat.device)]
            filled, seen = filled + len(chosen), seen + len(flat)
        return rows


def require_memory(needed: int, what: str) -> None:
    """Say how much memory is about to be taken; raises ``RkdError`` where the machine has less than that left."""
    left = psutil.virtual_memory().available
    _log.info("%s: %.2f GiB of memory", what, needed / 2**30)
    if needed > left:
        raise RkdError(
            f"{what} take {needed / 2**30:.1f} GiB of memory, and {left / 2**30:.1f} are left; use fewer images "
            "(+shots=100) or a smaller teacher"
        )


class PatchDetector(Detector):
    """Scores images by the distance of each patch from what is normal."""

    recipe: PatchRecipe

    def __init__(self, recipe: PatchRecipe, features: PatchFeatures, device: torch.device) -> None:
        self.recipe, self.features, self.device = recipe, features, device

    @abstractmethod
    def distances(self, described: Tensor) -> Tensor:
        """How far patches ``(N, h, w, channels)`` are from normal: ``(N, h, w)``, not negative."""

    def image_scores(self, described: Tensor, distances: Tensor) -> dict[str, Tensor]:
        """Scores of images that are not read off their maps, ``(N,)`` each, where the recipe has some."""
        share = self.recipe.top_share
        return {"image_score": mean_of_farthest(distances, share)} if share else {}

    @torch.inference_mode()
    def score(self, images: Images, *, batch_size: int = 16) -> Scores:
        """Maps of distances, brought to the image's size and smoothed."""
        side, maps = images.shape[1], []
        own: dict[str, list[Tensor]] = {}
        for start in batches(len(images), batch_size, "score images"):
            described = self.features(images[start : start + batch_size], self.device)
            distances = self.distances(described)
            maps.append(anomaly_map([distances], side, sigma=self.recipe.sigma, aligned=False).cpu())
            for name, values in self.image_scores(described, distances).items():
                own.setdefault(name, []).append(values.cpu())
        stacked = torch.cat(maps).numpy()
        scores = {name: torch.cat(values).double().numpy() for name, values in own.items()}
        return Scores(stacked, scores | {"map_max": stacked.max(axis=(1, 2)).astype(np.float64)})


def mean_of_farthest(distances: Tensor, share: float) -> Tensor:
    """Mean of the largest distances of an image's patches ``(N, h, w)``, a share of them and at least one: ``(N,)``."""
    flat = distances.flatten(1)
    return flat.topk(max(1, int(share * flat.shape[1]))).values.mean(1)


P = TypeVar("P", bound=PatchRecipe)


class PatchSystem(System[P, Backbone]):
    """A system of this kind: what fits it, and what scores by what was fitted."""

    def __init__(
        self,
        task: Callable[[P, PatchFeatures, TaskInputs], FittingTask],
        detector: Callable[[P, PatchFeatures, dict[str, Tensor], torch.device], PatchDetector],
    ) -> None:
        self._task, self._detector = task, detector

    def teacher(self, weights: TeacherWeights, recipe: P) -> Backbone:
        """The network whose features are compared."""
        return backbone(weights, recipe.blocks)

    def task(self, recipe: P, teacher: Backbone, given: TaskInputs) -> FittingTask:
        """What is learnt, in one pass."""
        features = PatchFeatures(teacher, recipe)
        made = self._task(recipe, features, given)
        made.notes |= features.made_with
        return made

    def detector(
        self, recipe: P, teacher: Backbone, state: dict[str, Tensor], lambda_: float, device: torch.device
    ) -> PatchDetector:
        """Network and what was learnt, on a device."""
        return self._detector(recipe, PatchFeatures(place(teacher, device), recipe), state, device)
