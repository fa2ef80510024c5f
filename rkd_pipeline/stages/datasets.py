"""From a dataset's folder to arrays that are ready to train on."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rkd_pipeline.data.catalog import Target
from rkd_pipeline.data.download.fetch import Fetching, find_or_fetch, read_origin
from rkd_pipeline.data.image_files import MASK_RULE, Listing
from rkd_pipeline.data.index import MASKS, PIXELS, check_counts, index_listing
from rkd_pipeline.data.layouts.layout_of import list_images, target_files
from rkd_pipeline.data.layouts.listing import content_listing
from rkd_pipeline.data.layouts.litter import files_below
from rkd_pipeline.data.prepare import prepare_arrays
from rkd_pipeline.data.rows import Rows
from rkd_pipeline.data.split import split, verify
from rkd_pipeline.data.user_targets import targets_in
from rkd_pipeline.errors import DataError, StoreError
from rkd_pipeline.store.files import bytes_sha256, file_sha256, link_or_copy
from rkd_pipeline.store.result_store import Ref, Result, Store
from rkd_pipeline.store.stage_versions import DATASET_SOURCE, IMAGES, PREPARED_IMAGES, SPLIT

FIRST_SIDE = 224  # of the paper's recipes; made in the pass that decodes for the index


def find_source(
    store: Store,
    data_root: Path,
    target_name: str,
    *,
    fetching: Fetching | None = None,
    demo_seed: int | None = None,
) -> Result:
    """``dataset_source``: where a target's files are, and a listing whose change makes everything after it stale.

    The listing holds names, sizes and hashes: the same files elsewhere, or with other times, change nothing.
    Datasets on disk are used in place; an absent one is unpacked or downloaded where ``fetching`` allows it; the demo
    is generated into the store. One result per target, so that a new category of a dataset leaves the others alone.
    Raises ``DataError`` where the files are absent.
    """
    wanted, described = targets_in(store).target(target_name), targets_in(store).dataset_of(target_name)
    if wanted.dataset == "demo":
        from rkd_pipeline.data import synthetic

        seed = synthetic.SEED if demo_seed is None else demo_seed
        made: dict[str, Any] = {"generator": synthetic.VERSION, "seed": seed}

        def generate(folder: Path) -> dict[str, Any]:
            synthetic.generate(folder, seed, [wanted.category])
            return {"folder": "."}

        return store.produce(DATASET_SOURCE, [target_name], generate, parameters=made)

    if wanted.own:
        source = targets_in(store).entries()[target_name].root
    else:
        source = find_or_fetch(described, wanted, data_root.resolve(), fetching or Fetching())
    files = _source_files(store, wanted, source)
    with store.machine_lock(f"files of {target_name}"):  # two processes would read every file twice
        listing = _listing(store, target_name, files, source)
    parameters = {"folder": str(source), "files": len(files), "listing": bytes_sha256(listing)}

    def write(folder: Path) -> dict[str, Any]:
        (folder / "files.tsv").write_bytes(listing)
        return {"folder": str(source), "origin": read_origin(source)}

    return store.produce(DATASET_SOURCE, [target_name], write, parameters=parameters)


def changed_source(store: Store, target_name: str) -> str | None:
    """A fingerprint of a target's files where they differ from what its ``dataset_source`` lists; None otherwise.

    ``gone`` where they can no longer be read. The demo is generated and never changes; what another version of the
    stage has listed is stale for that, and was listed by another rule.
    """
    source = store.find(Ref(DATASET_SOURCE.name, target_name))
    if source is None or source.provenance.stage_version != DATASET_SOURCE.version:
        return None
    if "listing" not in source.provenance.parameters:
        return None
    wanted, root = targets_in(store).target(target_name), source_folder(source)
    try:
        listing = bytes_sha256(_listing(store, target_name, _source_files(store, wanted, root), root))
    except (DataError, OSError):
        return "gone"
    return None if listing == source.provenance.parameters["listing"] else listing[:16]


def _source_files(store: Store, wanted: Target, root: Path) -> list[Path]:
    """What a target's results depend on, under the folder of its source."""
    if wanted.own:
        entry = targets_in(store).entries()[wanted.name]
        return _own_files(entry.path, entry.listing())
    return target_files(wanted, root)


def source_folder(source: Result) -> Path:
    """The folder that holds the files of a ``dataset_source``."""
    return source.folder / source.facts["folder"]


def _own_files(path: Path, listing: Listing) -> list[Path]:
    """What an own target's results depend on: a folder's files and a table beside it, or a manifest and its images."""
    if path.is_dir():
        return [*(p for p in files_below(path) if p.is_file()), *listing.beside]
    named = [name for p in listing.images for name in (p.path, p.mask) if name]
    return [path, *(path.parent / name for name in dict.fromkeys(named))]


def _listing(store: Store, target_name: str, files: list[Path], folder: Path) -> bytes:
    """Names as the file system has them, which need not be UTF-8."""
    record = store.hashes("files", target_name)
    return os.fsencode(content_listing(files, folder, record, f"hash the files of {target_name}"))


def index_images(store: Store, target_name: str, *, skip_bad: bool = False) -> Result:
    """``images``: one row per image, decoded and hashed, with the arrays of the paper's side length.

    ``skip_bad`` (or the target's own entry) leaves out files that cannot be used, by name. Raises ``BadFiles``, which
    names every one of them, otherwise.
    """
    wanted = targets_in(store).target(target_name)
    source = store.require(DATASET_SOURCE, target_name)
    entry = targets_in(store).entries()[target_name] if wanted.own else None
    skip = skip_bad or (entry is not None and entry.skip_bad)

    def write(folder: Path) -> dict[str, Any]:
        files = source_folder(source)
        listing = entry.listing() if entry else list_images(wanted, files)
        index = index_listing(wanted, files, listing, FIRST_SIDE, folder, skip_bad=skip)
        index.table.to_parquet(folder / "index.parquet", index=False)
        table = index.table
        normal = table[~table["anomalous"]]
        return {
            "normal": len(normal),
            "anomalous": int(table["anomalous"].sum()),
            "distinct_normal": int(normal["pixel_sha256"].nunique()),
            "with_mask": int((table["mask"] != "").sum()),
            "variant": index.variant,
            "modes": table["mode"].value_counts().to_dict(),
            "width": [int(table["width"].min()), int(table["width"].max())],
            "height": [int(table["height"].min()), int(table["height"].max())],
            "skipped": [str(problem) for problem in index.skipped],
            "warnings": index.warnings,
        }

    if skip and (flawless := store.current(IMAGES, [target_name], {"skip_bad": False}, [source])):
        return flawless  # nothing had to be left out
    return store.produce(IMAGES, [target_name], write, parameters={"skip_bad": skip}, inputs=[source])


def read_index(images: Result) -> pd.DataFrame:
    """The table of an ``images`` result."""
    return pd.read_parquet(images.folder / "index.parquet")


def data_note(wanted: Target, images: Result) -> str:
    """What every result from these images must say about them; empty where there is nothing to say."""
    facts, notes = images.facts, []
    if skipped := len(facts["skipped"]):
        total = facts["normal"] + facts["anomalous"] + skipped
        notes.append(f"without {skipped} of {total} files, which could not be used")
    sides = sorted({*facts["width"], *facts["height"]})
    if wanted.side is not None and sides != [wanted.side]:
        found = " to ".join(str(side) for side in dict.fromkeys((sides[0], sides[-1])))
        notes.append(f"not the publisher's files: images of {found} pixels, the publisher's have {wanted.side}")
    return "; ".join(notes)


def split_images(store: Store, target_name: str) -> Result:
    """``split``: all repeats, checked. Raises ``DataError`` and writes nothing where counts or split are wrong."""
    wanted = targets_in(store).target(target_name)
    images = store.require(IMAGES, target_name)

    def write(folder: Path) -> dict[str, Any]:
        index = read_index(images)
        check_counts(wanted, index, len(images.facts["skipped"]))
        rows = split(wanted, index)
        record = verify(wanted, index, rows)
        file = folder / "split.parquet"
        rows.to_parquet(file, index=False)
        return {"verified": {"sha256": file_sha256(file), **record}}

    return store.produce(SPLIT, [target_name], write, inputs=[images])


def read_verified_split(split_result: Result) -> pd.DataFrame:
    """The table of a ``split`` result; raises ``DataError`` unless its verified record matches the file."""
    file = split_result.folder / "split.parquet"
    record = split_result.facts.get("verified")
    if record is None or record["sha256"] != file_sha256(file):
        raise DataError(
            f"{file} is not the split that was verified; delete {split_result.folder} and materialise it again"
        )
    return pd.read_parquet(file)


def prepare_images(store: Store, target_name: str, side: int) -> Result:
    """``prepared_images``: images as uint8 ``(N, side, side, 3)``, and masks, in the order of the index.

    The first side length was made with the index and is linked, not copied; others are decoded here, once.
    """
    images = store.require(IMAGES, target_name)
    source = store.require(DATASET_SOURCE, target_name)

    def write(folder: Path) -> dict[str, Any]:
        if side == FIRST_SIDE:
            for name in (PIXELS, MASKS):
                if (images.folder / name).exists():
                    link_or_copy(images.folder / name, folder / name)
        else:
            prepare_arrays(read_index(images), source_folder(source), side, folder)
        count = images.facts["normal"] + images.facts["anomalous"]
        return {"pictures": count, "side": side, "resize": "PIL bilinear, no crop", "mask_rule": MASK_RULE}

    parameters = {"side": side}
    return store.produce(PREPARED_IMAGES, [target_name, f"{side}px"], write, parameters=parameters, inputs=[images])


class PreparedArrays:
    """Memory-mapped images and masks of a target, looked up by image id."""

    def __init__(self, prepared: Result, index: pd.DataFrame) -> None:
        self._folder = prepared.folder
        self._row = {name: row for row, name in enumerate(index["image_id"])}

    @property
    def has_masks(self) -> bool:
        """Some images have a ground-truth mask."""
        return (self._folder / MASKS).exists()

    def images(self, image_ids: list[str]) -> Rows:
        """uint8 ``(len(image_ids), side, side, 3)``, read when they are asked for."""
        return self._rows(PIXELS, image_ids)

    def masks(self, image_ids: list[str]) -> np.ndarray:
        """bool ``(len(image_ids), side, side)``; for targets that have masks."""
        return self._rows(MASKS, image_ids)[:]

    def _rows(self, file: str, image_ids: list[str]) -> Rows:
        return Rows(np.load(self._folder / file, mmap_mode="r"), [self._row[name] for name in image_ids])


def require_prepared(store: Store, target_name: str, side: int) -> Result:
    """Prepared images of a size; raises ``StoreError`` with the fix where nobody has made them, or they are stale."""
    try:
        return store.require(PREPARED_IMAGES, target_name, f"{side}px")
    except StoreError as error:
        raise StoreError(f"{error}. The asset resized_images makes the size that a training reads") from error


def open_prepared(store: Store, target_name: str, side: int) -> tuple[Result, PreparedArrays]:
    """Prepared images of a size, opened; raises as ``require_prepared`` does."""
    prepared = require_prepared(store, target_name, side)
    return prepared, PreparedArrays(prepared, read_index(store.require(IMAGES, target_name)))
