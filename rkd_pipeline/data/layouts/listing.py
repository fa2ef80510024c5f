"""Walking folders of images: what counts as one, what is ignored, what is reported, and what identifies it.

The rule of all layouts: whatever lies under a target's folder is used, or named with the reason.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from rkd_pipeline.data.image_files import SUFFIXES, Listing
from rkd_pipeline.data.layouts.class_names import GOOD_SHOWN, MASKS, fold, is_doubtful, is_good, plain
from rkd_pipeline.data.layouts.litter import entries_of, files_below
from rkd_pipeline.errors import DataError, Problem
from rkd_pipeline.names import printable
from rkd_pipeline.store.hashes import HashRecord, state_of

NORMAL = "good"  # what normal images have as their kind of defect, whatever their folder is called
_SHOWN = 10


def relative(path: Path, folder: Path) -> str:
    """An image's or mask's name: relative to the dataset's folder, with forward slashes."""
    return path.relative_to(folder).as_posix()


def is_image(path: Path) -> bool:
    """The file's suffix is that of an image, in whatever case."""
    return path.suffix.lower() in SUFFIXES


def content_listing(files: Iterable[Path], folder: Path, record: HashRecord, doing: str) -> str:
    """What identifies files wherever they lie and whenever they were copied: a line per file, sorted by name.

    Args:
        files: to list, each once.
        folder: that their names start from; a file elsewhere keeps its whole path.
        record: of hashes, so that a file is read once per state of it.
        doing: what the progress bar says.

    Returns ``name<tab>size in bytes<tab>SHA-256`` lines. Raises ``DataError`` naming a file that cannot be read.
    """
    paths = {p.relative_to(folder).as_posix() if p.is_relative_to(folder) else str(p): p for p in files}
    states = {}
    for name, path in sorted(paths.items()):
        if (state := state_of(path)) is None:
            raise DataError(f"{path} is gone while the files of {folder} are listed; bring it back, or run this again")
        states[name] = state
    try:
        hashes = record.of(folder, states, doing)
    except OSError as error:
        raise DataError(
            f"{error.filename or folder} cannot be read ({error.strerror}); give read permission, or remove the file"
        ) from error
    return "".join(f"{name}\t{state.size}\t{hashes[name]}\n" for name, state in states.items())


def folders_in(folder: Path) -> list[Path]:
    """The folders directly in one, sorted. Raises ``DataError`` where two names differ only in case."""
    found = [p for p in entries_of(folder) if p.is_dir()]
    spelled: dict[str, Path] = {}
    for path in found:
        if (other := spelled.setdefault(fold(path.name), path)) != path:
            raise DataError(f"{folder} holds {other.name} and {path.name}, which are one name; merge the two folders")
    return found


def child(folder: Path, name: str) -> Path | None:
    """The entry of this name, or the only one of it in another case or Unicode form; None where there is none.

    Raises ``DataError`` where several entries differ only so and none is exact.
    """
    exact = folder / name
    if exact.exists():
        return exact
    if not folder.is_dir():
        return None
    alike = [p for p in entries_of(folder) if fold(p.name) == fold(name)]
    if len(alike) > 1:
        raise DataError(f"{folder} holds {_and(p.name for p in alike)}, which are one name; keep one")
    return alike[0] if alike else None


def category_folder(folder: Path, category: str) -> Path:
    """The category's folder in its dataset's, in whatever case; ``folder`` itself where the category is empty."""
    return (child(folder, category) or folder / category) if category else folder


def one_called(folder: Path, names: frozenset[str], what: str) -> Path | None:
    """The folder in ``folder`` whose plain name is among ``names``. Raises ``DataError`` where there are several."""
    found = [p for p in folders_in(folder) if plain(p.name) in names]
    if len(found) > 1:
        raise DataError(
            f"{folder} holds {_and(p.name for p in found)}, each of which could be its {what}; keep or rename one"
        )
    return found[0] if found else None


def class_folders(folder: Path, root: Path, found: Listing) -> list[Path]:
    """Class folders, sorted, masks excepted; an image that lies beside them is a problem.

    Raises ``DataError`` where names leave open which class is normal.
    """
    images = [p for p in entries_of(folder) if not p.is_dir() and is_image(p)]
    found.problems += [
        Problem(relative(p, root), "lies beside the class folders, so its class is not known", "move it into one")
        for p in images
    ]
    classes = [p for p in folders_in(folder) if plain(p.name) not in MASKS]
    if images and not classes:
        raise DataError(
            f"{folder} holds images but no class folders, so nobody knows which are normal; move the normal ones into "
            f"{folder / NORMAL}"
        )
    good = [p for p in classes if is_good(p.name)]
    if len(good) > 1:
        raise DataError(
            f"{folder} holds {_and(p.name for p in good)}, which all mean normal; expected one folder named "
            f"{GOOD_SHOWN}: merge them"
        )
    if doubtful := [p.name for p in classes if is_doubtful(p.name)]:
        raise DataError(
            f"{folder} holds {_and(doubtful)}, which may be normal or anomalous; move its images to {NORMAL}, or name "
            "it after its kind of defect"
        )
    return classes


def images_in(folder: Path, root: Path, found: Listing) -> list[Path]:
    """Image files directly in a class folder, sorted; everything else in it, but litter, is a problem."""
    images = []
    for path in entries_of(folder):
        name = relative(path, root)
        if path.is_dir():
            found.problems.append(Problem(name, "is a folder inside a class folder", "move its images one level up"))
        elif not is_image(path):
            known = ", ".join(sorted(SUFFIXES))
            found.problems.append(Problem(name, f"is no image ({known})", "convert it, or move it elsewhere"))
        elif not _is_text(name):
            found.problems.append(Problem(printable(name), "its name is no UTF-8 text", "rename it"))
        elif not (path.is_file() or path.is_symlink()):
            found.problems.append(Problem(name, "is no file but a pipe or a device", "move it elsewhere"))
        else:
            images.append(path)
    if not images:
        found.warnings.append(f"{relative(folder, root)} holds no images")
    _refuse_masks_among(images, folder)
    return images


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # the bytes of another encoding, which Python keeps as lone surrogates
        return False
    return True


def _refuse_masks_among(images: list[Path], folder: Path) -> None:
    stems = {fold(p.stem) for p in images}
    folded = [(p.name, fold(p.stem)) for p in images]
    masks = [name for name, stem in folded if stem.endswith("_mask") and stem.removesuffix("_mask") in stems]
    if masks:
        raise DataError(
            f"{folder} holds {some(masks)}, which look like masks of the images beside them; move the masks into a "
            f"folder ground_truth/{folder.name} beside train and test (or masks/{folder.name} beside good and bad)"
        )


def name_the_rest(
    found: Listing,
    base: Path,
    root: Path,
    reasons: Mapping[Path, str],
    otherwise: str,
    read: Iterable[Path] = (),
) -> None:
    """Warn of whatever lies under ``base`` and is neither used nor a problem: one line per reason.

    Args:
        found: what is used, and what is a problem; receives the warnings.
        base: the target's folder.
        root: the dataset's, which names are relative to.
        reasons: why a file or folder is not used.
        otherwise: why everything else is not.
        read: further files that were used.
    """
    bad = {problem.path for problem in found.problems}
    names = {name for p in found.images for name in (p.path, p.mask) if name} | bad
    used = {root / name for name in names} | set(read)
    busy = {parent for path in used for parent in path.parents}
    rest: dict[str, Counter[Path]] = {}
    for file in files_below(base):
        if file in used:
            continue
        chain = [file, *(p for p in file.parents if p.is_relative_to(base))]
        if not used.isdisjoint(chain) or printable(relative(file, root)) in bad:
            continue
        reason = next((reasons[p] for p in chain if p in reasons), otherwise)
        whole = next(p for p in reversed(chain) if p not in busy)
        rest.setdefault(reason, Counter())[whole] += 1
    for reason, counts in rest.items():
        shown = [_shown(relative(p, root), count if p.is_dir() else None) for p, count in counts.items()]
        found.warnings.append(f"not used, since {reason}: {some(shown)}")


def _shown(name: str, files: int | None) -> str:
    text = printable(name)
    return text if files is None else f"{text}/ ({files} file{'s' if files > 1 else ''})"


def some(names: Iterable[str]) -> str:
    """Names for a report: ten of them, and how many more."""
    every = list(names)
    return ", ".join(every[:_SHOWN]) + (f" and {len(every) - _SHOWN} more" if len(every) > _SHOWN else "")


def _and(names: Iterable[str]) -> str:
    return " and ".join(names)
