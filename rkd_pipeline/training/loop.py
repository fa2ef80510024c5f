"""The training loop of every system: seeded, resumable, with early stopping.

What a step computes is the system's own (``detectors/``); here its losses meet the optimiser and the checkpoint.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import monotonic

import numpy as np
import torch
from torch import Tensor, nn

from rkd_pipeline.device import full_precision
from rkd_pipeline.errors import CheckpointError, StoreError
from rkd_pipeline.models.weights import not_finite
from rkd_pipeline.progress import Bar
from rkd_pipeline.recipes.recipe import GradientRecipe, Recipe
from rkd_pipeline.store.files import write_atomically
from rkd_pipeline.training.loss_sum import LossSum
from rkd_pipeline.training.step import on_gpu, step
from rkd_pipeline.training.task import TrainingTask

State = dict[str, Tensor]
_NUMBER = ".number"  # ends the name of what is a plain number in an optimiser's state, a tensor in a checkpoint
OnEpoch = Callable[["Epoch"], None]


@dataclass(frozen=True)
class Epoch:
    """One line of a training's history; losses are means per image, of the loss that the recipe trains on."""

    epoch: int
    train_loss: float
    validation_loss: float | None


@dataclass
class Progress:
    """What a checkpoint holds besides tensors."""

    lambda_: float
    history: list[Epoch] = field(default_factory=list)
    best_epoch: int = 0

    @property
    def epoch(self) -> int:
        """Epochs completed."""
        return len(self.history)


@dataclass(frozen=True)
class TrainedStudent:
    """The result of a training.

    Attributes:
        state: everything trained, on the CPU: the last epoch's, or the best one's with early stopping.
        lambda_: weighs one term of a loss of two (Reverse KD: L_val / L_KD before the first step); 0 without.
        history: one entry per epoch trained; none of a system that learns in one pass.
        best_epoch: the epoch (from 1) that ``state`` comes from; 0 without epochs.
        stopped_early: early stopping ended the training before its last epoch.
        notes: what else went into it, for provenance.
    """

    state: State
    lambda_: float
    history: list[Epoch]
    best_epoch: int
    stopped_early: bool
    notes: dict[str, str] = field(default_factory=dict)


def train(
    recipe: GradientRecipe,
    task: TrainingTask,
    *,
    images: int,
    epochs: int,
    seed: int,
    checkpoint: Path,
    identity: str,
    checkpoint_seconds: float = 30.0,
    on_epoch: OnEpoch = lambda epoch: None,
    shown: Bar | None = None,
) -> TrainedStudent:
    """Run a training; resumes from ``checkpoint`` where that file is of the same one.

    Args:
        recipe: optimiser and stopping rule.
        task: what a step computes, with its student on the device.
        images: how many images an epoch goes through.
        epochs: length of the schedule.
        seed: seeds the order of images, per epoch.
        checkpoint: written at the end of an epoch, at most every ``checkpoint_seconds``; the caller deletes it.
        identity: says what is trained; a checkpoint of another identity is an error, never resumed.
        on_epoch: called after each epoch.
        shown: counts images, over all epochs, and names epoch and loss.

    Raises:
        CheckpointError: the checkpoint is damaged or belongs to another training.
        StoreError: the loss or the weights became NaN or infinite.
    """
    student = task.student
    optimisers = task.optimisers(recipe, on_gpu=on_gpu(student))

    saved = _Checkpoint(checkpoint, identity)
    if checkpoint.exists():
        progress, best = saved.load(student, optimisers)
    else:
        progress, best = Progress(task.begin()), None
    task.lambda_ = progress.lambda_

    step_of = step(task, optimisers)
    last_saved = monotonic()
    if shown:
        shown.skip(progress.epoch * images)
    while progress.epoch < epochs and not _patience_is_out(recipe, progress):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + progress.epoch)
        order = torch.randperm(images, generator=generator).to(task.indices_on)
        losses = LossSum(at_once=not on_gpu(student))
        student.train()
        task.start_epoch(progress.epoch, epochs, optimisers)
        for number, indices in enumerate(order.split(recipe.batch_size), start=1):
            losses.add(step_of(task.batch(indices, generator)))
            if losses.at_once:
                _require_number(losses, progress.epoch + 1, identity)
            if shown:
                shown.note(_note(progress, epochs, losses, min(number * recipe.batch_size, images)))
                shown.update(len(indices))
        _require_number(losses, progress.epoch + 1, identity)
        validation_loss = _validation_loss(task) if recipe.held_out else None
        epoch = Epoch(progress.epoch + 1, losses.total() / images, validation_loss)
        if validation_loss is not None and not np.isfinite(validation_loss):
            raise _diverged(identity, f"the loss of epoch {epoch.epoch} on validation images is {validation_loss}")
        _require_finite(student, f"after the last step of epoch {epoch.epoch}", identity)
        progress.history.append(epoch)
        if recipe.early_stopping is not None and _is_best(progress):
            progress.best_epoch, best = epoch.epoch, {k: v.detach().clone() for k, v in student.state_dict().items()}
        on_epoch(epoch)
        if monotonic() - last_saved >= checkpoint_seconds:
            saved.save(student, optimisers, progress, best)
            last_saved = monotonic()

    if best is not None:
        student.load_state_dict(best)
    student.eval()
    with torch.no_grad(), full_precision():  # what normalises scores is computed as they are
        task.finish()
    _require_finite(student, "after normalisation on validation images", identity)
    return TrainedStudent(
        state={k: v.detach().to("cpu", memory_format=torch.contiguous_format) for k, v in student.state_dict().items()},
        lambda_=progress.lambda_,
        history=progress.history,
        best_epoch=progress.epoch if best is None else progress.best_epoch,
        stopped_early=_patience_is_out(recipe, progress) and progress.epoch < epochs,
        notes=task.notes,
    )


def _note(progress: Progress, epochs: int, losses: LossSum, seen: int) -> str:
    """Beside the bar: on a GPU the loss is the last epoch's, since reading this one's would hold it up."""
    running = f"epoch {progress.epoch + 1}/{epochs}"
    if losses.at_once:
        return f"{running}, loss {losses.total() / seen:.4f}"
    return f"{running}, loss {progress.history[-1].train_loss:.4f} before" if progress.history else running


def _require_number(losses: LossSum, epoch: int, identity: str) -> None:
    if fault := losses.first_fault():
        raise _diverged(identity, "the loss of epoch {}, step {}, is {}".format(epoch, *fault))


@torch.no_grad()
def _validation_loss(task: TrainingTask) -> float | None:
    task.student.eval()
    return task.validation_loss()


def _is_best(progress: Progress) -> bool:
    losses = [e.validation_loss for e in progress.history if e.validation_loss is not None]
    return losses[-1] < min(losses[:-1], default=float("inf"))


def _patience_is_out(recipe: Recipe, progress: Progress) -> bool:
    stopping = recipe.early_stopping
    return stopping is not None and progress.epoch - progress.best_epoch >= stopping.patience


def _require_finite(student: nn.Module, when: str, identity: str) -> None:
    """What a step leaves is seen in the next step's loss; after the last one nobody looks but this."""
    require_finite(student.state_dict(), when, identity)


def require_finite(state: State, when: str, identity: str) -> None:
    """Raises ``StoreError`` where what was learnt is no number."""
    if bad := not_finite(state):
        others = f" and {len(bad) - 1} other tensors" if len(bad) > 1 else ""
        raise _diverged(identity, f"{when} there is NaN or infinity in {bad[0]}{others}")


def _diverged(identity: str, what: str) -> StoreError:
    return StoreError(f"{identity}: {what}; nothing was kept of it. Try precision fp32, or another seed")


class _Checkpoint:
    """A training in mid-air, as one safetensors file: student, optimisers' moments, best weights, and progress."""

    def __init__(self, path: Path, identity: str) -> None:
        self.path, self.identity = path, identity

    def save(
        self, student: nn.Module, optimisers: list[torch.optim.Optimizer], progress: Progress, best: State | None
    ) -> None:
        tensors = {f"student.{k}": v for k, v in student.state_dict().items()}
        tensors |= {f"best.{k}": v for k, v in (best or {}).items()}
        for number, optimiser in enumerate(optimisers):
            for i, moments in optimiser.state_dict()["state"].items():
                tensors |= {f"{_moments(number)}{i}.{k}": v for k, v in moments.items() if isinstance(v, Tensor)}
                # Some optimisers count their steps as a plain number, and compute in double precision with it.
                numbers = {k: v for k, v in moments.items() if isinstance(v, int | float)}
                tensors |= {f"{_moments(number)}{i}.{k}{_NUMBER}": torch.tensor(v).double() for k, v in numbers.items()}
        from safetensors.torch import save

        metadata = {"identity": self.identity, "progress": json.dumps(asdict(progress))}
        contiguous = {k: v.detach().to("cpu", memory_format=torch.contiguous_format) for k, v in tensors.items()}
        write_atomically(self.path, save(contiguous, metadata))

    def load(self, student: nn.Module, optimisers: list[torch.optim.Optimizer]) -> tuple[Progress, State | None]:
        from safetensors import SafetensorError, safe_open
        from safetensors.torch import load_file

        try:
            with safe_open(self.path, "pt") as file:
                metadata = file.metadata()
            tensors = load_file(self.path)
            found = metadata["identity"]
            progress = json.loads(metadata["progress"])
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"checkpoint {self.path} is damaged ({error}); delete it to train {self.identity} from the start"
            ) from error
        if found != self.identity:
            raise CheckpointError(f"checkpoint {self.path} is of {found}, not of {self.identity}; delete it to go on")
        student.load_state_dict(_under("student.", tensors))
        for number, optimiser in enumerate(optimisers):
            _put_back(optimiser, _under(_moments(number), tensors))
        history = [Epoch(**e) for e in progress["history"]]
        device = next(student.parameters()).device
        best = {k: v.to(device) for k, v in _under("best.", tensors).items()} or None
        return Progress(progress["lambda_"], history, progress["best_epoch"]), best


def _moments(number: int) -> str:
    """Under which names a checkpoint holds the state of an optimiser; the first one's are as they always were."""
    return f"adam{number or ''}."


def _put_back(optimiser: torch.optim.Optimizer, saved: State) -> None:
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    moments: dict[int, dict[str, Tensor | float]] = {}
    for key, tensor in saved.items():
        index, _, name = key.partition(".")
        if name.endswith(_NUMBER):
            moments.setdefault(int(index), {})[name.removesuffix(_NUMBER)] = tensor.item()
            continue
        # The fused Adam pairs a parameter with its moments in memory order: they need the same layout.
        like = parameters[int(index)]
        moment = torch.empty_like(like).copy_(tensor) if tensor.shape == like.shape else tensor
        moments.setdefault(int(index), {})[name] = moment
    optimiser.load_state_dict({"state": moments, "param_groups": optimiser.state_dict()["param_groups"]})


def _under(prefix: str, tensors: State) -> State:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
