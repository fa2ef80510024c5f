from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch.nn import functional as F

from rkd_pipeline.detectors import system_of
from rkd_pipeline.detectors.fit import fit
from rkd_pipeline.detectors.mkd import MultiresolutionKDDetector, loss
from rkd_pipeline.device import Compute
from rkd_pipeline.models.teacher_files import TeacherName, TeacherRegistry
from rkd_pipeline.models.weights import TeacherWeights, load_weights
from rkd_pipeline.recipes.named_recipes import RECIPES
from rkd_pipeline.recipes.recipe import EarlyStopping, MultiresolutionKD
from rkd_pipeline.training.loop import Epoch, TrainedStudent


def recipe(name: str, **more: object) -> MultiresolutionKD:
    found = RECIPES[name]
    assert isinstance(found, MultiresolutionKD)
    return replace(found, batch_size=5, **more)


@pytest.fixture(scope="module")
def weights() -> TeacherWeights:
    return load_weights(TeacherRegistry(Path("none")), TeacherName("resnet18", "random"))


@pytest.fixture
def run(weights: TeacherWeights, images: np.ndarray, cpu: Compute, tmp_path: Path) -> Callable[..., TrainedStudent]:
    def call(chosen: MultiresolutionKD, epochs: int = 3, **more: object) -> TrainedStudent:
        source = system_of(chosen).teacher(weights, chosen)
        validation = images[9:] if chosen.held_out else None
        given = {"seed": 0, "compute": cpu, "checkpoint": tmp_path / "c", "identity": "test"} | more
        return fit(chosen, source, images[:9], validation, epochs=epochs, **given)

    return call


@pytest.fixture
def detector(weights: TeacherWeights, run: Callable[..., TrainedStudent]) -> Callable[..., MultiresolutionKDDetector]:
    trained = run(recipe("mkd"))

    def make(name: str, **more: object) -> MultiresolutionKDDetector:
        chosen = recipe(name, **more)
        system = system_of(chosen)
        made = system.detector(chosen, system.teacher(weights, chosen), trained.state, 0.5, torch.device("cpu"))
        assert isinstance(made, MultiresolutionKDDetector)
        return made

    return make


def test_the_loss_by_hand() -> None:
    """One layer of two channels at two positions: a = (3, 4 | 0, 0), b = (3, 4 | 0, 5) for channels 0 and 1."""
    a = [torch.tensor([3.0, 4.0, 0.0, 0.0]).view(1, 2, 1, 2)]
    b = [torch.tensor([3.0, 4.0, 0.0, 5.0]).view(1, 2, 1, 2)]
    direction, value = 1 - 25 / (5 * 50**0.5), 25 / 4
    assert loss(a, b, recipe("mkd")).item() == pytest.approx(direction + 0.5 * value)
    assert loss(a, b, recipe("mkd-paper")).item() == pytest.approx(value + 0.5 * direction)
    assert loss(a, b, recipe("mkd-medical")).item() == pytest.approx(direction + 0.01 * value)
    assert loss(a + a, b + b, recipe("mkd")).item() == pytest.approx(2 * (direction + 0.5 * value))


def test_training_learns_and_is_seeded(run: Callable[..., TrainedStudent]) -> None:
    first, again = run(recipe("mkd"), 4), run(recipe("mkd"), 4)
    losses = [e.train_loss for e in first.history]
    assert losses[-1] < losses[0]
    assert all(torch.equal(v, again.state[k]) for k, v in first.state.items())
    other = run(recipe("mkd"), 4, seed=1)
    assert any(not torch.equal(v, other.state[k]) for k, v in first.state.items())


def test_a_killed_training_resumes_to_the_same_weights(run: Callable[..., TrainedStudent], tmp_path: Path) -> None:
    chosen = recipe("mkd-paper", early_stopping=EarlyStopping())
    whole = run(chosen, 4, checkpoint=tmp_path / "whole")

    def kill(epoch: Epoch) -> None:
        if epoch.epoch == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(chosen, 4, checkpoint_seconds=0, on_epoch=kill)
    resumed = run(chosen, 4, checkpoint_seconds=0)
    assert whole.history == resumed.history
    assert all(torch.equal(v, resumed.state[k]) for k, v in whole.state.items())


def test_the_score_is_the_loss_over_the_last_three_taps(
    detector: Callable[..., MultiresolutionKDDetector], images: np.ndarray
) -> None:
    made = detector("mkd")
    x = made.source.prepared(torch.from_numpy(images))
    with torch.no_grad():
        a, b = made.source.layer_outputs(x), made.cloner(x)
    expected = sum(
        1 - F.cosine_similarity(p.flatten(1), q.flatten(1)) + 0.5 * (p - q).square().mean((1, 2, 3))
        for p, q in zip(a[-3:], b[-3:], strict=True)
    )
    scores = made.score(images, batch_size=5)
    np.testing.assert_allclose(scores.images["loss"], np.asarray(expected), rtol=1e-4)
    np.testing.assert_array_equal(scores.images["map_max"], scores.maps.max((1, 2)))


def test_the_gradient_is_that_of_each_image_alone_and_of_finite_differences(
    detector: Callable[..., MultiresolutionKDDetector], images: np.ndarray
) -> None:
    made = detector("mkd")
    made.source.double()
    made.cloner.double()
    x = made.source.prepared(torch.from_numpy(images[:3])).double()
    together = made.gradient(x)
    torch.testing.assert_close(together[1:2], made.gradient(x[1:2]), rtol=1e-6, atol=1e-12)
    direction = torch.randn(x.shape, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    step = 1e-8  # small enough to cross no kink of a ReLU or of pooling
    with torch.no_grad():
        # In float64: `loss` computes in float32, which is too coarse for a small step.
        slope = (_loss64(made, x + step * direction) - _loss64(made, x - step * direction)) / (2 * step)
    torch.testing.assert_close((together * direction).sum((1, 2, 3)), slope, rtol=1e-3, atol=1e-5)


def _loss64(made: MultiresolutionKDDetector, x: torch.Tensor) -> torch.Tensor:
    pairs = zip(made.source.layer_outputs(x)[-3:], made.cloner(x)[-3:], strict=True)
    terms = [1 - F.cosine_similarity(p.flatten(1), q.flatten(1)) + 0.5 * (p - q).square().mean((1, 2, 3))
             for p, q in pairs]  # fmt: skip
    return torch.stack(terms).sum(0)


def test_maps_are_the_official_code_s_stretched_gradients(
    detector: Callable[..., MultiresolutionKDDetector], images: np.ndarray
) -> None:
    made = detector("mkd-gradient")
    gradient = made.gradient(made.source.prepared(torch.from_numpy(images[:2]))).abs().sum(1).numpy()
    expected = []
    for grey in gradient:
        low, high = grey.min(), np.percentile(grey, 99)
        expected.append(gaussian_filter(np.clip((grey - low) / (high - low), 0, 1), sigma=4))
    np.testing.assert_allclose(made.score(images[:2]).maps, np.stack(expected), rtol=1e-3, atol=1e-4)


def test_localisations_differ_and_smoothgrad_does_not_depend_on_batches(
    detector: Callable[..., MultiresolutionKDDetector], images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rkd_pipeline.detectors.mkd.SMOOTHGRAD_SAMPLES", 4)
    maps = {n: detector(n).score(images[:3]).maps for n in ("mkd", "mkd-gradient", "mkd-smoothgrad")}
    assert not np.allclose(maps["mkd"], maps["mkd-gradient"])
    assert not np.allclose(maps["mkd-smoothgrad"], maps["mkd-gradient"])
    by_one = detector("mkd-smoothgrad").score(images[:3], batch_size=1).maps
    np.testing.assert_allclose(by_one, maps["mkd-smoothgrad"], rtol=1e-2, atol=1e-2)


def test_comparable_maps_keep_their_scale(
    detector: Callable[..., MultiresolutionKDDetector], images: np.ndarray
) -> None:
    plain, comparable = detector("mkd").score(images[:3]), detector("mkd-comparable").score(images[:3])
    assert (plain.maps >= 0).all()
    assert (plain.maps <= 1).all()
    np.testing.assert_array_equal(plain.images["loss"], comparable.images["loss"])
    assert not np.allclose(plain.maps, comparable.maps)


def test_maps_by_discrepancy_are_reverse_kd_s(
    detector: Callable[..., MultiresolutionKDDetector], images: np.ndarray
) -> None:
    """By torch's own cosine and interpolation, and scipy's filter: the official code of RD4AD."""
    made = detector("mkd-brief-discrepancy")
    with torch.no_grad():
        x = made.source.prepared(torch.from_numpy(images[:3]))
        maps = [
            F.interpolate((1 - F.cosine_similarity(a, b))[:, None], x.shape[-1], mode="bilinear", align_corners=True)
            for a, b in zip(made.source.layer_outputs(x), made.cloner(x), strict=True)
        ]
    expected = [gaussian_filter(m, sigma=4) for m in torch.stack(maps).sum(0)[:, 0].numpy()]
    scores = made.score(images[:3], batch_size=2)
    np.testing.assert_allclose(scores.maps, np.stack(expected), rtol=1e-3, atol=1e-4)
    by_gradients = detector("mkd-brief").score(images[:3], batch_size=2)  # in the same batches: the same rounding
    np.testing.assert_array_equal(scores.images["loss"], by_gradients.images["loss"])
