"""Entropic optimal transport between the features of two images (Cuturi 2013), as a loss."""

import math

import torch
from torch import Tensor

_BLUR = 0.05  # weight of the entropy, in units of cost, which is at most 2
_ROUNDS = 30


@torch.no_grad()
def transport_plan(cost: Tensor, blur: float = _BLUR, rounds: int = _ROUNDS) -> Tensor:
    """The plan between two uniform measures by Sinkhorn's iterations: costs ``(N, p, q)`` to masses ``(N, p, q)``.

    In logarithms, so that a small ``blur`` underflows nowhere. Columns sum to 1/q exactly, rows to 1/p in the limit.
    """
    _, p, q = cost.shape
    rows, columns = torch.zeros_like(cost[:, :, 0]), torch.zeros_like(cost[:, 0])
    for _ in range(rounds):
        rows = -blur * (torch.logsumexp((columns[:, None, :] - cost) / blur, 2) + math.log(p))
        columns = -blur * (torch.logsumexp((rows[:, :, None] - cost) / blur, 1) + math.log(q))
    return ((rows[:, :, None] + columns[:, None, :] - cost) / blur).exp()


def transport_cost(a: Tensor, b: Tensor) -> Tensor:
    """What it costs to move the features of one image to another's places: ``(N, C, H, W)`` twice to ``(N,)``.

    Each position has the same mass; the cost is 1 - cosine, so the result is in [0, 2]. The plan is held fixed: its own
    change does not change the entropic optimum in first order.
    """
    x, y = (torch.nn.functional.normalize(f.float().flatten(2), dim=1) for f in (a, b))
    cost = 1 - torch.bmm(x.mT, y)
    return (transport_plan(cost) * cost).sum((1, 2))
