"""The report and the pages of its trainings: HTML files that need nothing else, for a screen or for paper.

The report has what is made of all results, and links; what there is to say of one training is on that training's page.
So the report stays small however many trainings there are.
"""

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from rkd_pipeline.results.tables.sheet import Sheet

_LISTED = 20  # of what was left out, by name


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
class ListedTraining:
    """One measured training in the report's list: its numbers by heading, and where its page is."""

    target: str
    key: str
    numbers: Mapping[str, str]
    address: str


@dataclass(frozen=True)
class TrainingPage:
    """Everything that there is to say of one training.

    Attributes:
        target, key: which it is.
        report: where the report is, seen from this page.
        figures: of its metrics.
        numbers: all of them.
        provenance: what it was made from, by heading; what is empty is not shown.
    """

    target: str
    key: str
    report: str
    figures: Sequence[CaptionedFigure]
    numbers: Sheet
    provenance: Mapping[str, str]


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
        headings: of the numbers in the list of trainings.
        trainings: one per training that counts.
        examples: maps of some of them.
        provenance: how many trainings there are by teacher and by what they were computed on.
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
    headings: Sequence[str]
    trainings: Sequence[ListedTraining]
    examples: Sequence[CaptionedFigure]
    provenance: Sheet
    datasets: Sequence[Mapping[str, str]]
    versions: Mapping[str, str]


def render(report: Report) -> str:
    """The report as HTML."""
    return _environment().get_template("report.html.j2").render(report=report, LISTED=_LISTED)


def render_training(training: TrainingPage) -> str:
    """A training's page as HTML."""
    return _environment().get_template("training.html.j2").render(training=training)


@cache
def _environment() -> Environment:
    loader = PackageLoader(__package__, "")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["inline"] = inline
    return environment


def inline(text: str) -> Markup:
    """Text with ``**bold**`` as HTML; everything else in it is text."""
    return Markup(re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", str(escape(text))))
