"""The learning rate over the epochs, as a function and as a training uses it."""

from collections.abc import Callable
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
from rkd_pipeline.recipes.recipe import ReverseKD, Schedule
from rkd_pipeline.recipes.variants import variant
from rkd_pipeline.training.loop import train
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
    """Trains on six images in batches of two, and gives the learning rate of every step."""

    def call(schedule: Schedule, checkpoint: str = "c", stop_after: int | None = None) -> list[float]:
        recipe = replace(_OFFICIAL, batch_size=2, learning_rate=0.01, schedule=schedule)
        images = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
        found: list[float] = []
        step = torch.optim.Adam.step

        def watched(self: torch.optim.Adam, *given: Any) -> Any:
            found.append(float(self.param_groups[0]["lr"]))
            return step(self, *given)

        monkeypatch.setattr(torch.optim.Adam, "step", watched)

        def interrupt(epoch: Any) -> None:
            if epoch.epoch == stop_after:
                raise KeyboardInterrupt

        task = ReverseKDTask(recipe, random_teacher("resnet18"), TaskInputs(images, None, 0, cpu))
        try:
            train(
                recipe, task, images=6, epochs=4, seed=0, checkpoint=tmp_path / checkpoint, identity="t",
                checkpoint_seconds=0, on_epoch=interrupt,
            )  # fmt: skip
        except KeyboardInterrupt:
            assert stop_after
        monkeypatch.setattr(torch.optim.Adam, "step", step)
        return found

    return call


def test_every_step_of_an_epoch_has_its_rate(rates: Rates) -> None:
    assert rates("constant") == [0.01] * 12
    expected = [0.01 * relative_rate("cosine", epoch, 4) for epoch in range(4) for _ in range(3)]
    assert rates("cosine", "other") == pytest.approx(expected)


def test_a_resumed_training_goes_on_where_the_schedule_was(rates: Rates) -> None:
    whole = rates("cosine", "whole")
    begun = rates("cosine", stop_after=2)  # before that epoch's checkpoint: it is trained again
    assert begun + rates("cosine")[3:] == whole


def test_a_recipe_without_a_schedule_is_what_it_was() -> None:
    """Its settings are part of provenance: trainings made before there was a schedule stay valid."""
    assert "schedule" not in RECIPES["rkd-official"].settings()
    assert variant("rkd-official+schedule=cosine").settings()["schedule"] == "cosine"
