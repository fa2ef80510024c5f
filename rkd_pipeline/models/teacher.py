"""The frozen teacher: blocks 1 to 3 of a torchvision ResNet."""

import torch
from torch import Tensor, nn

from rkd_pipeline.models.architectures import architecture, torchvision_network
from rkd_pipeline.models.frozen import IMAGENET_MEAN, IMAGENET_STD, Frozen
from rkd_pipeline.models.weights import TeacherWeights


class Teacher(Frozen):
    """Features of an image at three scales; always in eval mode, never with gradients.

    Shapes: uint8 images ``(N, H, W, 3)`` to ``(N, C_1, H/4, W/4), (N, C_2, H/8, W/8), (N, C_3, H/16, W/16)``.
    Source: RD4AD ``resnet.py``; paper, section 4.1.
    """

    def __init__(self, weights: TeacherWeights) -> None:
        super().__init__()
        self.arch = architecture(weights.name.arch)
        self.sha256 = weights.sha256
        with torch.device("meta"):  # no time or random numbers for values that the next lines replace
            network = torchvision_network(self.arch.name)
        del network.layer4, network.avgpool, network.fc
        # Counters of BatchNorm's steps play no part in eval mode, and some exporters drop them.
        counters = {k: torch.zeros((), dtype=torch.long) for k in network.state_dict() if k.endswith("tracked")}
        network.load_state_dict(counters | weights.state, assign=True)
        self.stem = nn.Sequential(network.conv1, network.bn1, network.relu, network.maxpool)
        self.blocks = nn.ModuleList([network.layer1, network.layer2, network.layer3])
        self.freeze(IMAGENET_MEAN, IMAGENET_STD, scale=255)

    @property
    def channels(self) -> tuple[int, ...]:
        """Of the three scales, finest first."""
        return self.arch.channels

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels of the image per position of each scale."""
        return (4, 8, 16)

    @torch.no_grad()
    def forward(self, images: Tensor) -> list[Tensor]:
        """Features of uint8 images, finest scale first."""
        # A (N, H, W, 3) array seen as (N, 3, H, W) is channels_last already: no copy.
        x = (images.permute(0, 3, 1, 2).float() - self.mean) / self.std
        x = self.stem(x)
        features = []
        for block in self.blocks:
            x = block(x)
            features.append(x)
        return features
