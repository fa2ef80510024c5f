"""What operating systems, network drives, browsers and notebooks leave among images: one list, for every way in.

``add-target``, ``predict``, the watched folder and archives all ask here: a file is litter everywhere or nowhere.
"""

import os
from collections.abc import Iterator
from pathlib import Path, PurePath

from rkd_pipeline.errors import DataError

_NAMES = frozenset(
    {
        "thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "recycler", "system volume information",  # Windows
        "__macosx", "icon\r", "network trash folder", "temporary items", "thevolumesettingsfolder",  # macOS
        "@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "@tmp",  # Synology and QNAP
        "lost+found", "__pycache__", "picasa.ini",
    }
)  # fmt: skip
_STARTS = (".", "~$")  # hidden on Unix and macOS (.git, ._copy.png, .ipynb_checkpoints, .Trash-1000); Office's locks
_ENDS = ("zone.identifier", ":encryptable", "@synoeastream", "@synoresource", "~")  # streams as files; editors' copies


def is_litter(name: str) -> bool:
    """A file or folder of this name belongs to a system or a program, not to the data.

    >>> [is_litter(n) for n in (".DS_Store", "@eaDir", "THUMBS.DB", "a.png:Zone.Identifier", "a.png", "@home")]
    [True, True, True, True, False, False]
    """
    folded = name.casefold()
    return folded in _NAMES or folded.startswith(_STARTS) or folded.endswith(_ENDS)


def in_litter(path: PurePath) -> bool:
    """A part of this path, which is relative to the folder that people named, is litter."""
    return any(map(is_litter, path.parts))


def entries_of(folder: Path) -> list[Path]:
    """What lies directly in a folder, without litter, sorted. Raises ``DataError`` where it cannot be read."""
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder")
    try:
        return sorted(p for p in folder.iterdir() if not is_litter(p.name))
    except OSError as error:
        raise _unreadable(folder, error) from error


def files_below(folder: Path) -> Iterator[Path]:
    """Every file under a folder but litter, sorted within each folder; links to folders are followed, each folder once.

    Links that lead nowhere come too: whoever opens them can say so. Raises ``DataError`` where a folder cannot be read.
    """

    def stop(error: OSError) -> None:
        raise _unreadable(Path(error.filename or folder), error)

    seen = {os.path.realpath(folder)}
    for place, folders, files in os.walk(folder, onerror=stop, followlinks=True):
        kept = []
        for name in sorted(folders):
            real = os.path.realpath(os.path.join(place, name))
            if not is_litter(name) and real not in seen:
                seen.add(real)
                kept.append(name)
        folders[:] = kept
        yield from (Path(place, name) for name in sorted(files) if not is_litter(name))


def _unreadable(folder: Path, error: OSError) -> DataError:
    return DataError(f"{folder} cannot be read ({error.strerror}); give read permission, or copy it")
