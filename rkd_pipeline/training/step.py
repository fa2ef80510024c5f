"""One step of training: losses, their gradients, and the optimiser's update.

On a GPU a step is hundreds of kernels, most of which run for less time than it takes to start them from Python. There a
step is recorded as a CUDA graph and repeated with one call: the same kernels on the same numbers.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from rkd_pipeline.training.task import TrainingTask

Batch = list[Tensor]
OneStep = Callable[[Batch], Tensor]
# Steps of each shape of batch before it is recorded: libraries choose their kernels in the first one.
_AS_THEY_COME = 2


def on_gpu(module: nn.Module) -> bool:
    """Where a module's parameters are."""
    return next(module.parameters()).device.type == "cuda"


def step(task: TrainingTask, optimisers: list[torch.optim.Optimizer]) -> OneStep:
    """A function that takes a task's batch, updates its student, and returns the losses before that, ``(N,)``.

    What it returns is valid until it is called again.
    """
    plain = partial(task.update, optimisers=optimisers)
    return _Recorded(plain) if task.recordable and on_gpu(task.student) else plain


@dataclass(frozen=True)
class _Recording:
    """A graph reads ``batch`` and writes ``losses``, always at the same addresses."""

    graph: torch.cuda.CUDAGraph
    batch: Batch
    losses: Tensor

    def __call__(self, batch: Batch) -> Tensor:
        for own, given in zip(self.batch, batch, strict=True):
            own.copy_(given)
        self.graph.replay()
        return self.losses


class _Recorded:
    """Records a step for each shape of batch (an epoch's last one is smaller), and repeats it."""

    def __init__(self, plain: OneStep) -> None:
        self._plain = plain
        self._met: Counter[object] = Counter()
        self._recordings: dict[object, _Recording] = {}
        self._stream = torch.cuda.Stream()  # recording cannot be on the default one
        self._memory = torch.cuda.graph_pool_handle()  # one for all shapes: no two run at once

    def __call__(self, batch: Batch) -> Tensor:
        shape = tuple((t.shape, t.stride(), t.dtype) for t in batch)
        if recording := self._recordings.get(shape):
            return recording(batch)
        if self._met[shape] == _AS_THEY_COME:
            self._recordings[shape] = self._record(batch)
            return self._recordings[shape](batch)
        self._met[shape] += 1
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            losses = self._plain(batch)
        torch.cuda.current_stream().wait_stream(self._stream)
        return losses

    def _record(self, batch: Batch) -> _Recording:
        graph, own = torch.cuda.CUDAGraph(), [torch.empty_like(t) for t in batch]
        with torch.cuda.graph(graph, pool=self._memory, stream=self._stream):
            losses = self._plain(own)
        return _Recording(graph, own, losses)
