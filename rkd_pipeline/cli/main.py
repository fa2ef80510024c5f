"""The ``rkd`` command: all groups of commands, and how a command ends.

What takes long to import (Dagster, torch, pandas) is imported by the command that needs it: ``rkd --help`` and
completion answer at once.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from typing import Any

import typer
from typer.core import TyperGroup

from rkd_pipeline import progress
from rkd_pipeline.cli import (
    cluster_commands,
    data_commands,
    model_commands,
    run_commands,
    store_commands,
    table_commands,
    ui_commands,
)
from rkd_pipeline.cli.options import group
from rkd_pipeline.errors import RkdError, of_the_system
from rkd_pipeline.signals import Interrupted, signals_heeded

_HELP = """Benchmark anomaly detection by Reverse Knowledge Distillation: prepare images, train, score, compare with the
paper's tables, and put the best model to use.

Every option can be set by the environment variable that its help names; the command line wins. What is done is kept:
the same command again does only what is missing.
"""


class _Commands(TyperGroup):
    """All commands; turns what a command returns or raises into an exit status."""

    def invoke(self, ctx: Any) -> Any:
        """0 fine, 1 something failed; 130 and 143 ended by Ctrl-C and SIGTERM, as a shell counts."""
        try:
            with signals_heeded(), _progress_past_dagster():
                status = super().invoke(ctx)
        except RkdError as error:
            print(f"rkd: {error}", file=sys.stderr)
            status = 1
        except Interrupted as ended:
            print(f"\nrkd: ended by {ended}; the same command goes on from here", file=sys.stderr)
            status = ended.exit_status
        except Exception as error:
            if not (said := of_the_system(error)):
                raise
            print(f"rkd: {said}", file=sys.stderr)
            status = 1
        raise typer.Exit(status)


@contextmanager
def _progress_past_dagster() -> Iterator[None]:
    """Dagster captures file descriptor 2 while a step runs; progress goes to a copy of it, to where it led before."""
    if sys.__stderr__ is None:  # closed: nobody listens
        yield
        return
    with (
        os.fdopen(os.dup(2), "w", encoding=sys.__stderr__.encoding, errors="backslashreplace") as terminal,
        progress.shown_on(terminal),
    ):
        yield


app = group(cls=_Commands, name="rkd", help=_HELP)
app.add_typer(run_commands.commands)
app.add_typer(table_commands.commands)
app.add_typer(store_commands.commands)
app.add_typer(data_commands.commands)
app.add_typer(data_commands.data, name="data")
app.add_typer(model_commands.champion, name="champion")
app.add_typer(model_commands.commands)
app.add_typer(ui_commands.commands)
app.add_typer(cluster_commands.commands)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: that of ``_Commands.invoke``, or 2 for wrong usage."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a name in letters that the terminal lacks is spelled out
            stream.reconfigure(errors="backslashreplace")
    try:
        typer.main.get_command(app).main(args=arguments, prog_name="rkd")
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


if __name__ == "__main__":
    sys.exit(main())
