"""Which module reads which dataset."""

from collections.abc import Callable
from pathlib import Path

from rkd_pipeline.catalog import Target
from rkd_pipeline.datasets import brain_mri, head_ct, mvtec_layout, retinal_oct
from rkd_pipeline.datasets.pictures import Listing

_READERS: dict[str, Callable[[Path, str], Listing]] = {
    "brain_mri": brain_mri.listing,
    "head_ct": head_ct.listing,
    "retinal_oct": retinal_oct.listing,
    "mvtec_ad": mvtec_layout.listing,
    "demo": mvtec_layout.listing,
}


def list_pictures(target: Target, folder: Path) -> Listing:
    """What a target of the catalog holds under its dataset's folder; ``DataError`` where the layout does not fit."""
    return _READERS[target.dataset](folder, target.category)
