"""A folder that people or machines put images into, and the model that scores what is new there: a champion, a
training that is named, or a file that ``rkd export`` wrote.

Nothing is trained. Rows of earlier images are kept; an image is scored again when its file changes or another model
takes over. A file that is still being written (younger than ``SETTLED`` seconds) waits for the next look.
"""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from PIL import Image

from rkd_pipeline.data.image_files import SUFFIXES, read_rgb, resized
from rkd_pipeline.data.layouts.litter import files_below
from rkd_pipeline.errors import DataError
from rkd_pipeline.names import shown
from rkd_pipeline.operations.champions import Champion, open_scorer, require_champion
from rkd_pipeline.operations.gate import threshold_of
from rkd_pipeline.operations.prediction import OVERLAY
from rkd_pipeline.store.files import canonical_json, text_sha256
from rkd_pipeline.store.result_store import Ref, Result, Store
from rkd_pipeline.store.stage_versions import SCORED_IMAGES, TRAINED_MODEL

if TYPE_CHECKING:
    from rkd_pipeline.operations.prediction import Scorer

EXPORTED = (".onnx", ".xml")  # names of files that `rkd export` writes, and anybody may open
SETTLED = 5.0
TABLE, STRIP = "scores.parquet", "newest.png"
SHOWN = 8
_BATCH = 32
COLUMNS = {
    "picture": "path relative to the folder; bytes that are no text spelled out",
    "fingerprint": "of size and time of the file, and whether it may be read",
    "model": "target and training that scored it, with the weights' data version; or the exported file, with its state",
    "score": "image score of the model's system: the map's maximum, or Multiresolution KD's loss",
    "threshold": "honest threshold of the model; empty where its recipe has none",
    "anomalous": "score above the threshold; empty without one",
    "problem": "why it could not be scored; empty otherwise",
}


@dataclass(frozen=True)
class Inbox:
    """What there is to do.

    Attributes:
        folder: that is watched.
        model: that scores, for people: target and training, or the file.
        version: the same with the weights' data version, or the state of the file, as rows name it.
        by: what scores: a champion, a target and its training, or an exported file.
        images: name to fingerprint.
        new: those that this model has not scored.
        files: name to the file itself.
    """

    folder: Path
    model: str
    version: str
    by: "Champion | tuple[str, str] | Path"
    images: dict[str, str]
    new: list[str]
    files: dict[str, Path]

    @property
    def key(self) -> str:
        """Equal for equal folders and models."""
        return text_sha256(canonical_json([self.version, self.images]))[:16]


def look(store: Store, folder: Path, named: str) -> Inbox:
    """What lies in the folder, and what of it is new.

    ``named`` is a target, whose champion scores, ``TARGET|TRAINING``, or the path of an exported file. Raises
    ``DataError`` where there is no folder or no such file, ``NoChampion`` or ``StoreError`` where there is no model.
    """
    from rkd_pipeline.results.figures.overlay import is_overlay

    if not folder.is_dir():
        raise DataError(f"{folder} is no folder; set RKD_WATCH to the one whose images are to be scored")
    by, model, version = _named(store, named)
    now = time.time()
    images, files = {}, {}
    for file in sorted(files_below(folder)):
        if file.suffix.lower() not in SUFFIXES:
            continue
        fingerprint, changed = _look_at(file)
        if fingerprint and now - changed >= SETTLED and not (file.name.endswith(OVERLAY) and is_overlay(file)):
            name = shown(file.relative_to(folder).as_posix())
            images[name], files[name] = fingerprint, file
    known = _known(store.find(Ref(SCORED_IMAGES.name)), f"{model} {version}")
    new = [name for name, fingerprint in images.items() if known.get(name) != fingerprint]
    return Inbox(folder, model, f"{model} {version}", by, images, new, files)


def _named(store: Store, named: str) -> "tuple[Champion | tuple[str, str] | Path, str, str]":
    """What scores, what it is called, and its version. An exported file is not opened: this is asked twice a minute."""
    if named.endswith(EXPORTED):
        parts = [Path(named), *([Path(named).with_suffix(".bin")] if named.endswith(".xml") else [])]
        if missing := [part for part in parts if not part.is_file()]:
            raise DataError(f"{missing[0]} does not exist; RKD_WATCH_MODEL names a file that `rkd export` wrote")
        return parts[0], named, " ".join(_look_at(part)[0] for part in parts)
    target, bar, training = named.partition("|")
    if bar:
        version = store.require(TRAINED_MODEL, target, training).data_version
        return (target, training), f"{target} {training}", version
    champion = require_champion(store, target)
    return champion, f"{target} {champion.training}", champion.model


def _look_at(file: Path) -> tuple[str, float]:
    """A file's fingerprint and when it changed, in seconds since 1970; empty for what is no file, or gone again.

    A file that may not be read, and a link that leads nowhere, have another one as soon as that is mended.
    """
    try:
        if file.is_dir():
            return "", 0.0
        status = file.stat() if file.exists() else file.lstat()
    except OSError:  # gone since it was listed
        return "", 0.0
    away = "" if os.access(file, os.R_OK) else " not readable"
    return f"{status.st_size} {status.st_mtime_ns}{away}", status.st_mtime


def _known(earlier: Result | None, version: str) -> dict[str, str]:
    if earlier is None or earlier.provenance.stage_version != SCORED_IMAGES.version:
        return {}
    rows = read_scored(earlier)
    rows = rows[rows["model"] == version]
    return dict(zip(rows["picture"], rows["fingerprint"], strict=True))


def read_scored(result: Result) -> pd.DataFrame:
    """The table of a ``scored_pictures`` result; columns as in ``COLUMNS``."""
    return pd.read_parquet(result.folder / TABLE)


def score_new(store: Store, inbox: Inbox) -> Result:
    """``scored_pictures``: a row per image in the folder, and the maps of the newest."""
    earlier = store.find(Ref(SCORED_IMAGES.name))
    kept = pd.DataFrame(columns=list(COLUMNS))
    if earlier is not None:
        rows = read_scored(earlier)
        wanted = rows["picture"].map(inbox.images)
        kept = rows[(rows["model"] == inbox.version) & (wanted == rows["fingerprint"])]

    def write(folder: Path) -> dict[str, Any]:
        fresh, strip = _score(store, inbox)
        table = pd.concat([f for f in (kept, fresh) if len(f)] or [kept]).sort_values("picture")
        table.to_parquet(folder / TABLE, index=False)
        table.to_csv((folder / TABLE).with_suffix(".csv"), index=False)
        (folder / STRIP).write_bytes(strip)
        return {
            "folder": str(inbox.folder),
            "model": inbox.model,
            "pictures": len(table),
            "new": len(fresh),
            "anomalous": int(table["anomalous"].fillna(False).sum()),
            "not_scored": int((table["problem"] != "").sum()),
        }

    parameters = {"model": inbox.version, "pictures": inbox.images}
    return store.produce(SCORED_IMAGES, [], write, parameters=parameters)


def _score(store: Store, inbox: Inbox) -> tuple[pd.DataFrame, bytes]:
    from rkd_pipeline.results.figures import map_strip, message

    scorer = _open_scorer(store, inbox)
    rows: list[dict[str, Any]] = []
    newest: list[tuple[int, str, np.ndarray, np.ndarray | None]] = []
    for start in range(0, len(inbox.new), _BATCH):
        good, problems = _readable(scorer, {name: inbox.files[name] for name in inbox.new[start : start + _BATCH]})
        scores, maps = scorer.score_prepared(list(good.values())) if good else (pd.DataFrame(), None)
        for row, (name, pixels) in enumerate(good.items()):
            value, called = float(scores["score"].iloc[row]), scores["anomalous"].iloc[row]
            rows.append({"picture": name, "score": value, "anomalous": called, "problem": ""})
            changed = int(inbox.images[name].split()[1])
            map_ = None if maps is None else maps[row]
            newest.append((changed, f"{Path(name).name[:24]}\n{value:.3f}", _as_large_as(map_, pixels), map_))
        rows += [{"picture": name, "problem": problem} for name, problem in problems.items()]
        newest = sorted(newest, key=lambda entry: entry[0])[-SHOWN:]
    table = pd.DataFrame(rows, columns=list(COLUMNS)).astype({"anomalous": "boolean", "score": "Float64"})
    table["fingerprint"] = table["picture"].map(inbox.images)
    table["model"], table["threshold"] = inbox.version, scorer.card.threshold
    if not newest:
        return table, message("No new image could be scored")
    captions = [caption for _, caption, _, _ in newest]
    images, found = np.stack([entry[2] for entry in newest]), [entry[3] for entry in newest if entry[3] is not None]
    shown = np.stack(found) if found else None
    return table, map_strip(images, shown, captions, f"newest images, {inbox.model}")


def _as_large_as(map_: np.ndarray | None, pixels: np.ndarray) -> np.ndarray:
    """The image below its map: exported files take images at their own size."""
    return pixels if map_ is None else resized(Image.fromarray(pixels), len(map_))


def _open_scorer(store: Store, inbox: Inbox) -> "Scorer":
    if isinstance(inbox.by, Path):
        from rkd_pipeline.detectors.graph_formats import ExportedFile

        return ExportedFile(inbox.by)
    if isinstance(inbox.by, Champion):
        return open_scorer(inbox.by)
    from rkd_pipeline.stages.export import model_in_place

    threshold, _ = threshold_of(store, *inbox.by)
    return model_in_place(store, store.require(TRAINED_MODEL, *inbox.by), threshold)


def _readable(scorer: "Scorer", files: Mapping[str, Path]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Images that decode, as the scorer takes them, and the others with the reason."""
    good, problems = {}, {}
    for name, file in files.items():
        try:
            good[name] = scorer.prepare(read_rgb(file))
        except DataError as error:
            problems[name] = str(error)
    return good, problems
