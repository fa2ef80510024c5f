"""From a dataset's folder to arrays that are ready to train on."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rkd_pipeline.catalog import Target, dataset, target
from rkd_pipeline.datasets import demo
from rkd_pipeline.datasets.index import check_counts, index_pictures
from rkd_pipeline.datasets.prepare import prepare_masks, prepare_pictures
from rkd_pipeline.datasets.registry import locate
from rkd_pipeline.datasets.split import split, verify
from rkd_pipeline.errors import DataError
from rkd_pipeline.files import file_sha256, text_sha256
from rkd_pipeline.flow import DATASET_SOURCE, IMAGES, PREPARED_IMAGES, SPLIT
from rkd_pipeline.store import Result, Store


def find_source(store: Store, data_root: Path, dataset_name: str, *, demo_seed: int = demo.SEED) -> Result:
    """``dataset_source``: where a dataset's files are, and a listing whose change makes everything after it stale.

    Datasets on disk are used in place; the demo is generated into the store. Raises ``DataError`` where the dataset
    is absent.
    """
    described = dataset(dataset_name)
    if dataset_name == "demo":
        parameters: dict[str, Any] = {"generator": demo.VERSION, "seed": demo_seed}

        def write(folder: Path) -> dict[str, Any]:
            demo.generate(folder, demo_seed)
            return {"folder": "."}
    else:
        source = locate(described, data_root.resolve())
        listing = _listing(source)
        parameters = {"folder": str(source), "files": len(listing.splitlines()), "listing": text_sha256(listing)}

        def write(folder: Path) -> dict[str, Any]:
            (folder / "files.tsv").write_text(listing, encoding="utf-8")
            return {"folder": str(source)}

    return store.produce(DATASET_SOURCE, [dataset_name], write, parameters=parameters)


def source_folder(source: Result) -> Path:
    """The folder that holds the files of a ``dataset_source``."""
    return source.folder / source.facts["folder"]


def _listing(folder: Path) -> str:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    rows = ((p.relative_to(folder).as_posix(), p.stat()) for p in files)
    return "".join(f"{name}\t{stat.st_size}\t{stat.st_mtime_ns}\n" for name, stat in rows)


def index_images(store: Store, target_name: str) -> Result:
    """``images``: one row per picture, decoded and hashed. Raises ``DataError`` naming every damaged file."""
    wanted = target(target_name)
    source = store.require(DATASET_SOURCE, wanted.dataset)

    def write(folder: Path) -> dict[str, Any]:
        index = index_pictures(wanted, source_folder(source))
        index.to_parquet(folder / "index.parquet", index=False)
        normal = index[~index["anomalous"]]
        return {
            "normal": len(normal),
            "anomalous": int(index["anomalous"].sum()),
            "distinct_normal": int(normal["pixel_sha256"].nunique()),
            "modes": index["mode"].value_counts().to_dict(),
            "width": [int(index["width"].min()), int(index["width"].max())],
            "height": [int(index["height"].min()), int(index["height"].max())],
        }

    return store.produce(IMAGES, [target_name], write, inputs=[source])


def read_index(images: Result) -> pd.DataFrame:
    """The table of an ``images`` result."""
    return pd.read_parquet(images.folder / "index.parquet")


def split_images(store: Store, target_name: str) -> Result:
    """``split``: all repeats, checked. Raises ``DataError`` and writes nothing where counts or split are wrong."""
    wanted = target(target_name)
    images = store.require(IMAGES, target_name)

    def write(folder: Path) -> dict[str, Any]:
        index = read_index(images)
        check_counts(wanted, index)
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
    """``prepared_images``: pictures as uint8 ``(N, side, side, 3)``, and masks, in the order of the index."""
    wanted = target(target_name)
    images = store.require(IMAGES, target_name)
    source = store.require(DATASET_SOURCE, wanted.dataset)

    def write(folder: Path) -> dict[str, Any]:
        index = read_index(images)
        np.save(folder / "pictures.npy", prepare_pictures(index, source_folder(source), side))
        if wanted.has_masks:
            np.save(folder / "masks.npy", prepare_masks(index, source_folder(source), side))
        return {"pictures": len(index), "side": side, "resize": "PIL bilinear, no crop", "mask_rule": "> 0.5"}

    parameters = {"side": side}
    return store.produce(PREPARED_IMAGES, [target_name, f"{side}px"], write, parameters=parameters, inputs=[images])


class PreparedImages:
    """Memory-mapped pictures and masks of a target, looked up by picture id."""

    def __init__(self, prepared: Result, index: pd.DataFrame) -> None:
        self._folder = prepared.folder
        self._row = {name: row for row, name in enumerate(index["image_id"])}

    def pictures(self, image_ids: list[str]) -> np.ndarray:
        """uint8 ``(len(image_ids), side, side, 3)``."""
        return self._take("pictures.npy", image_ids)

    def masks(self, image_ids: list[str]) -> np.ndarray:
        """bool ``(len(image_ids), side, side)``; for targets that have masks."""
        return self._take("masks.npy", image_ids)

    def _take(self, file: str, image_ids: list[str]) -> np.ndarray:
        array = np.load(self._folder / file, mmap_mode="r")
        return array[[self._row[name] for name in image_ids]]


def open_prepared(store: Store, wanted: Target, side: int) -> tuple[Result, PreparedImages]:
    """Prepared pictures of a side length, made now if nobody has yet."""
    prepared = prepare_images(store, wanted.name, side)
    return prepared, PreparedImages(prepared, read_index(store.require(IMAGES, wanted.name)))
