"""Where a dataset's files come from: on disk already, else a local archive, else a download. Nothing is half there.

Whatever is fetched ends up under ``RKD_DATA``, as if it had been there all along, with a note of where it came from.
"""

import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rkd_pipeline.data.catalog import Dataset, Target
from rkd_pipeline.data.download.archives import disk_message, unpack
from rkd_pipeline.data.download.transfer import download, shown
from rkd_pipeline.data.layouts.class_names import fold
from rkd_pipeline.data.layouts.layout_of import list_images
from rkd_pipeline.data.layouts.listing import folders_in
from rkd_pipeline.errors import BadFiles, DataError
from rkd_pipeline.store.files import file_sha256, link_or_copy, make_folder, sync, sync_tree
from rkd_pipeline.store.locks import locked

ORIGIN = ".rkd-origin.json"
_DEEPEST = 3  # folders that archives wrap around a dataset


@dataclass(frozen=True)
class Fetching:
    """What may be done to get a dataset that is absent.

    Attributes:
        archives: folder of archives that the user has downloaded.
        download: fetch from the network.
        urls: addresses by dataset, in place of the catalog's.
        say: shows licence and progress to the user.
    """

    archives: Path | None = None
    download: bool = False
    urls: dict[str, tuple[str, ...]] = field(default_factory=dict)
    say: Callable[[str], None] = lambda text: None


def addresses(mvtec_ad: str) -> dict[str, tuple[str, ...]]:
    """``RKD_MVTEC_AD_URLS``, separated by commas, as ``Fetching`` takes it."""
    urls = tuple(url.strip() for url in mvtec_ad.split(",") if url.strip())
    return {"mvtec_ad": urls} if urls else {}


def find_or_fetch(dataset: Dataset, target: Target, data_root: Path, fetching: Fetching) -> Path:
    """The folder of a dataset under ``data_root``, with this target's files in it.

    What is on disk is used as it is. Raises ``DataError`` saying what is expected where and how to get it; a failed
    attempt leaves no folder behind that looks like a dataset.
    """
    folder = dataset_folder(dataset, data_root)
    complaint = _complaint(dataset, target, folder)
    if complaint is None:
        return folder
    archive = None if dataset.archive is None else _local_archive(dataset, target, fetching)
    if archive is None and not (fetching.download and dataset.archive):
        raise DataError(f"{complaint}\n{_how_to_get(dataset, target, data_root, fetching)}")
    make_folder(data_root)
    with locked(data_root / f".{dataset.name}.lock"):
        if _complaint(dataset, target, folder) is None:  # another process was faster
            return folder
        fetching.say(terms(dataset))
        if archive is not None:
            _from_archive(dataset, target, archive, folder, fetching)
        elif dataset.archive and dataset.archive.kaggle:
            _from_kaggle(dataset, target, dataset.archive.kaggle, folder)
        else:
            _from_network(dataset, target, folder, fetching)
    return folder


def dataset_folder(dataset: Dataset, data_root: Path) -> Path:
    """Where a dataset is, or would be: a folder of its name, else one that the publisher's archive unpacks to.

    Raises ``DataError`` where several have such names.
    """
    if (data_root / dataset.name).exists() or not data_root.is_dir():
        return data_root / dataset.name
    names = {fold(name) for name in (dataset.name, *dataset.folders)}
    found = [p for p in folders_in(data_root) if fold(p.name) in names]
    if len(found) > 1:
        raise DataError(
            f"{data_root} holds {' and '.join(p.name for p in found)}, each of which could be {dataset.title}; "
            f"keep one, or name it {dataset.name}"
        )
    return found[0] if found else data_root / dataset.name


def terms(dataset: Dataset) -> str:
    """What a user must know before fetching a dataset."""
    size = dataset.archive.size if dataset.archive else None
    note = f"\n  note:    {dataset.note}" if dataset.note else ""
    return (
        f"{dataset.title}{f' ({size / 1e9:.1f} GB)' if size else ''}\n  licence: {dataset.licence}\n"
        f"  cite:    {dataset.citation}\n  source:  {dataset.source}{note}"
    )


def read_origin(folder: Path) -> dict[str, Any]:
    """Where fetched files came from; says so where they were not fetched by us."""
    file = folder / ORIGIN
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"from": "found on disk"}


def _complaint(dataset: Dataset, target: Target, folder: Path) -> str | None:
    """Why the files of a target are not there; None where they are."""
    if not folder.is_dir():
        return f"{dataset.title} is not at {folder}"
    try:
        list_images(target, folder)
    except DataError as error:
        return str(error)
    return None


def _how_to_get(dataset: Dataset, target: Target, data_root: Path, fetching: Fetching) -> str:
    ways = [
        f"Get it from {dataset.source} (licence: {dataset.licence}), unpack it so that {dataset.layout} exist, and set "
        f"RKD_DATA to the folder that holds {dataset.name}/ (now {data_root})"
    ]
    if dataset.archive:
        names = ", ".join(_archive_names(dataset, target))
        where = fetching.archives or "no folder yet"
        ways.append(f"or put its archive ({names}) into the folder RKD_ARCHIVES (now {where})")
        if dataset.archive.kaggle or dataset.archive.urls:
            ways.append(f"or let it be downloaded: rkd data fetch {dataset.name}, or RKD_DOWNLOAD=1")
    return ";\n".join(ways)


def _archive_names(dataset: Dataset, target: Target) -> list[str]:
    names = list(dataset.archive.names) if dataset.archive else []
    if dataset.name == "mvtec_ad":  # the publisher gives out single categories too
        names += [f"{target.category}.tar.xz", f"{target.category}.zip"]
    return names


def _local_archive(dataset: Dataset, target: Target, fetching: Fetching) -> Path | None:
    if fetching.archives is None:
        return None
    found = (fetching.archives / name for name in _archive_names(dataset, target))
    return next((path for path in found if path.is_file()), None)


def _from_archive(dataset: Dataset, target: Target, archive: Path, folder: Path, fetching: Fetching) -> None:
    """Unpack, check, move into place. The publisher's own file is recognised by its name and held to its SHA-256."""
    fetching.say(f"unpacking {archive}")
    digest = file_sha256(archive)
    official = dataset.archive
    if official and official.sha256 and archive.name == official.names[0] and digest != official.sha256:
        raise DataError(
            f"{archive} has the SHA-256 {digest}, the publisher's {official.sha256}: damaged or another "
            f"version. Get it again; if you packed it yourself, name it {official.names[-1]}"
        )
    with _workplace(folder) as temporary:
        unpack(archive, temporary)
        _install(dataset, target, temporary, folder, {"from": f"archive {archive.name}", "sha256": digest})


def _from_network(dataset: Dataset, target: Target, folder: Path, fetching: Fetching) -> None:
    official = dataset.archive
    assert official is not None  # find_or_fetch asked
    urls = fetching.urls.get(dataset.name) or official.urls
    if not urls or not (official.sha256 or official.md5):
        raise DataError(
            f"{dataset.title} has no address that it can be downloaded from and checked; get it from {dataset.source}, "
            f"and put {official.names[0]} into the folder RKD_ARCHIVES"
        )
    kept = fetching.archives or folder.parent / ".archives"
    try:
        archive = download(urls, kept, official.names[0], official.sha256, official.size, official.md5)
    except DataError as error:
        raise DataError(
            f"{error}\nRun the same command again; {_other_address(dataset)}or download "
            f"{official.names[0]} by hand from {dataset.source} and put it into the folder RKD_ARCHIVES"
        ) from error
    except OSError as error:
        raise DataError(disk_message(error, kept, "download")) from error
    digest = official.sha256 or file_sha256(archive)
    with _workplace(folder) as temporary:
        unpack(archive, temporary)
        note = {"from": "download", "urls": [shown(u) for u in urls], "sha256": digest}
        _install(dataset, target, temporary, folder, note)
    if kept != fetching.archives:
        archive.unlink()


def _other_address(dataset: Dataset) -> str:
    return "name another address in RKD_MVTEC_AD_URLS; " if dataset.name == "mvtec_ad" else ""


def _from_kaggle(dataset: Dataset, target: Target, handle: str, folder: Path) -> None:
    """Through ``kagglehub``, with the user's own credentials, which it finds by itself."""
    try:
        import kagglehub
    except ImportError:
        raise DataError(
            f"{dataset.title} is on Kaggle, which needs the package kagglehub: pip install kagglehub (and "
            f"Kaggle credentials), or download {handle} by hand and put the zip into the folder RKD_ARCHIVES"
        ) from None
    try:
        cached = Path(kagglehub.dataset_download(handle))
    except Exception as error:  # kagglehub raises its own, requests' and the file system's
        # Nothing of the original goes on, not as a cause either: its text or frames may hold the credentials.
        reason = type(error).__name__
        raise DataError(
            f"Kaggle did not give {handle} ({reason}); check ~/.kaggle/kaggle.json, or KAGGLE_USERNAME and KAGGLE_KEY, "
            "and that its terms are accepted on Kaggle's page, or put the zip into the folder RKD_ARCHIVES"
        ) from None
    with _workplace(folder) as temporary:
        shutil.copytree(cached, temporary, dirs_exist_ok=True, copy_function=_link)
        _install(dataset, target, temporary, folder, {"from": "Kaggle", "handle": handle, "version": cached.name})


def _link(source: str, destination: str) -> None:
    link_or_copy(Path(source), Path(destination))


@contextmanager
def _workplace(folder: Path) -> Iterator[Path]:
    """A temporary folder beside ``folder``, gone afterwards; leftovers of dead processes go too (the lock is held)."""
    for leftover in folder.parent.glob(f".{folder.name}.*.unpacking"):
        shutil.rmtree(leftover, ignore_errors=True)
    temporary = folder.parent / f".{folder.name}.{uuid.uuid4().hex[:8]}.unpacking"
    try:
        temporary.mkdir(parents=True)
        yield temporary
    except OSError as error:
        raise DataError(disk_message(error, folder.parent, f"unpack {folder.name}")) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _install(dataset: Dataset, target: Target, unpacked: Path, folder: Path, origin: dict[str, Any]) -> None:
    """Find the dataset among what was unpacked, check it, and rename it into place; what is there already stays."""
    base = _base(target, unpacked)
    found = list_images(target, base)
    if found.problems:
        raise BadFiles(f"{dataset.title} as unpacked", found.problems, skippable=False)
    counts = (sum(not p.anomalous for p in found.images), sum(p.anomalous for p in found.images))
    if target.counts is not None and counts != target.counts:
        raise DataError(
            f"what was unpacked holds {counts[0]} normal and {counts[1]} anomalous images of {target.name}; "
            f"officially {target.counts[0]} and {target.counts[1]}. It was removed; get it again from {dataset.source}"
        )
    note = origin | {"fetched": datetime.now(UTC).isoformat(timespec="seconds")}
    (base / ORIGIN).write_text(json.dumps(note, indent=1), encoding="utf-8")
    sync_tree(base)
    if not folder.exists():
        os.rename(base, folder)
        sync(folder.parent)
        return
    for entry in sorted(base.iterdir()):
        if not (folder / entry.name).exists():
            os.rename(entry, folder / entry.name)
    sync(folder)
    if complaint := _complaint(dataset, target, folder):
        raise DataError(f"{complaint}. It is an incomplete copy in the way; move {folder} aside and run this again")


def _base(target: Target, unpacked: Path) -> Path:
    """The folder whose layout fits, looking through what archives wrap around it."""
    level = [unpacked]
    reason = ""
    for _ in range(_DEEPEST + 1):
        for candidate in level:
            try:
                list_images(target, candidate)
            except DataError as error:
                reason = reason or str(error).replace(f"{unpacked}/", "")
            else:
                return candidate
        level = sorted(p for folder in level for p in folder.iterdir() if p.is_dir())
    raise DataError(f"what was unpacked does not look like {target.name} ({reason}); it was removed")
