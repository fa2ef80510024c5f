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
from rkd_pipeline.scoring import anomaly_map
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
