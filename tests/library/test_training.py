from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rkd_pipeline.detectors.fit import fit
from rkd_pipeline.detectors.reverse_kd import loss_balance, new_student
from rkd_pipeline.device import Compute
from rkd_pipeline.errors import StoreError
from rkd_pipeline.models.teacher import Teacher
from rkd_pipeline.recipes.named_recipes import RECIPES
from rkd_pipeline.recipes.recipe import Recipe
from rkd_pipeline.training.features import FeatureSource
from rkd_pipeline.training.loop import Epoch, TrainedStudent
from rkd_pipeline.training.losses import l_kd, l_val

SMALL = replace(RECIPES["rkd"], teacher="resnet18", batch_size=5)  # 12 images: batches of 5, 5 and 2


@pytest.fixture
def teacher(random_teacher: Callable[[str], Teacher]) -> Teacher:
    return random_teacher("resnet18")


@pytest.fixture
def run(teacher: Teacher, images: np.ndarray, cpu: Compute, tmp_path: Path) -> Callable[..., TrainedStudent]:
    def call(recipe: Recipe = SMALL, epochs: int = 3, seed: int = 0, **more: object) -> TrainedStudent:
        validation = images[9:] if recipe.early_stopping else None
        chosen = {"compute": cpu, "checkpoint": tmp_path / "c.safetensors", "identity": "test"}
        chosen |= {"checkpoint_seconds": 1e9} | more  # on a slow machine, too, one call does not resume another
        train_pictures = images[:9] if recipe.early_stopping else images
        return fit(recipe, teacher, train_pictures, validation, epochs=epochs, seed=seed, **chosen)

    return call


def same(a: TrainedStudent, b: TrainedStudent) -> bool:
    return a.history == b.history and all(torch.equal(v, b.state[k]) for k, v in a.state.items())


@pytest.mark.parametrize(
    ("name", "golden"),
    [
        ("rkd", [1.50770, 0.87539, 0.66786]),
        ("rkd-official", [1.55312, 0.96073, 0.70023]),
        ("rkd-mkd", [1268.634, 612.508, 411.881]),
        ("rkd-mkd-mean", [8.33234, 4.14994, 2.73886]),
    ],
)
def test_golden_losses(run: Callable[..., TrainedStudent], name: str, golden: list[float]) -> None:
    """A change means that trainings differ: bump the version of ``trained_model`` in ``store/stage_versions.py``."""
    recipe = replace(RECIPES[name], teacher="resnet18", batch_size=5)
    losses = [e.train_loss for e in run(recipe).history]
    # Nine steps of float32 carry the rounding of another number of threads, or another CPU, to 0.4%.
    assert losses == pytest.approx(golden, rel=5e-3)


@pytest.mark.parametrize(("name", "killed_after"), [("rkd", 1), ("rkd-mkd-es", 2)])
def test_a_killed_training_resumes_to_the_same_weights(
    run: Callable[..., TrainedStudent], tmp_path: Path, name: str, killed_after: int
) -> None:
    """As every system's (test_loop.py), here with features, lambda and channels_last moments."""
    recipe = replace(RECIPES[name], teacher="resnet18", batch_size=5)
    whole = run(recipe, epochs=4, checkpoint=tmp_path / "whole")
    seen: list[int] = []

    def kill(epoch: Epoch) -> None:
        seen.append(epoch.epoch)
        if epoch.epoch == killed_after + 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(recipe, epochs=4, checkpoint_seconds=0, on_epoch=kill)
    resumed = run(recipe, epochs=4, checkpoint_seconds=0, on_epoch=lambda e: seen.append(e.epoch))
    assert same(whole, resumed)
    assert whole.lambda_ == resumed.lambda_
    assert seen == [*range(1, killed_after + 2), *range(killed_after + 1, 5)]


def test_recomputed_features_give_the_same_losses(run: Callable[..., TrainedStudent], cpu: Compute) -> None:
    kept, recomputed = run(), run(compute=replace(cpu, feature_budget=0))
    assert [e.train_loss for e in recomputed.history] == pytest.approx([e.train_loss for e in kept.history], rel=1e-4)


def test_the_budget_decides_what_is_kept(teacher: Teacher, images: np.ndarray, cpu: Compute) -> None:
    needed = 12 * 4 * (64 * 16 * 16 + 128 * 8 * 8 + 256 * 4 * 4)
    assert FeatureSource(teacher, images, replace(cpu, feature_budget=needed)).kept
    source = FeatureSource(teacher, images, replace(cpu, feature_budget=needed - 1))
    assert not source.kept
    indices = torch.tensor([3, 1])
    expected = teacher(torch.from_numpy(images[[3, 1]]))
    for a, b in zip(source.batch(indices), expected, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(("room", "kept"), [(18, (True, True)), (17, (True, False)), (11, (False, True))])
def test_training_and_held_out_images_share_one_budget(
    teacher: Teacher, images: np.ndarray, cpu: Compute, room: int, kept: tuple[bool, bool]
) -> None:
    """Twelve images train, six are held out; the budget has room for so many."""
    each = 4 * (64 * 16 * 16 + 128 * 8 * 8 + 256 * 4 * 4)  # float32, three scales of ResNet-18
    budget = replace(cpu, feature_budget=room * each)
    training, held_out = FeatureSource.within_one_budget(teacher, images, images[:6], budget)
    assert held_out is not None
    assert (training.kept, held_out.kept) == kept
    assert training.bytes_kept + held_out.bytes_kept <= room * each


def test_kept_features_are_channels_last_and_in_order(teacher: Teacher, images: np.ndarray, cpu: Compute) -> None:
    batch = FeatureSource(teacher, images, cpu).batch(torch.tensor([7, 2]))
    for a, b in zip(batch, teacher(torch.from_numpy(images[[7, 2]])), strict=True):
        assert a.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_lambda_brings_both_terms_to_one_size_and_leaves_no_trace(
    teacher: Teacher, images: np.ndarray, cpu: Compute
) -> None:
    student = new_student(SMALL, teacher, seed=0)
    before = {k: v.clone() for k, v in student.state_dict().items()}
    features = FeatureSource(teacher, images, cpu)
    balance = loss_balance(student, features, replace(SMALL, batch_size=12), cpu)
    assert all(torch.equal(v, before[k]) for k, v in student.state_dict().items())
    with torch.no_grad():
        a = teacher(torch.from_numpy(images))
        b = student.train()(a)
    assert balance == pytest.approx(float(l_val(a, b).mean() / l_kd(a, b).mean()), rel=1e-3)


def test_a_fixed_lambda_is_taken_as_it_is(run: Callable[..., TrainedStudent]) -> None:
    recipe = replace(SMALL, loss="mkd")
    fixed, balanced = run(replace(recipe, lambda_=0.5), epochs=1), run(recipe, epochs=1)
    assert fixed.lambda_ == 0.5
    assert balanced.lambda_ > 10
    assert fixed.history[0].train_loss < balanced.history[0].train_loss  # L_val alone, nearly


def test_a_diverging_training_says_so(run: Callable[..., TrainedStudent]) -> None:
    with pytest.raises(StoreError, match=r"test: the loss of epoch 1, step 2, is (nan|inf); .* Try precision fp32"):
        run(replace(SMALL, loss="mkd", learning_rate=1e30), epochs=5)


def test_validation_and_recipe_must_agree(run: Callable[..., TrainedStudent], teacher: Teacher, cpu: Compute) -> None:
    with pytest.raises(ValueError, match="disagree about early stopping"):
        fit(
            SMALL, teacher, np.zeros((2, 64, 64, 3), np.uint8), np.zeros((2, 64, 64, 3), np.uint8),
            epochs=1, seed=0, compute=cpu, checkpoint=Path("none"), identity="x",
        )  # fmt: skip


def test_bfloat16_trains_to_nearly_the_same_losses(run: Callable[..., TrainedStudent], cpu: Compute) -> None:
    """Emulated where the hardware has none: slow, but the same arithmetic."""
    exact, rounded = run(epochs=1), run(epochs=1, compute=replace(cpu, precision="bf16"))
    assert rounded.history[0].train_loss == pytest.approx(exact.history[0].train_loss, rel=0.02)
    assert all(v.dtype == exact.state[k].dtype for k, v in rounded.state.items())
