"""Pictures for people: loss curves, score distributions, anomaly maps. Colour-blind-safe; PNG bytes.

matplotlib's object interface only: no global state, no display, usable from threads.
"""

from io import BytesIO

import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

# Okabe and Ito's palette, told apart by every kind of colour vision.
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#555555"
_MAP_COLOURS = "inferno"


def loss_curve(history: pd.DataFrame, title: str, best_epoch: int | None = None) -> bytes:
    """Figure 7's panels: training and validation loss per epoch; the epoch that was kept, with early stopping."""
    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.plot(history["epoch"], history["train_loss"], color=BLUE, marker="o", ms=3, label="training")
    if history["validation_loss"].notna().any():
        axes.plot(
            history["epoch"], history["validation_loss"], "--", color=ORANGE, marker="s", ms=3, label="validation"
        )
        if best_epoch:
            axes.axvline(best_epoch, color=GREY, lw=1, ls=":", label=f"kept: epoch {best_epoch}")
    axes.set(xlabel="epoch", ylabel="loss per picture", title=title)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return png(figure)


def score_distribution(scores: pd.DataFrame, rule: str, threshold: float | None, title: str) -> bytes:
    """Histogram of a test score by class, and the threshold from validation normals where there is one."""
    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axes = figure.subplots()
    test = scores[scores["part"] == "test"]
    edges = np.histogram_bin_edges(test[rule], bins=24).tolist()
    for anomalous, colour, label in ((False, BLUE, "normal"), (True, ORANGE, "anomalous")):
        values = test.loc[test["anomalous"] == anomalous, rule]
        hatch = "//" if anomalous else None
        axes.hist(values, edges, color=colour, alpha=0.6, hatch=hatch, label=f"{label} ({len(values)})")
    if threshold is not None:
        axes.axvline(threshold, color=GREY, ls="--", label="threshold from validation normals")
    axes.set(xlabel=f"score ({rule})", ylabel="test pictures", title=title)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return png(figure)


def map_strip(
    pictures: np.ndarray, maps: np.ndarray, captions: list[str], title: str, masks: np.ndarray | None = None
) -> bytes:
    """Pictures above their anomaly maps, one colour scale for all; ground truth outlined where there is one.

    Args:
        pictures: uint8 ``(N, S, S, 3)``.
        maps: ``(N, S, S)``.
        captions: one per picture.
        title: of the whole strip.
        masks: bool ``(N, S, S)``.
    """
    count = len(pictures)
    figure = Figure(figsize=(1.7 * count + 0.6, 4.1), layout="constrained")
    axes = figure.subplots(2, count, squeeze=False)
    low, high = float(maps.min()), float(maps.max())
    for i in range(count):
        axes[0, i].imshow(pictures[i])
        shown = axes[1, i].imshow(maps[i], cmap=_MAP_COLOURS, vmin=low, vmax=high)
        axes[0, i].set_title(captions[i], fontsize=8)
        if masks is not None and masks[i].any():
            for row, colour in ((0, "#56B4E9"), (1, "white")):
                axes[row, i].contour(masks[i], [0.5], colors=colour, linewidths=1)
    for axis in axes.flat:
        axis.axis("off")
    figure.colorbar(shown, ax=list(axes[1]), fraction=0.04, pad=0.01).ax.tick_params(labelsize=7)
    figure.suptitle(title, fontsize=10)
    return png(figure)


def thumbnail(png: bytes, width: int) -> bytes:
    """The same picture, at most ``width`` pixels wide, for showing inline."""
    with Image.open(BytesIO(png)) as image:
        small = image.convert("RGB")
        small.thumbnail((width, width))
    buffer = BytesIO()
    small.quantize(128).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def png(figure: Figure) -> bytes:
    """A figure as PNG bytes: the same figure gives the same bytes."""
    buffer = BytesIO()
    # Without the "Software" entry the same figure gives the same bytes under every matplotlib release.
    FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})
    return buffer.getvalue()
