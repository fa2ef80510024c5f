"""``rkd status``, ``rkd prune`` and ``rkd mirror``: the store itself."""

from typing import Annotated

import typer

from rkd_pipeline.cli.options import group, open_session, with_places
from rkd_pipeline.errors import RkdError

commands = group()


@commands.command()
@with_places
def status() -> int:
    """List the trainings in the store.

    Each is done, stale (with the reason), interrupted, or trained and not yet evaluated.
    """
    from rkd_pipeline.cli.terminal import print_table
    from rkd_pipeline.operations.status import training_states
    from rkd_pipeline.settings import Settings
    from rkd_pipeline.store.result_store import Store

    store = Store(Settings.from_environment().store)
    states = training_states(store)
    print(f"store {store.root}")
    if len(states):
        print_table(states)
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
    from rkd_pipeline.store.result_store import Store

    store = Store(Settings.from_environment().store)
    items = pruning.prunable(store)
    sizes = pruning.sizes(items)
    rows = [(item.what, f"{size / 2**20:.1f}", item.why) for item, size in zip(items, sizes, strict=True)]
    print(f"store {store.root}")
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
    print(f"MLflow ({uri}) has everything that is finished in {session.store.root}")
    return 0
