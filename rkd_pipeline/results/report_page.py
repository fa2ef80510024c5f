"""The report: one HTML file that needs nothing else, for a screen or for paper."""

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from rkd_pipeline.results.tables.sheet import Sheet


@dataclass(frozen=True)
class CaptionedFigure:
    """A PNG file's bytes and what it shows."""

    caption: str
    png: bytes

    @property
    def address(self) -> str:
        """The image as a data URL."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode()


@dataclass(frozen=True)
class Training:
    """One measured training: its numbers by heading, what it was made from, its example maps."""

    target: str
    key: str
    numbers: Mapping[str, str]
    provenance: Mapping[str, str]
    maps: CaptionedFigure


@dataclass(frozen=True)
class Report:
    """Everything that the report shows.

    Attributes:
        subtitle: what was measured, in one line.
        left_out: training to the reason why it does not count.
        tables: those in which something is measured.
        unmeasured: the others, shown closed.
        figures: the paper's figures.
        history: what moved and everything over time; empty before the first re-benchmark.
        over_time: the figure of it; None before the first.
        leaderboard, pairs, ranks: as the leaderboard asset has them; no pairs where nothing was tested.
        systems: a sheet per target, and one on what is larger than noise; empty where nothing was measured.
        side_by_side: figures of the same.
        ablation: a sheet per centre and configuration; empty where there is none.
        effects: their figures.
        claims: the paper's claims, re-tested.
        recipes: of every recipe its paper, code and deviation, and what was measured with it.
        trainings: one per training that counts.
        datasets: title, source, licence and citation of every dataset used, and a note where one of them has any.
        versions: library to version.
    """

    subtitle: str
    left_out: Mapping[str, str]
    tables: Sequence[Sheet]
    unmeasured: Sequence[Sheet]
    figures: Sequence[CaptionedFigure]
    history: Sequence[Sheet]
    over_time: CaptionedFigure | None
    leaderboard: Sheet
    pairs: Sheet | None
    ranks: CaptionedFigure
    systems: Sequence[Sheet]
    side_by_side: Sequence[CaptionedFigure]
    ablation: Sequence[Sheet]
    effects: Sequence[CaptionedFigure]
    claims: Sheet
    recipes: Sheet
    trainings: Sequence[Training]
    datasets: Sequence[Mapping[str, str]]
    versions: Mapping[str, str]


def render(report: Report) -> str:
    """The report as HTML."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["inline"] = inline
    template = files(__package__).joinpath("report.html.j2").read_text(encoding="utf-8")
    return environment.from_string(template).render(report=report)


def inline(text: str) -> Markup:
    """Text with ``**bold**`` as HTML; everything else in it is text."""
    return Markup(re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", str(escape(text))))
