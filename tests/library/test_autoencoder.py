from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import uniform_filter
from torch import nn

from rkd_pipeline.detectors.autoencoder import (
    SYSTEM,
    AutoencoderDetector,
    averaged,
    grid_of_squares,
    random_squares,
    residuals,
)
from rkd_pipeline.detectors.fit import fit
from rkd_pipeline.detectors.reconstruction import grey
from rkd_pipeline.device import Compute
from rkd_pipeline.errors import RkdError
from rkd_pipeline.models.convolutional_autoencoder import ConvolutionalAutoencoder
from rkd_pipeline.models.frozen import NoTeacher
from rkd_pipeline.recipes.named_recipes import RECIPES
from rkd_pipeline.recipes.recipe import EarlyStopping
from rkd_pipeline.recipes.reconstruction_recipes import Autoencoder
from rkd_pipeline.training.loop import Epoch, TrainedStudent
from rkd_pipeline.training.structural_similarity import C1, C2, ssim

CPU = torch.device("cpu")


def recipe(name: str, **more: object) -> Autoencoder:
    found = RECIPES[name]
    assert isinstance(found, Autoencoder)
    small: dict[str, object] = {"side": 64, "patch": 32, "stride": 16, "crops": 2, "width": 4, "latent": 8}
    return replace(found, **(small | {"batch_size": 4} | more))


@pytest.fixture
def run(images: np.ndarray, cpu: Compute, tmp_path: Path) -> Callable[..., TrainedStudent]:
    def call(chosen: Autoencoder, epochs: int = 2, **more: object) -> TrainedStudent:
        given = {"seed": 0, "compute": cpu, "checkpoint": tmp_path / "c", "identity": "test"} | more
        return fit(chosen, NoTeacher(), images[:6], None, epochs=epochs, **given)

    return call


def test_layers_are_the_paper_s() -> None:
    """Kernel, stride and channels of table 1, and the side after each layer, of a square of 128 pixels."""
    network = ConvolutionalAutoencoder(128)
    found, x = [], torch.zeros(1, 1, 128, 128)
    for layer in [*network.encoder, *network.decoder]:
        x = layer(x)
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            found.append((layer.kernel_size[0], layer.stride[0], *x.shape[1:3]))
        else:
            assert isinstance(layer, nn.LeakyReLU)
            assert layer.negative_slope == 0.2
    assert found == [
        (4, 2, 32, 64), (4, 2, 32, 32), (3, 1, 32, 32), (4, 2, 64, 16), (3, 1, 64, 16), (4, 2, 128, 8),
        (3, 1, 64, 8), (3, 1, 32, 8), (8, 1, 100, 1),
        (8, 1, 32, 8), (3, 1, 64, 8), (3, 1, 128, 8), (4, 2, 64, 16), (3, 1, 64, 16), (4, 2, 32, 32), (3, 1, 32, 32),
        (4, 2, 32, 64), (4, 2, 1, 128),
    ]  # fmt: skip
    with pytest.raises(ValueError, match="multiple of 16, not 40"):
        ConvolutionalAutoencoder(40)


def test_ssim_is_the_formula_over_windows_of_eleven_pixels() -> None:
    """Equation 8 with scipy's means, in float64; inside, where every window is whole."""
    a, b = np.random.default_rng(0).random((2, 24, 24))

    def mean(x: np.ndarray) -> np.ndarray:
        return uniform_filter(x, 11)

    ma, mb = mean(a), mean(b)
    va, vb, cov = mean(a * a) - ma**2, mean(b * b) - mb**2, mean(a * b) - ma * mb
    expected = (2 * ma * mb + C1) * (2 * cov + C2) / ((ma**2 + mb**2 + C1) * (va + vb + C2))
    found = ssim(*(torch.from_numpy(x)[None, None] for x in (a, b)))[0].numpy()
    np.testing.assert_allclose(found[5:-5, 5:-5], expected[5:-5, 5:-5], rtol=1e-9)
    corner_a, corner_b = a[:6, :6], b[:6, :6]  # of the window around the first pixel, the part that is inside
    products = 2 * corner_a.mean() * corner_b.mean() + C1, 2 * np.cov(corner_a.ravel(), corner_b.ravel(), ddof=0)[0, 1]
    below = (corner_a.mean() ** 2 + corner_b.mean() ** 2 + C1) * (corner_a.var() + corner_b.var() + C2)
    assert found[0, 0] == pytest.approx(products[0] * (products[1] + C2) / below)


def test_residuals_of_what_is_rebuilt_and_of_what_is_not() -> None:
    x = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    assert residuals(recipe("ssim-ae"), x, x).abs().max() < 1e-4
    assert residuals(recipe("ssim-ae"), x, 1 - x).max() > 1.5
    assert torch.allclose(residuals(recipe("l2-ae"), x, x + 0.5), torch.full((1, 32, 32), 0.25))


def test_random_squares_are_of_the_image_and_from_everywhere() -> None:
    images = torch.arange(2 * 36.0).view(2, 1, 6, 6)
    found = random_squares(images, 200, 4, torch.Generator().manual_seed(0)).view(2, 200, 4, 4)
    possible = images.unfold(2, 4, 1).unfold(3, 4, 1).reshape(2, 9, 4, 4)
    for i in range(2):
        assert {tuple(s.flatten().tolist()) for s in found[i]} == {tuple(s.flatten().tolist()) for s in possible[i]}


def test_a_grid_of_squares_put_back_is_the_image() -> None:
    images = torch.rand(2, 1, 12, 12)
    squares = grid_of_squares(images, 6, 3)
    assert torch.equal(squares[3 * 3 + 1, 0], images[1, 0, :6, 3:9])  # of the second image: first row, second square
    torch.testing.assert_close(averaged(squares.squeeze(1), 2, 12, 3), images.squeeze(1))
    with pytest.raises(ValueError, match="do not cover an image of 12"):
        grid_of_squares(images, 6, 4)


def test_overlapping_maps_are_averaged() -> None:
    """Three squares of 2 pixels along each side of an image of 4: the k-th square's map is the number k."""
    maps = torch.arange(9.0).view(9, 1, 1).expand(9, 2, 2)
    assert averaged(maps, 1, 4, 1)[0, 0].tolist() == [0, 0.5, 1.5, 2]
    assert averaged(maps, 1, 4, 1)[0, 1, 1] == (0 + 1 + 3 + 4) / 4


@pytest.mark.parametrize("name", ["ssim-ae", "l2-ae"])
def test_training_learns(run: Callable[..., TrainedStudent], name: str) -> None:
    losses = [e.train_loss for e in run(recipe(name, learning_rate=0.002), 6).history]
    assert losses[-1] < losses[0]


def test_a_killed_training_resumes_to_the_same_weights(run: Callable[..., TrainedStudent], tmp_path: Path) -> None:
    whole = run(recipe("ssim-ae"), 3, checkpoint=tmp_path / "whole")

    def kill(epoch: Epoch) -> None:
        if epoch.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(recipe("ssim-ae"), 3, checkpoint_seconds=0, on_epoch=kill)
    resumed = run(recipe("ssim-ae"), 3, checkpoint_seconds=0)
    assert whole.history == resumed.history
    assert all(torch.equal(v, resumed.state[k]) for k, v in whole.state.items())


def test_scores_are_the_residuals_of_all_squares_whatever_the_batch(
    run: Callable[..., TrainedStudent], images: np.ndarray
) -> None:
    chosen = recipe("ssim-ae")
    detector = SYSTEM.detector(chosen, NoTeacher(), run(chosen, 1).state, 0.0, CPU)
    assert isinstance(detector, AutoencoderDetector)
    scores = detector.score(images[:3], batch_size=2)
    assert scores.maps is not None
    assert scores.maps.shape == (3, 64, 64)
    assert scores.maps.dtype == np.float32
    np.testing.assert_array_equal(scores.images["map_max"], scores.maps.max((1, 2)))
    alone = detector.score(images[2:3]).maps
    assert alone is not None
    np.testing.assert_allclose(alone[0], scores.maps[2], atol=1e-5)
    corner = grey(images[2:3], CPU)[..., :32, :32]  # its first 16 pixels are in no other square
    with torch.no_grad():
        expected = 1 - ssim(corner, detector.network(corner))[0, :16, :16]
    np.testing.assert_allclose(scores.maps[2, :16, :16], expected, atol=1e-5)


def test_grey_is_brightness() -> None:
    pixel = np.array([255, 0, 51], np.uint8).reshape(1, 1, 1, 3)
    assert grey(pixel, CPU).item() == pytest.approx(0.299 + 0.114 / 5)


@pytest.mark.parametrize("name", ["ssim-ae-brief", "f-anogan-brief", "anogan-brief"])
def test_a_system_without_a_loss_of_held_out_images_cannot_stop_early(
    name: str, images: np.ndarray, cpu: Compute, tmp_path: Path
) -> None:
    stopping = replace(RECIPES[name], early_stopping=EarlyStopping())
    with pytest.raises(RkdError, match=r"has no loss of held-out images to stop early by"):
        fit(stopping, NoTeacher(), images[:9], images[9:], epochs=1, seed=0, compute=cpu,
            checkpoint=tmp_path / "c", identity="a test")  # fmt: skip
