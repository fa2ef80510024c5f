"""Patch networks: one vector for every patch of an image, all patches at once (Bailer et al. 2017).

A network sees exactly ``p x p`` pixels: 17, 33 or 65 (Bergmann et al. 2020). Run on one patch, pools halve as usual.
Run on a whole image, each pool is taken at its four offsets, which become four images of half the side, and the
results are woven together at the end: the same numbers as patch by patch, without computing what patches share again.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_SLOPE = 0.005  # of LeakyReLU, as in the paper


@dataclass(frozen=True)
class _Layer:
    """A convolution: kernel, output channels in units of the width, and whether a 2x2 pool follows."""

    kernel: int
    wide: int
    pool: bool = False


# Kernels are chosen so that a patch of side p gives exactly one vector and every pixel of it counts.
_LAYERS = {
    17: (_Layer(6, 1), _Layer(5, 2), _Layer(5, 2)),
    33: (_Layer(6, 1, pool=True), _Layer(5, 2, pool=True), _Layer(2, 2)),
    65: (_Layer(6, 1, pool=True), _Layer(5, 1, pool=True), _Layer(4, 2, pool=True), _Layer(5, 2)),
}
_LAST_KERNEL = {17: 4, 33: 4, 65: 1}
RECEPTIVE_FIELDS = tuple(_LAYERS)


class PatchNetwork(nn.Module):
    """A vector for a patch of ``receptive_field`` pixels.

    Args:
        receptive_field: 17, 33 or 65.
        width: channels of the first layers; middle ones have twice as many.
        out: length of the vector.
    """

    def __init__(self, receptive_field: int, width: int, out: int) -> None:
        super().__init__()
        self.receptive_field, self.out = receptive_field, out
        self.plan = _LAYERS[receptive_field]
        convolutions, inputs = [], 3
        for layer in self.plan:
            convolutions.append(nn.Conv2d(inputs, layer.wide * width, layer.kernel))
            inputs = layer.wide * width
        convolutions.append(nn.Conv2d(inputs, out, _LAST_KERNEL[receptive_field]))
        self.convolutions = nn.ModuleList(convolutions)

    def forward(self, patches: Tensor) -> Tensor:
        """``(N, 3, p, p)`` to ``(N, out)``."""
        x = patches
        for convolution, layer in zip(self.convolutions, self.plan, strict=False):
            x = F.leaky_relu(convolution(x), _SLOPE)
            if layer.pool:
                x = F.max_pool2d(x, 2)
        return self.convolutions[-1](x).flatten(1)

    def dense(self, padded: Tensor) -> Tensor:
        """The vector of every patch of an image: ``(N, 3, S + p - 1, S + p - 1)`` to ``(N, out, S, S)``.

        S must be a multiple of 8.
        """
        count, side = len(padded), padded.shape[-1] - self.receptive_field + 1
        if side % 8:
            raise ValueError(f"dense descriptors need a side that is a multiple of 8, not {side}")
        x, depth = padded, 0
        for convolution, layer in zip(self.convolutions, self.plan, strict=False):
            x = F.leaky_relu(convolution(x), _SLOPE)
            if layer.pool:
                x = _offsets(F.max_pool2d(x, 2, stride=1))
                depth += 1
        x = self.convolutions[-1](x)
        for _ in range(depth):
            x = _woven(x)
        return x.view(count, self.out, side, side)


def _offsets(x: Tensor) -> Tensor:
    """Every second pixel from each of four starts: ``(N, C, 2H, 2W)`` to ``(4N, C, H, W)``."""
    n, c, h, w = x.shape
    split = x.view(n, c, h // 2, 2, w // 2, 2).permute(3, 5, 0, 1, 2, 4)
    return split.reshape(4 * n, c, h // 2, w // 2)


def _woven(x: Tensor) -> Tensor:
    """The inverse of ``_offsets``."""
    n, c, h, w = x.shape
    return x.view(2, 2, n // 4, c, h, w).permute(2, 3, 4, 0, 5, 1).reshape(n // 4, c, 2 * h, 2 * w)


def padded(images: Tensor, receptive_field: int) -> Tensor:
    """Images reflected at their borders, so that every pixel is the middle of a patch."""
    half = receptive_field // 2
    return F.pad(images, (half, half, half, half), mode="reflect")


def patches_at(padded_images: Tensor, which: Tensor, rows: Tensor, columns: Tensor, receptive_field: int) -> Tensor:
    """Patches around pixels ``(rows, columns)`` of the images ``which``, all ``(M,)``: ``(M, 3, p, p)``."""
    span = torch.arange(receptive_field, device=padded_images.device)
    r = (rows[:, None] + span)[:, :, None]
    c = (columns[:, None] + span)[:, None, :]
    return padded_images[which[:, None, None], :, r, c].permute(0, 3, 1, 2).contiguous()


def multiply_adds(receptive_field: int, width: int, out: int, *, side: int | None = None) -> int:
    """Multiplications of the convolutions: of one patch, or of all patches of an image of ``side`` pixels together.

    The margin around the image, which every pixel's patch needs, is computed too.

    >>> round(multiply_adds(17, 128, 128, side=256) / 256**2)  # per pixel
    3080963
    """
    x = receptive_field if side is None else side + receptive_field - 1
    total, inputs, offsets = 0, 3, 1
    plan = [(layer.kernel, layer.wide * width, layer.pool) for layer in _LAYERS[receptive_field]]
    for kernel, channels, pool in [*plan, (_LAST_KERNEL[receptive_field], out, False)]:
        x = x - kernel + 1
        total += inputs * channels * kernel**2 * offsets * x**2
        inputs = channels
        if pool:
            # A whole image's pool is taken at its four offsets, of which each is half as wide.
            offsets, x = (offsets, x // 2) if side is None else (4 * offsets, (x - 1) // 2)
    return total
