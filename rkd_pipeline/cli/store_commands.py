"""``rkd status``, ``rkd prune``, ``rkd mirror`` and ``rkd store``: the store itself."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from rkd_pipeline.cli.options import group, open_session, with_places
from rkd_pipeline.errors import RkdError

commands = group()
whole = group(help="Copy and verify a whole store.")
commands.add_typer(whole, name="store")


@commands.command()
@with_places
def status() -> int:
    """List the trainings in the store.

    Each is done, stale (with the reason), interrupted, or trained and not yet evaluated.
    """
    from rkd_pipeline.cli.terminal import print_table
    from rkd_pipeline.operations.status import training_states
    from rkd_pipeline.settings import Settings
    from rkd_pipeline.store.open_store import open_store

    store = open_store(Settings.from_environment())
    states = training_states(store)
    print(f"store {store.address}")
    if len(states):
        print_table(states, numbers=False)
    else:
        print("no trainings yet; see `rkd run --help`")
    return 0


@commands.command()
@with_places
def prune(
    yes: Annotated[
        bool, typer.Option("--yes", envvar="RKD_PRUNE_YES", help="Delete it; without this nothing is deleted.")
    ] = False,
) -> int:
    """List what can be deleted without loss, and delete it."""
    import pandas as pd

    from rkd_pipeline.cli.terminal import print_table
    from rkd_pipeline.operations import pruning
    from rkd_pipeline.settings import Settings
    from rkd_pipeline.store.open_store import open_store

    store = open_store(Settings.from_environment())
    items = pruning.prunable(store)
    sizes = pruning.sizes(items)
    rows = [(item.what, f"{size / 2**20:.1f}", item.why) for item, size in zip(items, sizes, strict=True)]
    print(f"store {store.address}")
    if not items:
        print("nothing can be deleted without loss")
        return 0
    print_table(pd.DataFrame(rows, columns=["what", "MiB", "why it can go"]), numbers=False)
    stayed = pruning.prune(store, items) if yes else {}
    for what, why in stayed.items():
        print(f"stays   {what}: {why}")
    gone = sum(size for item, size in zip(items, sizes, strict=True) if item.what not in stayed)
    print(f"{gone / 2**20:.1f} MiB {'deleted' if yes else 'could be deleted; nothing was, without --yes'}")
    return 0


@commands.command()
@with_places
def mirror() -> int:
    """Send to MLflow what it lacks.

    Finished trainings, the report and champions that could not be sent while MLflow was away.
    """
    from rkd_pipeline.addresses import shown

    session = open_session()
    if error := session.launch("mirror_to_mlflow"):
        raise RkdError(error)
    uri = shown(session.tracking().tracking_uri(session.store))
    print(f"MLflow ({uri}) has everything that is finished in {session.store.address}")
    return 0


@whole.command()
def copy(
    source: Annotated[str, typer.Argument(metavar="FROM", help="A store: a folder, or s3://BUCKET/PREFIX.")],
    target: Annotated[str, typer.Argument(metavar="TO", help="Another; it need not be there.")],
) -> int:
    """Copy a store to another place.

    Results, champions, records and checkpoints; every file is verified on the way. What is there already is not copied
    again: the same command goes on where it was broken off. MLflow and Dagster's history stay where they are.
    """
    from rkd_pipeline.operations import store_care
    from rkd_pipeline.settings import Settings
    from rkd_pipeline.store.open_store import open_store

    if "://" not in source and not Path(source).is_dir():
        raise RkdError(f"{source} is no folder, so no store is there")
    stores = [open_store(Settings.from_environment().at(place)) for place in (source, target)]
    if stores[0].address == stores[1].address:
        raise RkdError(f"{source} and {target} are the same store")
    done = store_care.copy(*stores)
    print(f"{stores[1].address} has what {stores[0].address} holds: {done.copied} copied, {done.there} were there")
    for damage in done.unreadable:
        print(f"not copied: {damage}", file=sys.stderr)
    return 1 if done.unreadable else 0


@whole.command()
@with_places
def verify(
    mend: Annotated[
        bool,
        typer.Option("--mend", envvar="RKD_STORE_MEND", help="Let damaged results be gone: the next run makes them."),
    ] = False,
) -> int:
    """Read every file of the store and compare it with what was written."""
    from rkd_pipeline.operations import store_care
    from rkd_pipeline.settings import Settings
    from rkd_pipeline.store.open_store import open_store

    store = open_store(Settings.from_environment())
    wrong = store_care.verify(store)
    print(f"store {store.address}")
    for damage in wrong.values():
        print(damage)
    unused = store.place.unused()
    if unused:
        print(f"{len(unused)} objects ({sum(unused.values()) / 2**20:.1f} MiB) are referred to by nothing: rkd prune")
    if not wrong:
        print("every file is what was written")
        return 0
    if not mend:
        print(f"{len(wrong)} damaged; with --mend, results are let go, and the next run makes them again")
        return 1
    kept = store_care.mend(store, wrong)
    print(f"{len(wrong) - len(kept)} let go; the next run makes them again")
    for name in kept:
        print(f"{name} cannot be made again: force a champion, or register the file anew", file=sys.stderr)
    return 1 if kept else 0
