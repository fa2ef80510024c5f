"""Unpacking archives that nobody vouches for: nothing leaves the folder, nothing explodes, nothing is half there.

zip, and tar plain or with gzip, bzip2 or xz. Permissions, owners and times in the archive are ignored.

``tarfile.data_filter`` would be too mild: it makes absolute names relative and lets links within the folder pass, where
here both are refused; and it knows neither zip nor bombs, so that tar would be judged by other rules than zip.
"""

import lzma
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from rkd_pipeline.data.layouts.litter import in_litter
from rkd_pipeline.errors import DataError
from rkd_pipeline.progress import bar

# Images hardly compress: real archives of them grow by a few percent. Bombs grow a thousandfold.
LARGEST_GROWTH, SPARE_BYTES = 20, 64 << 20
MOST_FILES = 1_000_000
_CHUNK = 1 << 20
_GET = "get the archive again from the dataset's own source"


def unpack(archive: Path, into: Path) -> None:
    """Unpack an archive into an existing, empty folder.

    Raises ``DataError`` for an archive that is damaged, encrypted or of another kind; for a member that is a link or
    a device, is absolute or contains ``..``; for more bytes or files than an archive of images can hold; and where
    the disk fills up. The caller removes the folder then.
    """
    allowed = LARGEST_GROWTH * archive.stat().st_size + SPARE_BYTES
    written = files = 0
    try:
        with bar(archive.stat().st_size, f"unpack {archive.name}", "B", inner=True) as progress:
            for name, stream in _members(archive):
                target = into / _safe(name, archive)
                if in_litter(PurePosixPath(name)):
                    continue
                files += 1
                if files > MOST_FILES:
                    raise DataError(f"{archive} holds more than {MOST_FILES} files, which no dataset here does; {_GET}")
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("xb") as out:
                    while chunk := stream.read(_CHUNK):
                        written += len(chunk)
                        if written > allowed:
                            raise DataError(
                                f"{archive} unpacks to more than {allowed >> 20} MiB, over {LARGEST_GROWTH} times its "
                                f"size: a decompression bomb, or no archive of images; {_GET}"
                            )
                        out.write(chunk)
                progress.update(max(0, min(written, progress.total) - progress.n))
    except FileExistsError as error:
        raise DataError(f"{archive} holds {Path(str(error.filename)).relative_to(into)} twice; {_GET}") from error
    except (NotADirectoryError, IsADirectoryError) as error:
        raise DataError(f"{archive} holds a file and a folder of one name ({error.filename}); {_GET}") from error
    except (tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, EOFError) as error:
        raise DataError(f"{archive} is damaged or incomplete ({error}); {_GET}") from error
    except OSError as error:
        raise DataError(disk_message(error, into, f"unpack {archive.name}")) from error
    if not files:
        raise DataError(f"{archive} holds no files; {_GET}")


def disk_message(error: OSError, folder: Path, doing: str) -> str:
    """What to tell a user whose disk does not take a file."""
    free = shutil.disk_usage(folder).free if folder.exists() else 0
    return (
        f"cannot {doing} in {folder}: {error.strerror or error}; {free >> 20} MiB are free there. Free some space or "
        "give write permission, then run the same command again; nothing that looks whole was left behind"
    )


def _members(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Name and content of every regular file; raises ``DataError`` for what is neither file nor folder."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as opened:
            for info in opened.infolist():
                if info.is_dir():
                    _safe(info.filename, archive)
                    continue
                if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
                    raise _refused(archive, info.filename, "is a link or a device")
                if info.flag_bits & 1:
                    raise DataError(f"{archive} is encrypted; unpack it yourself into the data folder")
                # zipfile itself would turn "/etc/x" and "../x" into harmless names; the name as written is judged.
                with opened.open(info) as stream:
                    yield info.orig_filename.replace("\\", "/"), stream
    elif tarfile.is_tarfile(archive):
        with tarfile.open(archive) as opened:
            for member in opened:
                if member.isdir():
                    _safe(member.name, archive)
                    continue
                if not member.isreg():
                    raise _refused(archive, member.name, "is a link or a device")
                content = opened.extractfile(member)
                assert content is not None  # regular files have one
                with content:
                    yield member.name, content
    else:
        raise DataError(f"{archive} is neither a zip nor a tar archive, or is damaged; {_GET}")


def _safe(name: str, archive: Path) -> PurePosixPath:
    """A member's path, relative and without ``..``; raises ``DataError`` otherwise."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in (path.parts[0] if path.parts else "") or "\0" in name:
        raise _refused(archive, name, "would leave the folder it is unpacked into")
    if len(os.fsencode(str(path))) > 1000:
        raise _refused(archive, name[:60] + "...", "has a name that is too long")
    return path


def _refused(archive: Path, name: str, what: str) -> DataError:
    return DataError(f"{archive}: member {name!r} {what}; nothing was kept. {_GET[0].upper()}{_GET[1:]}")
