"""Systems side by side: which pairs differ; quality against cost, training images, and the time of training."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from rkd_pipeline.results.figures.style import BLUE, GREY, ORANGE, SKY, png, tidy

_COLOURS = (BLUE, ORANGE, SKY, "#009E73", "#CC79A7", GREY, "#E69F00", "black")
_MARKERS = "osD^vP*X"


@dataclass(frozen=True)
class Priced:
    """A system on one target: quality (0 to 1), seconds of a training, seconds to score an image; NaN: not measured."""

    system: str
    quality: float
    training: float
    scoring: float


def quality_against_cost(panels: Mapping[str, Sequence[Priced]], quality: str) -> bytes:
    """A column per target: quality over the time of a training, and over that of scoring an image, both logarithmic.

    The line joins systems that no other one beats in both. ``quality`` says what is drawn.
    """
    names = sorted({p.system for points in panels.values() for p in points})
    figure = Figure(figsize=(1 + 3.6 * len(panels), 6.4 + 0.14 * len(names)), layout="constrained")
    grid = figure.subplots(2, len(panels), squeeze=False)
    handles = {}
    for column, (target, points) in enumerate(panels.items()):
        for axes, cost, label in (
            (grid[0, column], "training", "training, seconds"),
            (grid[1, column], "scoring", "scoring, seconds an image"),
        ):
            shown = [p for p in points if np.isfinite(getattr(p, cost)) and np.isfinite(p.quality)]
            _front(axes, [(getattr(p, cost), p.quality) for p in shown])
            for p in shown:
                at = names.index(p.system)
                colour, marker = _COLOURS[at % len(_COLOURS)], _MARKERS[at // len(_COLOURS) % len(_MARKERS)]
                [handles[p.system]] = axes.plot(getattr(p, cost), p.quality, marker, color=colour, ms=7, ls="")
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
            axes.xaxis.set_major_formatter(_plainly)
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.set(xlabel=label, ylabel=quality)
            axes.grid(color="#e5e5e5")
            tidy(axes)
        grid[0, column].set_title(target, fontsize=10)
    shown_names = [name for name in names if name in handles]
    figure.legend(
        [handles[name] for name in shown_names], shown_names, loc="outside lower center",
        ncols=max(1, min(len(panels), 4)), fontsize=8, frameon=False,
    )  # fmt: skip
    return png(figure, 110)


def _plainly(value: float, _: int) -> str:
    """A tick of a logarithmic axis; powers of ten would be mathematics, which figures here do not set."""
    return f"{value:g}"


def _front(axes: Axes, points: Sequence[tuple[float, float]]) -> None:
    """The systems that no other one beats in both, joined from the cheapest on."""
    best, front = -np.inf, []
    for cost, quality in sorted(points, key=lambda p: (p[0], -p[1])):
        if quality > best:
            front.append((cost, quality))
            best = quality
    if front:
        axes.plot(*zip(*front, strict=True), color=GREY, lw=1, ls="--")


def difference_matrices(panels: Mapping[str, tuple[Sequence[str], np.ndarray]], title: str) -> bytes:
    """A panel per target: row less column in points where the pair differs beyond noise, white where it may be noise.

    ``panels``: target to its systems, best first, and ``(n, n)`` differences, NaN where they may be noise.
    """
    most = max(len(names) for names, _ in panels.values())
    # Room for the names below and beside, whatever their number.
    side = 2.6 + 0.28 * most
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(columns * (side + 0.4) + 0.8, rows * (side + 0.4) + 0.5), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    reach = max(float(np.nanmax(np.abs(m), initial=0.01)) for _, m in panels.values())
    for axes, (target, (names, matrix)) in zip(grid.flat, panels.items(), strict=False):
        drawn = axes.imshow(100 * matrix, cmap="RdBu", vmin=-100 * reach, vmax=100 * reach)
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
        axes.set_yticks(range(len(names)), names, fontsize=7)
        axes.set_title(target, fontsize=10)
    for axes in list(grid.flat)[len(panels) :]:
        axes.axis("off")
    figure.colorbar(drawn, ax=grid, shrink=0.5, label="row less column, points")
    figure.suptitle(title, fontsize=11)
    return png(figure, 110)


@dataclass(frozen=True)
class FewShot:
    """Quality with so many training images: mean over seeds, with its interval."""

    shots: int
    value: float
    low: float
    high: float


def quality_against_shots(panels: Mapping[str, Mapping[str, Sequence[FewShot]]], quality: str) -> bytes:
    """A panel per target, a line per recipe: quality over the number of training images, logarithmic."""
    figure = Figure(figsize=(1 + 4.2 * len(panels), 4.2), layout="constrained")
    grid = figure.subplots(1, len(panels), squeeze=False)[0]
    names = sorted({name for lines in panels.values() for name in lines})
    drawn = {}
    for axes, (target, lines) in zip(grid, panels.items(), strict=True):
        for name, points in lines.items():
            at = names.index(name)
            x, y = [p.shots * 1.02 ** (at - len(names) / 2) for p in points], [p.value for p in points]
            [drawn[name]] = axes.plot(
                x, y, "-" + _MARKERS[at % len(_MARKERS)], color=_COLOURS[at % len(_COLOURS)], ms=5
            )
            for place, p in zip(x, points, strict=True):
                axes.plot([place, place], [p.low, p.high], color=_COLOURS[at % len(_COLOURS)], lw=1, alpha=0.6)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(_plainly)
        axes.set(xlabel="training images", ylabel=quality, title=target)
        axes.grid(color="#e5e5e5")
        tidy(axes)
    figure.legend(drawn.values(), drawn.keys(), loc="outside lower center", ncols=4, fontsize=9, frameon=False)
    return png(figure, 110)


@dataclass(frozen=True)
class Schedule:
    """A recipe at one length of its schedule.

    Attributes:
        epochs: that it trained.
        seconds: that this took.
        quality: what was measured, by name: value, low, high.
    """

    epochs: int
    seconds: float
    quality: Mapping[str, tuple[float, float, float]]


def quality_against_time(panels: Mapping[str, Mapping[str, Sequence[Schedule]]], qualities: Sequence[str]) -> bytes:
    """A column per target, a row per quality, a line per recipe: quality over the seconds of a training, logarithmic.

    Each point is a training of its own, with its number of epochs beside it.
    """
    figure = Figure(figsize=(1 + 4.2 * len(panels), 0.8 + 3.4 * len(qualities)), layout="constrained")
    grid = figure.subplots(len(qualities), len(panels), squeeze=False)
    names = sorted({name for lines in panels.values() for name in lines})
    drawn = {}
    for row, quality in enumerate(qualities):
        for column, (target, lines) in enumerate(panels.items()):
            axes = grid[row, column]
            for name, schedules in lines.items():
                shown = [s for s in schedules if quality in s.quality]
                if not shown:
                    continue
                at = names.index(name)
                colour, marker = _COLOURS[at % len(_COLOURS)], _MARKERS[at % len(_MARKERS)]
                x, y = [s.seconds for s in shown], [s.quality[quality][0] for s in shown]
                [drawn[name]] = axes.plot(x, y, f"-{marker}", color=colour, ms=5)
                for s in shown:
                    value, low, high = s.quality[quality]
                    axes.plot([s.seconds, s.seconds], [low, high], color=colour, lw=1, alpha=0.6)
                    axes.annotate(
                        str(s.epochs), (s.seconds, value), (4, -9), textcoords="offset points", fontsize=7, color=colour
                    )
            if not axes.lines:
                axes.axis("off")
                continue
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
            axes.xaxis.set_major_formatter(_plainly)
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.set(xlabel="training, seconds", ylabel=quality, title=target)
            axes.grid(color="#e5e5e5")
            tidy(axes)
    figure.legend(drawn.values(), drawn.keys(), loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    return png(figure, 110)
