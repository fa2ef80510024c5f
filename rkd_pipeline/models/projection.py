"""What RD++ (Tien et al. 2023) adds to Reverse KD's networks: a projection of the teacher's features at each scale."""

from collections.abc import Sequence

from torch import Tensor, nn

from rkd_pipeline.models.architectures import Architecture, OceWidth
from rkd_pipeline.models.reverse_distillation import ReverseDistillation


def projection(channels: int) -> nn.Sequential:
    """Four 3x3 convolutions of C/2, C/4, C/2 and C channels, each with InstanceNorm and LeakyReLU (official code)."""
    layers: list[nn.Module] = []
    inputs = channels
    for out in (channels // 2, channels // 4, channels // 2, channels):
        layers += [nn.Conv2d(inputs, out, 3, padding=1), nn.InstanceNorm2d(out), nn.LeakyReLU()]
        inputs = out
    return nn.Sequential(*layers)


class ProjectedReverseDistillation(nn.Module):
    """Projections, and Reverse KD's embedding and decoder: everything that RD++ trains.

    Input and output: the teacher's three feature maps, and their reconstruction from the projected ones. Image sides
    must be multiples of 32, and the coarsest map must have more than one position: InstanceNorm needs them.
    """

    def __init__(self, arch: Architecture, oce_width: OceWidth) -> None:
        super().__init__()
        self.projections = nn.ModuleList(projection(c) for c in arch.channels)
        self.distillation = ReverseDistillation(arch, oce_width)

    def projected(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Each scale by its own projection, in the same shapes."""
        return [project(f) for project, f in zip(self.projections, features, strict=True)]

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Reconstruct the teacher's three maps from their projections, through the bottleneck."""
        return self.distillation(self.projected(features))
