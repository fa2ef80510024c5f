"""Taking one of the user's own targets out of a store: what goes, what stays, and doing it.

Goes: the line in ``targets.toml`` and everything in the store that was made from the target, its champions too. Stays:
the images, where they are; what MLflow and Dagster have on record; the records of re-benchmarks; and tables, until they
are refreshed. The line goes last, so that a removal that was broken off is finished by the same command.
"""

import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from rkd_pipeline.data.user_targets import targets_in
from rkd_pipeline.errors import DataError
from rkd_pipeline.operations import champions
from rkd_pipeline.operations.pruning import Prunable, of_result, prune
from rkd_pipeline.operations.rebenchmark import open_rounds
from rkd_pipeline.stages.mirror_records import TRACKING_FOLDER
from rkd_pipeline.stages.trained_model import CHECKPOINTS
from rkd_pipeline.store.folder_place import VERIFIED
from rkd_pipeline.store.result_store import Ref, Store
from rkd_pipeline.store.stage_versions import STAGES, TRAINED_MODEL


def removable(store: Store, target_name: str) -> list[Prunable]:
    """What of a target lies in the store, derived results first.

    Raises ``UnknownName`` or ``DataError`` where it is none of the user's own targets, or an open re-benchmark trains
    it.
    """
    if not targets_in(store).target(target_name).own:
        raise DataError(f"{target_name} is a target of the catalog; only what `rkd add-target` added can be removed")
    for begun in open_rounds(store):
        if any(cell.target == target_name for cell in begun.cells):
            raise DataError(
                f"{target_name} is trained by re-benchmark {begun.number}, which has not ended; let `rkd rebenchmark` "
                "finish it first"
            )
    return [*_results(store, target_name), *_beside(store, target_name)]


def remove(store: Store, target_name: str, items: list[Prunable]) -> dict[str, str]:
    """Delete what ``removable`` found, then the target's line; what stayed to the reason: then the line stays too."""
    stayed = prune(store, items)
    if not stayed:
        for stage in STAGES:
            _remove_if_empty(store.root / stage / target_name)
        for record in (store.root / VERIFIED).glob(f"*/{target_name}*"):  # of hashes: safe to lose
            if record.is_dir() and record.name == target_name:
                shutil.rmtree(record, ignore_errors=True)
            elif record.name == f"{target_name}.json":
                record.unlink(missing_ok=True)
        targets_in(store).remove(target_name)
    return stayed


def _results(store: Store, target_name: str) -> Iterator[Prunable]:
    for stage in reversed(STAGES.values()):
        for key in store.keys(stage):
            if key and key[0] == target_name:
                ref = Ref(stage.name, *key)
                yield of_result(store, ref, stage.name, "of the target", partial(store.find, ref))


def _beside(store: Store, target_name: str) -> Iterator[Prunable]:
    """Files that are no results."""
    for name in store.place.backups(f"{CHECKPOINTS}/{target_name}"):
        file = store.root / name
        lock = str(Ref(TRAINED_MODEL.name, target_name, file.stem))
        discard = partial(store.place.forget, file)
        yield Prunable("checkpoints", file, "of the target", lambda: True, lock, discard=discard)
    for what, folder, lock in (
        ("champions", champions.FOLDER, f"champion {target_name}"),
        ("records of the mirror", TRACKING_FOLDER, "mlflow"),
    ):
        under = f"{folder}/{target_name}"
        if store.place.entries(under, champions.REIGN) or store.place.documents(under):
            discard = partial(store.place.clear, under)
            yield Prunable(what, store.root / under, "of the target", lambda: True, lock, discard=discard)


def _remove_if_empty(folder: Path) -> None:
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
