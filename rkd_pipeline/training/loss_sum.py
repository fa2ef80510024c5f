"""The sum of the losses of many batches, without waiting for a GPU after each.

A GPU works behind the host, which only hands it work. Reading a number makes the host wait until all of that is done,
and then the GPU waits for the host. So what runs on a GPU is added there, and read once.
"""

import math

import torch
from torch import Tensor


class LossSum:
    """Adds losses in float64, batch by batch.

    Args:
        at_once: read each batch's losses as they come, in order to say early that one is no number. That costs nothing
            where the host computed them itself; on a GPU it costs a wait.
    """

    def __init__(self, *, at_once: bool) -> None:
        self.at_once = at_once
        self._total, self._batches = 0.0, 0
        self._unread: list[Tensor] = []

    @classmethod
    def of(cls, device: torch.device) -> "LossSum":
        """As suits a device: read at once on a CPU, at the end on any other."""
        return cls(at_once=device.type == "cpu")

    def add(self, losses: Tensor) -> None:
        """Count a batch's losses, ``(N,)``, in; what is in the tensor later does not matter."""
        self._batches += 1
        if self.at_once:
            self._total += float(losses.sum())
        else:
            self._unread.append(losses.sum())

    def total(self) -> float:
        """The sum of all losses so far; reads one number from a GPU, and waits for it."""
        if self._unread:
            self._total = float(torch.stack(self._unread).double().sum())
        return self._total

    def first_fault(self) -> tuple[int, float] | None:
        """The first batch, from 1, whose loss is NaN or infinite, and that loss; None where all are numbers.

        Where losses are read at once, that is the last batch: nobody adds more to a sum that is no number.
        """
        if math.isfinite(self.total()):
            return None
        if self.at_once:
            return self._batches, self._total
        read = enumerate(torch.stack(self._unread).tolist(), start=1)
        return next((number, loss) for number, loss in read if not math.isfinite(loss))
