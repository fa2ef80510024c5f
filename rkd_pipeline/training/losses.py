"""The losses of the paper, per image: equations 1 to 4, and the official code's variant.

Every function takes teacher features ``a`` and student features ``b``, lists of ``(N, C_k, H_k, W_k)``, and returns
one value per image, shape ``(N,)``. They serve as training losses (averaged over a batch) and as image scores.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from rkd_pipeline.recipes.recipe import LossName, Reduction

Features = Sequence[Tensor]
_EPSILON = 1e-8  # as torch.nn.functional.cosine_similarity, which bounds each norm; here their product is bounded


def _cosine(a: Tensor, b: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    """Cosine similarity over ``dim``, 0 for a zero vector: three reductions instead of the nine passes of torch's.

    Bounded before the root: the root's own gradient at 0 is infinite, and its product with a bound's 0 is NaN.
    """
    a, b = a.float(), b.float()
    norms = (a.square().sum(dim) * b.square().sum(dim)).clamp_min(_EPSILON**2).sqrt()
    return (a * b).sum(dim) / norms


def discrepancy(a: Tensor, b: Tensor) -> Tensor:
    """Equation 1: ``1 - cos`` over channels at each position, ``(N, C, H, W)`` twice to ``(N, H, W)``, in [0, 2]."""
    return 1 - _cosine(a, b, dim=1)


def l_kd(a: Features, b: Features) -> Tensor:
    """Equation 2: the mean of equation 1 over positions, summed over scales; in [0, 2K]."""
    return torch.stack([discrepancy(x, y).mean((1, 2)) for x, y in zip(a, b, strict=True)]).sum(0)


def l_kd_flat(a: Features, b: Features) -> Tensor:
    """The official code's loss: one cosine per image and scale over the flattened map; in [0, 2K].

    Weights positions by their feature energy and, unlike equation 2, fits the spatial profile of norms too.
    """
    return torch.stack([1 - _cosine(x, y, dim=(1, 2, 3)) for x, y in zip(a, b, strict=True)]).sum(0)


def l_val(a: Features, b: Features, reduction: Reduction = "sum") -> Tensor:
    """Equation 3: squared distance at each position, averaged over positions, summed over scales; not negative.

    ``reduction`` is over channels, which the equation leaves open: ``sum`` as printed, ``mean`` as in MKD's code.
    """
    per_scale = []
    for x, y in zip(a, b, strict=True):
        squared = (x.float() - y.float()).square().mean((2, 3))
        per_scale.append(squared.sum(1) if reduction == "sum" else squared.mean(1))
    return torch.stack(per_scale).sum(0)


def l_mkd(a: Features, b: Features, lambda_: float, reduction: Reduction = "sum") -> Tensor:
    """Equation 4: ``L_val + lambda * L_KD``."""
    return l_val(a, b, reduction) + lambda_ * l_kd(a, b)


def training_loss(name: LossName, lambda_: float, reduction: Reduction) -> Callable[[Features, Features], Tensor]:
    """The loss that a recipe trains on, as a function of teacher and student features."""
    losses: dict[LossName, Callable[[Features, Features], Tensor]] = {
        "kd": l_kd,
        "kd_flat": l_kd_flat,
        "mkd": partial(l_mkd, lambda_=lambda_, reduction=reduction),
    }
    return losses[name]
