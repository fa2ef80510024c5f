from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from rkd_pipeline.detectors.fit import fit
from rkd_pipeline.detectors.lsa import SYSTEM, error_and_surprise
from rkd_pipeline.detectors.reconstruction import colour
from rkd_pipeline.device import Compute
from rkd_pipeline.models.frozen import NoTeacher
from rkd_pipeline.models.latent_autoregression import BatchNorm, CodeDensity, LatentAutoregression
from rkd_pipeline.recipes.named_recipes import RECIPES
from rkd_pipeline.recipes.reconstruction_recipes import LatentSpaceAutoregression
from rkd_pipeline.training.loop import TrainedStudent

CPU = torch.device("cpu")


def recipe(**more: object) -> LatentSpaceAutoregression:
    found = RECIPES["lsa"]
    assert isinstance(found, LatentSpaceAutoregression)
    small: dict[str, object] = {"width": 2, "code_length": 6, "bins": 10, "density": (3,), "batch_size": 4}
    return replace(found, **(small | more))


@pytest.fixture
def run(images: np.ndarray, cpu: Compute, tmp_path: Path) -> Callable[..., TrainedStudent]:
    def call(chosen: LatentSpaceAutoregression, epochs: int = 2) -> TrainedStudent:
        return fit(
            chosen, NoTeacher(), images[:9], images[9:], epochs=epochs, seed=0, compute=cpu, checkpoint=tmp_path / "c",
            identity="test",
        )  # fmt: skip

    return call


def test_layers_are_the_official_code_s_for_cifar_10() -> None:
    """Shapes after each layer for 32 pixels; the code flattens 256 channels of 4 x 4."""
    model = LatentAutoregression(32, 32, 64, 100, (32, 32, 32, 32)).eval()
    x, shapes = torch.zeros(1, 3, 32, 32), []
    for layer in model.encoder:
        x = layer(x)
        shapes.append(tuple(x.shape[1:]))
    assert list(dict.fromkeys(shapes)) == [
        (32, 30, 30), (64, 15, 15), (128, 8, 8), (256, 4, 4), (4096,), (256,), (64,)
    ]  # fmt: skip
    shapes = []
    for layer in model.decoder:
        x = layer(x)
        shapes.append(tuple(x.shape[1:]))
    assert list(dict.fromkeys(shapes)) == [
        (256,), (4096,), (256, 4, 4), (128, 8, 8), (64, 16, 16), (32, 32, 32), (3, 32, 32)
    ]  # fmt: skip
    assert [layer.weight.shape for layer in model.density.layers if isinstance(layer, nn.Linear)] == [
        (2048, 64), (2048, 2048), (2048, 2048), (2048, 2048), (6400, 2048)
    ]  # fmt: skip
    with pytest.raises(ValueError, match="multiple of 8, not 36"):
        LatentAutoregression(36, 2, 6, 10, (3,))


def test_an_entry_s_distribution_depends_on_those_before_it_alone() -> None:
    torch.manual_seed(0)
    density = CodeDensity(4, 5, (3, 3))
    code = torch.rand(1, 4, requires_grad=True)
    for entry in range(4):
        (gradient,) = torch.autograd.grad(density(code)[0, entry].square().sum(), code, allow_unused=True)
        assert [bool(g != 0) for g in gradient[0]] == [i < entry for i in range(4)]


def test_surprise_by_hand() -> None:
    """Two entries, four bins: .3 is in the second, 1 in the last."""
    density = CodeDensity(2, 4, (2,))
    probabilities = torch.tensor([[[0.1, 0.2, 0.3, 0.4], [0.25, 0.25, 0.25, 0.25]]])
    found = density.surprise(torch.tensor([[0.3, 1.0]]), probabilities.log())
    assert found.item() == pytest.approx(-np.log(0.2) - np.log(0.25))


def test_the_density_sums_to_one_over_all_codes() -> None:
    """Two entries of three bins: the likelihoods of all nine codes, each at the middle of its bins."""
    torch.manual_seed(1)
    density = CodeDensity(2, 3, (4,))
    # An entry's bin is all that the next one may know, for this to be a distribution over bins: three values alone.
    codes = torch.cartesian_prod(*[(torch.arange(3) + 0.5) / 3] * 2)
    assert density.surprise(codes, density(codes)).neg().exp().sum().item() == pytest.approx(1, abs=1e-5)


def test_a_batch_of_one_is_normalised_by_running_statistics() -> None:
    norm = BatchNorm(3).train()
    norm(torch.tensor([[1.0, 2, 3], [3, 2, 1]]))
    alone = norm(torch.tensor([[2.0, 2, 2]]))
    torch.testing.assert_close(alone, norm.eval()(torch.tensor([[2.0, 2, 2]])))


def test_the_loss_is_squared_error_plus_lambda_surprise_and_falls(
    run: Callable[..., TrainedStudent], images: np.ndarray
) -> None:
    trained = run(recipe(lambda_=0.5), 5)
    losses = [e.train_loss for e in trained.history]
    assert losses[-1] < losses[0]
    assert trained.lambda_ == 0.5
    model = LatentAutoregression(64, 2, 6, 10, (3,))
    model.load_state_dict(trained.state)
    x = colour(images[9:], CPU)
    with torch.no_grad():
        error, surprise = error_and_surprise(model.eval(), x)
        rebuilt = model(x)[0]
    np.testing.assert_allclose(error, ((x - rebuilt).numpy() ** 2).sum((1, 2, 3)), rtol=1e-5)
    assert trained.history[-1].validation_loss == pytest.approx(float((error + 0.5 * surprise).mean()), rel=1e-5)


def test_scores_are_normalised_on_held_out_images_whatever_the_batch(
    run: Callable[..., TrainedStudent], images: np.ndarray
) -> None:
    trained = run(recipe())
    again = run(recipe())
    assert all(torch.equal(v, again.state[k]) for k, v in trained.state.items())
    detector = SYSTEM.detector(recipe(), NoTeacher(), trained.state, 1.0, CPU)
    held_out = detector.score(images[9:])
    assert held_out.maps is None
    model = LatentAutoregression(64, 2, 6, 10, (3,))
    model.load_state_dict(trained.state)
    lowest, highest = trained.state["lowest"].double(), trained.state["highest"].double()
    with torch.no_grad():
        parts = error_and_surprise(model.eval(), colour(images[9:], CPU))
        exact = error_and_surprise(model.double(), colour(images[9:], CPU).double())
    np.testing.assert_allclose(
        torch.stack([lowest, highest]), [parts.amin(1).tolist(), parts.amax(1).tolist()], rtol=1e-3
    )
    expected = ((exact - lowest[:, None]) / (highest - lowest)[:, None]).sum(0)
    np.testing.assert_allclose(held_out.images["image_score"], expected, rtol=1e-9)
    by_one = detector.score(images[9:], batch_size=1).images["image_score"]
    np.testing.assert_allclose(by_one, held_out.images["image_score"], rtol=1e-9)
