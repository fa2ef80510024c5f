"""Methods that this project has itself, and through anomalib: on what both have learnt, they compute the same.

``benchmarks/native_and_adapter.py`` compares whole trainings; here nothing is drawn differently.
"""

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from rkd_pipeline.detectors import Detector, padim, stfpm, system_of
from rkd_pipeline.detectors.anomaly_map import smoothed
from rkd_pipeline.detectors.fit import fit
from rkd_pipeline.detectors.patchcore import PatchCoreDetector
from rkd_pipeline.device import Compute
from rkd_pipeline.recipes.named_recipes import RECIPES
from rkd_pipeline.recipes.recipe import Recipe
from tests.anomalib.test_smoke import pictures, weights_of
from tests.conftest import need

pytestmark = pytest.mark.slow
CPU = torch.device("cpu")
SEEN, SCORED = pictures(11, 64)[:8], pictures(11, 64)[8:]
INSIDE = (slice(None), slice(16, -16), slice(16, -16))  # where the blur does not reach a border


@pytest.fixture(autouse=True)
def _anomalib() -> None:
    need(find_spec("anomalib"), "anomalib is not installed; make test-all makes an environment that has it")


def learnt(recipe: Recipe, cpu: Compute, folder: Path) -> dict[str, Tensor]:
    teacher = system_of(recipe).teacher(weights_of("resnet18"), recipe)
    return fit(recipe, teacher, SEEN, None, epochs=None, seed=0, compute=cpu, checkpoint=folder / "c",
               identity="t").state  # fmt: skip


def opened(recipe: Recipe, state: dict[str, Tensor]) -> Detector:
    system = system_of(recipe)
    return system.detector(recipe, system.teacher(weights_of("resnet18"), recipe), state, 0.0, CPU)


def one(state: dict[str, Tensor], end: str) -> Tensor:
    [found] = [v for k, v in state.items() if k.endswith(end)]
    return found


def test_padim_on_the_same_features(cpu: Compute, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = replace(RECIPES["anomalib-padim-brief"], side=64)
    of_theirs = learnt(theirs, cpu, tmp_path)
    monkeypatch.setattr(padim, "drawn_features", lambda *_: one(of_theirs, ".idx").sort().values)
    ours = replace(RECIPES["padim-brief"], side=64, ridge=0.01 + 1e-5)
    expected = opened(theirs, of_theirs).score(SCORED).maps
    found = opened(ours, learnt(ours, cpu, tmp_path)).score(SCORED).maps
    np.testing.assert_allclose(found[INSIDE], expected[INSIDE], rtol=2e-3)


def test_patchcore_with_the_same_bank(cpu: Compute, tmp_path: Path) -> None:
    theirs = replace(RECIPES["anomalib-patchcore-brief"], side=64)
    ours = replace(RECIPES["patchcore-brief"], side=64)
    of_theirs = learnt(theirs, cpu, tmp_path)
    expected = opened(theirs, of_theirs).score(SCORED)
    detector = opened(ours, {"bank": one(of_theirs, ".memory_bank")})
    assert isinstance(detector, PatchCoreDetector)
    np.testing.assert_allclose(detector.score(SCORED).images["image_score"], expected.images["image_score"], rtol=1e-3)
    # anomalib enlarges distances by the nearest position, where ours are interpolated.
    distances = detector.distances(detector.features(SCORED, CPU))
    blurred = smoothed(F.interpolate(distances[:, None], size=(64, 64)), 4.0)[:, 0]
    np.testing.assert_allclose(blurred[INSIDE], expected.maps[INSIDE], rtol=1e-3)


@pytest.mark.parametrize("batch", [2, 8])
def test_stfpm_s_loss_is_ours_in_batches_of_two_and_more_in_larger_ones(batch: int) -> None:
    from anomalib.models.image.stfpm.loss import STFPMLoss

    generator = torch.Generator().manual_seed(1)
    teacher, student = ([torch.randn(batch, 4 * k, 8 // k, 8 // k, generator=generator) for k in (1, 2, 4)]
                        for _ in range(2))  # fmt: skip
    theirs = STFPMLoss()(dict(enumerate(teacher)), dict(enumerate(student)))
    torch.testing.assert_close(theirs, batch / 2 * stfpm.loss(teacher, student).mean())
