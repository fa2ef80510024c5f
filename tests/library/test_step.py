"""A step of training, and its recording on a GPU."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rkd_pipeline.detectors import system_of
from rkd_pipeline.detectors.fit import fit
from rkd_pipeline.device import Compute, PrecisionChoice, place
from rkd_pipeline.models.teacher_files import TeacherName, TeacherRegistry
from rkd_pipeline.models.weights import load_weights
from rkd_pipeline.recipes.named_recipes import RECIPES
from rkd_pipeline.recipes.recipe import Recipe
from rkd_pipeline.training import loop
from rkd_pipeline.training import step as step_module
from rkd_pipeline.training.step import step
from rkd_pipeline.training.task import TrainingTask

gpu = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="no GPU: only there are steps recorded, on a CPU they run as they are"
)


class Line(TrainingTask):
    """y = w x, squared error to 3 x."""

    def __init__(self, device: str = "cpu") -> None:
        self.lambda_, self.notes = 0.0, {}
        self.student = nn.Linear(1, 1, bias=False).to(device)
        nn.init.constant_(self.student.weight, 1.0)

    def begin(self) -> float:
        return 0.0

    def batch(self, indices: Tensor, generator: torch.Generator) -> list[Tensor]:
        return [indices.float().view(-1, 1).to(self.student.weight.device)]

    def losses(self, batch: list[Tensor]) -> Tensor:
        return (self.student(batch[0]) - 3 * batch[0]).square().mean(1)

    def validation_loss(self) -> float:
        return 0.0

    def finish(self) -> None: ...


def descended(device: str) -> tuple[list[list[float]], float]:
    """Losses of steps of batches of two and, every other time, of one image; the weight after them."""
    task = Line(device)
    optimiser = torch.optim.SGD(task.student.parameters(), lr=0.05)
    one = step(task, [optimiser])
    losses = []
    for i in range(12):
        indices = torch.tensor([1, 2] if i % 2 else [2])
        losses.append(one(task.batch(indices, torch.Generator())).tolist())
    return losses, task.student.weight.item()


def by_hand() -> tuple[list[list[float]], float]:
    w, losses = 1.0, []
    for i in range(12):
        xs = [1, 2] if i % 2 else [2]
        losses.append([(w - 3) ** 2 * x**2 for x in xs])
        w -= 0.05 * sum(2 * (w - 3) * x**2 for x in xs) / len(xs)
    return losses, w


def check(found: tuple[list[list[float]], float]) -> None:
    losses, weight = by_hand()
    assert found[1] == pytest.approx(weight, abs=1e-5)
    for got, wanted in zip(found[0], losses, strict=True):
        assert got == pytest.approx(wanted, abs=1e-5)


def test_a_step_gives_the_losses_before_it_and_goes_down_their_mean() -> None:
    check(descended("cpu"))


@gpu
def test_a_recorded_step_does_the_same_for_every_shape_of_batch() -> None:
    check(descended("cuda"))


@gpu
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
@pytest.mark.parametrize("name", ["rkd", "rkd-mkd-es", "rkd-official", "mkd", "us-small"])
def test_recorded_steps_train_as_plain_ones_do(
    name: str, precision: PrecisionChoice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nearly: a GPU adds in another order from run to run, and small batches carry that on."""
    recipe = _small(RECIPES[name])
    images = np.random.default_rng(0).integers(0, 256, (14, 64, 64, 3), dtype=np.uint8)
    compute = Compute.choose("cuda", precision)
    weights = load_weights(TeacherRegistry(Path("none")), TeacherName(recipe.networks[0], "random"))
    validation = images[:4] if recipe.held_out else None

    def losses(what: str) -> list[float]:
        teacher = place(system_of(recipe).teacher(weights, recipe), compute.device)
        trained = fit(
            recipe, teacher, images, validation, epochs=6, seed=0, compute=compute,
            checkpoint=tmp_path / what, identity=f"{what} test", checkpoint_seconds=1e9, cache=tmp_path,
        )  # fmt: skip
        return [e.train_loss for e in trained.history]

    recorded = losses("recorded")
    monkeypatch.setattr(step_module, "_AS_THEY_COME", 10**9)
    plain = losses("plain")
    assert recorded[:2] == pytest.approx(plain[:2], rel=1e-2)
    assert recorded == pytest.approx(plain, rel=0.1)
    assert recorded[-1] < recorded[0]


@gpu
@pytest.mark.parametrize("name", ["rkd", "rkd-mkd-es", "stfpm-brief", "us-small"])
def test_the_host_never_waits_within_an_epoch(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch raises where it would; from the second epoch on, when every shape of batch has been recorded."""
    recipe = _small(RECIPES[name])
    images = np.random.default_rng(0).integers(0, 256, (16, 64, 64, 3), dtype=np.uint8)
    compute = Compute.choose("cuda", "fp32")
    weights = load_weights(TeacherRegistry(Path("none")), TeacherName(recipe.networks[0], "random"))
    start_epoch, read = TrainingTask.start_epoch, loop._require_number
    watched = []

    def begins(self: TrainingTask, epoch: int, *more: Any) -> None:
        start_epoch(self, epoch, *more)
        watched.append(epoch)
        torch.cuda.set_sync_debug_mode("error" if epoch else "default")

    def ends(*given: Any) -> None:
        torch.cuda.set_sync_debug_mode("default")
        read(*given)

    monkeypatch.setattr(TrainingTask, "start_epoch", begins)
    monkeypatch.setattr(loop, "_require_number", ends)
    try:
        fit(
            recipe, place(system_of(recipe).teacher(weights, recipe), compute.device), images,
            images[:4] if recipe.held_out else None, epochs=3, seed=0, compute=compute,
            checkpoint=tmp_path / "c", identity="no wait", checkpoint_seconds=1e9, cache=tmp_path,
        )  # fmt: skip
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert watched == [0, 1, 2]


def _small(recipe: Recipe) -> Recipe:
    return replace(recipe, side=64, batch_size=4)
