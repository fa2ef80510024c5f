"""What anomalib's models expect around them, where no Lightning trainer is: seeds, batches, and a trainer's numbers.

The optional extra ``anomalib`` is imported by ``anomalib_model.py`` alone, and only when a recipe asks for it.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partialmethod
from typing import Any

import numpy as np
import torch
from sklearn.utils import check_random_state
from torch import Tensor, nn

from rkd_pipeline.data.rows import Images
from rkd_pipeline.device import upload
from rkd_pipeline.models.frozen import IMAGENET_MEAN, IMAGENET_STD


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Inside, the global generators of torch, numpy and Python start from a seed; afterwards they go on as before.

    anomalib's models draw from all three.
    """
    python, numpy_ = random.getstate(), _numpy_generator().get_state()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        random.seed(seed)
        _numpy_generator().seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(python)
            _numpy_generator().set_state(numpy_)


@contextmanager
def without_bars() -> Iterator[None]:
    """Inside, anomalib's own progress bars stay away: the training's is shown."""
    import tqdm

    bars: Any = tqdm.tqdm
    made = bars.__init__
    bars.__init__ = partialmethod(made, disable=True)
    try:
        yield
    finally:
        bars.__init__ = made


def _numpy_generator() -> np.random.RandomState:
    """The one behind the functions of ``numpy.random``."""
    generator: np.random.RandomState = check_random_state(None)
    return generator


def normalised(images: np.ndarray, device: torch.device) -> Tensor:
    """uint8 ``(N, S, S, 3)`` as anomalib's pre-processor leaves them: float32 ``(N, 3, S, S)``, contiguous.

    Not channels_last: several models take views of maps that only contiguous ones have.
    """
    batch = upload(images, device).permute(0, 3, 1, 2).float().div(255)
    mean, deviation = (batch.new_tensor(v).view(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    return ((batch - mean) / deviation).contiguous()


@dataclass(frozen=True)
class Batch:
    """A batch of normal images, as models read it: ``(N, 3, S, S)``, masks ``(N, S, S)`` and labels ``(N,)``, all 0."""

    image: Tensor
    gt_mask: Tensor
    gt_label: Tensor

    @classmethod
    def of(cls, images: Tensor) -> "Batch":
        """Of normal images."""
        count, _, height, width = images.shape
        return cls(images, images.new_zeros(count, height, width), images.new_zeros(count))


class Batches:
    """All training images in their order, batch by batch; a data loader to models that look through one."""

    def __init__(self, images: Images, size: int, device: torch.device) -> None:
        self._images, self._size, self._device = images, size, device

    def __len__(self) -> int:
        return -(-len(self._images) // self._size)

    def __iter__(self) -> Iterator[Batch]:
        for start in range(0, len(self._images), self._size):
            yield Batch.of(normalised(self._images[start : start + self._size], self._device))


class StubTrainer:
    """The numbers that models read from a trainer.

    Attributes:
        current_epoch: from 0.
        global_step: steps taken.
        max_epochs: length of the schedule; ``max_steps`` is -1, which means none of its own.
        datamodule: this; it has ``train_dataloader()``.
        train_dataloader: gives all training images, and is called for itself, as some models do.
    """

    max_steps = -1

    def __init__(self, batches: Batches, epochs: int) -> None:
        self.batches, self.max_epochs = batches, epochs
        self.current_epoch = self.global_step = 0
        self.datamodule, self.train_dataloader = self, _Called(batches)

    @property
    def estimated_stepping_batches(self) -> int:
        """Steps of the whole schedule."""
        return self.max_epochs * len(self.batches)


class _Called:
    """Batches to ``datamodule.train_dataloader()`` and to ``trainer.train_dataloader`` alike."""

    def __init__(self, batches: Batches) -> None:
        self._batches = batches

    def __call__(self) -> Batches:
        return self._batches

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._batches)


@dataclass
class Schedule:
    """A schedule of learning rates, and how often it was advanced.

    Checkpoints do not hold it: what was done in an epoch is done again, in the same order, when a training goes on.
    """

    scheduler: Any
    each_step: bool
    done: int = 0

    def advance(self, until: int) -> None:
        """Advance it until it was so ``until`` times."""
        while self.done < until:
            self.scheduler.step()
            self.done += 1


def optimisers_of(module: Any) -> tuple[list[torch.optim.Optimizer], list[Schedule]]:
    """What ``configure_optimizers`` gives, in the forms that Lightning allows and anomalib uses."""
    found = module.configure_optimizers()
    if isinstance(found, tuple) and len(found) == 2 and isinstance(found[0], list):
        optimisers, schedulers = found
    elif isinstance(found, dict):
        optimisers, schedulers = [found["optimizer"]], [found[k] for k in ("lr_scheduler",) if k in found]
    else:
        optimisers, schedulers = (list(found) if isinstance(found, list | tuple) else [found]), []
    settings = [s if isinstance(s, dict) else {"scheduler": s} for s in schedulers]
    return optimisers, [Schedule(s["scheduler"], s.get("interval", "epoch") == "step") for s in settings]


def without_lightning(module: nn.Module, trainer: StubTrainer) -> Any:
    """A model that logs nowhere, and whose steps need no Lightning; the trainer must be kept as long as it."""
    made: Any = module
    made.log = made.log_dict = lambda *_, **__: None
    made.manual_backward = lambda loss, *args, **options: loss.backward(*args, **options)
    made.trainer = trainer
    return made
