"""Downloading one large file: progress, resuming, several addresses, and the SHA-256 before anyone reads it.

pooch verifies and moves into place; what it lacks is here, as the downloader that it calls: a part that survives an
interruption and is continued, and errors that say what to do.
"""

import errno
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from rkd_pipeline.data.download.archives import disk_message
from rkd_pipeline.errors import DataError
from rkd_pipeline.progress import bar
from rkd_pipeline.store.files import sync

ATTEMPTS = 3
_CHUNK = 1 << 16
_TIMEOUT = (10, 60)  # seconds to connect, and between two pieces


class DownloadError(DataError):
    """One address did not give the file. ``fatal``: no other address would help."""

    def __init__(self, text: str, *, fatal: bool = False) -> None:
        super().__init__(text)
        self.fatal = fatal


def download(
    urls: Sequence[str], folder: Path, name: str, sha256: str | None, size: int | None = None, md5: str | None = None
) -> Path:
    """``folder/name``, downloaded unless it is there and intact.

    Args:
        urls: tried in this order.
        folder: where the file goes; made where it is absent.
        name: of the file.
        sha256: of its bytes, 64 hex digits; None where ``md5`` has to do.
        size: in bytes, where it is known: an address that announces another size is not read.
        md5: of its bytes, 32 hex digits: it tells a damaged file, though not a forged one.

    Raises:
        DataError: no address gave the file; names each with its reason. What was received so far stays in
            ``.<name>.part``, and the next call goes on from there.
    """
    import pooch

    folder.mkdir(parents=True, exist_ok=True)
    expected, kind = (f"sha256:{sha256}", "SHA-256") if sha256 else (f"md5:{md5}", "MD5")
    failures = []
    for url in urls:
        resumable = _Resuming(folder / f".{name}.part", size)
        for _ in range(2):  # a part that was continued and turns out wrong is worth one fresh start
            try:
                fetched = Path(pooch.retrieve(url, expected, name, folder, downloader=resumable))
                sync(fetched)
                sync(folder)
                return fetched
            except DownloadError as error:
                failures.append(f"{shown(url)}: {error}")
                if error.fatal:
                    raise DataError(failures[-1]) from error
                break
            except ValueError:  # pooch: the hash differs, and the file is removed
                if not resumable.resumed:
                    other = f"gives a file with another {kind} than {sha256 or md5}; it was removed"
                    failures.append(f"{shown(url)}: {other}")
                    break
    raise DataError(f"{name} could not be downloaded\n  " + "\n  ".join(failures))


def shown(url: str) -> str:
    """An address without user, password and query, for messages."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    return urlunsplit((parts.scheme, f"{host}:{parts.port}" if parts.port else host, parts.path, "", ""))


class _Resuming:
    """A downloader for pooch that continues a part."""

    def __init__(self, part: Path, size: int | None) -> None:
        self._part, self._size = part, size
        self.resumed = False

    def __call__(self, url: str, output_file: Any, pooch: Any, check_only: bool = False) -> None:
        """Fetch ``url`` into ``output_file``. Raises ``DownloadError``."""
        import requests

        self.resumed = self._part.exists() and self._part.stat().st_size > 0
        for attempt in range(ATTEMPTS):
            before = self._have()
            try:
                if self._transfer(url):
                    os.replace(self._part, output_file)
                    return
                reason = f"the connection ended after {self._have()} of {self._size} bytes"
            except requests.RequestException as error:
                reason = f"{type(error).__name__} after {self._have()} bytes"
            except OSError as error:
                fatal = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS)
                raise DownloadError(disk_message(error, self._part.parent, "download"), fatal=fatal) from error
            self.resumed = self.resumed or before > 0
            if attempt + 1 < ATTEMPTS:
                time.sleep(0.2 * 4**attempt)
        raise DownloadError(f"{reason}, {ATTEMPTS} times; run the same command again, it goes on from there")

    def _have(self) -> int:
        return self._part.stat().st_size if self._part.exists() else 0

    def _transfer(self, url: str) -> bool:
        """One connection; True when the file is complete."""
        import requests

        have = self._have()
        if self._size is not None and have == self._size:
            return True
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
        with requests.get(url, stream=True, timeout=_TIMEOUT, headers=headers) as response:
            if response.status_code == 416:  # the part is longer than the file: it belongs to something else
                self._part.unlink()
                return False
            if response.status_code not in (200, 206):
                raise DownloadError(f"the server answers {response.status_code} {response.reason}".strip())
            if response.status_code == 200:  # no ranges here: from the start
                have = 0
            total = self._total(response.headers, have)
            self._check_space(total, have)
            with (
                self._part.open("ab" if have else "wb") as out,
                bar(total or 0, f"download {self._part.name[1:-5]}", "B") as progress,
            ):
                progress.skip(have)
                for chunk in response.iter_content(_CHUNK):
                    out.write(chunk)
                    progress.update(len(chunk))
        return total is None or self._have() == total

    def _total(self, headers: Any, have: int) -> int | None:
        length = headers.get("Content-Length")
        total = have + int(length) if length is not None else None
        if total is not None and self._size is not None and total != self._size:
            raise DownloadError(f"the server offers {total} bytes, not {self._size}: another version, or an error page")
        self._size = self._size if self._size is not None else total
        return self._size

    def _check_space(self, total: int | None, have: int) -> None:
        free = shutil.disk_usage(self._part.parent).free
        if total is not None and total - have > free:
            raise OSError(errno.ENOSPC, f"{(total - have) >> 20} MiB more are needed")
