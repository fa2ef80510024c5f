"""``rkd table`` and ``rkd report``: what the store's results amount to."""

from typing import Annotated, Literal

import typer

from rkd_pipeline.cli.options import group, open_session, with_places

commands = group()


@commands.command()
@with_places
def table(
    number: Annotated[
        Literal["1", "2", "3", "4", "demo"],
        typer.Argument(help="Of the paper; demo is the demo's own table, in the same layout."),
    ],
) -> int:
    """Refresh the tables, and print one of the paper as markdown."""
    print(open_session().table(number))
    return 0


@commands.command()
@with_places
def report() -> int:
    """Refresh the report, and print where it is."""
    print(open_session().report())
    return 0
