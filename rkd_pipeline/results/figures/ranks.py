"""The critical-difference diagram: mean ranks on a line, bars over what cannot be told apart."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from rkd_pipeline.results.figures.style import BLUE, GREY, ORANGE, png

_LABELS = 12  # of the axis at most: there is no room for more


def rank_diagram(ranks: Mapping[str, float], groups: Sequence[Sequence[str]], title: str) -> bytes:
    """Demsar's diagram (2006), its bars from the tests of the leaderboard.

    Args:
        ranks: system to mean rank, 1 is best; at least two.
        groups: sets of systems that no test tells apart; each becomes a bar.
        title: says what was ranked, and what the bars mean or why there are none.
    """
    order = sorted(ranks, key=lambda name: ranks[name])
    half = -(-len(order) // 2)
    figure = Figure(figsize=(9.5, 1.5 + 0.3 * half + 0.16 * len(groups)), layout="constrained")
    axes = figure.subplots()
    low, high = 1, max(2, len(order))
    bars = 0.35 * len(groups)
    axes.plot([low, high], [0, 0], color="black", lw=1.2)
    every = -(-high // _LABELS)
    for tick in range(low, high + 1):
        axes.plot([tick, tick], [0, 0.18], color="black", lw=1.2)
        if (tick - low) % every == 0:
            axes.text(tick, 0.3, str(tick), ha="center", va="bottom", fontsize=9)
    for i, name in enumerate(order):
        left = i < half
        level = -(bars + 0.6 + 0.7 * (i if left else len(order) - 1 - i))
        edge = low - 0.12 * (high - low) if left else high + 0.12 * (high - low)
        axes.plot([ranks[name], ranks[name], edge], [0, level, level], color=BLUE if left else GREY, lw=1)
        text = f"{name}  ({ranks[name]:.2f})" if left else f"({ranks[name]:.2f})  {name}"
        axes.text(edge, level, f" {text} ", ha="right" if left else "left", va="center", fontsize=9)
    for number, group in enumerate(groups):
        at = [ranks[name] for name in group]
        axes.plot([min(at) - 0.02, max(at) + 0.02], [-0.3 - 0.35 * number] * 2, color=ORANGE, lw=4)
    span = high - low
    axes.set_xlim(low - 0.95 * span, high + 0.95 * span)
    axes.set_ylim(-(bars + 0.6 + 0.7 * half), 1.0)
    axes.axis("off")
    axes.set_title(title, fontsize=10)
    return png(figure, 110)
