"""Anomaly maps (equation 5) and every image score of the paper, computed once, together, from one trained model.

Always in fp32: a score must not depend on the precision of training.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

from rkd_pipeline.losses import discrepancy, l_kd, l_val
from rkd_pipeline.models.reverse_distillation import ReverseDistillation
from rkd_pipeline.models.teacher import Teacher
from rkd_pipeline.recipes import Recipe

Fusion = Literal["sum", "product"]


@dataclass(frozen=True)
class Scores:
    """Of N pictures.

    Attributes:
        maps: float32 ``(N, S, S)``, summed over scales and smoothed; higher is more anomalous.
        images: score rule (``score_rules.py``) to float64 ``(N,)``; higher is more anomalous.
    """

    maps: np.ndarray
    images: dict[str, np.ndarray]


@torch.inference_mode()
def score(
    teacher: Teacher,
    student: ReverseDistillation,
    pictures: np.ndarray,
    recipe: Recipe,
    lambda_: float,
    *,
    batch_size: int = 32,
) -> Scores:
    """Score pictures, uint8 ``(N, S, S, 3)``, on the device where teacher and student are."""
    device = next(student.parameters()).device
    student.eval()
    maps, kd, val = [], [], []
    for start in range(0, len(pictures), batch_size):
        batch = torch.from_numpy(np.ascontiguousarray(pictures[start : start + batch_size])).to(device)
        features = teacher(batch)
        reconstructed = student(features)
        scales = [discrepancy(a, b) for a, b in zip(features, reconstructed, strict=True)]
        maps.append(anomaly_map(scales, pictures.shape[1], sigma=recipe.sigma).cpu())
        kd.append(l_kd(features, reconstructed).cpu())
        val.append(l_val(features, reconstructed, recipe.val_reduction).cpu())
    stacked = torch.cat(maps).numpy()
    l_kd_score, l_val_score = (torch.cat(part).double().numpy() for part in (kd, val))
    return Scores(
        stacked,
        {
            "map_max": stacked.max(axis=(1, 2)).astype(np.float64),
            "l_kd": l_kd_score,
            "l_val": l_val_score,
            "l_mkd": l_val_score + lambda_ * l_kd_score,
        },
    )


def anomaly_map(scales: Sequence[Tensor], side: int, *, fusion: Fusion = "sum", sigma: float = 4.0) -> Tensor:
    """Equation 5: scale maps ``(N, h_k, h_k)`` brought to ``(N, side, side)``, fused and smoothed.

    Bilinear (corners aligned) and Gaussian (truncated at 4 sigma, reflecting borders), as the official code has
    them; ``product`` is the fusion of the anomalib of June 2022. Both steps are linear and separable, so each is a
    product with a small matrix from both sides: exact, and the same on CPU and GPU.
    """
    smooth = _on(scales[0], _gaussian_matrix(side, sigma))
    ups = [_on(m, _bilinear_matrix(m.shape[-1], side)) for m in scales]
    if fusion == "sum":
        # Smoothing the sum is summing the smoothed: one small matrix per scale does both.
        return torch.stack([(smooth @ up) @ m @ (smooth @ up).T for m, up in zip(scales, ups, strict=True)]).sum(0)
    upsampled: Iterator[Tensor] = (up @ m @ up.T for m, up in zip(scales, ups, strict=True))
    return smooth @ torch.stack(list(upsampled)).prod(0) @ smooth.T


def _on(like: Tensor, matrix: np.ndarray) -> Tensor:
    return torch.from_numpy(matrix).to(like)


@lru_cache
def _gaussian_matrix(side: int, sigma: float) -> np.ndarray:
    """``(side, side)``: row i holds the weights that make pixel i of the smoothed line."""
    return gaussian_filter1d(np.eye(side), sigma, axis=0, mode="reflect", truncate=4.0)


@lru_cache
def _bilinear_matrix(small: int, large: int) -> np.ndarray:
    """``(large, small)``: bilinear interpolation of a line with aligned corners."""
    at = np.linspace(0, small - 1, large)
    return np.maximum(0, 1 - np.abs(at[:, None] - np.arange(small)[None, :]))
