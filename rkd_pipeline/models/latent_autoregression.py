"""Latent space autoregression (Abati et al. 2019): an autoencoder, and the density of its code, entry by entry.

As the official code (aimagelab/novelty-detection) builds its model for CIFAR-10; any side that is a multiple of 8 fits.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class BatchNorm(nn.BatchNorm1d):
    """BatchNorm that takes its running statistics where a batch has one image, of which there is no variance."""

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C)`` to the same."""
        if self.training and len(x) == 1:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(x)


# A 1x1 convolution of stride 2, and its transpose, are a 1x1 convolution after leaving out every second position, or
# before putting zeros between positions. Written so because torch 2's own, on a CPU with few channels in channels_last,
# write past the end of their memory in the backward pass.
class _EverySecond(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, ::2, ::2]


class _ZerosBetween(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        n, channels, height, width = x.shape
        spread = x.new_zeros(n, channels, 2 * height, 2 * width)
        spread[:, :, ::2, ::2] = x
        return spread


class Block(nn.Module):
    """Two convolutions beside a short cut: keeps the resolution (``same``), halves it or doubles it."""

    def __init__(self, channels: int, out: int, kind: str) -> None:
        super().__init__()
        first, short = _BLOCKS[kind]
        self.first, self.norm_first = first(channels, out), nn.BatchNorm2d(out)
        self.second, self.norm_second = _convolution(out, out), nn.BatchNorm2d(out)
        self.short = nn.Identity() if short is None else nn.Sequential(short(channels, out), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, h, w)`` to ``(N, out, h', w')``."""
        y = self.norm_second(self.second(F.leaky_relu(self.norm_first(self.first(x)))))
        return F.leaky_relu(y + self.short(x))


def _convolution(channels: int, out: int) -> nn.Module:
    return nn.Conv2d(channels, out, 3, padding=1, bias=False)


_BLOCKS: dict[str, tuple[Callable[[int, int], nn.Module], Callable[[int, int], nn.Module] | None]] = {
    "same": (_convolution, None),
    "halve": (
        lambda channels, out: nn.Conv2d(channels, out, 3, stride=2, padding=1, bias=False),
        lambda channels, out: nn.Sequential(_EverySecond(), nn.Conv2d(channels, out, 1, bias=False)),
    ),
    "double": (
        lambda channels, out: nn.ConvTranspose2d(channels, out, 5, 2, padding=2, output_padding=1, bias=False),
        lambda channels, out: nn.Sequential(nn.Conv2d(channels, out, 1, bias=False), _ZerosBetween()),
    ),
}


class MaskedLayer(nn.Linear):
    """A layer over a code in which entry i sees entries up to i alone: before it where ``strict``, else with it.

    Features are numbered entry by entry: ``entry * channels + channel`` (equation 6 of the paper).
    """

    mask: Tensor

    def __init__(self, entries: int, channels: int, out: int, *, strict: bool) -> None:
        super().__init__(entries * channels, entries * out)
        seen = torch.ones(entries, entries).tril(-1 if strict else 0)
        self.register_buffer("mask", seen.repeat_interleave(out, 0).repeat_interleave(channels, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, entries * channels)`` to ``(N, entries * out)``."""
        return F.linear(x, self.weight * self.mask, self.bias)


class CodeDensity(nn.Module):
    """The distribution of each entry of a code in [0, 1], over ``bins`` equal bins, given the entries before it."""

    def __init__(self, entries: int, bins: int, channels: Sequence[int]) -> None:
        super().__init__()
        self.bins = bins
        sizes = [1, *channels, bins]
        self.layers = nn.ModuleList(
            MaskedLayer(entries, c, out, strict=number == 0) for number, (c, out) in enumerate(pairwise(sizes))
        )

    def forward(self, code: Tensor) -> Tensor:
        """Logits, ``(N, entries)`` to ``(N, entries, bins)``."""
        for number, layer in enumerate(self.layers):
            code = layer(code if number == 0 else F.leaky_relu(code))
        return code.view(len(code), -1, self.bins)

    def surprise(self, code: Tensor, logits: Tensor) -> Tensor:
        """Negative log-likelihood of codes, summed over their entries, in nats: ``(N,)``, not negative.

        Which bin an entry is in has no gradient; the code learns through what the density is told of it.
        """
        bins = (code.detach() * self.bins).long().clamp(0, self.bins - 1)
        chosen = logits.log_softmax(2).gather(2, bins.unsqueeze(2))
        return -chosen.sum((1, 2))


class LatentAutoregression(nn.Module):
    """Encoder, decoder, density, and what normalises the score.

    About 1.2 GFLOP for an image of 64 pixels at the code's width of 32. Raises ``ValueError`` for a side that cannot be
    halved three times.

    Buffers: lowest and highest reconstruction error and surprise of held-out normal images, ``(2,)`` each.
    """

    lowest: Tensor
    highest: Tensor

    def __init__(self, side: int, width: int, code: int, bins: int, density: Sequence[int]) -> None:
        super().__init__()
        if side % 8:
            raise ValueError(f"an image of latent space autoregression has a side that is a multiple of 8, not {side}")
        widths, hidden = [width * 2**k for k in range(4)], 8 * width
        self._deepest = (widths[-1], side // 8, side // 8)
        deepest = widths[-1] * (side // 8) ** 2
        self.encoder = nn.Sequential(
            nn.Conv2d(3, width, 3, bias=False), nn.LeakyReLU(), Block(width, width, "same"),
            *(Block(a, b, "halve") for a, b in pairwise(widths)),
            nn.Flatten(), nn.Linear(deepest, hidden), BatchNorm(hidden), nn.LeakyReLU(),
            nn.Linear(hidden, code), nn.Sigmoid(),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            nn.Linear(code, hidden), BatchNorm(hidden), nn.LeakyReLU(),
            nn.Linear(hidden, deepest), BatchNorm(deepest), nn.LeakyReLU(), nn.Unflatten(1, self._deepest),
            *(Block(b, a, "double") for a, b in reversed(list(pairwise(widths)))),
            Block(width, width, "same"), nn.Conv2d(width, 3, 1, bias=False),
        )  # fmt: skip
        self.density = CodeDensity(code, bins, density)
        self.register_buffer("lowest", torch.zeros(2))
        self.register_buffer("highest", torch.ones(2))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of images ``(N, 3, S, S)`` in [0, 1]: reconstructions, codes ``(N, code)`` in [0, 1], logits of the codes."""
        code = self.encoder(images)
        return self.decoder(code), code, self.density(code)
