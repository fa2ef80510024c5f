from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from rkd_pipeline.detectors.f_anogan import SYSTEM, FAnoGANDetector, prepared
from rkd_pipeline.detectors.fit import fit
from rkd_pipeline.device import Compute
from rkd_pipeline.models.frozen import NoTeacher
from rkd_pipeline.models.generative import FAnoGANNetworks
from rkd_pipeline.recipes.named_recipes import RECIPES
from rkd_pipeline.recipes.reconstruction_recipes import FAnoGAN
from rkd_pipeline.training.loop import Epoch, TrainedStudent

CPU = torch.device("cpu")


def recipe(name: str = "f-anogan", **more: object) -> FAnoGAN:
    found = RECIPES[name]
    assert isinstance(found, FAnoGAN)
    small: dict[str, object] = {"width": 2, "latent": 6, "batch_size": 3, "critic_steps": 2}
    return replace(found, **(small | more))


@pytest.fixture
def run(images: np.ndarray, cpu: Compute, tmp_path: Path) -> Callable[..., TrainedStudent]:
    def call(chosen: FAnoGAN, epochs: int = 2, **more: object) -> TrainedStudent:
        given = {"seed": 0, "compute": cpu, "checkpoint": tmp_path / "c", "identity": "test"} | more
        return fit(chosen, NoTeacher(), images[:5], None, epochs=epochs, **given)

    return call


def detector(chosen: FAnoGAN, state: dict[str, torch.Tensor]) -> FAnoGANDetector:
    made = SYSTEM.detector(chosen, NoTeacher(), state, 0.0, CPU)
    assert isinstance(made, FAnoGANDetector)
    return made


def changed(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> set[str]:
    """Networks of which a weight differs."""
    return {k.split(".")[0] for k in a if k.endswith("weight") and not torch.equal(a[k], b[k])}


def test_layers_are_the_official_code_s() -> None:
    """Channels and side after each block (``wgangp_64x64.py``), a sixteenth of the channels for a width of 4."""
    networks = FAnoGANNetworks(64, 4, 128)
    x, shapes = torch.zeros(2, 128), []
    for layer in networks.generator.layers:
        x = layer(x)
        shapes.append(tuple(x.shape[1:]))
    assert list(dict.fromkeys(shapes)) == [
        (8192 // 16,), (512 // 16, 4, 4), (512 // 16, 8, 8), (256 // 16, 16, 16), (128 // 16, 32, 32),
        (64 // 16, 64, 64), (1, 64, 64),
    ]  # fmt: skip
    shapes = []
    for layer in networks.features.layers:
        x = layer(x)
        shapes.append(tuple(x.shape[1:]))
    assert [(16 * shape[0], *shape[1:]) for shape in shapes] == [
        (64, 64, 64), (128, 32, 32), (256, 16, 16), (512, 8, 8), (512, 4, 4), (8192,)
    ]  # fmt: skip
    assert 16 * networks.judge.in_features == 8192
    kinds = {name: {type(m) for m in part.modules()} for name, part in networks.named_children()}
    assert nn.BatchNorm2d not in kinds["features"]
    assert nn.GroupNorm not in kinds["generator"] | kinds["encoder"]
    with pytest.raises(ValueError, match="64 pixels, not 128"):
        FAnoGANNetworks(128, 2, 6)


def test_the_penalty_is_the_squared_distance_of_the_slope_from_one() -> None:
    """Of a discriminator that is a weighted sum of pixels: its slope is the weights' length everywhere."""
    networks = FAnoGANNetworks(64, 2, 6)
    weights = torch.zeros(64 * 64)
    weights[:2] = torch.tensor([3.0, 4.0])
    networks.features = nn.Sequential(nn.Flatten())
    networks.judge = nn.Linear(64 * 64, 1)
    networks.judge.weight.data = weights[None]
    penalty = networks.gradient_penalty(torch.rand(2, 1, 64, 64))
    assert penalty.tolist() == pytest.approx([16.0, 16.0])
    penalty.mean().backward()  # the gradient of (length - 1)^2 is 2 (length - 1) weights / length
    assert networks.judge.weight.grad is not None
    assert networks.judge.weight.grad[0, :2].tolist() == pytest.approx([8 * 3 / 5, 8 * 4 / 5])


def test_first_the_gan_learns_and_then_the_encoder(run: Callable[..., TrainedStudent]) -> None:
    """Two steps an epoch: the generator takes the second one, and the discriminator both."""
    states = [run(recipe(gan_share=share), 1).state for share in (0.5, 1.0)]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        initial = dict(FAnoGANNetworks(64, 2, 6).state_dict())
    assert changed(initial, states[0]) == {"features", "judge", "encoder"}
    assert changed(initial, states[1]) == {"features", "judge", "generator"}


def test_a_killed_training_resumes_to_the_same_weights_in_either_phase(
    run: Callable[..., TrainedStudent], tmp_path: Path
) -> None:
    whole = run(recipe(), 4, checkpoint=tmp_path / "whole")
    for last in (1, 3):

        def kill(epoch: Epoch, last: int = last) -> None:
            if epoch.epoch == last + 1:
                raise KeyboardInterrupt

        given = {"checkpoint_seconds": 0, "checkpoint": tmp_path / f"killed {last}"}
        with pytest.raises(KeyboardInterrupt):
            run(recipe(), 4, on_epoch=kill, **given)
        resumed = run(recipe(), 4, **given)
        assert whole.history == resumed.history
        assert all(torch.equal(v, resumed.state[k]) for k, v in whole.state.items())


def test_the_score_is_the_official_code_s_whatever_the_batch(
    run: Callable[..., TrainedStudent], images: np.ndarray
) -> None:
    """Mean squared residuals of pixels and features; the map is the absolute residual."""
    made = detector(recipe(kappa=0.5), run(recipe()).state)
    scores = made.score(images[:3], batch_size=2)
    x = prepared(images[:3], CPU)
    with torch.no_grad():
        rebuilt = made.networks.generator(made.networks.encoder(x))
        features = (made.networks.features(x) - made.networks.features(rebuilt)).numpy()
    residual = (x - rebuilt).numpy()
    np.testing.assert_allclose(
        scores.images["image_score"], (residual**2).mean((1, 2, 3)) + 0.5 * (features**2).mean(1), rtol=1e-4
    )
    assert scores.maps is not None
    np.testing.assert_allclose(scores.maps, np.abs(residual[:, 0]), atol=1e-5)
    np.testing.assert_array_equal(scores.images["map_max"], scores.maps.max((1, 2)))


def test_a_search_lowers_anogan_s_score_and_does_not_depend_on_the_batch(
    run: Callable[..., TrainedStudent], images: np.ndarray
) -> None:
    state = run(recipe()).state
    short, long = (detector(recipe("anogan", search_steps=k, search_rate=0.05), state) for k in (1, 12))
    before, after = (made.score(images[:3]).images["image_score"] for made in (short, long))
    assert (after < before).all()
    by_one = long.score(images[:3], batch_size=1).images["image_score"]
    np.testing.assert_allclose(by_one, after, rtol=1e-3)
    np.testing.assert_array_equal(long.score(images[:3]).images["image_score"], after)


def test_anogan_s_score_by_hand(run: Callable[..., TrainedStudent], images: np.ndarray) -> None:
    """A tenth of the features' residual and nine tenths of the pixels', both summed: of a search that does not move."""
    made = detector(recipe("anogan", search_steps=1, search_rate=0.0), run(recipe()).state)
    x = prepared(images[:2], CPU)
    code = torch.randn(1, 6, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        rebuilt = made.networks.generator(code)
        features = made.networks.features(x) - made.networks.features(rebuilt)
    expected = 0.9 * (x - rebuilt).abs().sum((1, 2, 3)) + 0.1 * features.abs().sum(1)
    np.testing.assert_allclose(made.score(images[:2]).images["image_score"], expected, rtol=1e-5)
