"""Systems whose student sees the image, as its teacher does, and learns the teacher's features of normal ones.

Shared by Multiresolution KD, STFPM, RKDAD and ReContrast: what a step gathers, and how images are scored batch by
batch. What differs is their modules' own: the student, the loss, the map.
"""

from abc import abstractmethod
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from rkd_pipeline.data.rows import Images
from rkd_pipeline.detectors import Detector
from rkd_pipeline.detectors.anomaly_map import Scores
from rkd_pipeline.device import place, upload
from rkd_pipeline.models.multiresolution import Source
from rkd_pipeline.progress import batches
from rkd_pipeline.training.features import EVALUATION_BATCH, FeatureSource
from rkd_pipeline.training.loss_sum import LossSum
from rkd_pipeline.training.losses import Features
from rkd_pipeline.training.task import TaskInputs, TrainingTask


class ImagesAndFeatures(TrainingTask):
    """The source's features are kept where the memory budget allows; the student sees the images.

    Args:
        student: untrained, on the CPU; prepared images to features of the source's shapes.
        source: frozen, on the device.
    """

    def __init__(self, student: nn.Module, source: Source, given: TaskInputs) -> None:
        self.lambda_, self.notes = 0.0, {}
        self._source, self._compute = source, given.compute
        self.student = place(student, given.compute.device)
        self._images, self._held_out = given.images, given.validation
        sources = FeatureSource.within_one_budget(source, given.images, given.validation, given.compute)
        self._features, self._held_out_features = sources

    def begin(self) -> float:
        """No lambda, unless a system has one."""
        return 0.0

    def batch(self, indices: Tensor, generator: torch.Generator) -> list[Tensor]:
        """The images, and the source's features of them."""
        return self._batch(self._features, self._images, indices)

    def validation_loss(self) -> float:
        """Mean of the same loss over the held-out images."""
        assert self._held_out is not None  # the loop asks only where there are some
        assert self._held_out_features is not None
        losses = LossSum.of(self._compute.device)
        for indices in torch.arange(len(self._held_out)).split(EVALUATION_BATCH):
            losses.add(self.losses(self._batch(self._held_out_features, self._held_out, indices)))
        return losses.total() / len(self._held_out)

    def finish(self) -> None:
        """Nothing: scores are not normalised by images."""

    def _batch(self, features: FeatureSource, images: Images, indices: Tensor) -> list[Tensor]:
        chosen = upload(images[indices.numpy()], self._compute.device)
        return [chosen, *features.batch(indices)]


class ImageStudentTask(ImagesAndFeatures):
    """The student's features are compared with the source's, layer by layer."""

    @abstractmethod
    def compared(self, source: Features, student: Features) -> Tensor:
        """The loss of each image, ``(N,)``, of both networks' features."""

    def losses(self, batch: list[Tensor]) -> Tensor:
        """The loss of each image over all compared layers, ``(N,)``."""
        images, *features = batch
        with self._compute.autocast():
            learnt = self.student(self._source.prepared(images))
        return self.compared(features, learnt)


class BatchDetector(Detector):
    """Scores images batch by batch, each by itself."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    @abstractmethod
    def scored(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Maps ``(N, S, S)``, and image scores ``(N,)`` beside the map's maximum, of uint8 images on the device."""

    def score(self, images: Images, *, batch_size: int = 32) -> Scores:
        """Maps, their maxima, and the system's other scores."""
        maps, own = [], dict[str, list[Tensor]]()
        for start in batches(len(images), batch_size, "score images"):
            batch = torch.from_numpy(np.ascontiguousarray(images[start : start + batch_size])).to(self.device)
            of_batch, others = self.scored(batch)
            maps.append(of_batch.cpu())
            for name, values in others.items():
                own.setdefault(name, []).append(values.cpu())
        stacked = torch.cat(maps).numpy()
        scores = {name: torch.cat(values).double().numpy() for name, values in own.items()}
        return Scores(stacked, scores | {"map_max": stacked.max(axis=(1, 2)).astype(np.float64)})


def pixel_gradient(loss: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Of each image's own loss with respect to its pixels, ``(N, 3, S, S)``; ``loss`` gives ``(N,)``.

    Images of a batch must not meet in it, as they do not in eval mode: the gradient of the sum then holds each one's.
    """
    x = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(x).sum(), x)
    return gradient
