"""The four ResNet shapes that teacher, OCBE and decoder are built from.

What belongs here: sizes, as data. What does not: layers, weights.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from rkd_pipeline.errors import UnknownName

if TYPE_CHECKING:
    from torchvision.models.resnet import BasicBlock, Bottleneck

BlockKind = Literal["basic", "bottleneck"]


@dataclass(frozen=True)
class Architecture:
    """A torchvision ResNet, cut after its third block.

    Attributes:
        name: torchvision's name, e.g. ``wide_resnet50_2``.
        block: kind of residual block.
        depths: residual blocks per stage in blocks 1 to 3.
        oce_depth: residual blocks in the one-class embedding (official code: 2 for ResNet-18, else 3).
        base_width: inner width of a bottleneck per 64 planes; 128 is what makes a ResNet "wide".
    """

    name: str
    block: BlockKind
    depths: tuple[int, int, int]
    oce_depth: int
    base_width: int = 64

    @property
    def expansion(self) -> int:
        """Output channels of a block per plane: 1 (basic) or 4 (bottleneck)."""
        return 1 if self.block == "basic" else 4

    @property
    def block_class(self) -> "type[BasicBlock] | type[Bottleneck]":
        """torchvision's encoder block of this kind."""
        # Imported here so that a name can be checked without loading torch.
        from torchvision.models.resnet import BasicBlock, Bottleneck

        return BasicBlock if self.block == "basic" else Bottleneck

    @property
    def channels(self) -> tuple[int, int, int]:
        """Channels of the three feature scales, finest first."""
        return 64 * self.expansion, 128 * self.expansion, 256 * self.expansion


ARCHITECTURES = {
    a.name: a
    for a in (
        Architecture("resnet18", "basic", (2, 2, 2), oce_depth=2),
        Architecture("resnet34", "basic", (3, 4, 6), oce_depth=3),
        Architecture("resnet50", "bottleneck", (3, 4, 6), oce_depth=3),
        Architecture("wide_resnet50_2", "bottleneck", (3, 4, 6), oce_depth=3, base_width=128),
    )
}


def architecture(name: str) -> Architecture:
    """The architecture of that name; raises ``UnknownName`` with the list of known ones."""
    try:
        return ARCHITECTURES[name]
    except KeyError:
        raise UnknownName("architecture", name, ARCHITECTURES) from None
