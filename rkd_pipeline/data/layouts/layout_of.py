"""Which module reads which dataset."""

from collections.abc import Callable
from pathlib import Path

from rkd_pipeline.data.catalog import Target
from rkd_pipeline.data.image_files import Listing
from rkd_pipeline.data.layouts import brain_mri, head_ct, mvtec, retinal_oct

_READERS: dict[str, Callable[[Path, str], Listing]] = {
    "brain_mri": brain_mri.listing,
    "head_ct": head_ct.listing,
    "retinal_oct": retinal_oct.listing,
    "mvtec_ad": mvtec.listing,
    "demo": mvtec.listing,
}


def list_images(target: Target, folder: Path) -> Listing:
    """What a target of the catalog holds under its dataset's folder; ``DataError`` where the layout does not fit."""
    return _READERS[target.dataset](folder, target.category)
