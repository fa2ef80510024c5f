"""A frozen vision transformer as a teacher: patches' features after chosen blocks, as maps.

Blocks, attention and patch embedding are timm's; how position embeddings come to another grid, and which features are
given, is said here. timm is an optional extra: nothing imports this module but by the name in ``Transformer.module``.
"""

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from rkd_pipeline.errors import RkdError
from rkd_pipeline.models.architectures import Transformer, network
from rkd_pipeline.models.frozen import IMAGENET_MEAN, IMAGENET_STD, Frozen
from rkd_pipeline.models.weights import TeacherWeights

INSTALL = "pip install --constraint constraints.txt '.[timm]'"
_OFFSET = 0.1  # of DINOv2's models without registers, in positions


def whole_network(arch: Transformer) -> Any:
    """timm's network of that architecture, with weights as timm draws them; ``RkdError`` where timm is missing."""
    try:
        import timm
    except ImportError as error:
        raise RkdError(
            f"{arch.name} is a network of timm, which cannot be imported ({error}); install it: {INSTALL}"
        ) from error
    return timm.create_model(
        arch.timm, pretrained=False, num_classes=0, img_size=arch.grid * arch.patch, patch_size=arch.patch,
        embed_dim=arch.width, depth=arch.depth, num_heads=arch.heads, reg_tokens=arch.registers, dynamic_img_size=True,
    )  # fmt: skip


class VisionTransformer(Frozen):
    """Features of an image's patches after some blocks; always in eval mode, never with gradients.

    Shapes: uint8 images ``(N, S, S, 3)``, S a multiple of the patch's side p, to one map ``(N, width, S/p, S/p)`` for
    each block. The last block's features go through the network's final norm, as its own output does; those of other
    blocks are as they are. Class token and registers see the patches, and are not given.

    Args:
        weights: in timm's names, of the grid of the pretraining.
        blocks: from 1; none: ``Transformer.stages``.

    Raises:
        RkdError: a block that is not there, or timm is not installed.
    """

    tokens: Tensor
    places: Tensor

    def __init__(self, weights: TeacherWeights, blocks: Sequence[int] = ()) -> None:
        super().__init__()
        arch = network(weights.name.arch)
        assert isinstance(arch, Transformer)  # no other is made by this module
        self.arch, self.sha256 = arch, weights.sha256
        self.given = tuple(blocks) or arch.stages
        if absent := [b for b in self.given if not 1 <= b <= arch.depth]:
            raise RkdError(
                f"{arch.name} has blocks 1 to {arch.depth}, not {absent[0]}; name other blocks, or a teacher"
            )
        with torch.device("meta"):  # no time or random numbers for values that the next line replaces
            whole = whole_network(arch)
        whole.load_state_dict(weights.state, assign=True)
        self.patches, self.blocks, self.norm = whole.patch_embed, whole.blocks[: max(self.given)], whole.norm
        tokens, places = [whole.cls_token.detach()], whole.pos_embed.detach()
        if arch.registers:
            tokens.append(whole.reg_token.detach())
        else:  # the class token has a position of its own; with registers it was added in the weights
            tokens[0], places = tokens[0] + places[:, :1], places[:, 1:]
        self.register_buffer("tokens", torch.cat(tokens, 1), persistent=False)
        grid = places.unflatten(1, (arch.grid, arch.grid)).permute(0, 3, 1, 2)
        self.register_buffer("places", grid.contiguous(), persistent=False)
        self.freeze(IMAGENET_MEAN, IMAGENET_STD, scale=255)

    @property
    def channels(self) -> tuple[int, ...]:
        """Of each block's features."""
        return (self.arch.width,) * len(self.given)

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels of the image per position."""
        return (self.arch.patch,) * len(self.given)

    @property
    def made_with(self) -> dict[str, str]:
        """timm and its version."""
        return {"timm": version("timm")}

    @torch.no_grad()
    def forward(self, images: Tensor) -> list[Tensor]:
        """Features of uint8 images, block by block. Raises ``RkdError`` where a side is no multiple of the patch's."""
        side = images.shape[1]
        if side % self.arch.patch:
            raise RkdError(
                f"{self.arch.name} needs images whose side is a multiple of {self.arch.patch}, not {side} pixels"
            )
        x = self.patches((images.permute(0, 3, 1, 2).float() - self.mean) / self.std)  # (N, h, w, width)
        height, width = x.shape[1:3]
        x = x.flatten(1, 2) + positions_at(self.places, (height, width), registers=self.arch.registers > 0)
        x = torch.cat([self.tokens.expand(len(x), -1, -1), x], 1)
        found: dict[int, Tensor] = {}
        for number, block in enumerate(self.blocks, 1):
            x = block(x)
            if number in self.given:
                features = self.norm(x) if number == self.arch.depth else x
                features = features[:, self.tokens.shape[1] :]
                found[number] = features.unflatten(1, (height, width)).permute(0, 3, 1, 2)
        return [found[b] for b in self.given]


def positions_at(places: Tensor, size: tuple[int, int], *, registers: bool) -> Tensor:
    """Position embeddings ``(1, C, g, g)`` brought to another grid, as DINOv2's own code does: ``(1, h * w, C)``.

    Bicubic. Models with registers: antialiased. Those without: not, and the scale is that of a grid larger by a tenth
    of a position. A grid of the same size stays as it is.
    """
    height, width = places.shape[-2:]
    if size == (height, width):
        brought = places
    elif registers:
        brought = F.interpolate(places, size=size, mode="bicubic", antialias=True)
    else:
        scales = ((size[0] + _OFFSET) / height, (size[1] + _OFFSET) / width)
        brought = F.interpolate(places, scale_factor=scales, mode="bicubic")
    return brought.flatten(2).transpose(1, 2)
