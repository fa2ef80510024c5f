"""The networks that teachers can be: four ResNet shapes, of which OCBE and decoder are built too, VGG-16, and DINOv2's
vision transformers.

What belongs here: sizes, as data. What does not: layers, weights.
"""

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

from rkd_pipeline.errors import UnknownName

if TYPE_CHECKING:
    from torchvision.models.resnet import BasicBlock, Bottleneck

BlockKind = Literal["basic", "bottleneck"]
OceWidth = Literal["wide", "narrow"]  # RD4AD's, anomalib's


@dataclass(frozen=True)
class Architecture:
    """A torchvision ResNet, cut after its third block.

    Attributes:
        name: torchvision's name, e.g. ``wide_resnet50_2``.
        block: kind of residual block.
        depths: residual blocks per stage in blocks 1 to 3.
        oce_depth: residual blocks in the one-class embedding of RD4AD.
        oce_depth_in_anomalib: in that of anomalib, of June 2022 and of today.
        base_width: inner width of a bottleneck per 64 planes; 128 is what makes a ResNet "wide".
    """

    name: str
    block: BlockKind
    depths: tuple[int, int, int]
    oce_depth: int
    oce_depth_in_anomalib: int
    base_width: int = 64

    @property
    def part(self) -> str:
        """What of torchvision's network is used."""
        return "from conv1 to layer3"

    def oce_depth_in(self, oce_width: OceWidth) -> int:
        """Residual blocks of the one-class embedding in the code that builds it of that width."""
        return self.oce_depth if oce_width == "wide" else self.oce_depth_in_anomalib

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


@dataclass(frozen=True)
class Vgg:
    """A torchvision VGG without BatchNorm, up to its last pool: a source of Multiresolution KD.

    Attributes:
        name: torchvision's name.
        channels: of the outputs of max-pools 2 to 5, finest first; their sides are 1/4 to 1/32 of the image's.
    """

    name: str
    channels: tuple[int, int, int, int]

    @property
    def part(self) -> str:
        """What of torchvision's network is used."""
        return "up to its last pool"


ARCHITECTURES = {
    a.name: a
    for a in (
        Architecture("resnet18", "basic", (2, 2, 2), oce_depth=2, oce_depth_in_anomalib=2),
        Architecture("resnet34", "basic", (3, 4, 6), oce_depth=3, oce_depth_in_anomalib=2),
        Architecture("resnet50", "bottleneck", (3, 4, 6), oce_depth=3, oce_depth_in_anomalib=3),
        Architecture("wide_resnet50_2", "bottleneck", (3, 4, 6), oce_depth=3, oce_depth_in_anomalib=3, base_width=128),
    )
}


@dataclass(frozen=True)
class Transformer:
    """A vision transformer of timm's that DINOv2 pretrained (Oquab et al. 2023; with registers, Darcet et al. 2023).

    All its features have one grid: a position for each patch of the image, whose side is a multiple of the patch's.

    Attributes:
        name: ours.
        timm: timm's name of the architecture.
        files: weights that fit, by the names that their publishers gave them.
        width: length of a token, which is a patch's features.
        depth: blocks.
        heads: of the attention.
        registers: tokens beside the class token that stand for no patch.
        patch: side of a patch in pixels.
        grid: patches along a side of the images of its pretraining, which the position embeddings in a file are for.
    """

    # Imported by this name where such a network is wanted, and nowhere else: it needs timm, an optional extra.
    module: ClassVar[str] = "rkd_pipeline.models.vision_transformer"

    name: str
    timm: str
    files: str
    width: int
    depth: int
    heads: int
    registers: int = 0
    patch: int = 14
    grid: int = 37

    @property
    def part(self) -> str:
        """What of timm's network is used."""
        return f"for images of {self.grid * self.patch} pixels"

    @property
    def stages(self) -> tuple[int, int, int]:
        """The blocks, from 1, that stand for a ResNet's three: at a third, two thirds and the whole of the depth."""
        return self.depth // 3, 2 * self.depth // 3, self.depth


VGGS = {"vgg16": Vgg("vgg16", (128, 256, 512, 512))}
CONVOLUTIONAL: dict[str, Architecture | Vgg] = {**ARCHITECTURES, **VGGS}


def _dinov2(size: Literal["s", "b", "l", "g"], width: int, depth: int, heads: int, registers: int = 0) -> Transformer:
    word, its = {"s": "small", "b": "base", "l": "large", "g": "giant"}[size], f"reg{registers}_" if registers else ""
    timm = f"vit_{word}_patch14_{its}dinov2"
    files = f"timm's {timm}.lvd142m, or the authors' dinov2_vit{size}14_{its}pretrain.pth"
    name = f"dinov2_vit_{size}14{'_reg' if registers else ''}"
    return Transformer(name, timm, files, width, depth, heads, registers)


TRANSFORMERS = {
    t.name: t
    for t in (
        _dinov2("s", 384, 12, 6),
        _dinov2("b", 768, 12, 12),
        _dinov2("l", 1024, 24, 16),
        _dinov2("s", 384, 12, 6, registers=4),
        _dinov2("b", 768, 12, 12, registers=4),
        _dinov2("l", 1024, 24, 16, registers=4),
        _dinov2("g", 1536, 40, 24, registers=4),
    )
}
Network: TypeAlias = Architecture | Vgg | Transformer
NETWORKS: dict[str, Network] = {**CONVOLUTIONAL, **TRANSFORMERS}


def architecture(name: str) -> Architecture:
    """The ResNet of that name; raises ``UnknownName`` with the list of known ones."""
    try:
        return ARCHITECTURES[name]
    except KeyError:
        raise UnknownName("architecture", name, ARCHITECTURES) from None


def network(name: str) -> Network:
    """The network of that name, of any kind; raises ``UnknownName`` with the list of known ones."""
    try:
        return NETWORKS[name]
    except KeyError:
        raise UnknownName("architecture", name, NETWORKS) from None


def torchvision_network(name: str) -> Any:
    """torchvision's network of this name, whole, with weights as its authors initialise them."""
    # Imported here: torchvision brings torch.compile along, which takes as long to load as torch itself.
    from torchvision.models import get_model

    return get_model(name, weights=None)


def untrained(wanted: Network) -> Any:
    """The whole network, with weights as its library draws them. Raises ``RkdError`` where that is not installed."""
    if isinstance(wanted, Transformer):
        return import_module(wanted.module).whole_network(wanted)
    return torchvision_network(wanted.name)


def computed_imports(name: str) -> list[str]:
    """Modules that a teacher of this architecture, or none, imports by a computed name."""
    wanted = NETWORKS.get(name)
    return [wanted.module] if isinstance(wanted, Transformer) else []
