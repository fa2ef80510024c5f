from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.models import get_model
from torchvision.models.feature_extraction import create_feature_extractor

from rkd_pipeline.detectors import system_of
from rkd_pipeline.models.architectures import ARCHITECTURES
from rkd_pipeline.models.reverse_distillation import ReverseDistillation
from rkd_pipeline.models.teacher import Teacher
from rkd_pipeline.models.teacher_files import TeacherName, TeacherRegistry
from rkd_pipeline.models.weights import load_weights
from rkd_pipeline.recipes.named_recipes import RECIPES
from rkd_pipeline.recipes.recipe import ReverseKD


def millions(module: torch.nn.Module) -> float:
    return sum(p.numel() for p in module.parameters()) / 1e6


def dead_layer(expansion: int) -> float:
    """Millions of parameters of the official OCBE's unused 1x1 convolution and BatchNorm."""
    return (1024 * 512 * expansion**2 + 2 * 512 * expansion) / 1e6


@pytest.mark.parametrize(
    ("arch", "width", "ocbe_with_dead_layer", "decoder"),
    [
        ("wide_resnet50_2", "wide", 67.28, 24.92),
        ("wide_resnet50_2", "narrow", 39.22, 24.92),
        ("resnet18", "wide", 12.21, 3.70),
        ("resnet18", "narrow", 12.21, 3.70),
    ],
)
def test_parameter_counts_are_the_official_ones(
    arch: str, width: str, ocbe_with_dead_layer: float, decoder: float
) -> None:
    with torch.device("meta"):
        student = ReverseDistillation(ARCHITECTURES[arch], width)
    expected = ocbe_with_dead_layer - dead_layer(ARCHITECTURES[arch].expansion)
    assert millions(student.ocbe) == pytest.approx(expected, abs=0.006)
    assert millions(student.decoder) == pytest.approx(decoder, abs=0.006)


@pytest.mark.parametrize(
    ("arch", "rd4ad", "anomalib"),
    [("resnet18", 2, 2), ("resnet34", 3, 2), ("resnet50", 3, 3), ("wide_resnet50_2", 3, 3)],
)
def test_the_embedding_is_as_deep_as_in_the_code_that_is_followed(arch: str, rd4ad: int, anomalib: int) -> None:
    """RD4AD's resnet.py hands 2, 3, 3, 3 to BN_layer; anomalib's get_bottleneck_layer 2 for both basic ResNets."""
    with torch.device("meta"):
        found = [len(ReverseDistillation(ARCHITECTURES[arch], width).ocbe.oce) for width in ("wide", "narrow")]
    assert found == [rd4ad, anomalib]
    assert {r.oce_width for r in RECIPES.values() if isinstance(r, ReverseKD) and "anomalib" in r.code} == {"narrow"}
    assert {r.oce_width for r in RECIPES.values() if isinstance(r, ReverseKD) and r.code == "RD4AD"} == {"wide"}


def test_a_student_of_before_with_three_blocks_still_scores(
    random_teacher: Callable[[str], Teacher], images: np.ndarray
) -> None:
    teacher = random_teacher("resnet34")
    state = ReverseDistillation(teacher.arch, "narrow", oce_depth=3).state_dict()
    detector = system_of(RECIPES["rkd"]).detector(RECIPES["rkd"], teacher, state, 1.0, torch.device("cpu"))
    assert np.isfinite(detector.score(images[:2]).maps).all()


def test_the_teacher_keeps_blocks_1_to_3(random_teacher: Callable[[str], Teacher]) -> None:
    assert millions(random_teacher("wide_resnet50_2")) == pytest.approx(24.86, abs=0.006)


@pytest.mark.parametrize("arch", sorted(ARCHITECTURES))
def test_the_student_gives_back_the_teacher_s_shapes(arch: str, random_teacher: Callable[[str], Teacher]) -> None:
    teacher = random_teacher(arch)
    features = teacher(torch.zeros(2, 64, 96, 3, dtype=torch.uint8))
    channels = ARCHITECTURES[arch].channels
    assert [tuple(f.shape) for f in features] == [
        (2, c, 64 // s, 96 // s) for c, s in zip(channels, (4, 8, 16), strict=True)
    ]
    student = ReverseDistillation(teacher.arch, "wide")
    assert student.ocbe(features).shape == (2, 2 * channels[2], 2, 3)
    assert [f.shape for f in student(features)] == [f.shape for f in features]


def test_the_teacher_computes_what_torchvision_does() -> None:
    weights = load_weights(TeacherRegistry(Path("none")), TeacherName("resnet18", "random"))
    network = get_model("resnet18", weights=None).eval()
    network.load_state_dict(weights.state, strict=False)
    reference = create_feature_extractor(network, ["layer1", "layer2", "layer3"])
    image = torch.randint(0, 256, (2, 96, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    normalised = ((image / 255 - mean) / std).permute(0, 3, 1, 2)
    for ours, theirs in zip(Teacher(weights)(image), reference(normalised).values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_the_teacher_stays_frozen_and_in_eval_mode(random_teacher: Callable[[str], Teacher]) -> None:
    teacher = random_teacher("resnet18")
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    features = teacher.train()(torch.zeros(2, 64, 64, 3, dtype=torch.uint8))
    assert not any(f.requires_grad for f in features)
    assert not any(p.requires_grad for p in teacher.parameters())
    assert not any(m.training for m in teacher.modules())
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())


def test_random_weights_are_the_same_every_time_and_leave_torch_s_generator_alone(
    random_teacher: Callable[[str], Teacher],
) -> None:
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    assert random_teacher("resnet18").sha256 == random_teacher("resnet18").sha256
    assert torch.equal(torch.rand(3), expected)
