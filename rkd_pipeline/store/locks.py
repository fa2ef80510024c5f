"""Locks that the kernel frees when a process dies, however it dies."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from rkd_pipeline.errors import StoreError

_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL}


@contextmanager
def locked(file: Path, folder: Path | None = None, *, timeout: float = -1) -> Iterator[None]:
    """Hold a lock for the block.

    Args:
        file: the lock file; it stays.
        folder: that the lock protects, for messages; the file's own where it is left out.
        timeout: seconds to wait; negative: for ever.

    Raises:
        filelock.Timeout: another process holds it.
        StoreError: the file system has no such locks. A lock that is only a file would stay behind when its process is
            killed, and is none between machines: it is never used in their place.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(file, fallback_to_soft=False)
    try:
        lock.acquire(timeout=timeout)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        raise StoreError(
            f"the file system of {folder or file.parent} has no locks (flock: {error}), so two processes "
            "could write the same file; put that folder on a local file system (RKD_STORE names the store, RKD_DATA "
            "the datasets), or have it mounted with flock"
        ) from error
    try:
        yield
    finally:
        lock.release()
