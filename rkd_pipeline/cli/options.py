"""What commands have in common: their look, the options that all of them take, and checks of options."""

import inspect
import os
from collections.abc import Callable, Collection
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rkd_pipeline.progress import bar

if TYPE_CHECKING:
    from rkd_pipeline.cli.session import Session

Command = Callable[..., int]

Store = Annotated[
    str | None,
    typer.Option(
        "--store", envvar="RKD_STORE", metavar="DIR", help="Folder of all results, or s3://BUCKET; store/ if not given."
    ),
]
Data = Annotated[
    Path | None,
    typer.Option(
        "--data", envvar="RKD_DATA", metavar="DIR", help="Folder that holds the datasets; data/ if not given."
    ),
]
Archives = Annotated[
    Path | None,
    typer.Option(
        "--archives", envvar="RKD_ARCHIVES", metavar="DIR", help="Folder of dataset archives that you downloaded."
    ),
]
Download = Annotated[
    bool, typer.Option("--download", envvar="RKD_DOWNLOAD", help="Download datasets that are not there.")
]


def group(**options: Any) -> typer.Typer:
    """A group of commands. Help and errors are plain text, whole in a log and in a narrow terminal."""
    return typer.Typer(
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        no_args_is_help=True,
        context_settings={"help_option_names": ["-h", "--help"]},
        **options,
    )


def with_places(command: Command) -> Command:
    """Give a command the options that say where store, datasets and archives are.

    They become the environment that the settings are read from, here and in child processes. A relative folder is made
    absolute: it must mean the same in every process.
    """

    @wraps(command)
    def run(
        *given: Any,
        store: str | None,
        data: Path | None,
        archives: Path | None,
        download: bool,
        **options: Any,
    ) -> int:
        export(
            store=store if store and "://" in store else Path(store or "store").resolve(),
            data=(data or Path("data")).resolve(),
            archives=archives and archives.resolve(),
            download=download,
        )
        return command(*given, **options)

    places = {"store": (Store, None), "data": (Data, None), "archives": (Archives, None), "download": (Download, False)}
    own = inspect.signature(command)
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=kind, default=default)
        for name, (kind, default) in places.items()
    ]
    # typer reads the options from here; the type of functions does not list it.
    run.__signature__ = own.replace(parameters=[*own.parameters.values(), *added])  # type: ignore[attr-defined]
    run.__annotations__ = command.__annotations__ | {name: kind for name, (kind, _) in places.items()}
    return run


def open_session() -> "Session":
    """Dagster's graph over the store. Imports alone take seconds, so the first thing is to say what is going on."""
    with bar(0, "start Dagster", "step", inner=True):
        from rkd_pipeline.cli.session import Session

        return Session.open()


def export(prefix: str = "RKD_", **values: object) -> None:
    """Set ``RKD_…`` for every value that was given; a switch that is on is 1."""
    for name, value in values.items():
        if value is not None and value is not False:
            os.environ[f"{prefix}{name.upper()}"] = "1" if value is True else str(value)


def one_of(known: Collection[str]) -> dict[str, Any]:
    """How an option takes one of some names: help lists them, completion offers them, others are refused."""

    def check(value: str | None) -> str | None:
        if value is not None and value not in known:
            raise typer.BadParameter(f"{value!r} is none of {', '.join(known)}")
        return value

    return {"callback": check, "autocompletion": lambda: list(known), "metavar": f"[{'|'.join(known)}]"}


def refuse_beside(context: typer.Context, name: str, why: str, ignored: Collection[str], *, environment: bool) -> None:
    """Refuse options that would be ignored beside the option ``name``: silence would look like obedience.

    Those that come from the environment are refused too where ``environment``: they can hardly be meant either, and
    whoever has forgotten them is told which variable it is. Raises ``typer.BadParameter``, a usage error.
    """
    options = {parameter.name: parameter for parameter in context.command.params}

    def called(parameter: str) -> str:
        if _source(context, parameter) == "ENVIRONMENT":
            return f"{options[parameter].envvar} (in the environment)"
        return str(options[parameter].opts[0])

    sources = {"COMMANDLINE", "ENVIRONMENT"} if environment else {"COMMANDLINE"}
    if found := [called(other) for other in ignored if _source(context, other) in sources]:
        raise typer.BadParameter(
            f"{called(name)} {why}, so {' and '.join(found)} would be ignored; leave out one or the other", ctx=context
        )


def _source(context: typer.Context, parameter: str) -> str:
    found = context.get_parameter_source(parameter)
    return found.name if found else ""
