"""Which module reads which dataset, and which files a target of it consists of."""

from collections.abc import Callable
from pathlib import Path

from rkd_pipeline.data.catalog import Target
from rkd_pipeline.data.image_files import Listing
from rkd_pipeline.data.layouts import bmad, brain_mri, dagm, head_ct, ksdd2, mvtec, retinal_oct, visa
from rkd_pipeline.data.layouts.listing import category_folder
from rkd_pipeline.data.layouts.litter import files_below

_READERS: dict[str, Callable[[Path, str], Listing]] = {
    "brain_mri": brain_mri.listing,
    "head_ct": head_ct.listing,
    "retinal_oct": retinal_oct.listing,
    "mvtec_ad": mvtec.listing,
    "demo": mvtec.listing,
    "visa": visa.listing,
    "btad": mvtec.listing,
    "mvtec_loco": mvtec.listing,
    "mvtec_ad_2": mvtec.listing,
    "mpdd": mvtec.listing,
    "ksdd2": ksdd2.listing,
    "dagm": dagm.listing,
    "bmad": bmad.listing,
}
# Where each category has a folder of its own. Another category's files then change nothing for a target.
_BY_CATEGORY: dict[str, Callable[[Path, str], Path]] = {
    **dict.fromkeys(("mvtec_ad", "visa", "btad", "mvtec_loco", "mvtec_ad_2", "mpdd", "dagm"), category_folder),
    "bmad": bmad.set_folder,
}


def list_images(target: Target, folder: Path) -> Listing:
    """What a target of the catalog holds under its dataset's folder; ``DataError`` where the layout does not fit."""
    return _READERS[target.dataset](folder, target.category)


def target_folder(target: Target, folder: Path) -> Path:
    """Where a target's files lie under its dataset's folder: that of its category, or the whole."""
    place = _BY_CATEGORY.get(target.dataset)
    return place(folder, target.category) if place else folder


def target_files(target: Target, folder: Path) -> list[Path]:
    """Every file that a target's results depend on: those of its folder, and a split that all categories share."""
    files = [p for p in files_below(target_folder(target, folder)) if p.is_file()]
    table = visa.split_table(folder) if target.dataset == "visa" else None
    return [*files, table] if table else files
