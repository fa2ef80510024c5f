"""The learning rate over the epochs, as a function and as a training uses it."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rkd_pipeline.detectors.reverse_kd import ReverseKDTask
from rkd_pipeline.device import Compute
from rkd_pipeline.models.teacher import Teacher
from rkd_pipeline.recipes.named_recipes import RECIPES
from rkd_pipeline.recipes.recipe import ReverseKD
from rkd_pipeline.recipes.variants import variant
from rkd_pipeline.training.loop import Epoch, train
from rkd_pipeline.training.rate_schedule import relative_rate
from rkd_pipeline.training.task import TaskInputs

Rates = Callable[..., list[float]]
_OFFICIAL = RECIPES["rkd-official"]
assert isinstance(_OFFICIAL, ReverseKD)


@pytest.mark.parametrize("epochs", [1, 7, 20, 200])
def test_a_cosine_rises_falls_and_never_stands_still(epochs: int) -> None:
    factors = [relative_rate("cosine", epoch, epochs) for epoch in range(epochs)]
    top = factors.index(max(factors))
    assert factors[:top] == sorted(factors[:top])
    assert factors[top:] == sorted(factors[top:], reverse=True)
    assert all(0 < factor <= 1 for factor in factors)
    assert {relative_rate("constant", epoch, epochs) for epoch in range(epochs)} == {1.0}


def test_a_cosine_s_known_values() -> None:
    """By hand, for 20 epochs: the middle of the first is a quarter through the warm-up; 11 epochs are half-way down."""
    assert relative_rate("cosine", 0, 20) == pytest.approx(0.25)
    assert relative_rate("cosine", 1, 20) == pytest.approx(0.75)
    assert (relative_rate("cosine", 10, 20) + relative_rate("cosine", 11, 20)) / 2 == pytest.approx(0.5)
    assert relative_rate("cosine", 19, 20) < 0.01


@pytest.fixture
def rates(
    random_teacher: Callable[[str], Teacher], cpu: Compute, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Rates:
    """Trains three epochs of two steps, and gives the learning rate of every step."""
    recipe = replace(_OFFICIAL, batch_size=2, learning_rate=0.01, schedule="cosine")
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    teacher, step = random_teacher("resnet18"), torch.optim.Adam.step
    found: list[float] = []

    def watched(self: torch.optim.Adam, *given: Any) -> Any:
        found.append(float(self.param_groups[0]["lr"]))
        return step(self, *given)

    monkeypatch.setattr(torch.optim.Adam, "step", watched)

    def call(stop_after: int | None = None) -> list[float]:
        def interrupt(epoch: Epoch) -> None:
            if epoch.epoch == stop_after:
                raise KeyboardInterrupt

        found.clear()
        task = ReverseKDTask(recipe, teacher, TaskInputs(images, None, 0, cpu))
        with pytest.raises(KeyboardInterrupt) if stop_after else nullcontext():
            train(
                recipe, task, images=4, epochs=3, seed=0, checkpoint=tmp_path / "c", identity="t",
                checkpoint_seconds=0, on_epoch=interrupt,
            )  # fmt: skip
        return list(found)

    return call


def test_every_step_has_its_epoch_s_rate_also_after_an_interruption(rates: Rates) -> None:
    expected = [0.01 * relative_rate("cosine", epoch, 3) for epoch in range(3) for _ in range(2)]
    begun = rates(stop_after=2)  # before that epoch's checkpoint: it is trained again
    assert begun == pytest.approx(expected[:4])
    assert rates() == pytest.approx(expected[2:])


def test_a_recipe_without_a_schedule_is_what_it_was() -> None:
    """Its settings are part of provenance: trainings made before there was a schedule stay valid."""
    assert "schedule" not in RECIPES["rkd-official"].settings()
    assert variant("rkd-official+schedule=cosine").settings()["schedule"] == "cosine"
