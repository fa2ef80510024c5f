"""What all figures share: colours, bare axes, PNG bytes.

matplotlib's object interface only: no global state, no display, usable from threads.
"""

from io import BytesIO

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

# Okabe and Ito's palette, told apart by every kind of colour vision.
BLUE, ORANGE, SKY, GREY = "#0072B2", "#D55E00", "#56B4E9", "#555555"
MAP_COLOURS = "inferno"
NO_MASK = "no mask"  # written on an anomalous image whose ground truth shows nothing


def tidy(axes: Axes) -> None:
    """Axes without the two lines that bound nothing."""
    axes.spines[["top", "right"]].set_visible(False)


def message(text: str) -> bytes:
    """A figure that only says why there is nothing to see."""
    figure = Figure(figsize=(7, 1.2))
    figure.text(0.5, 0.5, text, ha="center", va="center", fontsize=11, color=GREY, wrap=True)
    return png(figure)


def thumbnail(png: bytes, width: int) -> bytes:
    """The same picture, at most ``width`` pixels wide, for showing inline."""
    with Image.open(BytesIO(png)) as image:
        small = image.convert("RGB")
        small.thumbnail((width, width))
    buffer = BytesIO()
    small.quantize(128).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def png(figure: Figure, dpi: int = 100) -> bytes:
    """A figure as PNG bytes: the same figure gives the same bytes."""
    figure.set_dpi(dpi)
    buffer = BytesIO()
    # Without the "Software" entry the same figure gives the same bytes under every matplotlib release.
    FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})
    return buffer.getvalue()
