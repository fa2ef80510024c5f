"""What in a store can be deleted without losing anything that counts, and deleting it.

- Checkpoints of trainings that are finished, checkpoints that were set aside, and what killed processes left half-made.
- Results of trainings that another version of the code made, or that were made from other data. Where a target's data
  is itself not up to date, nobody can tell yet whether its results are: they stay.
- Prepared images of a side length that no result, no training under way and no plan uses. They are made again on
  demand. The side of the paper's recipes stays: it shares its files with ``images``.

Never: what a champion keeps (its own folder, and the results of its training), and what a process works on.
"""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import time

from rkd_pipeline.errors import BadKey
from rkd_pipeline.operations.champions import current_champion, targets_with_champions
from rkd_pipeline.operations.rebenchmark import open_rounds
from rkd_pipeline.operations.work_orders import open_orders
from rkd_pipeline.recipes.plans import PLANS, PlannedTraining
from rkd_pipeline.recipes.training_key import TrainingKey
from rkd_pipeline.stages.datasets import FIRST_SIDE
from rkd_pipeline.stages.trained_model import CHECKPOINTS, SET_ASIDE, begun_trainings, checkpoint_file, recipe_changed
from rkd_pipeline.store.files import delete
from rkd_pipeline.store.result_store import Ref, Store
from rkd_pipeline.store.stage_versions import (
    ANOMALY_SCORES,
    EVIDENCE,
    EXPORTED_MODEL,
    METRICS,
    PREPARED_IMAGES,
    PRODUCT_MAPS,
    ROTATED_IMAGES,
    STAGES,
    TRAINED_MODEL,
    TRAINING_PAGE,
)

OF_A_TRAINING = (
    TRAINED_MODEL,
    ANOMALY_SCORES,
    METRICS,
    EVIDENCE,
    PRODUCT_MAPS,
    ROTATED_IMAGES,
    EXPORTED_MODEL,
    TRAINING_PAGE,
)
EXPORTS = ".export-*"  # models on their way to MLflow; a day old, nobody carries them any more
_DAY = 24 * 3600
_TEMPORARY = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{8}(\.old)?\.tmp")


@dataclass(frozen=True)
class Prunable:
    """Something that can be deleted.

    Attributes:
        what: for people.
        path: a file or a folder; None where it does not lie on this machine.
        why: it can go.
        ask: asked again, with the lock held, just before it is deleted: may it still go?
        lock: of whoever would write it.
        result: it is a finished result, which must vanish at once.
        at_rest: it can only be told to be unused while nobody is at work in the store.
        discard: how it is deleted, where that is more than deleting ``path``.
        stated: bytes that it has, where it does not lie on this machine.
    """

    what: str
    path: Path | None
    why: str
    ask: Callable[[], object] = field(repr=False, compare=False)
    lock: str
    result: Ref | None = None
    at_rest: bool = False
    discard: Callable[[], object] | None = field(default=None, repr=False, compare=False)
    stated: int = 0


def prunable(store: Store) -> list[Prunable]:
    """Everything that can be deleted, results first."""
    with store.one_look():
        found = [*_obsolete_results(store), *_unused_sides(store), *_checkpoints(store), *_leftovers(store)]
    return [*found, *_unreferenced(store)]


def _unreferenced(store: Store) -> Iterator[Prunable]:
    """Of a store in a bucket: what was replaced, and files that nothing refers to."""
    unused = store.place.unused()
    if unused:
        what, why = f"{len(unused)} objects", "replaced, or referred to by nothing for a day"
        yield Prunable(
            what,
            None,
            why,
            lambda: True,
            what,
            at_rest=True,
            discard=partial(store.place.discard, list(unused)),
            stated=sum(unused.values()),
        )


def prune(store: Store, items: Sequence[Prunable]) -> dict[str, str]:
    """Delete; returns what stayed, to the reason why."""
    stayed = {}
    for item in items:
        if item.at_rest and (busy := store.at_work()):
            stayed[item.what] = f"it may be in use: {', '.join(busy)} is at work"
            continue
        with store.lock_if_free(item.lock) as held:
            if not held:
                stayed[item.what] = "a process works on it"
            elif not item.ask():
                stayed[item.what] = "it is in use again"
            elif item.result is not None:
                store.remove(item.result)
            elif item.discard is not None:
                item.discard()
            elif item.path is not None:
                delete(item.path)
    return stayed


def sizes(items: Sequence[Prunable]) -> list[int]:
    """Bytes that each deletion gives back, in order. Files that lie elsewhere too (hard links) give none back.

    A file that several of the items share counts for the first of them.
    """
    files = [_files(item.path) for item in items]
    links = Counter(stat.st_ino for of_item in files for stat in of_item)
    counted: set[int] = set()
    found = []
    for item, of_item in zip(items, files, strict=True):
        mine = {s.st_ino: s.st_size for s in of_item if s.st_nlink <= links[s.st_ino] and s.st_ino not in counted}
        counted |= mine.keys()
        found.append(sum(mine.values()) if of_item else item.stated)
    return found


def _files(path: Path | None) -> list[os.stat_result]:
    if path is None:
        return []
    return [p.lstat() for p in (path.rglob("*") if path.is_dir() else [path]) if p.is_file()]


def _obsolete_results(store: Store) -> Iterator[Prunable]:
    champions_now = _champions_now(store)
    for stage in OF_A_TRAINING:
        for key in store.keys(stage):
            ref = Ref(stage.name, *key)
            ask = partial(_why_obsolete, store, ref)
            if key not in champions_now and (why := ask()):
                yield of_result(store, ref, str(ref), why, ask)


def of_result(
    store: Store, ref: Ref, what: str, why: str, ask: Callable[[], object], *, at_rest: bool = False
) -> Prunable:
    """A finished result as something that can be deleted; arguments as those of ``Prunable``."""
    result = store.find(ref)
    stated = sum(file["bytes"] for file in result.provenance.files.values()) if result else 0
    return Prunable(what, store.folder(ref), why, ask, str(ref), ref, at_rest, stated=stated)


def _champions_now(store: Store) -> set[tuple[str, ...]]:
    """Target and training of every champion."""
    found = (current_champion(store, name) for name in targets_with_champions(store))
    return {(champion.target, champion.training) for champion in found if champion is not None}


def _why_obsolete(store: Store, ref: Ref) -> str | None:
    """Why a training's result will never count again as it is; None while it may."""
    result = store.find(ref)
    if result is None:
        return None
    made = result.provenance
    stage = STAGES[made.stage]
    if made.stage_version != stage.version:
        return f"made by version {made.stage_version} of {made.stage}, now {stage.version}"
    if stage is TRAINED_MODEL and (reason := recipe_changed(result)):
        return reason
    for name, recorded in made.inputs.items():
        source = Ref.parse(name)
        of_a_training = source.stage in {s.name for s in OF_A_TRAINING}
        upstream = store.find(source)
        if of_a_training and upstream is None:
            return f"{name} is gone"
        if of_a_training and (reason := _why_obsolete(store, source)):
            return f"of {name}: {reason}"
        if upstream is not None and upstream.data_version != recorded and store.why_stale(upstream) is None:
            return f"made from another {name}"
    return None


def _unused_sides(store: Store) -> Iterator[Prunable]:
    used = _used_sides(store)
    for key in store.keys(PREPARED_IMAGES):
        ref = Ref(PREPARED_IMAGES.name, *key)
        if str(ref) not in used:
            why = "no result, no training under way and no plan uses this side"
            ask = partial(_is_unused, store, ref)
            yield of_result(store, ref, str(ref), why, ask, at_rest=True)


def _is_unused(store: Store, ref: Ref) -> bool:
    return str(ref) not in _used_sides(store)


def _used_sides(store: Store) -> set[str]:
    """Prepared images, as ``str(Ref)``, that something was made from or will be."""
    champions_now = _champions_now(store)
    used = {str(Ref(PREPARED_IMAGES.name, target, f"{FIRST_SIDE}px")) for target, _ in store.keys(PREPARED_IMAGES)}
    for stage in OF_A_TRAINING:
        for key in store.keys(stage):
            result = store.find(Ref(stage.name, *key))
            if result is not None and (key in champions_now or _why_obsolete(store, Ref(stage.name, *key)) is None):
                used.update(result.provenance.inputs)
    begun = [PlannedTraining(*cell) for cell in begun_trainings(store)]
    planned = [cell for plan in PLANS.values() for cell in plan()]
    asked = [cell for begun_round in open_rounds(store) for cell in begun_round.cells]
    asked += [cell for order in open_orders(store) for cell in order.cells]
    for cell in {*begun, *planned, *asked}:
        try:
            side = TrainingKey.parse(cell.training).recipe.side
        except BadKey:
            continue  # of a recipe that is no more
        used.add(str(Ref(PREPARED_IMAGES.name, cell.target, f"{side}px")))
    return used


def _checkpoints(store: Store) -> Iterator[Prunable]:
    for target_name, training in sorted(begun_trainings(store)):
        file = checkpoint_file(store, target_name, training)
        ref = _trained_by(file)
        if _is_finished(store, ref):
            ask = partial(_is_finished, store, ref)
            discard = partial(store.place.forget, file)
            what, why = f"checkpoint of {_words(ref)}", "its training is finished"
            yield Prunable(what, file, why, ask, str(ref), discard=discard)
    for file in sorted((store.root / CHECKPOINTS).glob(f"*/*{SET_ASIDE}")):
        ref = _trained_by(file)
        why = "it could not be resumed, and was set aside"
        yield Prunable(f"checkpoint of {_words(ref)}, set aside", file, why, file.exists, str(ref))


def _trained_by(checkpoint: Path) -> Ref:
    return Ref(TRAINED_MODEL.name, checkpoint.parent.name, checkpoint.stem)


def _words(ref: Ref) -> str:
    return " ".join(ref.key)


def _is_finished(store: Store, ref: Ref) -> bool:
    model = store.find(ref)
    return model is not None and store.why_stale(model) is None and recipe_changed(model) is None


def _leftovers(store: Store) -> Iterator[Prunable]:
    """What writers that died left under temporary names; the lock of a living one is held."""
    why = "whoever wrote it died"
    for path, name in _temporaries(store.root / CHECKPOINTS, "*/"):
        ref = _trained_by(path.with_name(name))
        yield Prunable(f"half a checkpoint of {_words(ref)}", path, why, path.exists, str(ref))
    for path, name in [t for depth in ("", "*/", "*/*/") for t in _temporaries(store.root, depth)]:
        stage, *key = (*path.parent.relative_to(store.root).parts, name)
        if stage in STAGES:
            ref = Ref(stage, *key)
            yield Prunable(f"half of {ref}", path, why, path.exists, str(ref))
    for path in sorted(store.root.glob(EXPORTS)):
        ask = partial(_is_old, path)
        if ask():
            yield Prunable(f"export {path.name}", path, "a process died while sending it", ask, path.name, at_rest=True)


def _temporaries(folder: Path, depth: str) -> Iterator[tuple[Path, str]]:
    """What has a temporary name, and the name it was to have."""
    for path in sorted(folder.glob(f"{depth}.*.tmp")):
        if match := _TEMPORARY.fullmatch(path.name):
            yield path, match["name"]


def _is_old(path: Path) -> bool:
    return path.exists() and time() - path.stat().st_mtime > _DAY
