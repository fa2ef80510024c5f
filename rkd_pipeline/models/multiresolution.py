"""The two networks of Multiresolution KD (Salehi et al. 2021, ``models/network.py``): frozen source, trained cloner.

Both see the image. They are compared at some layers: for VGG-16 the outputs of max-pools 2 to 5, for a ResNet those of
its blocks 1 to 3, which is not the authors' source and stands in its own rows.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn

from rkd_pipeline.models.architectures import Transformer, Vgg, network, torchvision_network
from rkd_pipeline.models.frozen import IMAGENET_MEAN, IMAGENET_STD, Frozen
from rkd_pipeline.models.teacher import Teacher
from rkd_pipeline.models.weights import TeacherWeights

ClonerSize = Literal["small", "equal"]
_FIRST_WIDTH = {"small": 16, "equal": 64}


class Source(Frozen):
    """A frozen classification network cut at its compared layers; always in eval mode.

    Args:
        weights: of a VGG or a ResNet.
        normalise: take ImageNet's mean and deviation out of images; the official code leaves them as they are.
    """

    def __init__(self, weights: TeacherWeights, normalise: bool) -> None:
        super().__init__()
        arch = network(weights.name.arch)
        assert not isinstance(arch, Transformer)  # the recipes' ``networks`` name none
        self.arch = arch
        self.sha256 = weights.sha256
        self.parts = nn.ModuleList(_vgg_parts(weights) if isinstance(self.arch, Vgg) else _resnet_parts(weights))
        mean, std = (IMAGENET_MEAN, IMAGENET_STD) if normalise else ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
        self.freeze(mean, std, scale=1)

    @property
    def channels(self) -> tuple[int, ...]:
        """Of the compared layers, finest first."""
        return self.arch.channels

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels of the image per position of each compared layer."""
        return tuple(4 * 2**i for i in range(len(self.channels)))

    def prepared(self, images: Tensor) -> Tensor:
        """uint8 ``(N, H, W, 3)`` as both networks see them: ``(N, 3, H, W)`` in [0, 1], or normalised."""
        return (images.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std

    def layer_outputs(self, x: Tensor) -> list[Tensor]:
        """Features of prepared images, finest first, with gradients to the images."""
        features = []
        for part in self.parts:
            x = part(x)
            features.append(x)
        return features

    @torch.no_grad()
    def forward(self, images: Tensor) -> list[Tensor]:
        """Features of uint8 images, without gradients."""
        return self.layer_outputs(self.prepared(images))


def _vgg_parts(weights: TeacherWeights) -> list[nn.Module]:
    """From layer to layer: up to max-pool 2, then pool by pool."""
    with torch.device("meta"):
        features = torchvision_network(weights.name.arch).features
    features.load_state_dict({k.removeprefix("features."): v for k, v in weights.state.items()}, assign=True)
    pools = [i + 1 for i, layer in enumerate(features) if isinstance(layer, nn.MaxPool2d)]
    return [features[start:stop] for start, stop in pairwise([0, *pools[1:]])]


def _resnet_parts(weights: TeacherWeights) -> list[nn.Module]:
    teacher = Teacher(weights)
    first, *others = teacher.blocks
    return [nn.Sequential(teacher.stem, first), *others]


def cloner_layers(channels: Sequence[int], size: ClonerSize) -> list[list[int]]:
    """Output channels of the convolutions before each pool; those of ``channels`` are compared layers.

    For VGG-16 these are the official configurations B (small) and A (equal); for other sources their plan.

    >>> cloner_layers((128, 256, 512, 512), "small")
    [[16, 16], [16, 128], [16, 16, 256], [16, 16, 512], [16, 16, 512]]
    >>> cloner_layers((128, 256, 512, 512), "equal")
    [[64, 64], [128, 128], [256, 256, 256], [512, 512, 512], [512, 512, 512]]
    """
    first = _FIRST_WIDTH[size]
    groups = [[first, first]]
    for i, out in enumerate(channels):
        inner = out if size == "equal" else first
        groups.append([inner] * (1 if i == 0 else 2) + [out])
    return groups


class Cloner(nn.Module):
    """The student: 3x3 convolutions without bias, BatchNorm after all but the last before a pool, ReLU, 2x2 max-pools.

    Shapes: prepared images ``(N, 3, H, W)`` to maps of the source's shapes, finest first. H and W must be multiples
    of the coarsest stride. Initialised as the official code does: Xavier uniform.
    """

    def __init__(self, channels: Sequence[int], size: ClonerSize) -> None:
        super().__init__()
        parts, inputs = [], 3
        for group in cloner_layers(channels, size):
            layers: list[nn.Module] = []
            for i, out in enumerate(group):
                convolution = nn.Conv2d(inputs, out, 3, padding=1, bias=False)
                nn.init.xavier_uniform_(convolution.weight)
                last = i == len(group) - 1
                layers += [convolution, *([] if last else [nn.BatchNorm2d(out)]), nn.ReLU(inplace=True)]
                inputs = out
            parts.append(nn.Sequential(*layers, nn.MaxPool2d(2, 2)))
        self.stem, self.parts = parts[0], nn.ModuleList(parts[1:])

    def forward(self, x: Tensor) -> list[Tensor]:
        """Maps of the shapes of the source's, as the cloner has them."""
        x = self.stem(x)
        features = []
        for part in self.parts:
            x = part(x)
            features.append(x)
        return features


class GuidedReLU(torch.autograd.Function):
    """ReLU whose backward pass lets through only what is positive, both forwards and backwards (Springenberg 2015)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """As ReLU."""
        y = x.clamp(min=0)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """As ReLU, without negative gradients."""
        (y,) = ctx.saved_tensors
        return gradient.clamp(min=0) * (y > 0)


@contextmanager
def guided(module: nn.Module) -> Iterator[None]:
    """Inside, the ReLUs of a module backpropagate guided."""
    rectifiers = [m for m in module.modules() if isinstance(m, nn.ReLU)]
    for rectifier in rectifiers:
        # The instance's own forward hides the class's for a while: no second network, and nothing to copy back.
        vars(rectifier)["forward"] = GuidedReLU.apply
    try:
        yield
    finally:
        for rectifier in rectifiers:
            del vars(rectifier)["forward"]  # the class's own again
