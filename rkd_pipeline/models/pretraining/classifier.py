"""Pretraining: tell formulas apart, for the whole image and at every place of the last feature map.

Half of the images are pairs put together by a mask. The label of a place is the share of each class there, so the
features must say what is where, and not only what is in the image: anomaly detection compares places.

Two further terms act on the features of blocks 1 to 3 themselves, since a teacher is used for them and never for its
classes. ``spread``: within an image they should differ between places in many directions; classes alone are told apart
with few (docs/embedded-teacher.md has the numbers). ``evenness``: their length should be the same at all places, since
the official code's loss weighs places by it.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rkd_pipeline.device import Compute, place
from rkd_pipeline.models.architectures import torchvision_network
from rkd_pipeline.models.frozen import IMAGENET_MEAN, IMAGENET_STD
from rkd_pipeline.models.pretraining import augmentation


@dataclass(frozen=True)
class Settings:
    """What shapes the weights, apart from the number of threads.

    Attributes:
        classes, per_class: formulas, and images drawn of each.
        side: of the drawn images, pixels.
        small, large: of the images trained on: ``small`` at first, at a third of the cost, ``large`` in the last
            tenth of the epochs.
        epochs, batch_size, learning_rate, weight_decay: AdamW under one cosine, warmed up over the first 5%.
        spread, evenness: weights of the two terms on features, each summed over blocks 1 to 3.
        frozen: share of the steps, from the first, in which the classifier learns and tells the features nothing.
        seed: of formulas, images, initial weights and augmentation.
    """

    classes: int = 600
    per_class: int = 25
    side: int = 128
    small: int = 64
    large: int = 96
    epochs: int = 20
    batch_size: int = 48
    learning_rate: float = 0.002
    weight_decay: float = 0.05
    spread: float = 0.3
    evenness: float = 0.3
    frozen: float = 0.0
    seed: int = 0

    def crop(self, epoch: int) -> int:
        """Side of the images trained on in an epoch (from 1)."""
        return self.small if epoch <= round(0.9 * self.epochs) else self.large


def settling(settings: Settings) -> Settings:
    """The second stage, on large images and less than half of them, with a new classifier.

    On crops of 64 and 96 pixels every place is near the border, which a network notices by its padding: far from it, in
    the flat background of a whole image, block 3 ran away to 30 times its length.
    """
    return replace(
        settings,
        per_class=max(1, round(0.48 * settings.per_class)),
        small=2 * settings.large,
        large=2 * settings.large,
        epochs=1,
        batch_size=settings.batch_size // 2,
        learning_rate=settings.learning_rate / 2,
        frozen=0.3,
    )


class Pretrained(nn.Module):
    """conv1 to layer3 of a ResNet-18 and a classifier that is thrown away."""

    mean: Tensor
    std: Tensor

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.network = torchvision_network("resnet18")
        del self.network.layer4, self.network.avgpool, self.network.fc
        # A layer between features and classes: what only serves the classes can stay in it.
        self.neck = nn.Sequential(nn.Conv2d(256, 512, 1, bias=False), nn.BatchNorm2d(512), nn.ReLU())
        self.classes = nn.Conv2d(512, classes, 1)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1))

    def forward(self, images: Tensor, frozen: bool = False) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Logits of images ``(N, classes)``, of places ``(N, classes, H / 16, W / 16)``; features of all blocks."""
        n, features = self.network, []
        x = n.maxpool(n.relu(n.bn1(n.conv1((images - self.mean) / self.std))))
        for block in (n.layer1, n.layer2, n.layer3):
            x = block(x)
            features.append(x)
        x = self.neck(x.detach() if frozen else x)
        return self.classes(x.mean((2, 3), keepdim=True)).flatten(1), self.classes(x), features


def pretrain(
    settings: Settings,
    images: np.ndarray[Any, Any],
    compute: Compute,
    after_epoch: Callable[[int, float, float, dict[str, Tensor]], None],
    start: dict[str, Tensor] | None = None,
) -> None:
    """Train on ``images`` (classes in order, uint8 ``(N, H, W, 3)``) from weights ``start``, or else random ones.

    ``after_epoch`` is given the epoch (from 1), the mean loss, the accuracy on unmixed images, and the state.
    """
    torch.manual_seed(settings.seed)
    model = Pretrained(settings.classes)
    if start is not None:
        counters = {k: v for k, v in model.network.state_dict().items() if k.endswith("batches_tracked")}
        model.network.load_state_dict(counters | start)
    model = place(model, compute.device)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, settings.learning_rate, betas=(0.9, 0.99))
    steps = settings.epochs * (len(images) // settings.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, settings.learning_rate, total_steps=steps, pct_start=0.05, cycle_momentum=False
    )
    rng = torch.Generator().manual_seed(settings.seed)
    for epoch in range(1, settings.epochs + 1):
        model.train()
        total, right, whole = 0.0, 0, 0
        order = torch.randperm(len(images), generator=rng)
        batches = order[: len(order) // settings.batch_size * settings.batch_size].split(settings.batch_size)
        for step, chosen in enumerate(batches, (epoch - 1) * len(batches)):
            made = _batch(settings, images, chosen, settings.crop(epoch), rng)
            batch, shares, first, second = (part.to(compute.device) for part in made)
            with compute.autocast():
                of_images, of_places, features = model(batch, frozen=step < settings.frozen * steps)
            loss = _loss(of_images.float(), of_places.float(), shares, first, second)
            for block in features:
                few, uneven = _shape(block.float())
                loss = loss + settings.spread * few + settings.evenness * uneven
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            schedule.step()
            pure = shares.flatten(1).amin(1) == 1
            right += int((of_images.argmax(1) == first)[pure].sum())
            whole += int(pure.sum())
            total += float(loss.detach())
        after_epoch(epoch, total / len(batches), right / max(whole, 1), teacher_state(model))


def teacher_state(model: Pretrained) -> dict[str, Tensor]:
    """conv1 to layer3 under torchvision's names, in half precision, without BatchNorm's counters."""
    state = model.network.state_dict()
    return {
        k: v.detach().to("cpu", torch.float16).contiguous()
        for k, v in state.items()
        if not k.endswith("batches_tracked")
    }


def _batch(
    settings: Settings, images: np.ndarray[Any, Any], chosen: Tensor, crop: int, rng: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images, the first class's share at every place, and both classes."""
    x = torch.from_numpy(images[chosen.numpy()]).permute(0, 3, 1, 2).float() / 255
    x = augmentation.photographed(augmentation.posed(x, crop, rng), rng)
    labels = chosen // settings.per_class
    partner = torch.randperm(len(x), generator=rng)
    mask = augmentation.masks(len(x), crop, rng)
    x = mask * x + (1 - mask) * x[partner]
    shares = F.adaptive_avg_pool2d(mask, crop // 16)[:, 0]
    return x.contiguous(memory_format=torch.channels_last), shares, labels, labels[partner]


def _loss(of_images: Tensor, of_places: Tensor, shares: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Cross-entropy of images plus that of places, each against the shares of both classes."""
    share = shares.mean((1, 2))
    whole = share * _entropy(of_images, first) + (1 - share) * _entropy(of_images, second)
    at_places = first.view(-1, 1, 1).expand_as(shares), second.view(-1, 1, 1).expand_as(shares)
    local = shares * _entropy(of_places, at_places[0]) + (1 - shares) * _entropy(of_places, at_places[1])
    return whole.mean() + local.mean()


def _shape(features: Tensor) -> tuple[Tensor, Tensor]:
    """How few directions the features of a block vary in within an image, and how uneven their length is there.

    The first is the logarithm of ``C / P``, with ``P`` the participation ratio of the covariance of unit vectors around
    their mean in the image: 0 if all ``C`` directions share alike, ``log C`` if there is only one. The second is the
    variance of the logarithm of the length. Both are free of the features' scale.
    """
    n, channels, height, width = features.shape
    places = features.permute(0, 2, 3, 1).reshape(n, height * width, channels)
    length = places.square().sum(2).add(1e-6).sqrt()
    direction = places / length[..., None]
    around = (direction - direction.mean(1, keepdim=True)).flatten(0, 1)
    covariance = around.T @ around
    few = (channels * covariance.square().sum() / covariance.trace().square()).log()
    return few, length.log().var(1, correction=0).mean()


def _entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels, reduction="none", label_smoothing=0.1)
