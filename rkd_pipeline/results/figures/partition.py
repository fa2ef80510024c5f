"""Images of one training: losses, scores, curves, anomaly maps."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from sklearn.metrics import roc_curve

from rkd_pipeline.metrics.pixel_curve import PixelCurve
from rkd_pipeline.metrics.pro_youden import youden_threshold
from rkd_pipeline.results.figures.style import BLUE, GREY, MAP_COLOURS, ORANGE, png, tidy

_DRAWN_POINTS = 1000  # of a curve with as many as there are anomalous pixels


def loss_curve(history: pd.DataFrame, title: str, best_epoch: int | None = None) -> bytes:
    """Training and validation loss per epoch; the epoch that was kept, with early stopping."""
    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axes = figure.subplots()
    draw_losses(axes, history, best_epoch)
    axes.set_title(title)
    return png(figure)


def draw_losses(axes: Axes, history: pd.DataFrame, best_epoch: int | None) -> None:
    """The lines of ``loss_curve`` into given axes."""
    marks = len(history) <= 40
    axes.plot(history["epoch"], history["train_loss"], color=BLUE, marker="o" * marks, ms=3, label="training")
    if history["validation_loss"].notna().any():
        axes.plot(
            history["epoch"],
            history["validation_loss"],
            "--",
            color=ORANGE,
            marker="s" * marks,
            ms=3,
            label="validation",
        )
        if best_epoch:
            axes.axvline(best_epoch, color=GREY, lw=1, ls=":", label=f"kept: epoch {best_epoch}")
    axes.set(xlabel="epoch", ylabel="loss per image")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False)
    tidy(axes)


def score_distribution(scores: pd.DataFrame, rule: str, threshold: float | None, title: str) -> bytes:
    """Histogram of a test score by class, and the threshold from calibration normals where there is one.

    Where nothing tests, the calibration normals' scores are drawn.
    """
    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axes = figure.subplots()
    test = scores[scores["part"] == "test"]
    part = "calibration" if test.empty else "test"
    test = scores[scores["part"] == part]
    edges = np.histogram_bin_edges(test[rule], bins=24).tolist()
    for anomalous, colour, label in ((False, BLUE, "normal"), (True, ORANGE, "anomalous")):
        values = test.loc[test["anomalous"] == anomalous, rule]
        hatch = "//" if anomalous else None
        axes.hist(values, edges, color=colour, alpha=0.6, hatch=hatch, label=f"{label} ({len(values)})")
    if threshold is not None:
        axes.axvline(threshold, color=GREY, ls="--", label="threshold from calibration normals")
    axes.set(xlabel=f"score ({rule})", ylabel=f"{part} images", title=title)
    axes.legend(frameon=False)
    tidy(axes)
    return png(figure)


def map_strip(
    images: np.ndarray, maps: np.ndarray | None, captions: list[str], title: str, masks: np.ndarray | None = None
) -> bytes:
    """Images above their anomaly maps, one colour scale for all; ground truth outlined where there is one.

    Images alone where the system makes no maps.

    Args:
        images: uint8 ``(N, S, S, 3)``.
        maps: ``(N, S, S)``.
        captions: one per image.
        title: of the whole strip.
        masks: bool ``(N, S, S)``.
    """
    count = len(images)
    rows = 1 if maps is None else 2
    figure = Figure(figsize=(1.7 * count + 0.6, 0.3 + 1.9 * rows), layout="constrained")
    axes = figure.subplots(rows, count, squeeze=False)
    for i in range(count):
        axes[0, i].imshow(images[i])
        axes[0, i].set_title(captions[i], fontsize=8)
    if maps is not None:
        low, high = float(maps.min()), float(maps.max())
        shown = [axes[1, i].imshow(maps[i], cmap=MAP_COLOURS, vmin=low, vmax=high) for i in range(count)]
        figure.colorbar(shown[-1], ax=list(axes[1]), fraction=0.04, pad=0.01).ax.tick_params(labelsize=7)
    for i in range(count):
        if masks is not None and masks[i].any():
            for row, colour in zip(range(rows), ("#56B4E9", "white"), strict=False):
                axes[row, i].contour(masks[i], [0.5], colors=colour, linewidths=1)
    for axis in axes.flat:
        axis.axis("off")
    figure.suptitle(title if maps is not None else f"{title}: scores alone, no maps", fontsize=10)
    return png(figure)


def detection_curves(anomalous: np.ndarray, scores: np.ndarray, pixels: PixelCurve | None, title: str) -> bytes:
    """ROC over images and, with masks, ROC over pixels and the PRO curve up to a false-positive rate of 0.3.

    Without both classes the figure says that there is no curve.

    Args:
        anomalous: labels ``(N,)`` of the test images.
        scores: ``(N,)``.
        pixels: of the test images' maps; None without masks.
        title: of the whole figure.
    """
    count = 1 if pixels is None else 3
    figure = Figure(figsize=(3.1 * count + 0.4, 3.4), layout="constrained")
    panels = figure.subplots(1, count, squeeze=False)[0]
    if anomalous.any() and not anomalous.all():
        fpr, tpr, _ = roc_curve(anomalous, scores)
        panels[0].step(fpr, tpr, where="post", color=BLUE)
    else:
        which = "normal" if anomalous.any() else "anomalous"
        panels[0].text(0.5, 0.6, f"no curve:\nno {which} test images", ha="center", va="center")
    panels[0].set(title="ROC, images", xlabel="false-positive rate", ylabel="true-positive rate")
    if pixels is not None:
        _draw_pixel_curves(panels[1], panels[2], pixels)
    for axes in panels:
        axes.set_ylim(0, 1.02)
        tidy(axes)
    for axes in panels[:2]:
        axes.plot([0, 1], [0, 1], color=GREY, lw=0.8, ls=":")
        axes.set_xlim(0, 1)
    figure.suptitle(title, fontsize=10)
    return png(figure)


def _draw_pixel_curves(roc: Axes, pro: Axes, curve: PixelCurve) -> None:
    fpr, tpr = curve.at_or_above / curve.n_normal, curve.called / curve.n_anomalous
    overlap = np.cumsum(curve.overlap)
    ends = np.flatnonzero(np.r_[curve.scores[1:] != curve.scores[:-1], True])  # equal scores are passed together
    # As many points along either axis as can be told apart.
    chosen = np.unique(np.searchsorted(fpr[ends], np.linspace(0, 1, _DRAWN_POINTS)).clip(max=len(ends) - 1))
    steep = np.linspace(0, len(ends) - 1, min(len(ends), _DRAWN_POINTS)).astype(int)
    at = ends[np.union1d(chosen, steep)]
    start = np.zeros(1)
    roc.plot(np.r_[start, fpr[at], 1], np.r_[start, tpr[at], 1], color=BLUE)
    roc.set(title="ROC, pixels", xlabel="false-positive rate", ylabel="true-positive rate")
    pro.plot(np.r_[start, fpr[at]], np.r_[start, overlap[at]], color=BLUE)
    pro.axvspan(0, 0.3, color=BLUE, alpha=0.08, lw=0)
    pro.set(title="PRO curve", xlabel="false-positive rate", ylabel="mean overlap of regions", xlim=(0, 0.4))
    threshold = youden_threshold(curve)
    if np.isfinite(threshold):
        last = int(np.flatnonzero(curve.scores >= threshold)[-1])
        pro.plot(fpr[last], overlap[last], "D", color=ORANGE, label="Youden's threshold (oracle)")
        pro.set_xlim(0, max(0.4, 1.1 * fpr[last]))
        pro.legend(frameon=False, fontsize=8, loc="lower right")
