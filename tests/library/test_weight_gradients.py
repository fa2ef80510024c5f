"""Gradients of convolutions by products, against torch's own in float64."""

import pytest
import torch
from torch import Tensor, nn

from rkd_pipeline.training import weight_gradients
from rkd_pipeline.training.weight_gradients import by_products

LAYERS = {
    "3x3": lambda: nn.Conv2d(64, 70, 3, padding=1, bias=False),
    "3x3 that halves, with a bias": lambda: nn.Conv2d(70, 64, 3, stride=2, padding=1),
    "5x5 without padding": lambda: nn.Conv2d(64, 64, 5),
    "2x2 transposed, that doubles": lambda: nn.ConvTranspose2d(66, 64, 2, stride=2, bias=False),
    "4x4 transposed, with padding and a bias": lambda: nn.ConvTranspose2d(64, 66, 4, stride=2, padding=1),
}
# What is left to torch: too narrow, already a product, grouped, dilated, not square in some way, padding by name.
OTHERS = {
    "narrow": lambda: nn.Conv2d(3, 64, 3, padding=1),
    "1x1": lambda: nn.Conv2d(64, 64, 1),
    "groups": lambda: nn.Conv2d(128, 128, 3, padding=1, groups=2),
    "dilated": lambda: nn.Conv2d(64, 64, 3, padding=2, dilation=2),
    "oblong": lambda: nn.Conv2d(64, 64, (3, 5), padding=(1, 2)),
    "named padding": lambda: nn.Conv2d(64, 64, 3, padding="same"),
    "padding of the output": lambda: nn.ConvTranspose2d(64, 64, 3, 2, padding=1, output_padding=1),
    "frozen": lambda: nn.Conv2d(64, 64, 3).requires_grad_(False),
}


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The kernels of the gradients that products computed."""
    kernels: list[object] = []
    own = weight_gradients.weight_gradient

    def recorded(maps: Tensor, gradient: Tensor, kernel: weight_gradients.Kernel) -> Tensor:
        kernels.append(kernel)
        return own(maps, gradient, kernel)

    monkeypatch.setattr(weight_gradients, "weight_gradient", recorded)
    return kernels


def gradients(layer: nn.Module, maps: Tensor) -> dict[str, Tensor]:
    """Of the layer's parameters and of ``maps``, for a loss that weighs each output otherwise."""
    layer.zero_grad()
    maps = maps.detach().requires_grad_()
    with by_products(layer):
        output = layer(maps)
    (output * torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view(output.shape)).sum().backward()
    found = {n: p.grad for n, p in layer.named_parameters() if p.grad is not None}
    assert maps.grad is not None
    return {**found, "maps": maps.grad}


def maps_of(layer: nn.Module) -> Tensor:
    maps = torch.randn(3, layer.in_channels, 12, 14, generator=torch.Generator().manual_seed(0))
    return maps.contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("block_bytes", [1, 200_000, 2**30], ids=["a row", "some rows or images", "all at once"])
def test_gradients_are_torchs(
    name: str, block_bytes: int, taken: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weight_gradients, "BLOCK_BYTES", block_bytes)
    torch.manual_seed(0)
    layer = LAYERS[name]().to(memory_format=torch.channels_last)
    maps = maps_of(layer)
    ours = gradients(layer, maps)
    assert len(taken) == 1
    exact = gradients(layer.double(), maps.double())
    assert len(taken) == 1, "float64 is left to torch"
    assert ours.keys() == exact.keys()
    for what, value in ours.items():
        assert torch.allclose(value.double(), exact[what], rtol=1e-4, atol=1e-5 * exact[what].abs().max().item()), what
    assert ours["weight"].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", OTHERS)
def test_other_convolutions_are_left_to_torch(name: str, taken: list[object]) -> None:
    torch.manual_seed(0)
    layer = OTHERS[name]()
    maps = maps_of(layer)
    found = gradients(layer, maps)
    layer.zero_grad()
    leaf = maps.clone().requires_grad_()
    output = layer(leaf)
    (output * torch.linspace(-1, 1, output.numel()).view(output.shape)).sum().backward()
    assert not taken
    assert leaf.grad is not None
    assert torch.equal(found["maps"], leaf.grad)


def test_bfloat16_is_left_to_torch(taken: list[object]) -> None:
    layer = nn.Conv2d(64, 64, 3)
    with torch.autocast("cpu", torch.bfloat16):
        gradients(layer, maps_of(layer))
    assert not taken


def test_maps_in_torchs_own_order_and_slices_of_maps(taken: list[object]) -> None:
    """Channels first, and a part of a larger tensor: what a network may hand to a convolution."""
    torch.manual_seed(0)
    layer = nn.Conv2d(64, 64, 3, padding=1)
    whole = torch.randn(4, 80, 12, 14)
    part = whole[1:3, 8:72]
    ours = gradients(layer, part)
    exact = gradients(layer.double(), part.double())
    assert len(taken) == 1
    for what, value in ours.items():
        assert torch.allclose(value.double(), exact[what], rtol=1e-4, atol=1e-5 * exact[what].abs().max().item()), what
