"""What ReContrast (Guo et al. 2023) trains: an encoder of the teacher's shape, and an embedding and decoder."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rkd_pipeline.models.architectures import OceWidth, architecture
from rkd_pipeline.models.reverse_distillation import ReverseDistillation
from rkd_pipeline.models.twin import Twin


class ContrastiveReconstruction(nn.Module):
    """An encoder that learns, and one decoder of both encoders' features: its own, and those of a frozen one.

    Image sides must be multiples of 32.
    """

    def __init__(self, name: str, oce_width: OceWidth) -> None:
        super().__init__()
        self.encoder = Twin(name)
        self.distillation = ReverseDistillation(architecture(name), oce_width)

    def forward(self, x: Tensor, frozen: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Of prepared images ``(N, 3, S, S)`` and the frozen encoder's three maps of them, finest first.

        Gives the encoder's own maps, what is decoded from them, and what is decoded from the frozen ones. Both go
        through the decoder as one batch: its BatchNorm sees both domains.
        """
        own = self.encoder(x)
        decoded = self.distillation([torch.cat([a, b.to(a.dtype)]) for a, b in zip(own, frozen, strict=True)])
        halves = [d.chunk(2) for d in decoded]
        return own, [a for a, _ in halves], [b for _, b in halves]
