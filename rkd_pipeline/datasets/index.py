"""The index of a target: one row per picture, every file decoded once and hashed."""

from pathlib import Path

import pandas as pd

from rkd_pipeline.catalog import Target
from rkd_pipeline.datasets.pictures import Picture, in_parallel, pixel_sha256, read_rgb
from rkd_pipeline.datasets.registry import list_pictures
from rkd_pipeline.errors import DataError
from rkd_pipeline.files import file_sha256

COLUMNS = {
    "image_id": "path relative to the dataset's folder",
    "anomalous": "label",
    "defect": "kind of defect, or good",
    "part": "the publisher's part, train or test; empty where there is no official split",
    "mask": "path of the ground-truth mask; empty where there is none",
    "mode": "PIL mode of the file as stored",
    "width": "pixels",
    "height": "pixels",
    "bytes": "file size",
    "file_sha256": "hash of the file",
    "pixel_sha256": "hash of the decoded RGB pixels; equal for copies",
}


def index_pictures(target: Target, folder: Path) -> pd.DataFrame:
    """The index of a target, columns as in ``COLUMNS``, sorted by ``image_id``.

    Raises ``DataError`` naming every file that does not decode, or saying how the layout does not fit.
    """
    listed = list_pictures(target, folder)
    if not listed:
        raise DataError(f"{folder} holds no pictures of {target.name}")

    def row(picture: Picture) -> dict[str, object]:
        from PIL import Image

        path = folder / picture.path
        rgb = read_rgb(path)
        with Image.open(path) as image:
            mode = image.mode
        if picture.mask is not None:
            read_rgb(folder / picture.mask)
        return {
            "image_id": picture.path,
            "anomalous": picture.anomalous,
            "defect": picture.defect,
            "part": picture.part or "",
            "mask": picture.mask or "",
            "mode": mode,
            "width": rgb.width,
            "height": rgb.height,
            "bytes": path.stat().st_size,
            "file_sha256": file_sha256(path),
            "pixel_sha256": pixel_sha256(rgb),
        }

    return pd.DataFrame(in_parallel(row, listed), columns=list(COLUMNS)).sort_values("image_id", ignore_index=True)


def check_counts(target: Target, index: pd.DataFrame) -> None:
    """Raises ``DataError`` where the index does not hold the official number of pictures per class."""
    found = (int((~index["anomalous"]).sum()), int(index["anomalous"].sum()))
    if found != target.counts:
        raise DataError(
            f"{target.name} has {found[0]} normal and {found[1]} anomalous pictures; officially {target.counts[0]} and "
            f"{target.counts[1]}. Remove what does not belong, or get the dataset again"
        )
