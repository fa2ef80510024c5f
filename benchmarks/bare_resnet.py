"""torchvision's ResNets of two classes, for a machine that has torch and no torchvision.

He et al. 2016, with the stride in the 3x3 convolution as torchvision has it, and Zagoruyko and Komodakis 2016 for the
wide one. Names of parameters and the order in which they are made are torchvision's, so that a state dict of either
fits the other; tests/test_benchmarks.py compares both, number by number.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from rkd_pipeline.models import architectures
from rkd_pipeline.models.architectures import Architecture


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    expansion = 1

    def __init__(
        self, inplanes: int, planes: int, stride: int = 1, downsample: nn.Module | None = None, base_width: int = 64
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inplanes, planes, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` to ``(N, planes, H / stride, W / stride)``."""
        inner = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(inner + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions beside a shortcut; ``base_width`` 128 makes it a wide one."""

    expansion = 4

    def __init__(
        self, inplanes: int, planes: int, stride: int = 1, downsample: nn.Module | None = None, base_width: int = 64
    ) -> None:
        super().__init__()
        width = planes * base_width // 64
        self.conv1 = nn.Conv2d(inplanes, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * planes, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * planes)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` to ``(N, 4 planes, H / stride, W / stride)``."""
        inner = self.relu(self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))))
        return self.relu(self.bn3(self.conv3(inner)) + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """A whole ResNet of 1000 classes; images ``(N, 3, H, W)``."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        block, last = block_of(arch), {"resnet18": 2}.get(arch.name, 3)
        channels = 64
        for number, (planes, depth) in enumerate(zip((64, 128, 256, 512), (*arch.depths, last), strict=True), start=1):
            stride, out, shortcut = 1 if number == 1 else 2, planes * arch.expansion, None
            if stride != 1 or channels != out:
                shortcut = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))
            blocks = [block(channels, planes, stride, shortcut, arch.base_width)]
            blocks += [block(out, planes, base_width=arch.base_width) for _ in range(1, depth)]
            setattr(self, f"layer{number}", nn.Sequential(*blocks))
            channels = out
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, 1000)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Scores of classes, ``(N, 1000)``."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for number in (1, 2, 3, 4):
            x = getattr(self, f"layer{number}")(x)
        return self.fc(torch.flatten(self.avgpool(x), 1))


def block_of(arch: Architecture) -> Callable[..., nn.Module]:
    """The encoder block of an architecture."""
    return BasicBlock if arch.block == "basic" else Bottleneck


def stand_in() -> None:
    """Have the library build its ResNets from here. To be called before it builds, or imports, a teacher."""
    architectures.torchvision_network = lambda name: ResNet(architectures.architecture(name))
    architectures.Architecture.block_class = property(block_of)
