"""``rkd table`` and ``rkd report``: what the store's results amount to."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from rkd_pipeline.cli.options import group, open_session, with_places

if TYPE_CHECKING:
    from rkd_pipeline.store.result_store import Store

commands = group()


@commands.command()
@with_places
def table(
    number: Annotated[
        Literal["1", "2", "3", "4", "demo", "systems"],
        typer.Argument(help="Of the paper; demo: the demo's own, in the same layout; systems: all systems by target."),
    ],
) -> int:
    """Refresh the tables where anything has changed, and print one of them as markdown."""
    from rkd_pipeline.store.stage_versions import STAGES, SYSTEMS

    stage = SYSTEMS if number == SYSTEMS.name else STAGES[f"table_{number}"]
    print((_refreshed_store().require(stage).folder / f"{stage.name}.md").read_text(encoding="utf-8"))
    return 0


@commands.command()
@with_places
def report(
    to: Annotated[
        Path | None,
        typer.Option(envvar="RKD_REPORT_TO", help="Copy it into this folder, with the page of each training."),
    ] = None,
) -> int:
    """Refresh the report where anything has changed, and print where it is.

    It links to a page for each training. In a store that is a folder they lie beside it.
    """
    from rkd_pipeline.stages.report import FILE, copy_report
    from rkd_pipeline.store.stage_versions import REPORT

    store = _refreshed_store()
    if to is not None:
        with store.one_look():
            print(copy_report(store, to.absolute()))
        return 0
    print(store.require(REPORT).file(FILE))
    if store.place.shared:
        print("the pages that it links to are in the bucket; `rkd report --to FOLDER` copies them", file=sys.stderr)
    return 0


def _refreshed_store() -> "Store":
    """The store, its tables made anew through Dagster's graph unless they are what they would be."""
    from rkd_pipeline.operations.tables_in_step import tables_are_in_step
    from rkd_pipeline.settings import Settings
    from rkd_pipeline.store.open_store import open_store

    store = open_store(Settings.from_environment())
    if not tables_are_in_step(store):
        open_session().refresh()
    return store
