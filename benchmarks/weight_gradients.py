"""Gradients of convolutions' weights: oneDNN's, and the products in their place (``training/weight_gradients.py``).

    python benchmarks/weight_gradients.py [--threads 1] [--rounds 7]

Layers are those of Reverse KD's student with a ResNet-18, in the demo's batches and in its recipe's, and narrower and
wider ones, which show from which width on products are faster. Nothing else is in a row: what a whole step gains is
measured by ``training.py``. The two alternate, so that a busy machine slows both.
"""

import argparse
import statistics
import time

import torch
from tabulate import tabulate
from torch import Tensor

from rkd_pipeline.device import keep_freed_memory
from rkd_pipeline.training.weight_gradients import Kernel, weight_gradient

HALVES, SAME = Kernel(3, 2, 1), Kernel(3, 1, 1)
# Images in a batch, channels, outputs, side of the maps, kernel.
LAYERS = [
    # Reverse KD at 192 pixels in batches of 2, and at 256 in batches of 16.
    *((2, c, c, 3072 // c, SAME) for c in (64, 128, 256, 512)),
    (2, 64, 128, 48, HALVES),
    (2, 128, 256, 24, HALVES),
    (2, 768, 512, 12, HALVES),
    *((16, c, c, 4096 // c, SAME) for c in (64, 128, 256, 512)),
    (16, 64, 128, 64, HALVES),
    (16, 128, 256, 32, HALVES),
    (16, 768, 512, 16, HALVES),
    # Narrower.
    (8, 3, 16, 128, SAME),
    (8, 16, 16, 128, SAME),
    (8, 64, 16, 32, SAME),
    (8, 16, 64, 32, SAME),
    (8, 64, 32, 16, SAME),
    (8, 32, 64, 32, SAME),
    (8, 32, 32, 64, Kernel(4, 2, 1)),
    # Wide kernels.
    (2, 64, 128, 64, Kernel(4, 1, 0)),
    (2, 128, 256, 64, Kernel(5, 1, 0)),
]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--rounds", type=int, default=7)
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    keep_freed_memory()
    rows = [row(*layer, rounds=chosen.rounds) for layer in LAYERS]
    print(f"{torch.get_num_threads()} threads; milliseconds, medians of {chosen.rounds} rounds")
    print(tabulate(rows, "keys", tablefmt="github"))


def row(images: int, channels: int, out: int, side: int, kernel: Kernel, *, rounds: int) -> dict[str, object]:
    """One layer: how long each takes, and the rate of the products."""
    maps, weight = of_channels_last(images, channels, side), of_channels_last(out, channels, kernel.side)
    output = torch.conv2d(maps, weight, None, kernel.stride, kernel.padding)
    gradient = torch.randn_like(output)
    seconds: dict[str, list[float]] = {"oneDNN": [], "products": []}
    for _ in range(1 + rounds):  # the first warms up
        for name, compute in (("oneDNN", onednn), ("products", products)):
            start = time.perf_counter()
            compute(maps, gradient, weight, kernel)
            seconds[name].append(time.perf_counter() - start)
    found = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    flops = 2 * output.numel() * channels * kernel.side**2
    return {
        "images": images,
        "channels": f"{channels} to {out}",
        "side": side,
        "kernel": "{0} x {0}, stride {1}".format(*kernel),
        **{name: round(1000 * value, 1) for name, value in found.items()},
        "times as fast": round(found["oneDNN"] / found["products"], 2),
        "products, GFLOP a second": round(flops / found["products"] / 1e9),
    }


def of_channels_last(*sides: int) -> Tensor:
    """Random values of shape ``(a, b, side, side)`` for ``a, b, side``."""
    a, b, side = sides
    return torch.randn(a, b, side, side).contiguous(memory_format=torch.channels_last)


def onednn(maps: Tensor, gradient: Tensor, weight: Tensor, kernel: Kernel) -> Tensor:
    stride, padding = [kernel.stride] * 2, [kernel.padding] * 2
    return torch.ops.aten.convolution_backward(
        gradient, maps, weight, None, stride, padding, [1, 1], False, [0, 0], 1, [False, True, False]
    )[1]


def products(maps: Tensor, gradient: Tensor, weight: Tensor, kernel: Kernel) -> Tensor:
    return weight_gradient(maps, gradient, kernel)


if __name__ == "__main__":
    main()
