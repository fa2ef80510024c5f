"""Walking folders of pictures: what counts as one, what is ignored, what is reported."""

from collections.abc import Sequence
from pathlib import Path

from rkd_pipeline.datasets.pictures import SUFFIXES, Listing
from rkd_pipeline.errors import Problem

_LITTER = frozenset({"thumbs.db", "desktop.ini", "__macosx", "icon\r"})


def litter(path: Path) -> bool:
    """Files and folders that operating systems leave behind."""
    return path.name.startswith(".") or path.name.lower() in _LITTER


def relative(path: Path, folder: Path) -> str:
    """A picture's or mask's name: relative to the dataset's folder, with forward slashes."""
    return path.relative_to(folder).as_posix()


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
