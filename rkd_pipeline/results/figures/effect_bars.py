"""Effects of an ablation: a dot and its interval per change, a panel per metric."""

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from rkd_pipeline.results.figures.style import BLUE, GREY, ORANGE, png, tidy

# Told apart by colour and by form.
_STYLE = {"training": (BLUE, "o"), "scoring": (ORANGE, "s"), "interaction": (GREY, "D")}
MOST = 24  # changes shown: more would not be read


def effect_dots(effects: pd.DataFrame, headings: Mapping[str, str], title: str) -> bytes:
    """Dots with whiskers, in percentage points, largest change of the first metric on top.

    Args:
        effects: columns response, kind, factor, change, effect, ci_low, ci_high, in the order to be shown; without
            single targets.
        headings: response to the heading of its panel.
        title: of the whole figure.
    """
    labels = effects.drop_duplicates(["kind", "factor", "change"]).head(MOST)
    place = {tuple(row): -i for i, row in enumerate(labels[["kind", "factor", "change"]].itertuples(index=False))}
    shown = [r for r in headings if (effects["response"] == r).any()]
    figure = Figure(figsize=(3.2 + 2.5 * len(shown), 1.5 + 0.27 * len(place)), layout="constrained")
    panels = figure.subplots(1, len(shown), squeeze=False, sharey=True)[0]
    for axes, response in zip(panels, shown, strict=True):
        axes.axvline(0, color="black", lw=0.8)
        for row in effects[effects["response"] == response].to_dict("records"):
            at = place.get((row["kind"], row["factor"], row["change"]))
            if at is None:
                continue
            colour, marker = _STYLE[row["kind"]]
            if pd.notna(row["ci_low"]):
                axes.plot([100 * row["ci_low"], 100 * row["ci_high"]], [at, at], color=colour, lw=1.6)
            axes.plot(100 * row["effect"], at, marker, color=colour, ms=5)
        axes.set_title(headings[response], fontsize=10)
        axes.set_xlabel("percentage points", fontsize=8)
        axes.grid(axis="x", color="#e3e3e3", lw=0.6)
        axes.set_axisbelow(True)
        tidy(axes)
    names = [f"{name}: {change}" for _, name, change in place]
    panels[0].set_yticks(list(place.values()), names, fontsize=8)
    kinds = [k for k in _STYLE if (effects["kind"] == k).any()]
    handles = [panels[0].plot([], [], _STYLE[k][1], color=_STYLE[k][0], label=k)[0] for k in kinds]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(kinds), frameon=False, fontsize=8)
    hidden = len(effects.drop_duplicates(["kind", "factor", "change"])) - len(place)
    figure.suptitle(title + (f"\n{hidden} smaller ones are in the table" if hidden else ""), fontsize=10)
    return png(figure, 110)
