"""Gradients of convolutions' weights on a CPU, as products of matrices.

In float32 oneDNN, by which torch computes convolutions on a CPU, takes up to twice as long for a weight's gradient as
for the output, with the same number of multiplications; where maps are small it takes longer still, to bring the
result into torch's order. Here what the kernel sees at each position is copied into the row of a matrix, a block of
positions at a time, so that the block stays in the cache. The gradient is a product with that matrix, for C channels,
D outputs and a kernel of side K:

    weight's gradient (D, K K C)  =  sum over blocks of  output's gradient' (D, positions) x windows (positions, K K C)

Rows and columns are those of tensors in channels_last, so that nothing is transposed. Sums are rounded in another order
than oneDNN's. How much faster a step becomes: docs/performance.md.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

BLOCK_BYTES = 4 * 2**20  # of windows; from 1 to 8 MiB steps took equally long, on a CPU with 32 MiB of cache
NARROWEST = 64  # channels and outputs; measured in benchmarks/weight_gradients.py


class Kernel(NamedTuple):
    """Of a convolution: side of its square kernel, stride, and zeros around its maps, the same in both directions."""

    side: int
    stride: int
    padding: int


def by_products(module: nn.Module) -> AbstractContextManager[object]:
    """Inside, convolutions of float32 take the gradients of their weights by products, if ``module`` is on a CPU."""
    return _ByProducts() if next(module.parameters()).device.type == "cpu" else nullcontext()


def weight_gradient(maps: Tensor, gradient: Tensor, kernel: Kernel) -> Tensor:
    """The gradient of a convolution's weight, ``(D, C, K, K)`` in channels_last.

    Args:
        maps: what it was applied to, ``(N, C, H, W)``.
        gradient: that of its output, ``(N, D, h, w)``.
        kernel: its weight's side K, stride and padding.
    """
    images, out, height, width = gradient.shape
    side, stride, padding = kernel
    bytes_of_row = maps.element_size() * width * side**2 * maps.shape[1]
    rows = min(height, max(1, BLOCK_BYTES // bytes_of_row))
    together = max(1, BLOCK_BYTES // (bytes_of_row * height))
    padded = functional.pad(maps.permute(0, 2, 3, 1), (0, 0, *(padding,) * 4)).contiguous()
    outputs = gradient.permute(0, 2, 3, 1)
    total: Tensor | None = None
    for image in range(0, images, together):
        for row in range(0, height, rows):
            block = outputs[image : image + together, row : row + rows]
            windows = _windows(padded[image:, row * stride :], block.shape[:3], side, stride)
            rows_of_outputs = block.reshape(-1, out).t()
            total = rows_of_outputs @ windows if total is None else total.addmm_(rows_of_outputs, windows)
    assert total is not None  # a batch has an image
    return total.view(out, side, side, -1).permute(0, 3, 1, 2)


def _windows(maps: Tensor, positions: Sequence[int], side: int, stride: int) -> Tensor:
    """What a kernel sees of maps ``(N, H, W, C)`` at ``positions`` (n, h, w): ``(n h w, K K C)``."""
    image, row, column, channel = maps.stride()
    shape = (*positions, side, side, maps.shape[3])
    strides = (image, stride * row, stride * column, row, column, channel)
    return maps.as_strided(shape, strides, maps.storage_offset()).reshape(-1, side**2 * maps.shape[3])


class _Convolution(torch.autograd.Function):
    """torch's convolution, or transposed convolution, but for the gradients of its weight and bias."""

    @staticmethod
    def forward(
        ctx: Any, maps: Tensor, weight: Tensor, bias: Tensor | None, kernel: Kernel, transposed: bool
    ) -> Tensor:
        ctx.save_for_backward(maps, weight)
        ctx.kernel, ctx.transposed = kernel, transposed
        convolution = torch.conv_transpose2d if transposed else torch.conv2d
        return convolution(maps, weight, bias, kernel.stride, kernel.padding)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None, None, None]:
        maps, weight = ctx.saved_tensors
        of_maps = of_bias = None
        if ctx.needs_input_grad[0]:
            stride, padding = [ctx.kernel.stride] * 2, [ctx.kernel.padding] * 2
            of_maps, _, _ = torch.ops.aten.convolution_backward(
                gradient, maps, weight, None, stride, padding, [1, 1], ctx.transposed, [0, 0], 1, [True, False, False]
            )
        if ctx.needs_input_grad[2]:
            of_bias = gradient.sum((0, 2, 3))
        # A transposed convolution is the gradient of a convolution that goes from its output to its maps.
        before, after = (gradient, maps) if ctx.transposed else (maps, gradient)
        return of_maps, weight_gradient(before, after, ctx.kernel), of_bias, None, None


class _ByProducts(TorchFunctionMode):
    """Puts ``_Convolution`` in the place of the convolutions that it can compute."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # As modules call them: a transposed one has the padding of its output before groups, and dilation last.
        if func is torch.conv2d and len(args) == 7:
            maps, weight, bias, stride, padding, dilation, groups = args
            output_padding = (0, 0)
        elif func is torch.conv_transpose2d and len(args) == 8:
            maps, weight, bias, stride, padding, output_padding, groups, dilation = args
        else:
            return func(*args, **(kwargs or {}))
        plain = maps.dim() == 4 and groups == 1 and dilation == (1, 1) and output_padding == (0, 0)
        if plain and _is_faster(maps, weight) and (kernel := _kernel(weight, stride, padding)):
            return _Convolution.apply(maps, weight, bias, kernel, func is torch.conv_transpose2d)
        return func(*args)


def _is_faster(maps: Tensor, weight: Tensor) -> bool:
    """Of float32 with a gradient to take, and wide enough: for narrower ones, copies take longer than is won.

    A 1 x 1 convolution is a product as it is.
    """
    float32 = maps.dtype == weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    return float32 and weight.requires_grad and min(weight.shape[:2]) >= NARROWEST and weight.shape[2] > 1


def _kernel(weight: Tensor, stride: tuple[int, int], padding: tuple[int, int] | str) -> Kernel | None:
    """None where it is not the same in both directions, or its padding has a name."""
    if isinstance(padding, str) or any(down != across for down, across in (weight.shape[2:], stride, padding)):
        return None
    return Kernel(weight.shape[2], stride[0], padding[0])
