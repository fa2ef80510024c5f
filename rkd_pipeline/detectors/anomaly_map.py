"""What scoring gives, whatever the system, and how scale maps become one anomaly map (equation 5).

Always in fp32, without TF32 (``device.full_precision``): a score must not depend on the precision of training.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

from rkd_pipeline.recipes.recipe import Fusion


@dataclass(frozen=True)
class Scores:
    """Of N images.

    Attributes:
        maps: float32 ``(N, S, S)``; higher is more anomalous. None of a system that does not localise.
        images: score rule (``recipes/score_rules.py``) to float64 ``(N,)``; higher is more anomalous.
    """

    maps: np.ndarray | None
    images: dict[str, np.ndarray]


def anomaly_map(
    scales: Sequence[Tensor], side: int, *, fusion: Fusion = "sum", sigma: float = 4.0, aligned: bool = True
) -> Tensor:
    """Equation 5: scale maps ``(N, h_k, h_k)`` brought to ``(N, side, side)``, fused and smoothed.

    Bilinear (corners aligned, or not, as other codes have it) and Gaussian (truncated at 4 sigma, reflecting borders),
    as the official code has them; ``product`` is the fusion of the anomalib of June 2022. Both steps are linear and
    separable, so each is a product with a small matrix from both sides: exact, and the same on CPU and GPU.
    """
    smooth = _on(scales[0], _gaussian_matrix(side, sigma) if sigma else np.eye(side))
    ups = [_on(m, _bilinear_matrix(m.shape[-1], side, aligned)) for m in scales]
    if fusion == "sum":
        # Smoothing the sum is summing the smoothed: one small matrix per scale does both.
        return torch.stack([(smooth @ up) @ m @ (smooth @ up).T for m, up in zip(scales, ups, strict=True)]).sum(0)
    upsampled: Iterator[Tensor] = (up @ m @ up.T for m, up in zip(scales, ups, strict=True))
    return smooth @ torch.stack(list(upsampled)).prod(0) @ smooth.T


def smoothed(maps: Tensor, sigma: float) -> Tensor:
    """Maps ``(N, S, S)`` under the same Gaussian; as they are where ``sigma`` is 0."""
    if sigma == 0:
        return maps
    smooth = _on(maps, _gaussian_matrix(maps.shape[-1], sigma))
    return smooth @ maps @ smooth.T


def _on(like: Tensor, matrix: np.ndarray) -> Tensor:
    # Rounded by NumPy: a graph that is traced (deployed_graph.py) then holds the matrix, and no cast of a longer one.
    return torch.from_numpy(matrix.astype(str(like.dtype).removeprefix("torch."))).to(like.device)


@lru_cache
def _gaussian_matrix(side: int, sigma: float) -> np.ndarray:
    """``(side, side)``: row i holds the weights that make pixel i of the smoothed line."""
    return gaussian_filter1d(np.eye(side), sigma, axis=0, mode="reflect", truncate=4.0)


@lru_cache
def _bilinear_matrix(small: int, large: int, aligned: bool = True) -> np.ndarray:
    """``(large, small)``: bilinear interpolation of a line, with aligned corners or as areas."""
    at = np.linspace(0, small - 1, large)
    if not aligned:
        at = ((np.arange(large) + 0.5) * small / large - 0.5).clip(0, small - 1)
    return np.maximum(0, 1 - np.abs(at[:, None] - np.arange(small)[None, :]))
