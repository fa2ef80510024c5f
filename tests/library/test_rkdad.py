from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from rkd_pipeline.detectors import system_of
from rkd_pipeline.detectors.fit import fit
from rkd_pipeline.detectors.rkdad import RKDADDetector, loss, relation, relations
from rkd_pipeline.device import Compute
from rkd_pipeline.models.teacher_files import TeacherName, TeacherRegistry
from rkd_pipeline.models.twin import new_twin
from rkd_pipeline.models.weights import TeacherWeights, load_weights
from rkd_pipeline.recipes.distillation_recipes import RKDAD
from rkd_pipeline.recipes.named_recipes import RECIPES

_NAMED = RECIPES["rkdad-brief"]
assert isinstance(_NAMED, RKDAD)
BRIEF = _NAMED


@pytest.fixture(scope="module")
def weights() -> TeacherWeights:
    return load_weights(TeacherRegistry(Path("none")), TeacherName("resnet18", "random"))


@pytest.fixture
def make(weights: TeacherWeights) -> Callable[..., RKDADDetector]:
    def call(state: dict[str, torch.Tensor] | None = None, **more: float) -> RKDADDetector:
        chosen = replace(BRIEF, **more)
        system = system_of(chosen)
        made = system.detector(
            chosen, system.teacher(weights, chosen), state or new_twin("resnet18", 1).state_dict(), 0.0,
            torch.device("cpu"),
        )  # fmt: skip
        assert isinstance(made, RKDADDetector)
        return made

    return call


def test_a_matrix_by_hand() -> None:
    """Two channels of 2 x 4 positions, pooled to 1 x 2, and three channels of these: sums of products, by position."""
    finer = torch.tensor([[[1.0, 5, 0, 2], [2, 0, 3, 1]], [[-1, -2, -3, -4], [-5, -6, -7, -8]]])[None]
    coarser = torch.tensor([[[1.0, 2]], [[0, -1]], [[3, 0]]])[None]
    pooled = np.array([[5.0, 3], [-1, -3]])
    expected = np.einsum("ap,bp->ab", pooled, coarser[0, :, 0].numpy()) / 2
    np.testing.assert_allclose(relation(finer, coarser)[0].numpy(), expected)
    assert [tuple(m.shape) for m in relations([finer, coarser, coarser])] == [(1, 2, 3), (1, 3, 3)]


def test_the_loss_by_hand() -> None:
    a, b = torch.tensor([[[1.0, 2], [3, 4]]]), torch.tensor([[[1.0, 0], [3, 1]]])
    assert loss([a], [b]).tolist() == [2.0**2 + 3**2]
    assert loss([a, b], [b, a]).tolist() == [26.0]


def test_training_learns_and_a_student_that_is_the_teacher_scores_nothing(
    weights: TeacherWeights, images: np.ndarray, cpu: Compute, tmp_path: Path, make: Callable[..., RKDADDetector]
) -> None:
    small = np.ascontiguousarray(images[:8, ::2, ::2])
    source = system_of(BRIEF).teacher(weights, BRIEF)
    trained = fit(BRIEF, source, small, None, epochs=3, seed=0, compute=cpu, checkpoint=tmp_path / "c", identity="test")
    losses = [e.train_loss for e in trained.history]
    assert losses[-1] < losses[0]
    copied = new_twin("resnet18", 0)
    copied.parts.load_state_dict(source.parts.state_dict())
    assert make(copied.state_dict()).score(small).images["image_score"].max() == pytest.approx(0, abs=1e-6)


def test_scores_and_maps_are_the_loss_and_its_gradient(make: Callable[..., RKDADDetector], images: np.ndarray) -> None:
    made = make()
    x = made.source.prepared(torch.from_numpy(images[:3])).requires_grad_()
    features = zip(made.source.layer_outputs(x), made.student(x), strict=True)
    (a1, b1), (a2, b2), (a3, b3) = features

    def matrix(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
        return torch.einsum("nihw,njhw->nij", torch.nn.functional.max_pool2d(p, 2), q) / (q.shape[-1] ** 2)

    expected = (matrix(a1, a2) - matrix(b1, b2)).square().sum((1, 2))
    expected = expected + (matrix(a2, a3) - matrix(b2, b3)).square().sum((1, 2))
    (gradient,) = torch.autograd.grad(expected.sum(), x)
    maps = [gaussian_filter(m, sigma=4) for m in gradient.abs().sum(1).numpy()]
    scores = made.score(images[:3], batch_size=2)
    assert scores.maps is not None
    np.testing.assert_allclose(scores.images["image_score"], expected.detach().numpy(), rtol=1e-3)
    np.testing.assert_allclose(scores.maps, np.stack(maps), rtol=2e-3, atol=1e-3 * np.max(maps))
    assert (scores.maps >= 0).all()
