from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import nn

from rkd_pipeline.models.multiresolution import Cloner, GuidedReLU, Source, guided
from rkd_pipeline.models.teacher import Teacher
from rkd_pipeline.models.teacher_files import TeacherName
from rkd_pipeline.models.weights import TeacherWeights


@pytest.fixture(scope="module")
def vgg_weights() -> TeacherWeights:
    """VGG-16's convolutions, random: its classifier is not drawn."""
    torch.manual_seed(0)
    with torch.device("meta"):
        blank = torchvision.models.vgg16(weights=None).features.state_dict()
    state = {f"features.{k}": 0.03 * torch.randn(v.shape) for k, v in blank.items()}
    return TeacherWeights(TeacherName("vgg16", "random"), state, "here", "0" * 64)


def test_vgg_s_taps_are_its_max_pools_2_to_5(vgg_weights: TeacherWeights) -> None:
    source = Source(vgg_weights, normalise=False)
    images = torch.randint(0, 256, (2, 64, 96, 3), dtype=torch.uint8)
    features = torchvision.models.vgg16(weights=None).features.eval()
    features.load_state_dict({k.removeprefix("features."): v for k, v in vgg_weights.state.items()})
    x, pools = images.permute(0, 3, 1, 2) / 255, []
    with torch.no_grad():
        for layer in features:
            x = layer(x)
            if isinstance(layer, nn.MaxPool2d):
                pools.append(x)
    found = source(images)
    assert [tuple(f.shape) for f in found] == [(2, 128, 16, 24), (2, 256, 8, 12), (2, 512, 4, 6), (2, 512, 2, 3)]
    for ours, theirs in zip(found, pools[1:], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert source.strides == (4, 8, 16, 32)


def test_a_resnet_s_taps_are_its_blocks(random_teacher: Callable[[str], Teacher]) -> None:
    teacher = random_teacher("resnet18")
    weights = TeacherWeights(TeacherName("resnet18", "random"), _state(teacher), "here", teacher.sha256)
    images = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    for ours, theirs in zip(Source(weights, normalise=True)(images), teacher(images), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    plain = Source(weights, normalise=False).prepared(images)
    torch.testing.assert_close(plain, images.permute(0, 3, 1, 2) / 255)


def _state(teacher: Teacher) -> dict[str, torch.Tensor]:
    names = {"stem.0.": "conv1.", "stem.1.": "bn1."} | {f"blocks.{i}.": f"layer{i + 1}." for i in range(3)}
    state = {}
    for key, value in teacher.state_dict().items():
        [(old, new)] = [(o, n) for o, n in names.items() if key.startswith(o)]
        state[new + key.removeprefix(old)] = value
    return state


@pytest.mark.parametrize(
    ("channels", "size", "millions"),
    [
        # Nine times the sum of products of neighbouring widths, and two numbers per channel of BatchNorm.
        ((128, 256, 512, 512), "small", (9 * 38_192 + 2 * 8 * 16) / 1e6),
        # VGG-16's convolutions have 14,714,688 parameters, 4,224 of them biases.
        ((128, 256, 512, 512), "equal", (14_714_688 - 4_224 + 2 * (64 + 128 + 512 + 1024 + 1024)) / 1e6),
        ((64, 128, 256), "small", (9 * 11_312 + 2 * 6 * 16) / 1e6),
    ],
)
def test_cloners_have_the_official_sizes(channels: tuple[int, ...], size: str, millions: float) -> None:
    cloner = Cloner(channels, size)
    assert sum(p.numel() for p in cloner.parameters()) / 1e6 == pytest.approx(millions, abs=1e-9)
    assert not any(c.bias is not None for c in cloner.modules() if isinstance(c, nn.Conv2d))
    features = cloner(torch.rand(2, 3, 64, 64))
    assert [tuple(f.shape) for f in features] == [(2, c, 16 // 2**i, 16 // 2**i) for i, c in enumerate(channels)]


def test_batchnorm_follows_every_convolution_but_the_last_before_a_pool() -> None:
    for part in [(cloner := Cloner((128, 256), "small")).stem, *cloner.parts]:
        kinds = [type(layer).__name__ for layer in part]
        assert kinds[-3:] == ["Conv2d", "ReLU", "MaxPool2d"]
        assert kinds[:-3] == ["Conv2d", "BatchNorm2d", "ReLU"] * (len(kinds[:-3]) // 3)


def test_guided_relu_lets_through_what_is_positive_both_ways() -> None:
    x = torch.tensor([-1.0, 2.0, 3.0, 0.0], requires_grad=True)
    y = GuidedReLU.apply(x)
    y.backward(torch.tensor([5.0, 7.0, -9.0, 4.0]))
    assert y.tolist() == [0, 2, 3, 0]
    assert x.grad is not None
    assert x.grad.tolist() == [0, 7, 0, 0]


def test_guided_is_over_after_the_block_and_changes_only_gradients() -> None:
    torch.manual_seed(1)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Conv2d(4, 2, 3), nn.ReLU(), nn.Flatten())

    def gradient() -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.linspace(-1, 1, 3 * 64).view(1, 3, 8, 8).requires_grad_()
        y = network(x)
        (found,) = torch.autograd.grad((y * torch.linspace(-1, 1, y.numel())).sum(), x)
        return y.detach(), found

    plain = gradient()
    with guided(network):
        inside = gradient()
    after = gradient()
    torch.testing.assert_close(inside[0], plain[0])
    assert not torch.allclose(inside[1], plain[1])
    torch.testing.assert_close(after, plain)
