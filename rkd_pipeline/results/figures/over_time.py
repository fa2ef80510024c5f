"""Numbers over re-benchmarks: a panel per target, a line per configuration, intervals over seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from rkd_pipeline.results.figures.style import BLUE, GREY, ORANGE, SKY, png, tidy

_COLOURS = (BLUE, ORANGE, SKY, "#009E73", "#CC79A7", GREY)
_COLUMNS = 3


@dataclass(frozen=True)
class Point:
    """One round of one line: mean with its interval (NaN: none), the number on a new draw (NaN: none), moved or not."""

    round: int
    value: float
    low: float
    high: float
    new_draw: float
    moved: bool


def history_figure(panels: Mapping[str, Mapping[str, Sequence[Point]]], metric: str) -> bytes:
    """Draw it.

    Args:
        panels: target to line to points, in order of rounds; lines with the same name have the same colour.
        metric: what the values are, fractions from 0 to 1.
    """
    rows = -(-len(panels) // _COLUMNS)
    columns = min(_COLUMNS, len(panels))
    figure = Figure(figsize=(1.2 + 3.6 * columns, 1.2 + 2.7 * rows), layout="constrained")
    names = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    drawn = {}
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes, (target, lines) in zip(grid.flat, panels.items(), strict=False):
        for name, points in lines.items():
            at = names.index(name)
            colour, shift = _COLOURS[at % len(_COLOURS)], 0.08 * (at - (len(names) - 1) / 2)
            x, y = [p.round + shift for p in points], [p.value for p in points]
            (line,) = axes.plot(x, y, "-o", color=colour, lw=1.5, ms=4)
            drawn[name] = line
            for place, p in zip(x, points, strict=True):
                axes.plot([place, place], [p.low, p.high], color=colour, lw=1.2, alpha=0.7)
                axes.plot(place, p.new_draw, "D", color=colour, ms=5, mfc="white")
                if p.moved:
                    axes.plot(place, p.value, "o", color="black", ms=11, mfc="none", mew=1.5)
        axes.set_title(target, fontsize=10)
        axes.set_ylabel(metric, fontsize=9)
        axes.set_xlabel("re-benchmark (0: before the first)", fontsize=9)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.margins(x=0.1, y=0.1)
        axes.grid(axis="y", color="#e5e5e5")
        tidy(axes)
    for axes in list(grid.flat)[len(panels) :]:
        axes.axis("off")
    figure.legend(drawn.values(), drawn.keys(), loc="outside lower center", ncols=2, fontsize=9, frameon=False)
    return png(figure, 110)
