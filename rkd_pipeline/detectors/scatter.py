"""Mean and covariance of all patches, gathered batch by batch in double precision."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ScatterOfPatches:
    """Of M patches of D numbers.

    Attributes:
        count: M.
        mean: float64 ``(D,)``.
        covariance: float64 ``(D, D)``, by M - 1.
    """

    count: int
    mean: Tensor
    covariance: Tensor

    @classmethod
    def of(cls, parts: Iterable[Tensor]) -> "ScatterOfPatches":
        """Of parts ``(..., D)``; the first one's mean is taken out of all, so that sums of squares stay exact."""
        count, origin, total, products = 0, torch.zeros(()), torch.zeros(()), torch.zeros(())
        for part in parts:
            rows = part.flatten(0, -2).double()
            if count == 0:
                origin = rows.mean(0)
                total, products = torch.zeros_like(origin), rows.new_zeros(len(origin), len(origin))
            rows -= origin
            count += len(rows)
            total += rows.sum(0)
            products.addmm_(rows.T, rows)
        mean = total / count
        covariance = (products - count * torch.outer(mean, mean)) / (count - 1)
        return cls(count, origin + mean, covariance)
