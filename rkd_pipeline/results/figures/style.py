"""What all figures share: colours, bare axes, PNG bytes, text as it is given.

matplotlib's object interface only: no global state, no display, usable from threads.
"""

from collections.abc import Iterator, Mapping
from functools import cache
from io import BytesIO

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font
from matplotlib.text import Text
from PIL import Image

from rkd_pipeline.names import spelled

# Okabe and Ito's palette, told apart by every kind of colour vision.
BLUE, ORANGE, SKY, GREY = "#0072B2", "#D55E00", "#56B4E9", "#555555"
MAP_COLOURS = "inferno"
NO_MASK = "no mask"  # written on an anomalous image whose ground truth shows nothing
# matplotlib's own font has no Chinese, Japanese or Korean; these are what systems and browsers bring.
FALLBACK_FONTS = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans CJK KR", "Noto Sans SC", "Source Han Sans SC",
    "WenQuanYi Zen Hei", "WenQuanYi Micro Hei", "Droid Sans Fallback", "Microsoft YaHei", "SimHei", "PingFang SC",
    "Heiti TC", "Hiragino Sans GB", "Yu Gothic", "Malgun Gothic", "Arial Unicode MS",
)  # fmt: skip


def tidy(axes: Axes) -> None:
    """Axes without the two lines that bound nothing."""
    axes.spines[["top", "right"]].set_visible(False)


def message(text: str) -> bytes:
    """A figure that only says why there is nothing to see."""
    figure = Figure(figsize=(7, 1.2))
    figure.text(0.5, 0.5, text, ha="center", va="center", fontsize=11, color=GREY, wrap=True)
    return png(figure)


def small_image(png: bytes, width: int) -> bytes:
    """The same image as WebP, at most ``width`` pixels wide: a sixth of a PNG's bytes, for a first look."""
    with Image.open(BytesIO(png)) as image:
        small = image.convert("RGB")
        small.thumbnail((width, width))
    buffer = BytesIO()
    small.save(buffer, "WEBP", quality=30, method=6)
    return buffer.getvalue()


def thumbnail(png: bytes, width: int) -> bytes:
    """The same image, at most ``width`` pixels wide, for showing inline."""
    with Image.open(BytesIO(png)) as image:
        small = image.convert("RGB")
        small.thumbnail((width, width))
    buffer = BytesIO()
    small.quantize(128).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def png(figure: Figure, dpi: int = 100, about: Mapping[str, str] | None = None) -> bytes:
    """A figure as PNG bytes: the same figure gives the same bytes.

    Its texts are drawn as they are given: a ``$`` is a dollar, and what no font can draw is spelled out (``\\u4e2d``).
    ``about`` goes into the file's text chunks.
    """
    for text in _texts(figure):
        _make_drawable(text)
        if text.get_wrap():  # matplotlib measures it as mathematics even where that is off
            text.set_text(text.get_text().replace("$", r"\$"))
        else:
            text.set_parse_math(False)
    figure.set_dpi(dpi)
    buffer = BytesIO()
    # Without the "Software" entry the same figure gives the same bytes under every matplotlib release.
    FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None, **(about or {})})
    return buffer.getvalue()


def _texts(artist: Artist) -> Iterator[Text]:
    """All texts but those of axes that are off: asking for these makes ticks, a third of an image panel's time."""
    if isinstance(artist, Text):
        yield artist
    for child in artist.get_children():
        if not (isinstance(child, Axis) and isinstance(artist, Axes) and not artist.axison):
            yield from _texts(child)


def _make_drawable(text: Text) -> None:
    given = text.get_text().split("\n")
    if all(line.isascii() and line.isprintable() for line in given):
        return
    own = str(findfont(text.get_fontproperties()))
    lacking = {c for line in given for c in line if not _draws(own, c)}
    fonts = [name for name in FALLBACK_FONTS if name in _installed()] if lacking else []
    files = [str(findfont(FontProperties(family=name))) for name in fonts]
    nowhere = {c: spelled(c) for c in lacking if not any(_draws(file, c) for file in files)}
    if fonts:
        text.set_fontfamily([*text.get_fontfamily(), *fonts])
    text.set_text("\n".join("".join(nowhere.get(c, c) for c in line) for line in given))


@cache
def _installed() -> frozenset[str]:
    return frozenset(font.name for font in fontManager.ttflist)


@cache
def _draws(font_file: str, character: str) -> bool:
    return get_font(font_file).get_char_index(ord(character)) != 0
