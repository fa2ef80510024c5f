"""Which mask belongs to which image: ``<masks>/<class>/<name>_mask.png``, or ``<name>.png``, or a folder ``<name>/``.

Suffix, case and Unicode form do not matter. A folder is MVTec LOCO's way: its masks are merged into one.
"""

from collections.abc import Iterator
from pathlib import Path

from rkd_pipeline.data.image_files import Listing
from rkd_pipeline.data.layouts.class_names import fold, is_good
from rkd_pipeline.data.layouts.listing import NORMAL, folders_in, is_image, relative, some
from rkd_pipeline.data.layouts.litter import entries_of
from rkd_pipeline.errors import DataError, Problem

_FORMS = ("{stem}_mask", "{stem}", "{stem}-mask", "{stem}.mask", "{stem}_gt", "{stem}_label", "{name}", "{name}_mask")


class MaskFolder:
    """The masks under a folder, by class and by the image that they are of.

    Args:
        folder: of masks, with a folder per class.
        root: the dataset's, which names are relative to.

    Raises ``DataError`` where masks lie directly in it, so that their class is not known.
    """

    def __init__(self, folder: Path, root: Path) -> None:
        self.folder, self.root = folder, root
        self._by_class: dict[str, tuple[Path, dict[str, list[Path]]]] = {}
        if not folder.is_dir():
            return
        if flat := [p.name for p in entries_of(folder) if not p.is_dir() and is_image(p)]:
            raise DataError(
                f"{folder} looks like masks, of which {flat[0]} and others lie directly in it; move them into a folder "
                f"named as the class of their images, such as {folder / 'bad'}"
            )
        for kind in folders_in(folder):
            masks: dict[str, list[Path]] = {}
            for path in entries_of(kind):
                if path.is_dir() or is_image(path):
                    masks.setdefault(fold(path.name if path.is_dir() else path.stem), []).append(path)
            self._by_class[_class(kind.name)] = kind, masks

    def of(self, image: Path, found: Listing) -> str | None:
        """The mask of an image, relative to the root; None where there is none, or where it is not clear which.

        What is wrong with it, the absence of an anomalous image's mask included, becomes a problem.
        """
        name, kind = relative(image, self.root), image.parent.name
        folder, masks = self._by_class.get(_class(kind), (self.folder / kind, {}))
        for form in _FORMS:
            paths = masks.get(fold(form.format(stem=image.stem, name=image.name)), [])
            if len(paths) > 1:
                found.problems.append(
                    Problem(name, f"has {len(paths)} masks: {', '.join(p.name for p in paths)}", "keep one of them")
                )
            if paths:
                return relative(paths[0], self.root) if len(paths) == 1 else None
        if not is_good(kind):
            expected = relative(folder / f"{image.stem}_mask.png", self.root)
            found.problems.append(Problem(name, "shows a defect but has no mask", f"expected {expected}"))
        return None

    def __iter__(self) -> Iterator[Path]:
        """Every mask, or folder of masks, of every class."""
        return (path for _, masks in self._by_class.values() for paths in masks.values() for path in paths)


def _class(name: str) -> str:
    """Classes are matched without case, and normal ones by what they mean: ``ok`` has the masks of ``good``."""
    return NORMAL if is_good(name) else fold(name)


def lone_masks(masks: MaskFolder, found: Listing) -> dict[Path, str]:
    """Masks that no image uses, with the reason."""
    used = {p.mask for p in found.images}
    return {m: "these masks belong to no image" for m in masks if relative(m, masks.root) not in used}


def warn_of_shared_masks(found: Listing) -> None:
    """Two images that differ only in their suffix have one mask between them: right for one of them at most."""
    users: dict[str, list[str]] = {}
    for image in found.images:
        if image.mask:
            users.setdefault(image.mask, []).append(image.path)
    shared = [f"{mask} of {' and '.join(names)}" for mask, names in users.items() if len(names) > 1]
    if shared:
        found.warnings.append(f"masks that several images share, which are right for one at most: {some(shared)}")
