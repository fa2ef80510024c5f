"""The training loop: seeded, resumable, with early stopping. Equations 1 to 4 meet the optimiser here.

Two facts make it fast: nothing is augmented and the teacher is frozen, so a picture's teacher features never change.
They are computed once and kept within a memory budget, in channels_last; beyond the budget each step recomputes them.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import monotonic

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from rkd_pipeline.compute import Compute, place
from rkd_pipeline.errors import CheckpointError, StoreError
from rkd_pipeline.files import write_atomically
from rkd_pipeline.losses import l_kd, l_val, training_loss
from rkd_pipeline.models.reverse_distillation import ReverseDistillation
from rkd_pipeline.models.teacher import Teacher
from rkd_pipeline.recipes import Recipe

State = dict[str, Tensor]
OnEpoch = Callable[["Epoch"], None]
_EVALUATION_BATCH = 32


@dataclass(frozen=True)
class Epoch:
    """One line of a training's history; losses are means per picture, of the loss that the recipe trains on."""

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
        state: weights of OCBE and decoder on the CPU: the last epoch's, or the best one's with early stopping.
        lambda_: weighs L_KD in L_MKD: the recipe's, or L_val / L_KD before the first step.
        history: one entry per epoch trained.
        best_epoch: the epoch (from 1) that ``state`` comes from.
        stopped_early: early stopping ended the training before its last epoch.
    """

    state: State
    lambda_: float
    history: list[Epoch]
    best_epoch: int
    stopped_early: bool


class FeatureSource:
    """Teacher features of a fixed set of pictures, kept where the budget allows.

    Args:
        teacher: on the device of ``compute``.
        pictures: uint8, ``(N, H, W, 3)``; may be memory-mapped.
        compute: device, precision and budget. Where training runs in bfloat16, kept features are bfloat16 too.
    """

    def __init__(self, teacher: Teacher, pictures: np.ndarray, compute: Compute) -> None:
        self._teacher, self._pictures, self._compute = teacher, pictures, compute
        self._dtype = torch.bfloat16 if compute.bf16 else torch.float32
        self._kept: list[Tensor] | None = None
        if self._bytes_needed() <= compute.feature_budget:
            self._kept = self._compute_all()

    def __len__(self) -> int:
        return len(self._pictures)

    @property
    def kept(self) -> bool:
        """All features are in memory."""
        return self._kept is not None

    def batch(self, indices: Tensor) -> list[Tensor]:
        """Features of the pictures at ``indices``, three maps in channels_last on the device."""
        if self._kept is not None:
            where = indices.to(self._compute.device)
            return [f[where].permute(0, 3, 1, 2) for f in self._kept]
        return self._features(self._pictures[indices.numpy()])

    def in_order(self, batch_size: int) -> Iterator[list[Tensor]]:
        """Batches of features in the pictures' order."""
        for indices in torch.arange(len(self)).split(batch_size):
            yield self.batch(indices)

    def _bytes_needed(self) -> int:
        _, height, width, _ = self._pictures.shape
        shapes = zip(self._teacher.arch.channels, (4, 8, 16), strict=True)
        values = sum(c * (height // s) * (width // s) for c, s in shapes)
        return len(self) * values * self._dtype.itemsize

    def _features(self, pictures: np.ndarray) -> list[Tensor]:
        on_device = torch.from_numpy(np.ascontiguousarray(pictures)).to(self._compute.device)
        return [f.to(self._dtype) for f in self._teacher(on_device)]

    def _compute_all(self) -> list[Tensor]:
        """All features as ``(N, H, W, C)``, where a gathered batch is channels_last without a copy."""
        kept: list[Tensor] = []
        for start in range(0, len(self), _EVALUATION_BATCH):
            stop = min(start + _EVALUATION_BATCH, len(self))
            features = [f.permute(0, 2, 3, 1) for f in self._features(self._pictures[start:stop])]
            if not kept:
                kept = [f.new_empty((len(self), *f.shape[1:])) for f in features]
            for whole, part in zip(kept, features, strict=True):
                whole[start:stop] = part
        return kept


def train(
    recipe: Recipe,
    teacher: Teacher,
    pictures: np.ndarray,
    validation: np.ndarray | None,
    *,
    epochs: int,
    seed: int,
    compute: Compute,
    checkpoint: Path,
    identity: str,
    checkpoint_seconds: float = 30.0,
    on_epoch: OnEpoch = lambda epoch: None,
) -> TrainedStudent:
    """Train a student for a recipe; resumes from ``checkpoint`` where that file is of the same training.

    On a CPU the same arguments give the same weights, interrupted or not, for the same number of threads.

    Args:
        recipe: loss, optimiser and stopping rule.
        teacher: frozen, on the device of ``compute``.
        pictures: normal training pictures, uint8 ``(N, H, W, 3)``, H and W multiples of 32.
        validation: held-out normal pictures; needed exactly when the recipe stops early.
        epochs: length of the schedule.
        seed: seeds initialisation and the order of pictures, per epoch.
        compute: device, precision and memory budget.
        checkpoint: written at the end of an epoch, at most every ``checkpoint_seconds``; the caller deletes it.
        identity: says what is trained; a checkpoint of another identity is an error, never resumed.
        on_epoch: called after each epoch, for progress.

    Raises:
        ValueError: validation pictures given and not used, or needed and not given.
        CheckpointError: the checkpoint is damaged or belongs to another training.
        StoreError: the loss became NaN or infinite.
    """
    if (validation is None) != (recipe.early_stopping is None):
        raise ValueError(f"recipe {recipe.name} and validation pictures disagree about early stopping")
    student = place(new_student(recipe, teacher, seed), compute.device)
    optimiser = torch.optim.Adam(student.parameters(), recipe.learning_rate, recipe.betas, fused=True)
    train_features = FeatureSource(teacher, pictures, compute)
    held_out = None if validation is None else FeatureSource(teacher, validation, compute)

    saved = _Checkpoint(checkpoint, identity)
    if checkpoint.exists():
        progress, best = saved.load(student, optimiser)
    else:
        progress, best = Progress(loss_balance(student, train_features, recipe, compute)), None
    loss_of = training_loss(recipe.loss, progress.lambda_, recipe.val_reduction)

    last_saved = monotonic()
    while progress.epoch < epochs and not _patience_is_out(recipe, progress):
        order = torch.randperm(
            len(pictures), generator=torch.Generator().manual_seed(seed * 1_000_003 + progress.epoch)
        )
        train_loss = 0.0
        student.train()
        for indices in order.split(recipe.batch_size):
            features = train_features.batch(indices)
            with compute.autocast():
                reconstructed = student(features)
            losses = loss_of(features, reconstructed)
            losses.mean().backward()
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            train_loss += float(losses.detach().sum())
        validation_loss = None if held_out is None else _mean_loss(student, held_out, loss_of, compute)
        epoch = Epoch(progress.epoch + 1, train_loss / len(pictures), validation_loss)
        _require_finite(epoch, identity)
        progress.history.append(epoch)
        if validation_loss is not None and _is_best(progress):
            progress.best_epoch, best = epoch.epoch, {k: v.detach().clone() for k, v in student.state_dict().items()}
        on_epoch(epoch)
        if monotonic() - last_saved >= checkpoint_seconds:
            saved.save(student, optimiser, progress, best)
            last_saved = monotonic()

    state = student.state_dict() if best is None else best
    return TrainedStudent(
        state={k: v.detach().to("cpu", memory_format=torch.contiguous_format) for k, v in state.items()},
        lambda_=progress.lambda_,
        history=progress.history,
        best_epoch=progress.epoch if best is None else progress.best_epoch,
        stopped_early=_patience_is_out(recipe, progress) and progress.epoch < epochs,
    )


def new_student(recipe: Recipe, teacher: Teacher, seed: int) -> ReverseDistillation:
    """An untrained student, drawn from ``seed`` on the CPU: the same on every device."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ReverseDistillation(teacher.arch, recipe.oce_width)


@torch.no_grad()
def loss_balance(student: ReverseDistillation, features: FeatureSource, recipe: Recipe, compute: Compute) -> float:
    """lambda of equation 4: the recipe's, or L_val / L_KD over all training pictures, before the first step.

    The paper: lambda scales the cosine term to the order of magnitude of the other. BatchNorm uses batch statistics,
    as in the first step; its running statistics are put back.
    """
    if recipe.lambda_ is not None:
        return recipe.lambda_
    before = {k: v.clone() for k, v in student.named_buffers()}
    student.train()
    val = kd = 0.0
    for batch in features.in_order(recipe.batch_size):
        with compute.autocast():
            reconstructed = student(batch)
        val += float(l_val(batch, reconstructed, recipe.val_reduction).sum())
        kd += float(l_kd(batch, reconstructed).sum())
    for name, buffer in student.named_buffers():
        buffer.copy_(before[name])
    return val / kd


@torch.no_grad()
def _mean_loss(
    student: ReverseDistillation,
    features: FeatureSource,
    loss_of: Callable[[list[Tensor], list[Tensor]], Tensor],
    compute: Compute,
) -> float:
    student.eval()
    total = 0.0
    for batch in features.in_order(_EVALUATION_BATCH):
        with compute.autocast():
            reconstructed = student(batch)
        total += float(loss_of(batch, reconstructed).sum())
    return total / len(features)


def _is_best(progress: Progress) -> bool:
    losses = [e.validation_loss for e in progress.history if e.validation_loss is not None]
    return losses[-1] < min(losses[:-1], default=float("inf"))


def _patience_is_out(recipe: Recipe, progress: Progress) -> bool:
    stopping = recipe.early_stopping
    return stopping is not None and progress.epoch - progress.best_epoch >= stopping.patience


def _require_finite(epoch: Epoch, identity: str) -> None:
    losses = [epoch.train_loss, 0.0 if epoch.validation_loss is None else epoch.validation_loss]
    if not np.isfinite(losses).all():
        raise StoreError(
            f"{identity}: the loss of epoch {epoch.epoch} is {losses[0]}, on validation {losses[1]}; nothing was "
            "kept of it. Try precision fp32, or another seed"
        )


class _Checkpoint:
    """A training in mid-air, as one safetensors file: student, Adam's moments, best weights, and progress."""

    def __init__(self, path: Path, identity: str) -> None:
        self.path, self.identity = path, identity

    def save(
        self, student: ReverseDistillation, optimiser: torch.optim.Adam, progress: Progress, best: State | None
    ) -> None:
        tensors = {f"student.{k}": v for k, v in student.state_dict().items()}
        tensors |= {f"best.{k}": v for k, v in (best or {}).items()}
        for i, moments in optimiser.state_dict()["state"].items():
            tensors |= {f"adam.{i}.{k}": v for k, v in moments.items()}
        metadata = {"identity": self.identity, "progress": json.dumps(asdict(progress))}
        contiguous = {k: v.detach().to("cpu", memory_format=torch.contiguous_format) for k, v in tensors.items()}
        write_atomically(self.path, save(contiguous, metadata))

    def load(self, student: ReverseDistillation, optimiser: torch.optim.Adam) -> tuple[Progress, State | None]:
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
        parameters = optimiser.param_groups[0]["params"]
        moments: dict[int, State] = {}
        for key, tensor in _under("adam.", tensors).items():
            index, _, name = key.partition(".")
            # The fused Adam pairs a parameter with its moments in memory order: they need the same layout.
            like = parameters[int(index)]
            moment = torch.empty_like(like).copy_(tensor) if tensor.shape == like.shape else tensor
            moments.setdefault(int(index), {})[name] = moment
        optimiser.load_state_dict({"state": moments, "param_groups": optimiser.state_dict()["param_groups"]})
        history = [Epoch(**e) for e in progress["history"]]
        device = next(student.parameters()).device
        best = {k: v.to(device) for k, v in _under("best.", tensors).items()} or None
        return Progress(progress["lambda_"], history, progress["best_epoch"]), best


def _under(prefix: str, tensors: State) -> State:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
