"""The paper's Figures 3, 5, 6 and 7, from measured results."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from rkd_pipeline.results.figures.partition import draw_losses
from rkd_pipeline.results.figures.style import BLUE, MAP_COLOURS, NO_MASK, ORANGE, SKY, png, tidy


@dataclass(frozen=True)
class Discrepancy:
    """One image with the distance of teacher and student features at each scale.

    Attributes:
        image: uint8 ``(S, S, 3)``.
        scales: equation 1 per scale, ``(h_k, h_k)``, finest first.
    """

    image: np.ndarray
    scales: Sequence[np.ndarray]


def feature_discrepancy(normal: Discrepancy, defective: Discrepancy, mask: np.ndarray, title: str) -> bytes:
    """Figure 3: where teacher and student disagree, per scale, on a normal and on a defective region.

    The normal region lies at the places of the defect, in the normal image.

    Args:
        normal: a normal test image.
        defective: a defective one.
        mask: bool ``(S, S)``, the defect.
        title: of the whole figure.
    """
    count = len(normal.scales)
    figure = Figure(figsize=(2.1 * (count + 1) + 3.2, 4.6), layout="constrained")
    grid = figure.add_gridspec(2, count + 2, width_ratios=[1] * (count + 1) + [1.35])
    for row, (shown, name) in enumerate(((normal, "normal"), (defective, "defective"))):
        axes = figure.add_subplot(grid[row, 0])
        axes.imshow(shown.image)
        axes.contour(mask, [0.5], colors=SKY if row == 0 else ORANGE, linewidths=1.2)
        axes.set_ylabel(f"{name} image")
        axes.set(xticks=[], yticks=[])
        for k in range(count):
            axes = figure.add_subplot(grid[row, k + 1])
            high = max(float(normal.scales[k].max()), float(defective.scales[k].max()))
            image = axes.imshow(shown.scales[k], cmap=MAP_COLOURS, vmin=0, vmax=high)
            axes.set(xticks=[], yticks=[])
            if row == 0:
                axes.set_title(f"scale {k + 1}: {shown.scales[k].shape[0]} x {shown.scales[k].shape[1]}", fontsize=9)
            figure.colorbar(image, ax=axes, fraction=0.046, pad=0.02).ax.tick_params(labelsize=7)
    axes = figure.add_subplot(grid[:, count + 1])
    for shown, colour, hatch, name, shift in ((normal, BLUE, None, "normal region", -0.2),
                                              (defective, ORANGE, "//", "defect", 0.2)):  # fmt: skip
        means = [float(m[cover(mask, m.shape[0])].mean()) for m in shown.scales]
        axes.bar(np.arange(count) + shift, means, 0.38, color=colour, hatch=hatch, alpha=0.85, label=name)
    axes.set_xticks(np.arange(count), [f"scale {k + 1}" for k in range(count)])
    axes.set_ylabel("mean of 1 - cosine in the region", fontsize=9)
    axes.set_ylim(0, 1.2 * axes.get_ylim()[1])
    axes.legend(frameon=False, fontsize=8, loc="upper left")
    tidy(axes)
    figure.suptitle(title, fontsize=10)
    return png(figure, 130)


def cover(mask: np.ndarray, side: int) -> np.ndarray:
    """The cells of a coarser square grid that a mask ``(S, S)`` touches, bool ``(side, side)``; side divides S."""
    step = mask.shape[0] // side
    blocks = mask.reshape(side, step, side, step)
    return np.asarray(blocks.any(axis=(1, 3)))


@dataclass(frozen=True)
class Category:
    """Defective images of one category: uint8 ``(N, S, S, 3)``, maps and masks ``(N, S, S)``, and its heading."""

    heading: str
    images: np.ndarray
    maps: np.ndarray
    masks: np.ndarray


def best_and_worst(categories: Sequence[Category], title: str) -> bytes:
    """Figures 5 and 6: image, anomaly map and ground truth, best category beside the worst (or the only one).

    Each category has its own colour scale, printed at its map.
    """
    count = sum(len(c.images) for c in categories)
    figure = Figure(figsize=(1.75 * count + 1.4, 6.1), layout="constrained")
    parts = figure.subfigures(1, len(categories), squeeze=False, wspace=0.03)[0]
    for part, category in zip(parts, categories, strict=True):
        axes = part.subplots(3, len(category.images), squeeze=False)
        low, high = float(category.maps.min()), float(category.maps.max())
        for i in range(len(category.images)):
            axes[0, i].imshow(category.images[i])
            shown = axes[1, i].imshow(category.maps[i], cmap=MAP_COLOURS, vmin=low, vmax=high)
            axes[2, i].imshow(category.masks[i], cmap="gray", vmin=0, vmax=1)
            if not category.masks[i].any():
                axes[2, i].text(0.5, 0.5, NO_MASK, transform=axes[2, i].transAxes, color="white", ha="center")
        for axis in axes.flat:
            axis.set(xticks=[], yticks=[])
        for row, name in enumerate(("image", "anomaly map", "ground truth")):
            axes[row, 0].set_ylabel(name)
        part.colorbar(shown, ax=list(axes[1]), fraction=0.04, pad=0.01).ax.tick_params(labelsize=7)
        part.suptitle(category.heading, fontsize=10)
    figure.suptitle(title, fontsize=11)
    return png(figure, 120)


def recipe_losses(histories: Mapping[str, tuple[pd.DataFrame, int | None]], title: str) -> bytes:
    """Figure 7: losses per epoch, a panel per recipe, since each has its own loss.

    Args:
        histories: heading to the history and, with early stopping, the epoch that was kept.
        title: of the whole figure.
    """
    columns = min(3, len(histories))
    rows = -(-len(histories) // columns)
    figure = Figure(figsize=(4 * columns, 3 * rows + 0.3), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flat
    for axes, (heading, (history, best)) in zip(panels, histories.items(), strict=False):
        draw_losses(axes, history, best)
        axes.set_title(heading, fontsize=10)
    for axes in list(panels)[len(histories) :]:
        axes.remove()
    figure.suptitle(title if columns > 1 else title.replace(": ", ":\n"), fontsize=11)  # one panel is narrow
    return png(figure, 110)
