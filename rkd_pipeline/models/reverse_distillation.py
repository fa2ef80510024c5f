"""The trainable half of Reverse KD: one-class bottleneck embedding (OCBE) and mirrored decoder.

Follows Deng and Li 2022 (RD4AD, ``resnet.py`` and ``de_resnet.py``). One deviation: the official OCBE also holds
a 1x1 convolution with BatchNorm (``conv4``, ``bn4``) that its forward pass never uses; it is left out here, as in
the code that the paper started from.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rkd_pipeline.models.architectures import Architecture, OceWidth


def _conv3x3(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)


def _halve(in_channels: int, out_channels: int) -> list[nn.Module]:
    return [_conv3x3(in_channels, out_channels, stride=2), nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)]


class OCBE(nn.Module):
    """Multi-scale feature fusion (MFF) followed by the one-class embedding (OCE), Figure 4 of the paper.

    Args:
        arch: the teacher's architecture.
        oce_width: ``wide`` gives the OCE's bottlenecks the teacher's inner width (official code); ``narrow`` keeps
            64 per 64 planes (anomalib, and so the paper). They differ for ``wide_resnet50_2``, and for ``resnet34``
            in depth: three blocks in the official code, two in anomalib.
        oce_depth: residual blocks of the OCE; None: as many as whoever builds it so wide has.

    Shapes: three maps ``(N, C_k, H/4, W/4), (.., H/8, W/8), (.., H/16, W/16)`` to ``(N, 2 C_3, H/32, W/32)``.
    """

    def __init__(self, arch: Architecture, oce_width: OceWidth, oce_depth: int | None = None) -> None:
        super().__init__()
        depth = oce_depth or arch.oce_depth_in(oce_width)
        c1, c2, c3 = arch.channels
        self.reduce_1 = nn.Sequential(*_halve(c1, c2), *_halve(c2, c3))
        self.reduce_2 = nn.Sequential(*_halve(c2, c3))
        base_width = arch.base_width if oce_width == "wide" else 64
        block, planes, out = arch.block_class, 512, 2 * c3
        shortcut = nn.Sequential(nn.Conv2d(3 * c3, out, 1, stride=2, bias=False), nn.BatchNorm2d(out))
        blocks = [block(3 * c3, planes, 2, shortcut, base_width=base_width)]
        blocks += [block(out, planes, base_width=base_width) for _ in range(1, depth)]
        self.oce = nn.Sequential(*blocks)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Embed three maps into one."""
        f1, f2, f3 = features
        return self.oce(torch.cat([self.reduce_1(f1), self.reduce_2(f2), f3], dim=1))


class UpBlock(nn.Module):
    """A residual block of the decoder; the first of a stage doubles the resolution.

    Mirrors the encoder's block: where that one halves with a strided 3x3 convolution, this one doubles with a 2x2
    transposed convolution, in the main path and in the shortcut.
    """

    def __init__(self, arch: Architecture, in_channels: int, planes: int, *, double: bool) -> None:
        super().__init__()
        out = planes * arch.expansion

        def resize(c_in: int, c_out: int) -> nn.Module:
            if double:
                return nn.ConvTranspose2d(c_in, c_out, kernel_size=2, stride=2, bias=False)
            return _conv3x3(c_in, c_out)

        layers: list[nn.Module]
        if arch.block == "basic":
            layers = [resize(in_channels, planes), nn.BatchNorm2d(planes), nn.ReLU(inplace=True)]
            layers += [_conv3x3(planes, planes), nn.BatchNorm2d(planes)]
        else:
            width = planes * arch.base_width // 64
            layers = [nn.Conv2d(in_channels, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
            layers += [resize(width, width), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
            layers += [nn.Conv2d(width, out, 1, bias=False), nn.BatchNorm2d(out)]
        self.main = nn.Sequential(*layers)
        self.shortcut: nn.Module = nn.Identity()
        if double:
            self.shortcut = nn.Sequential(resize(in_channels, out), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` to ``(N, C', H, W)``, or to twice the side."""
        return torch.relu(self.main(x) + self.shortcut(x))


class Decoder(nn.Module):
    """The student: the teacher's blocks 1 to 3, mirrored.

    Shapes: ``(N, 2 C_3, H/32, W/32)`` to three maps of the teacher's shapes, finest first.
    """

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        in_channels = 512 * arch.expansion
        stages = []
        # Depths are not reversed: the official decoder has as many blocks in its deepest stage as the encoder
        # has in its shallowest.
        for planes, depth in zip((256, 128, 64), arch.depths, strict=True):
            blocks = [UpBlock(arch, in_channels, planes, double=True)]
            in_channels = planes * arch.expansion
            blocks += [UpBlock(arch, in_channels, planes, double=False) for _ in range(1, depth)]
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.ModuleList(stages)

    def forward(self, embedding: Tensor) -> list[Tensor]:
        """Unfold the embedding into the teacher's three maps."""
        reconstructed, x = [], embedding
        for stage in self.stages:
            x = stage(x)
            reconstructed.append(x)
        return reconstructed[::-1]


class ReverseDistillation(nn.Module):
    """OCBE and decoder together: everything that Reverse KD trains.

    Input and output: the teacher's three feature maps, and their reconstruction in the same order and shapes.
    Image sides must be multiples of 32. Initialised as the official code does: Kaiming normal (fan out) for
    convolutions, torch's default for transposed ones.
    """

    def __init__(self, arch: Architecture, oce_width: OceWidth, oce_depth: int | None = None) -> None:
        super().__init__()
        self.ocbe = OCBE(arch, oce_width, oce_depth)
        self.decoder = Decoder(arch)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Reconstruct the teacher's three maps from themselves, through the bottleneck."""
        return self.decoder(self.ocbe(features))
