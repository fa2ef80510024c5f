"""Reverse KD as one graph from the bytes of an image to score, decision and map: what ``graph_formats.py`` writes.

Everything that scoring does elsewhere in several steps is inside: Pillow's resize, normalisation, teacher, student,
equations 1 to 5, smoothing, the image score and the threshold. BatchNorm is folded into the convolutions before it.
"""

from copy import deepcopy
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from rkd_pipeline.detectors.anomaly_map import anomaly_map
from rkd_pipeline.detectors.reverse_kd import ReverseKDDetector
from rkd_pipeline.errors import RkdError
from rkd_pipeline.training.losses import discrepancy, l_kd, l_val

INPUT = "images"
SCORE, MAP, DECISION, THRESHOLD = "score", "map", "anomalous", "threshold"
_DIGITS = 2**11  # half of the binary digits that Pillow's weights have
_Convolution: TypeAlias = nn.Conv2d | nn.ConvTranspose2d


class DeployedGraph(nn.Module):
    """A trained Reverse KD that takes images as they come.

    Args:
        detector: teacher and student; both are copied, the detector stays as it is.
        threshold: an image whose score is above it is anomalous; None: then nothing is decided.

    Shapes: uint8 ``(N, H, W, 3)`` of any H and W to score float32 ``(N,)``, map float32 ``(N, S, S)`` of the recipe's
    side S, and, where there is a threshold, a decision, bool ``(N,)``. Higher is more anomalous.
    """

    threshold: Tensor

    def __init__(self, detector: ReverseKDDetector, threshold: float | None) -> None:
        super().__init__()
        self.recipe, self.lambda_, self.decides = detector.recipe, detector.lambda_, threshold is not None
        self.teacher = folded(detector.teacher)
        self.student = folded(detector.student)
        self.register_buffer("threshold", torch.tensor(0.0 if threshold is None else threshold))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Score, map, and the decision where there is a threshold."""
        features = self.teacher(pillow_resize(images, self.recipe.side).permute(0, 2, 3, 1))
        reconstructed = self.student(features)
        scales = [discrepancy(a, b) for a, b in zip(features, reconstructed, strict=True)]
        made = anomaly_map(scales, self.recipe.side, fusion=self.recipe.fusion, sigma=self.recipe.sigma)
        score = self._score(made, features, reconstructed)
        return (score, made, score > self.threshold) if self.decides else (score, made)

    def _score(self, made: Tensor, features: list[Tensor], reconstructed: list[Tensor]) -> Tensor:
        """The recipe's own image score, as ``reverse_kd.score`` has it."""
        rule = self.recipe.own_score
        if rule == "map_max":
            return made.amax((1, 2))
        kd, val = l_kd(features, reconstructed), l_val(features, reconstructed, self.recipe.val_reduction)
        return {"l_kd": kd, "l_val": val, "l_mkd": val + self.lambda_ * kd}[rule]

    @property
    def outputs(self) -> list[str]:
        """Names, in order."""
        return [SCORE, MAP, DECISION] if self.decides else [SCORE, MAP]


def pillow_resize(images: Tensor, side: int) -> Tensor:
    """Pillow's bilinear resize, with its antialiasing, of uint8 ``(N, H, W, 3)``: float32 ``(N, 3, side, side)``.

    Values are whole numbers from 0 to 255. As in Pillow's ``Resample.c`` lines are resized first, then columns; weights
    have 22 binary digits after the point, and each pass is rounded to 8 bits, halves up. Of a tall image
    (``H > side`` and ``H + side > 2 W``, as found by trying) Pillow 13 resizes columns first: a tenth of its pixels
    differs by 1. Both orders in one graph take a branch, with which OpenVINO 2026.4 erred and NNCF quantized nothing.
    """
    height, width = images.shape[1], images.shape[2]
    x = images.permute(0, 3, 1, 2).float()
    coarse, fine = triangle_weights(width, side)
    x = _eight_bits(x @ coarse.T, x @ fine.T)
    coarse, fine = triangle_weights(height, side)
    return _eight_bits(coarse @ x, fine @ x)


def _eight_bits(coarse: Tensor, fine: Tensor) -> Tensor:
    """``(2^11 coarse + fine) / 2^22``, rounded with halves up, in steps that float32 does exactly."""
    return ((coarse + ((fine + 2**21) / _DIGITS).floor()) / _DIGITS).floor().clamp(0, 255)


def triangle_weights(length: int, side: int) -> tuple[Tensor, Tensor]:
    """How much each of ``length`` pixels counts in each of ``side``, in units of 2^-22, as Pillow rounds it.

    Pillow's triangle filter: it reaches one pixel of the coarser of both grids. Distances are whole numbers in units of
    1 / (2 side) pixels. A weight is ``2^11 coarse + fine``: sums of either over 8-bit pixels are whole numbers that
    float32 holds exactly, up to some 20 pixels that count in one; beyond, and with sides over some 4000, the last
    digit may be another than Pillow's.

    Returns:
        coarse and fine, whole numbers as float32 ``(side, length)``.

    >>> coarse, fine = triangle_weights(4, 2)
    >>> (coarse * 2**11 + fine)[0].tolist()
    [1797559.0, 1797559.0, 599186.0, 0.0]
    """
    pixels = torch.arange(length)[None, :]
    centres = (2 * torch.arange(side)[:, None] + 1) * length
    reach = 2 * torch.clamp_min(torch.ones_like(pixels[:, :1]) * length, side)
    parts = (reach - (side * (2 * pixels + 1) - centres).abs()).clamp_min(0).float()
    whole = parts.sum(1, keepdim=True)
    coarse = (parts * _DIGITS / whole).floor()
    rest = parts * _DIGITS - coarse * whole  # below 0, or the whole and more, where the division was rounded up or down
    coarse = coarse + (rest >= whole).float() - (rest < 0).float()
    rest = parts * _DIGITS - coarse * whole
    return coarse, (rest * _DIGITS / whole + 0.5).floor()


def folded(network: nn.Module) -> nn.Module:
    """A copy in eval mode whose BatchNorm layers are gone into the convolutions before them (computed in float64).

    Raises ``RkdError`` where one follows no convolution.
    """
    copy = deepcopy(network).to("cpu").eval()
    for parent in list(copy.modules()):
        before: tuple[str, _Convolution] | None = None
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                if before is None or before[1].out_channels != child.num_features:
                    raise RkdError(f"{type(network).__name__}: BatchNorm {name} follows no convolution")
                setattr(parent, before[0], _folded_pair(before[1], child))
                setattr(parent, name, nn.Identity())
            before = (name, child) if isinstance(child, _Convolution) else None
    return copy.requires_grad_(False)


def _folded_pair(convolution: _Convolution, norm: nn.BatchNorm2d) -> nn.Module:
    turned = isinstance(convolution, nn.ConvTranspose2d)
    fused: nn.Module = fuse_conv_bn_eval(convolution.double(), norm.double(), transpose=turned)
    return fused.float()
