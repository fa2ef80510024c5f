"""Which module reads which dataset, and where a dataset's files are."""

from collections.abc import Callable
from pathlib import Path

from rkd_pipeline.catalog import Dataset, Target
from rkd_pipeline.datasets import brain_mri, head_ct, mvtec_layout
from rkd_pipeline.datasets.pictures import Picture
from rkd_pipeline.errors import DataError

_READERS: dict[str, Callable[[Path, str], list[Picture]]] = {
    "brain_mri": brain_mri.pictures,
    "head_ct": head_ct.pictures,
    "demo": mvtec_layout.pictures,
}


def list_pictures(target: Target, folder: Path) -> list[Picture]:
    """The pictures of a target under its dataset's folder; raises ``DataError`` where the layout does not fit."""
    return _READERS[target.dataset](folder, target.category)


def locate(dataset: Dataset, data_root: Path) -> Path:
    """The folder of a dataset under ``RKD_DATA``; raises ``DataError`` saying what is expected where."""
    folder = data_root / dataset.name
    if not folder.is_dir():
        raise DataError(
            f"{dataset.title} is not at {folder}. Get it from {dataset.source} (licence: {dataset.licence}), unpack it "
            f"so that {dataset.layout} exist, and set RKD_DATA to the folder that holds {dataset.name}/"
        )
    return folder
