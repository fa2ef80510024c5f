"""A network of the teacher's shape that learns: the student of systems whose two networks are alike."""

import torch
from torch import Tensor, nn

from rkd_pipeline.models.architectures import architecture, torchvision_network


class Twin(nn.Module):
    """torchvision's ResNet from conv1 to layer3, drawn anew.

    Shapes: prepared images ``(N, 3, H, W)`` to maps ``(N, C_1, H/4, W/4), (N, C_2, H/8, W/8), (N, C_3, H/16, W/16)``.
    Initialised as torchvision does: Kaiming normal (fan out) for convolutions, BatchNorm at 1 and 0.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        with torch.device("meta"):  # no time or random numbers for layers that are left out
            whole = torchvision_network(architecture(name).name)
        stem = nn.Sequential(whole.conv1, whole.bn1, whole.relu, whole.maxpool)
        # Named as those of a Source: a twin can start with its weights.
        parts = [nn.Sequential(stem, whole.layer1), whole.layer2, whole.layer3]
        self.parts = nn.ModuleList(parts).to_empty(device="cpu")
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()

    def forward(self, x: Tensor) -> list[Tensor]:
        """Features of prepared images, finest first."""
        features = []
        for part in self.parts:
            x = part(x)
            features.append(x)
        return features


def new_twin(name: str, seed: int) -> Twin:
    """An untrained twin, drawn from ``seed`` on the CPU: the same on every device."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Twin(name)
