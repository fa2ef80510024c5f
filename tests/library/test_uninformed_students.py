from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from rkd_pipeline.detectors import system_of, uninformed_students
from rkd_pipeline.detectors.fit import fit
from rkd_pipeline.detectors.uninformed_students import (
    Ensemble,
    Scale,
    UninformedStudentsDetector,
    correlation,
    descriptors,
    pooled_features,
    prepared,
    random_patches,
    random_windows,
)
from rkd_pipeline.device import Compute
from rkd_pipeline.errors import StoreError
from rkd_pipeline.models.patch_network import PatchNetwork
from rkd_pipeline.models.teacher import Teacher
from rkd_pipeline.recipes.named_recipes import RECIPES
from rkd_pipeline.recipes.recipe import UninformedStudents
from rkd_pipeline.training.loop import Epoch, TrainedStudent

_SMALL = RECIPES["us-small"]
assert isinstance(_SMALL, UninformedStudents)
SMALL = replace(
    _SMALL, receptive_fields=(17, 33), width=4, descriptor=6, patches=4, batch_size=4, descriptor_pictures=4,
    descriptor_steps=3, descriptor_batch=8,
)  # fmt: skip


@pytest.fixture
def teacher(random_teacher: Callable[[str], Teacher]) -> Teacher:
    return random_teacher("resnet18")


@pytest.fixture
def small(images: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(images[:, ::2, ::2])  # (12, 32, 32, 3)


@pytest.fixture
def run(teacher: Teacher, small: np.ndarray, cpu: Compute, tmp_path: Path) -> Callable[..., TrainedStudent]:
    def call(epochs: int = 2, recipe: UninformedStudents = SMALL, **more: object) -> TrainedStudent:
        given = {"seed": 0, "compute": cpu, "checkpoint": tmp_path / "c", "identity": "test"} | more
        return fit(recipe, teacher, small[:9], small[9:], epochs=epochs, cache=tmp_path / "shared", **given)

    return call


def test_random_patches_estimate_the_dense_loss_without_bias(small: np.ndarray) -> None:
    """Over every pixel once, patches give exactly the dense mean; random ones scatter around it."""
    torch.manual_seed(0)
    scale = Scale(SMALL, 17).double()
    x = prepared(small[:2], torch.device("cpu")).double()
    with torch.no_grad():
        dense = scale.dense_losses(x)
        from rkd_pipeline.models.patch_network import padded, patches_at

        rows, columns = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
        which = torch.zeros(32 * 32, dtype=torch.long)
        every = scale.losses(patches_at(padded(x[:1], 17), which, rows.flatten(), columns.flatten(), 17).double())
        torch.testing.assert_close(every.double().view(32, 32), dense[0].double(), rtol=1e-4, atol=1e-6)
        generator = torch.Generator().manual_seed(1)
        drawn = scale.losses(random_patches(x, 1500, 17, generator)).view(2, 1500).double()
    error = drawn.std(1) / 1500**0.5
    assert ((drawn.mean(1) - dense.double().mean((1, 2))).abs() < 4 * error).all()
    assert (error < 0.05 * dense.double().mean((1, 2))).all()  # the test can tell a bias of a fifth


def test_windows_tile_the_image_and_give_the_dense_loss(small: np.ndarray) -> None:
    """Every window is one tile of the dense losses, each tile is drawn, and no other place is."""
    torch.manual_seed(0)
    scales = [Scale(SMALL, p) for p in (17, 33)]
    x = prepared(small[:1], torch.device("cpu"))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        tiles = [s.dense_losses(x)[0].view(2, 16, 2, 16).mean((1, 3)).flatten() for s in scales]
        drawn = []
        for _ in range(40):
            windows = random_windows(x, 16, (17, 33), generator)
            assert [tuple(w.shape) for w in windows] == [(1, 3, 32, 32), (1, 3, 48, 48)]
            losses = [s.window_losses(w) for s, w in zip(scales, windows, strict=True)]
            nearest = [int((t - found).abs().argmin()) for t, found in zip(tiles, losses, strict=True)]
            assert nearest[0] == nearest[1]  # all receptive fields look at the same pixels
            for tile, found in zip(tiles, losses, strict=True):
                torch.testing.assert_close(found[0], tile[nearest[0]], rtol=1e-4, atol=1e-6)
            drawn.append(nearest[0])
    counts = np.bincount(drawn, minlength=4)
    assert counts.sum() == 40
    assert (counts >= 3).all()  # of 10 expected


def test_windows_that_would_leave_pixels_out_are_refused(small: np.ndarray) -> None:
    x = prepared(small[:1], torch.device("cpu"))
    with pytest.raises(ValueError, match="windows of 24 pixels do not tile an image of 32"):
        random_windows(x, 24, (17,), torch.Generator())


def test_error_and_variance_by_hand() -> None:
    """Two students at 1 and 3 where the descriptor is 0: error of the mean 4, variance 1, mean loss 5."""
    scale = Scale(replace(SMALL, students=2, descriptor=1), 17)
    for network, value in ((scale.descriptor, 0.0), (scale.students[0], 1.0), (scale.students[1], 3.0)):
        for p in network.parameters():
            p.data.zero_()
        network.convolutions[-1].bias.data.fill_(value)
    x = torch.rand(1, 3, 16, 16)
    error, variance = scale.error_and_variance(x)
    assert error.unique().tolist() == [4.0]
    assert variance.unique().tolist() == [1.0]
    assert scale.losses(torch.rand(3, 3, 17, 17)).tolist() == [5.0] * 3
    scale.normal_mean.copy_(torch.tensor([2.0, 0.5]))
    scale.normal_deviation.copy_(torch.tensor([4.0, 0.25]))
    assert scale.score(x).unique().tolist() == [(4 - 2) / 4 + (1 - 0.5) / 0.25]


def test_normalised_scores_of_held_out_pixels_have_mean_zero_and_parts_deviation_one(
    run: Callable[..., TrainedStudent], teacher: Teacher, small: np.ndarray
) -> None:
    trained = run()
    system = system_of(SMALL)
    made = system.detector(SMALL, teacher, trained.state, 0.0, torch.device("cpu"))
    assert isinstance(made, UninformedStudentsDetector)
    x = prepared(small[9:], torch.device("cpu"))
    with torch.no_grad():
        for scale in made.ensemble:
            parts = torch.stack(scale.error_and_variance(x)).flatten(1)
            torch.testing.assert_close(parts.mean(1), scale.normal_mean, rtol=1e-3, atol=1e-6)
            torch.testing.assert_close(parts.std(1), scale.normal_deviation, rtol=1e-3, atol=1e-6)
        mean = torch.stack([scale.score(x) for scale in made.ensemble]).mean(0)
    maps = made.score(small[9:]).maps
    np.testing.assert_allclose(maps, mean.numpy(), rtol=1e-3, atol=1e-4)
    assert abs(maps.mean()) < 1e-2


@pytest.mark.parametrize("window", [0, 16])
def test_training_learns_resumes_and_leaves_the_descriptors_alone(
    run: Callable[..., TrainedStudent], tmp_path: Path, teacher: Teacher, cpu: Compute, window: int
) -> None:
    run = partial(run, recipe=replace(SMALL, window=window))
    whole = run(4, checkpoint=tmp_path / "whole")
    held_out = [e.validation_loss for e in whole.history]  # on the same patches or windows each time, unlike training
    assert None not in held_out
    assert held_out[-1] < held_out[0]
    assert whole.best_epoch == 4

    def kill(epoch: Epoch) -> None:
        if epoch.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(4, checkpoint_seconds=0, on_epoch=kill)
    # An interrupt comes before that epoch's checkpoint: the training resumes after epoch 1.
    resumed = run(4, checkpoint_seconds=0)
    assert resumed.history == whole.history
    assert all(torch.equal(v, resumed.state[k]) for k, v in whole.state.items())
    made = descriptors(SMALL, teacher, tmp_path / "shared", cpu)
    for i, p in enumerate(SMALL.receptive_fields):
        for name, value in made.items():
            if name.startswith(f"{p}."):
                assert torch.equal(whole.state[f"scales.{i}.descriptor.{name.removeprefix(f'{p}.')}"], value)
    assert "distilled from block 3 of resnet18" in whole.notes["descriptors"]


def test_descriptors_are_made_once_per_teacher_and_settings(
    teacher: Teacher, cpu: Compute, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = descriptors(SMALL, teacher, tmp_path, cpu)
    monkeypatch.setattr("rkd_pipeline.detectors.uninformed_students._distilled", lambda *_: pytest.fail("made again"))
    again = descriptors(SMALL, teacher, tmp_path, cpu)
    assert all(torch.equal(v, again[k]) for k, v in first.items())
    with pytest.raises(pytest.fail.Exception):
        descriptors(replace(SMALL, width=5), teacher, tmp_path, cpu)


def test_students_start_differently_and_only_they_learn() -> None:
    torch.manual_seed(0)
    ensemble = Ensemble(SMALL)
    first = next(iter(ensemble))
    assert len(first.students) == 3
    assert not torch.equal(first.students[0].convolutions[0].weight, first.students[1].convolutions[0].weight)
    learning = {n for n, p in ensemble.named_parameters() if p.requires_grad}
    assert learning
    assert all(".students." in n for n in learning)


def test_correlation_is_numpy_s() -> None:
    x = torch.randn(9, 4, generator=torch.Generator().manual_seed(2))
    matrix = np.corrcoef(x.numpy(), rowvar=False)
    expected = np.abs(matrix).sum() - 4
    assert correlation(x).item() == pytest.approx(expected, rel=1e-4)


def test_the_descriptors_learn_what_the_teacher_sees(teacher: Teacher, small: np.ndarray) -> None:
    x = prepared(small[:3], torch.device("cpu"))
    expected = teacher(torch.from_numpy(small[:3]))[-1].mean((2, 3))
    torch.testing.assert_close(pooled_features(teacher, x), expected, rtol=1e-4, atol=1e-5)


def test_descriptors_that_are_no_numbers_are_not_kept_for_later_trainings(
    teacher: Teacher, tmp_path: Path, cpu: Compute, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = PatchNetwork(SMALL.receptive_fields[0], SMALL.width, SMALL.descriptor)
    with torch.no_grad():
        network.convolutions[0].weight[0] = float("nan")
    monkeypatch.setattr(uninformed_students, "_distil", lambda *_: network)
    with pytest.raises(
        StoreError, match=r"descriptors .* hold NaN or infinity in .*convolutions\.0\.weight; nothing was"
    ):
        descriptors(SMALL, teacher, tmp_path, cpu)
    assert not list(tmp_path.glob("*.safetensors"))
