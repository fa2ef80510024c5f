import time
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch.nn.functional import interpolate

from rkd_pipeline.losses import l_kd, l_val
from rkd_pipeline.models.reverse_distillation import ReverseDistillation
from rkd_pipeline.models.teacher import Teacher
from rkd_pipeline.recipes import RECIPES
from rkd_pipeline.scoring import Scores, anomaly_map
from rkd_pipeline.stages.evaluation import median_seconds
from rkd_pipeline.systems import Detector
from rkd_pipeline.systems.reverse_kd import score


@pytest.mark.parametrize("fusion", ["sum", "product"])
def test_the_map_is_the_official_code_s_bilinear_and_gaussian(fusion: str) -> None:
    g = torch.Generator().manual_seed(0)
    scales = [torch.rand(2, n, n, generator=g) for n in (16, 8, 4)]
    up = [interpolate(m[:, None], size=64, mode="bilinear", align_corners=True)[:, 0].numpy() for m in scales]
    fused = np.sum(up, axis=0) if fusion == "sum" else np.prod(up, axis=0)
    expected = np.stack([gaussian_filter(m, sigma=4) for m in fused])
    ours = anomaly_map(scales, 64, fusion=fusion)  # type: ignore[arg-type]
    np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-4, atol=1e-5)


def test_scores_are_the_losses_of_eval_mode(random_teacher: Callable[[str], Teacher], pictures: np.ndarray) -> None:
    teacher = random_teacher("resnet18")
    torch.manual_seed(0)
    student = ReverseDistillation(teacher.arch, "wide")
    scores = score(teacher, student, pictures, RECIPES["rkd"], lambda_=7.0, batch_size=5)
    features = teacher(torch.from_numpy(pictures))
    with torch.no_grad():
        reconstructed = student.eval()(features)
    np.testing.assert_allclose(scores.images["l_kd"], l_kd(features, reconstructed), rtol=1e-4)
    np.testing.assert_allclose(scores.images["l_val"], l_val(features, reconstructed), rtol=1e-4)
    np.testing.assert_allclose(scores.images["l_mkd"], scores.images["l_val"] + 7 * scores.images["l_kd"], rtol=1e-9)
    assert scores.maps.shape == (12, 64, 64)
    assert scores.maps.dtype == np.float32
    np.testing.assert_array_equal(scores.images["map_max"], scores.maps.max((1, 2)).astype(np.float64))


def test_latency_is_of_one_picture_at_a_time_and_soon_done() -> None:
    seen: list[tuple[int, ...]] = []

    class Slow(Detector):
        def score(self, pictures: np.ndarray, *, batch_size: int = 32) -> Scores:
            seen.append(pictures.shape)
            time.sleep(0.02)
            return Scores(np.zeros((1, 4, 4), np.float32), {"map_max": np.zeros(1)})

    pictures = np.zeros((20, 4, 4, 3), np.uint8)
    assert 0.02 <= median_seconds(Slow(), pictures) < 1
    assert seen == [(1, 4, 4, 3)] * 11
    seen.clear()
    median_seconds(Slow(), pictures, budget=0.03)
    assert len(seen) == 2
