"""Walking folders of pictures: what counts as one, what is ignored, what is reported, and what identifies it."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from rkd_pipeline.datasets.pictures import SUFFIXES, Listing
from rkd_pipeline.errors import DataError, Problem
from rkd_pipeline.hashes import HashRecord, state_of

_LITTER = frozenset({"thumbs.db", "desktop.ini", "__macosx", "icon\r"})


def litter(path: Path) -> bool:
    """Files and folders that operating systems leave behind."""
    return path.name.startswith(".") or path.name.lower() in _LITTER


def relative(path: Path, folder: Path) -> str:
    """A picture's or mask's name: relative to the dataset's folder, with forward slashes."""
    return path.relative_to(folder).as_posix()


def files_under(folder: Path) -> list[Path]:
    """Every file in a folder and in those below it, without litter. Raises ``DataError`` where one is unreadable."""

    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename} cannot be read ({error.strerror}); give read permission") from error

    found = []
    for place, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not litter(Path(name))]
        found += [path for name in names if not litter(path := Path(place, name)) and path.is_file()]
    return found


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


def subfolders(folder: Path, root: Path, found: Listing) -> list[Path]:
    """Class folders, sorted; a picture that lies beside them is a problem."""
    entries = sorted(p for p in folder.iterdir() if not litter(p))
    found.problems += [
        Problem(relative(p, root), "lies beside the class folders, so its class is not known", "move it into one")
        for p in entries
        if p.is_file() and p.suffix.lower() in SUFFIXES
    ]
    return [p for p in entries if p.is_dir()]


def pictures_in(folder: Path, root: Path, found: Listing) -> list[Path]:
    """Picture files directly in a class folder, sorted; everything else in it, but litter, is a problem."""
    pictures = []
    for path in sorted(folder.iterdir()):
        if litter(path):
            continue
        if path.is_dir():
            found.problems.append(
                Problem(relative(path, root), "is a folder inside a class folder", "move its pictures one level up")
            )
        elif path.suffix.lower() not in SUFFIXES:
            known = ", ".join(sorted(SUFFIXES))
            found.problems.append(
                Problem(relative(path, root), f"is no picture ({known})", "convert it, or move it elsewhere")
            )
        else:
            pictures.append(path)
    return pictures


def mask_of(stem: str, folder: Path, suffixes: Sequence[str] = (".png", *sorted(SUFFIXES - {".png"}))) -> Path | None:
    """The mask of a picture: ``<stem>_mask.*`` or ``<stem>.*``; None where there is none."""
    for name in (f"{stem}_mask", stem):
        for suffix in suffixes:
            path = folder / f"{name}{suffix}"
            if path.is_file():
                return path
    return None
