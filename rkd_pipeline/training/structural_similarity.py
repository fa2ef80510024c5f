"""Structural similarity (Wang et al. 2004), as Bergmann et al. (2018) train and score by it."""

from torch import Tensor
from torch.nn import functional as F

WINDOW = 11
# As the paper prints them, for images in [0, 1]; Wang et al. have their squares.
C1, C2 = 0.01, 0.03


def ssim(a: Tensor, b: Tensor, window: int = WINDOW) -> Tensor:
    """Of images ``(N, 1, S, S)`` in [0, 1] at every pixel: ``(N, S, S)``, in [-1, 1], 1 where they are equal.

    Equation 8 of Bergmann et al.: means, variances and covariance over the window around the pixel, all of its pixels
    weighted alike; at borders, over the part of the window that is inside.
    """
    mean_a, mean_b = _mean(a, window), _mean(b, window)
    var_a = _mean(a * a, window) - mean_a * mean_a
    var_b = _mean(b * b, window) - mean_b * mean_b
    covariance = _mean(a * b, window) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + C1) / (mean_a * mean_a + mean_b * mean_b + C1)
    structure = (2 * covariance + C2) / (var_a + var_b + C2)
    return (luminance * structure).squeeze(1)


def _mean(x: Tensor, window: int) -> Tensor:
    return F.avg_pool2d(x, window, stride=1, padding=window // 2, count_include_pad=False)
