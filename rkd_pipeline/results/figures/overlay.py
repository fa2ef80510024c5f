"""One image beside its anomaly map, laid over it; such files know that they are none of the images to score."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from rkd_pipeline.results.figures.style import MAP_COLOURS, SKY, png

LONGEST = 900  # pixels of the image's longer side, as drawn
STEEPEST = 4  # longer side over shorter, as drawn: a figure of a 64 x 12000 image would take gigabytes, and show a line
_MARK = {"Description": "anomaly map drawn by rkd-pipeline"}


def ground(image: Image.Image) -> Image.Image:
    """The image as an overlay shows it: RGB, at most ``LONGEST`` pixels long, stretched where it is a narrow strip."""
    if not is_strip(image.size):
        shown = image.copy()
        shown.thumbnail((LONGEST, LONGEST))
        return shown
    short = LONGEST // STEEPEST
    return image.resize((LONGEST, short) if image.width > image.height else (short, LONGEST))


def is_strip(size: tuple[int, int]) -> bool:
    """An image of this width and height is drawn stretched."""
    return max(size) > STEEPEST * min(size)


def is_overlay(file: Path) -> bool:
    """The file is an overlay that ``overlay`` drew, wherever it has been put since."""
    if file.suffix.lower() != ".png":
        return False
    try:
        with Image.open(file) as image:
            return _MARK.items() <= image.info.items()
    except Exception:  # Pillow raises a dozen kinds; whoever decodes the file says what is wrong with it
        return False


def overlay(image: Image.Image, anomaly_map: np.ndarray, threshold: float | None, title: str) -> bytes:
    """The image, and the image under its map, with a line round what exceeds the threshold.

    Colours run from 0 to twice the threshold, or the map's maximum where that is more: images of one model can be
    compared. Without a threshold they run to the map's maximum.

    Args:
        image: RGB, any size; or already its ``ground``.
        anomaly_map: ``(S, S)``, stretched over the image.
        threshold: map maximum above which an image is called anomalous; None where another score decides.
        title: of the whole.
    """
    shown = ground(image)
    width, height = shown.size
    stretched = np.asarray(
        Image.fromarray(anomaly_map.astype(np.float32)).resize(shown.size, Image.Resampling.BILINEAR)
    )
    panel = 4.2
    figure = Figure(figsize=(2 * panel + 0.9, panel * height / width + 0.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.imshow(shown)
    right.imshow(shown.convert("L"), cmap="gray", vmin=0, vmax=255)
    highest = max(2 * (threshold or 0), float(anomaly_map.max()))
    heat = right.imshow(stretched, cmap=MAP_COLOURS, vmin=0, vmax=highest, alpha=0.55)
    if threshold is not None and stretched.max() > threshold > stretched.min():
        right.contour(stretched, [threshold], colors=SKY, linewidths=1.5)
    for axes in (left, right):
        axes.axis("off")
    bar = figure.colorbar(heat, ax=right, fraction=0.046, pad=0.02)
    if threshold is not None:
        bar.ax.axhline(threshold, color=SKY, lw=2)
    bar.ax.tick_params(labelsize=7)
    figure.suptitle(title, fontsize=10)
    return png(figure, about=_MARK)
