"""The training loop by itself, on a task of a few weights: what it does holds for every system."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from rkd_pipeline.detectors.reverse_kd import ReverseKDTask
from rkd_pipeline.device import Compute
from rkd_pipeline.errors import StoreError
from rkd_pipeline.models.teacher import Teacher
from rkd_pipeline.progress import bar
from rkd_pipeline.recipes.named_recipes import RECIPES
from rkd_pipeline.recipes.recipe import EarlyStopping, Recipe
from rkd_pipeline.training import loop
from rkd_pipeline.training.loop import Epoch, TrainedStudent, train
from rkd_pipeline.training.task import TaskInputs, TrainingTask

RECIPE = replace(RECIPES["rkd"], batch_size=5)  # 12 rows: batches of 5, 5 and 2
STOPPING = replace(RECIPE, early_stopping=EarlyStopping(patience=3))


class Noisy(TrainingTask):
    """A linear layer and BatchNorm learn to give rows back, of which noise is drawn anew in every step."""

    def __init__(self, seed: int = 0) -> None:
        self.lambda_, self.notes = 0.0, {}
        generator = torch.Generator().manual_seed(5)
        self._rows, self._held_out = torch.rand(12, 6, generator=generator), torch.rand(7, 6, generator=generator)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.student = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 6))

    def begin(self) -> float:
        return 0.25

    def batch(self, indices: Tensor, generator: torch.Generator) -> list[Tensor]:
        noise = torch.randn(len(indices), 6, generator=generator)
        return [self._rows[indices], self._rows[indices] + 0.1 * noise]

    def losses(self, batch: list[Tensor]) -> Tensor:
        clean, noisy = batch
        return (self.student(noisy) - clean).square().sum(1) * (1 + self.lambda_)

    def validation_loss(self) -> float:
        return float(self.losses([self._held_out, self._held_out]).mean())

    def finish(self) -> None: ...


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., TrainedStudent]:
    def call(recipe: Recipe = RECIPE, epochs: int = 6, seed: int = 0, **more: Any) -> TrainedStudent:
        chosen = {"checkpoint": tmp_path / "c.safetensors", "identity": "test", "checkpoint_seconds": 1e9} | more
        return train(recipe, Noisy(seed), images=12, epochs=epochs, seed=seed, **chosen)

    return call


def same(a: TrainedStudent, b: TrainedStudent) -> bool:
    return a.history == b.history and all(torch.equal(v, b.state[k]) for k, v in a.state.items())


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(run: Callable[..., TrainedStudent]) -> None:
    first = run()
    torch.manual_seed(99)  # the surroundings' generator plays no part
    assert same(first, run())
    assert not same(first, run(seed=1))


def test_the_history_is_the_mean_loss_of_every_image(run: Callable[..., TrainedStudent]) -> None:
    """Without learning, an epoch's loss is that of the first weights, over images whose batches differ in size."""
    task, still = Noisy(), replace(RECIPE, learning_rate=0.0)
    task.lambda_ = task.begin()
    generator = torch.Generator().manual_seed(0)
    batches = torch.randperm(12, generator=generator).split(5)
    losses = torch.cat([task.losses(task.batch(indices, generator)) for indices in batches])
    [epoch] = run(still, epochs=1).history
    assert epoch.train_loss == pytest.approx(losses.mean().item(), rel=1e-6)
    assert (epoch.epoch, epoch.validation_loss) == (1, None)


@pytest.mark.parametrize("recipe", [RECIPE, STOPPING], ids=["fixed", "stopping"])
@pytest.mark.parametrize("killed_in", [1, 2, 3, 5, 6])
def test_a_killed_training_resumes_to_the_same_weights(
    run: Callable[..., TrainedStudent], tmp_path: Path, recipe: Recipe, killed_in: int
) -> None:
    """Killed after an epoch, before that one's checkpoint: it is trained again, with what the one before left."""
    whole = run(recipe, checkpoint=tmp_path / "whole")
    seen: list[int] = []

    def kill(epoch: Epoch) -> None:
        seen.append(epoch.epoch)
        if epoch.epoch == killed_in:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(recipe, checkpoint_seconds=0, on_epoch=kill)
    resumed = run(recipe, checkpoint_seconds=0, on_epoch=lambda e: seen.append(e.epoch))
    assert same(whole, resumed)
    assert (whole.lambda_, whole.best_epoch) == (resumed.lambda_, resumed.best_epoch)
    assert seen == [*range(1, killed_in + 1), *range(killed_in, 7)]


def test_a_checkpoint_is_of_the_last_epoch_and_as_often_as_asked(
    run: Callable[..., TrainedStudent], tmp_path: Path
) -> None:
    run(epochs=3)
    assert not (tmp_path / "c.safetensors").exists()
    run(epochs=3, checkpoint_seconds=0)
    with safe_open(tmp_path / "c.safetensors", "pt") as file:
        assert file.metadata()["progress"].count('"train_loss"') == 3


def test_between_two_checkpoints_lies_the_time_that_was_asked_for(
    run: Callable[..., TrainedStudent], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of epochs that take a second each, by a clock that the test turns."""
    now, saved = 0.0, []

    def tick(epoch: Epoch) -> None:
        nonlocal now
        now += 1

    monkeypatch.setattr(loop, "monotonic", lambda: now)
    monkeypatch.setattr(loop, "write_atomically", lambda path, content: saved.append(now))
    run(epochs=10, checkpoint_seconds=3, on_epoch=tick)
    assert saved == [3, 6, 9]


def test_a_checkpoint_of_something_else_or_damaged_is_an_error_that_names_the_file(
    run: Callable[..., TrainedStudent], tmp_path: Path
) -> None:
    run(checkpoint_seconds=0)
    with pytest.raises(StoreError, match=r"c\.safetensors is of test, not of another; delete it"):
        run(identity="another")
    content = (tmp_path / "c.safetensors").read_bytes()
    for damaged in (b"", b"x" * 100, content[: len(content) // 2]):
        (tmp_path / "c.safetensors").write_bytes(damaged)
        with pytest.raises(StoreError, match=r"c\.safetensors is damaged .* delete it"):
            run()


@pytest.mark.parametrize("patience", [1, 3, 10])
def test_early_stopping_stops_and_keeps_the_best_weights(
    run: Callable[..., TrainedStudent], tmp_path: Path, patience: int
) -> None:
    # A learning rate that soon makes things worse.
    recipe = replace(RECIPE, learning_rate=0.5, early_stopping=EarlyStopping(patience))
    result = run(recipe, epochs=200)
    losses = [e.validation_loss for e in result.history]
    assert result.stopped_early
    assert len(losses) == result.best_epoch + patience < 200
    assert losses[result.best_epoch - 1] == min(losses)
    until_best = run(recipe, epochs=result.best_epoch, checkpoint=tmp_path / "other")
    assert all(torch.equal(v, until_best.state[k]) for k, v in result.state.items())


def test_without_early_stopping_the_last_epoch_counts(run: Callable[..., TrainedStudent]) -> None:
    result = run(epochs=2)
    assert (result.best_epoch, result.stopped_early, len(result.history)) == (2, False, 2)
    assert result.history[0].validation_loss is None


@pytest.mark.parametrize("gpu", [False, True])
def test_a_loss_that_is_no_number_ends_the_training_and_is_named(
    run: Callable[..., TrainedStudent], monkeypatch: pytest.MonkeyPatch, gpu: bool
) -> None:
    losses, steps = Noisy.losses, 0

    def breaks(self: Noisy, batch: list[Tensor]) -> Tensor:
        nonlocal steps
        steps += 1
        return losses(self, batch) * (float("nan") if steps == 5 else 1)

    monkeypatch.setattr(Noisy, "losses", breaks)
    monkeypatch.setattr(loop, "on_gpu", lambda student: gpu)
    with pytest.raises(StoreError, match=r"^test: the loss of epoch 2, step 2, is nan; nothing was kept"):
        run()
    assert steps == (6 if gpu else 5)  # a GPU is asked at the end of the epoch


@dataclass
class Watched:
    """What happens in the order in which it does: a ``step``, and each time that the host ``read`` a tensor."""

    events: list[str] = field(default_factory=list)

    def watch(self, monkeypatch: pytest.MonkeyPatch, task: type[TrainingTask]) -> None:
        # On a GPU each of these waits until all work before it is done.
        for name in ("item", "tolist", "numpy", "cpu", "__float__", "__int__", "__bool__", "__index__", "__array__"):
            monkeypatch.setattr(Tensor, name, self._noting("read", getattr(Tensor, name)))
        monkeypatch.setattr(task, "losses", self._noting("step", task.losses))

    def _noting(self, event: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*args: Any, **kwargs: Any) -> Any:
            self.events.append(event)
            return call(*args, **kwargs)

        return noted

    @property
    def reads_between_steps(self) -> int:
        steps = [i for i, event in enumerate(self.events) if event == "step"]
        between = self.events[steps[0] : steps[-1]]
        return between.count("read")


@pytest.mark.parametrize(("gpu", "reads"), [(True, 0), (False, 2)])
def test_on_a_gpu_nothing_is_read_between_the_steps_of_an_epoch(
    run: Callable[..., TrainedStudent], monkeypatch: pytest.MonkeyPatch, gpu: bool, reads: int
) -> None:
    """Of three steps with a bar that shows the loss; on a CPU it is read after each."""
    watched = Watched()
    watched.watch(monkeypatch, Noisy)
    monkeypatch.setattr(loop, "on_gpu", lambda student: gpu)
    with bar(12, "test", "image") as shown:
        run(epochs=1, shown=shown)
    assert watched.events.count("step") == 3
    assert watched.reads_between_steps == reads
    assert "read" in watched.events  # the epoch's loss, at its end


def test_neither_does_reverse_kd_read_between_its_steps(
    monkeypatch: pytest.MonkeyPatch, random_teacher: Callable[[str], Teacher], cpu: Compute, tmp_path: Path
) -> None:
    recipe = replace(RECIPES["rkd-official-brief"], batch_size=2)
    images = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    task = ReverseKDTask(recipe, random_teacher("resnet18"), TaskInputs(images, None, 0, cpu))
    watched = Watched()
    watched.watch(monkeypatch, ReverseKDTask)
    monkeypatch.setattr(loop, "on_gpu", lambda student: True)
    train(recipe, task, images=6, epochs=1, seed=0, checkpoint=tmp_path / "c", identity="test")
    assert watched.events.count("step") == 3
    assert watched.reads_between_steps == 0


@pytest.mark.parametrize("epochs", [1, 2])
def test_weights_that_are_no_numbers_after_the_last_step_are_not_kept(
    run: Callable[..., TrainedStudent], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, epochs: int
) -> None:
    """The loss is taken before the step: what the last step of the last epoch breaks shows in no loss."""
    taken, last = 0, 3 * epochs
    step = torch.optim.Adam.step

    def breaks(self: torch.optim.Adam, *args: Any, **kwargs: Any) -> None:
        nonlocal taken
        taken += 1
        step(self, *args, **kwargs)
        if taken == last:
            with torch.no_grad():
                self.param_groups[0]["params"][1].view(-1)[0] = float("nan")

    monkeypatch.setattr(torch.optim.Adam, "step", breaks)
    expected = rf"test: after the last step of epoch {epochs} there is NaN or infinity in 0\.bias; nothing was"
    with pytest.raises(StoreError, match=expected):
        run(epochs=epochs)
    assert not (tmp_path / "c.safetensors").exists()
