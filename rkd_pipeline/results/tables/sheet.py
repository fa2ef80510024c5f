"""What all printed tables share: percents, intervals, footnote marks, markdown."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

NOT_MEASURED = "not measured"
NOT_PUBLISHED = "–"
SHORT_SCHEDULE = "Schedules shorter than a recipe's own (200 epochs for Reverse KD) are not its authors' experiment."


@dataclass
class Sheet:
    """A table for reading: headings, rows of text (``**bold**`` as in markdown), and what stands below.

    ``footnotes`` are referred to by marks, ``below`` are whole paragraphs that come first.
    """

    title: str
    headings: Sequence[str]
    rows: list[list[str]] = field(default_factory=list)
    below: list[str] = field(default_factory=list)
    footnotes: list[str] = field(default_factory=list)

    def mark(self, note: str) -> str:
        """The mark of a footnote, with a blank before it; the note is added on first use. Empty for no note."""
        if not note:
            return ""
        if note not in self.footnotes:
            self.footnotes.append(note)
        return " " + _mark(self.footnotes.index(note))

    def notes(self) -> list[str]:
        """Everything that stands below the table, a paragraph each."""
        return self.below + [f"{_mark(i)} {note}." for i, note in enumerate(self.footnotes)]

    def markdown(self) -> str:
        """As markdown, without the title."""
        lines = [_line(self.headings), "|" + "---|" * len(self.headings), *(_line(row) for row in self.rows)]
        return "\n".join(lines) + "\n\n" + "\n\n".join(self.notes()) + "\n"


def percent(value: Any, missing: str = NOT_PUBLISHED, *, sign: bool = False) -> str:
    """A fraction in percent with one decimal, or ``missing``; ``sign`` for differences."""
    if _absent(value):
        return missing
    return f"{100 * float(value):{'+' if sign else ''}.1f}"


def in_epochs(number: object) -> str:
    """The length of a schedule in words; of a system without epochs that it has none."""
    if _absent(number):
        return "one pass"
    return f"{number} epoch{'' if number == 1 else 's'}"


def with_interval(value: object, low: object, high: object, *, sign: bool = False) -> str:
    """``97.3 [96.0, 98.1]``, a question mark for a bound that is not known; ``NOT_MEASURED`` without a value."""
    if _absent(value):
        return NOT_MEASURED
    if _absent(low) and _absent(high):
        return percent(value, sign=sign)
    bounds = ", ".join(percent(bound, "?", sign=sign) for bound in (low, high))
    return f"{percent(value, sign=sign)} [{bounds}]"


def _absent(value: object) -> bool:
    return value is None or bool(pd.isna(value))


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _mark(number: int) -> str:
    return "†‡§¶"[number % 4] * (1 + number // 4)
