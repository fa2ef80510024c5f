import time
from collections.abc import Callable
from importlib import import_module

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch.nn.functional import conv2d, interpolate, pad

from rkd_pipeline.detectors import Detector
from rkd_pipeline.detectors.anomaly_map import Scores, anomaly_map, smoothed
from rkd_pipeline.detectors.reverse_kd import ReverseKDDetector, score
from rkd_pipeline.models.reverse_distillation import ReverseDistillation
from rkd_pipeline.models.teacher import Teacher
from rkd_pipeline.recipes.named_recipes import RECIPES
from rkd_pipeline.recipes.recipe import ReverseKD
from rkd_pipeline.stages.anomaly_scores import median_seconds
from rkd_pipeline.training.losses import l_kd, l_val


@pytest.mark.parametrize("fusion", ["sum", "product"])
def test_the_map_is_the_official_code_s_bilinear_and_gaussian(fusion: str) -> None:
    g = torch.Generator().manual_seed(0)
    scales = [torch.rand(2, n, n, generator=g) for n in (16, 8, 4)]
    up = [interpolate(m[:, None], size=64, mode="bilinear", align_corners=True)[:, 0].numpy() for m in scales]
    fused = np.sum(up, axis=0) if fusion == "sum" else np.prod(up, axis=0)
    expected = np.stack([gaussian_filter(m, sigma=4) for m in fused])
    ours = anomaly_map(scales, 64, fusion=fusion)
    np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-4, atol=1e-5)


def test_near_borders_anomalib_s_blur_is_another_as_its_recipes_say() -> None:
    """anomalib pads by reflection without the outermost pixel (kornia's and torch's "reflect"), and cuts at 4 sigma."""
    fused = torch.rand(2, 64, 64, generator=torch.Generator().manual_seed(0)) + torch.linspace(0, 1, 64)
    x = torch.arange(-16.0, 17.0)
    line = torch.exp(-x.square() / 32)
    line /= line.sum()
    padded = pad(fused[:, None], (16, 16, 16, 16), mode="reflect")
    theirs = conv2d(conv2d(padded, line.view(1, 1, 1, -1)), line.view(1, 1, -1, 1))[:, 0]
    difference = (smoothed(fused, 4.0) - theirs).abs()
    assert difference[:, 16:-16, 16:-16].max() < 1e-5
    assert difference.max() > 0.01
    following = [r for r in RECIPES.values() if isinstance(r, ReverseKD) and "anomalib" in r.code]
    assert len(following) == 12
    for recipe in following:
        assert "blur repeats the outermost pixel at borders" in recipe.deviation, recipe.name


def test_convolutions_and_products_are_float32_while_scoring_whatever_is_set(
    random_teacher: Callable[[str], Teacher], images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TF32 keeps 10 bits of a mantissa; torch has it on for a GPU's convolutions unless told otherwise."""
    gpu, cpu = torch.backends.cudnn, torch.backends.mkldnn
    switches = (torch.backends.cuda.matmul, gpu.conv, cpu.matmul, cpu.conv)

    def settings() -> list[str]:
        return [s.fp32_precision for s in switches]

    before, seen = settings(), []
    forward = Teacher.forward
    monkeypatch.setattr(Teacher, "forward", lambda self, x: (seen.append(settings()), forward(self, x))[1])
    teacher = random_teacher("resnet18")
    student = ReverseDistillation(teacher.arch, "narrow").eval()
    detector = ReverseKDDetector(RECIPES["rkd"], teacher, student, 1.0)
    torch.set_float32_matmul_precision("medium")
    try:
        around = settings()
        assert around != ["ieee"] * 4
        detector.score(images[:2])
        assert seen == [["ieee"] * 4]
        assert settings() == around
    finally:
        torch.set_float32_matmul_precision("highest")
    monkeypatch.setattr(Teacher, "forward", lambda self, x: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        detector.score(images[:2])
    assert settings()[1] == before[1] == "tf32"  # of a GPU's convolutions, torch's own setting


@pytest.mark.parametrize("system", ["reverse_kd", "mkd", "uninformed_students"])
def test_every_system_scores_in_full_precision(system: str) -> None:
    module = import_module(f"rkd_pipeline.detectors.{system}")
    made = [v for v in vars(module).values() if isinstance(v, type) and issubclass(v, Detector) and v is not Detector]
    assert made
    for detector in made:
        # A subclass that computes nothing but the setting.
        class Looks(detector):
            def __init__(self) -> None: ...

            def score(self, images: object) -> str:
                return torch.backends.cudnn.conv.fp32_precision

        assert Looks().score(None) == "ieee"
        assert hasattr(detector.score, "__wrapped__")
    assert torch.backends.cudnn.conv.fp32_precision == "tf32"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="TF32 is a GPU's")
def test_scores_do_not_depend_on_tf32(random_teacher: Callable[[str], Teacher], images: np.ndarray) -> None:
    teacher = random_teacher("resnet18").cuda()
    torch.manual_seed(0)
    student = ReverseDistillation(teacher.arch, "narrow").cuda().eval()
    detector = ReverseKDDetector(RECIPES["rkd"], teacher, student, 1.0)
    gpu = detector.score(images).maps
    cpu = ReverseKDDetector(RECIPES["rkd"], teacher.cpu(), student.cpu(), 1.0).score(images).maps
    np.testing.assert_allclose(gpu, cpu, rtol=1e-3, atol=1e-4)


def test_scores_are_the_losses_of_eval_mode(random_teacher: Callable[[str], Teacher], images: np.ndarray) -> None:
    teacher = random_teacher("resnet18")
    torch.manual_seed(0)
    student = ReverseDistillation(teacher.arch, "wide")
    scores = score(teacher, student, images, RECIPES["rkd"], lambda_=7.0, batch_size=5)
    features = teacher(torch.from_numpy(images))
    with torch.no_grad():
        reconstructed = student.eval()(features)
    np.testing.assert_allclose(scores.images["l_kd"], l_kd(features, reconstructed), rtol=1e-4)
    np.testing.assert_allclose(scores.images["l_val"], l_val(features, reconstructed), rtol=1e-4)
    np.testing.assert_allclose(scores.images["l_mkd"], scores.images["l_val"] + 7 * scores.images["l_kd"], rtol=1e-9)
    assert scores.maps.shape == (12, 64, 64)
    assert scores.maps.dtype == np.float32
    np.testing.assert_array_equal(scores.images["map_max"], scores.maps.max((1, 2)).astype(np.float64))


def test_latency_is_of_one_image_at_a_time_and_soon_done() -> None:
    seen: list[tuple[int, ...]] = []

    class Slow(Detector):
        def score(self, images: np.ndarray, *, batch_size: int = 32) -> Scores:
            seen.append(images.shape)
            time.sleep(0.02)
            return Scores(np.zeros((1, 4, 4), np.float32), {"map_max": np.zeros(1)})

    images = np.zeros((20, 4, 4, 3), np.uint8)
    assert 0.02 <= median_seconds(Slow(), images) < 1
    assert seen == [(1, 4, 4, 3)] * 11
    seen.clear()
    median_seconds(Slow(), images, budget=0.03)
    assert len(seen) == 2
