from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.optimize import linear_sum_assignment
from torch.nn import functional as F

from rkd_pipeline.detectors import system_of
from rkd_pipeline.detectors.rdpp import (
    RDPlusPlusDetector,
    RDPlusPlusTask,
    octave_noise,
    partners,
    projection_loss,
    pseudo_anomalies,
)
from rkd_pipeline.device import Compute
from rkd_pipeline.models.projection import ProjectedReverseDistillation, projection
from rkd_pipeline.models.teacher import Teacher
from rkd_pipeline.recipes.distillation_recipes import RDPlusPlus
from rkd_pipeline.recipes.named_recipes import RECIPES
from rkd_pipeline.training.optimal_transport import transport_cost, transport_plan
from rkd_pipeline.training.task import TaskInputs

_NAMED = RECIPES["rdpp"]
assert isinstance(_NAMED, RDPlusPlus)
OFFICIAL = _NAMED
SMALL = replace(OFFICIAL, batch_size=5)


@pytest.fixture(scope="module")
def teacher(random_teacher: Callable[[str], Teacher]) -> Teacher:
    return random_teacher("resnet18")


@pytest.fixture
def small(images: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(images[:5, ::2, ::2])  # (5, 32, 32, 3)


def test_the_settings_are_the_official_code_s() -> None:
    found = (OFFICIAL.side, OFFICIAL.batch_size, OFFICIAL.learning_rate, OFFICIAL.betas, OFFICIAL.projection_rate)
    assert found == (256, 16, 0.005, (0.5, 0.999), 0.001)
    assert (OFFICIAL.projection_weight, OFFICIAL.noise, OFFICIAL.sigma) == (0.2, 0.2, 4.0)


def test_the_projection_s_layers_are_the_official_code_s() -> None:
    layers = projection(64)
    shapes = [tuple(p.shape) for p in layers.parameters() if p.dim() == 4]
    assert shapes == [(32, 64, 3, 3), (16, 32, 3, 3), (32, 16, 3, 3), (64, 32, 3, 3)]
    assert [type(m).__name__ for m in layers] == ["Conv2d", "InstanceNorm2d", "LeakyReLU"] * 4
    assert layers(torch.rand(2, 64, 4, 4)).shape == (2, 64, 4, 4)


def test_a_transport_plan_is_the_best_assignment() -> None:
    """scipy's, of as many points on either side: with little blur every point goes to one other."""
    cost = torch.rand(2, 6, 6, generator=torch.Generator().manual_seed(3))
    plan = transport_plan(cost, blur=0.01, rounds=150)
    torch.testing.assert_close(plan.sum(1), torch.full((2, 6), 1 / 6))
    torch.testing.assert_close(plan.sum(2), torch.full((2, 6), 1 / 6), rtol=0.05, atol=1e-3)
    for one, of in zip(plan, cost.numpy(), strict=True):
        rows, columns = linear_sum_assignment(of)
        assert (one.numpy() * of).sum() == pytest.approx(of[rows, columns].mean(), rel=0.02)


def test_transport_does_not_see_where_features_are() -> None:
    """Features that only changed places cost no more than those that stayed; others cost more."""
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(1, 8, 3, 3, generator=generator)
    moved = a.flatten(2)[..., torch.randperm(9, generator=generator)].view_as(a)
    assert transport_cost(a, moved).item() == pytest.approx(transport_cost(a, a).item(), abs=1e-5)
    assert transport_cost(a, torch.randn(a.shape, generator=generator)).item() > transport_cost(a, a).item() + 0.1


def test_the_gradient_of_transport_is_that_of_the_entropic_optimum() -> None:
    """By finite differences of cost plus blur times the plan's negative entropy, whose minimum the plan is."""
    cost = torch.rand(1, 4, 4, dtype=torch.double, generator=torch.Generator().manual_seed(1))

    def optimum(c: torch.Tensor) -> float:
        plan = transport_plan(c, blur=0.1, rounds=300)
        return float((plan * c).sum() + 0.1 * (plan * plan.log()).sum())

    plan, step = transport_plan(cost, blur=0.1, rounds=300), torch.zeros_like(cost)
    step[0, 1, 2] = 1e-5
    slope = (optimum(cost + step) - optimum(cost - step)) / 2e-5
    assert slope == pytest.approx(plan[0, 1, 2].item(), rel=1e-4)


def test_the_loss_of_projections_by_torch_s_cosines() -> None:
    generator = torch.Generator().manual_seed(0)
    noisy, projected_noisy, projected = ([torch.randn(3, 4, s, s, generator=generator) for s in (4, 2)] for _ in "abc")
    partner = torch.tensor([1, 2, 0])
    wanted = torch.zeros(3)
    for n, p, q in zip(noisy, projected_noisy, projected, strict=True):
        wanted += 0.01 * (1 - F.cosine_similarity(p, q)).mean((1, 2))
        wanted += 0.1 * (1 - F.cosine_similarity(n.flatten(1), q.flatten(1)))
    found = projection_loss(noisy, projected_noisy, projected, partner, transport=0.0)
    torch.testing.assert_close(found, wanted / 1.11)
    with_transport = projection_loss(noisy, projected_noisy, projected, partner, transport=2.0)
    moved = sum(transport_cost(q, q[partner]) for q in projected)
    torch.testing.assert_close(with_transport, (wanted + 2 * moved) / 1.11)


def test_partners_are_others() -> None:
    found = partners(7, torch.Generator().manual_seed(0))
    assert sorted(found.tolist()) == list(range(7))
    assert all(i != j for i, j in enumerate(found.tolist()))
    assert partners(1, torch.Generator()).tolist() == [0]


def test_noise_has_octaves_and_its_rectangle(images: np.ndarray) -> None:
    """On the lattice of the first octave all six meet; the sum of their amplitudes bounds it everywhere."""
    noise = octave_noise(40, 33, torch.Generator().manual_seed(0))
    assert noise.shape == (40, 33, 3)
    assert noise.abs().max().item() <= sum(0.6**k for k in range(6))
    assert 0.1 < noise.std().item() < 0.6
    neighbours = torch.corrcoef(torch.stack([noise[1:].flatten(), noise[:-1].flatten()]))[0, 1].item()
    assert neighbours > 0.5
    noisy = pseudo_anomalies(images[:4], 0.2, torch.Generator().manual_seed(0))
    changed = (noisy != torch.from_numpy(images[:4]).float()).any(-1)
    for image in changed:
        rows, columns = image.any(1).nonzero().flatten(), image.any(0).nonzero().flatten()
        height, width = (int(at[-1] - at[0]) + 1 for at in (rows, columns))
        assert 2 <= height < 8  # of 64 pixels: an eighth
        assert 2 <= width < 8
        assert int(image.sum()) == height * width
    again = pseudo_anomalies(images[:4], 0.2, torch.Generator().manual_seed(0))
    assert torch.equal(noisy, again)


def test_a_step_adds_both_losses_and_moves_everything_that_learns(
    teacher: Teacher, small: np.ndarray, cpu: Compute
) -> None:
    task = RDPlusPlusTask(SMALL, teacher, TaskInputs(small, None, 0, cpu))
    [optimiser] = task.optimisers(SMALL, on_gpu=False)
    assert [g["lr"] for g in optimiser.param_groups] == [0.001, 0.005]
    started = {k: v.clone() for k, v in task.student.state_dict().items()}
    batch = task.batch(torch.arange(5), torch.Generator().manual_seed(2))
    noisy = pseudo_anomalies(small, 0.2, torch.Generator().manual_seed(2))
    for found, wanted in zip(batch[3:6], teacher(noisy), strict=True):
        torch.testing.assert_close(found, wanted)
    losses = task.losses(batch)
    projected, of_noisy = task.student.projected(batch[:3]), task.student.projected(batch[3:6])
    reconstructed = task.student.distillation(projected)
    wanted = 0.2 * projection_loss(batch[3:6], of_noisy, projected, batch[-1], 1.0)
    for a, b in zip(batch[:3], reconstructed, strict=True):
        wanted = wanted + 1 - F.cosine_similarity(a.flatten(1), b.flatten(1))
    torch.testing.assert_close(losses, wanted, rtol=1e-4, atol=1e-5)
    task.update(batch, [optimiser])
    weights = [name for name, p in task.student.named_parameters() if p.dim() == 4]
    assert all(not torch.equal(started[name], task.student.state_dict()[name]) for name in weights)


def test_maps_are_reverse_kd_s_of_projected_features(teacher: Teacher, images: np.ndarray) -> None:
    torch.manual_seed(1)
    student = ProjectedReverseDistillation(teacher.arch, "wide")
    made = system_of(SMALL).detector(SMALL, teacher, student.state_dict(), 0.0, torch.device("cpu"))
    assert isinstance(made, RDPlusPlusDetector)
    student.eval()
    with torch.no_grad():
        features = teacher(torch.from_numpy(images[:3]))
        projected = [p(f) for p, f in zip(student.projections, features, strict=True)]
        maps = [
            F.interpolate((1 - F.cosine_similarity(a, b))[:, None], 64, mode="bilinear", align_corners=True)
            for a, b in zip(features, student.distillation(projected), strict=True)
        ]
    expected = [gaussian_filter(m, sigma=4) for m in torch.stack(maps).sum(0)[:, 0].numpy()]
    scores = made.score(images[:3], batch_size=2)
    assert scores.maps is not None
    np.testing.assert_allclose(scores.maps, np.stack(expected), rtol=1e-3, atol=1e-4)
