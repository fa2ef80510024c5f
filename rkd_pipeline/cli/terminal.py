"""Tables for people: drawn by rich on a terminal, as whole markdown rows in a pipe, which scripts read."""

import sys
from typing import TYPE_CHECKING

from rkd_pipeline.progress import encodable, is_terminal

if TYPE_CHECKING:
    import pandas as pd


def print_table(rows: "pd.DataFrame", *, numbers: bool = True) -> None:
    """Print a table on stdout.

    Args:
        rows: column names are the header; the index is not shown.
        numbers: texts that look like numbers may be written as numbers, aligned at the point.
    """
    if not is_terminal(sys.stdout):
        print(rows.to_markdown(index=False, disable_numparse=not numbers))
        return
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    def cell(value: object) -> Text:
        text = f"{value:g}" if isinstance(value, float) else str(value)
        return Text(encodable(text, sys.stdout), overflow="fold")

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in rows.columns:
        table.add_column(cell(name), justify="right" if rows[name].dtype.kind in "if" else "left", overflow="fold")
    for row in rows.itertuples(index=False):
        table.add_row(*map(cell, row))
    Console(file=sys.stdout, force_terminal=True).print(table)
