"""The graph that is exported, run by torch, against Pillow and the detector that it was made from."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from rkd_pipeline.detectors.deployed_graph import DeployedGraph, folded, pillow_resize
from rkd_pipeline.detectors.reverse_kd import ReverseKDDetector
from rkd_pipeline.errors import RkdError
from rkd_pipeline.models.reverse_distillation import ReverseDistillation
from rkd_pipeline.models.teacher import Teacher
from rkd_pipeline.recipes.recipe import ReverseKD
from rkd_pipeline.recipes.training_key import TrainingKey


def detector(teacher: Teacher, recipe: str = "rkd-official") -> ReverseKDDetector:
    """Untrained, but with BatchNorm statistics as training leaves them: each channel its own."""
    found = TrainingKey.parse(f"{recipe}@resnet18.random~1e-s0").recipe
    assert isinstance(found, ReverseKD)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        student = ReverseDistillation(teacher.arch, found.oce_width)
        for module in student.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
                module.weight.data.uniform_(0.5, 1.5)
                module.bias.data.normal_()
    return ReverseKDDetector(found, teacher, student, 1.5)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("size", [(64, 64), (64, 200), (31, 17), (1, 1000), (400, 512), (700, 512)])
def test_resize_is_pillows(size: tuple[int, int]) -> None:
    pixels = noise(*size, 3)
    found = pillow_resize(torch.from_numpy(pixels)[None], 64)[0].permute(1, 2, 0).numpy()
    pillow = np.asarray(Image.fromarray(pixels).resize((64, 64), Image.Resampling.BILINEAR), np.float32)
    assert np.array_equal(found, pillow)


def test_of_a_tall_image_some_pixels_differ_by_one() -> None:
    pixels = noise(500, 100, 3)
    found = pillow_resize(torch.from_numpy(pixels)[None], 64)[0].permute(1, 2, 0).numpy()
    pillow = np.asarray(Image.fromarray(pixels).resize((64, 64), Image.Resampling.BILINEAR), np.float32)
    assert np.abs(found - pillow).max() <= 1


def test_an_image_of_the_right_size_is_not_touched() -> None:
    pixels = noise(2, 64, 64, 3)
    assert np.array_equal(pillow_resize(torch.from_numpy(pixels), 64).permute(0, 2, 3, 1).numpy(), pixels)


@pytest.mark.parametrize("arch", ["resnet18", pytest.param("wide_resnet50_2", marks=pytest.mark.slow)])
def test_batchnorm_is_folded_without_a_change(random_teacher: Callable[[str], Teacher], arch: str) -> None:
    teacher = random_teacher(arch)
    images = torch.from_numpy(noise(1, 64, 64, 3))
    plain = folded(teacher)
    assert not [m for m in plain.modules() if isinstance(m, nn.BatchNorm2d)]
    assert [m for m in teacher.modules() if isinstance(m, nn.BatchNorm2d)]  # the original keeps them
    for before, after in zip(teacher(images), plain(images), strict=True):
        torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4 * float(before.abs().max()))


def test_batchnorm_without_a_convolution_is_refused() -> None:
    with pytest.raises(RkdError, match="follows no convolution"):
        folded(nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3)))


@pytest.mark.parametrize("recipe", ["rkd-official", "rkd-anomalib-2022"])
def test_the_graph_scores_as_the_detector(random_teacher: Callable[[str], Teacher], recipe: str) -> None:
    whole = detector(random_teacher("resnet18"), recipe)
    images = noise(2, whole.recipe.side, whole.recipe.side, 3)
    expected = whole.score(images)
    threshold = float(expected.images["map_max"].mean())
    with torch.no_grad():
        score, made, called = DeployedGraph(whole, threshold)(torch.from_numpy(images))
    np.testing.assert_allclose(score, expected.images["map_max"], rtol=1e-5)
    np.testing.assert_allclose(made, expected.maps, rtol=1e-4, atol=1e-5 * float(expected.maps.max()))
    assert called.tolist() == (expected.images["map_max"] > threshold).tolist()


def test_without_a_threshold_nothing_is_decided(random_teacher: Callable[[str], Teacher]) -> None:
    graph = DeployedGraph(detector(random_teacher("resnet18")), None)
    assert graph.outputs == ["score", "map"]
