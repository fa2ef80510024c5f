"""Locks that the kernel frees when a process dies, however it dies, and where they cannot be relied on."""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from rkd_pipeline.errors import StoreError

_OF_A_NETWORK = {"nfs", "nfs4", "cifs", "smb3", "lustre", "ceph", "glusterfs", "beegfs", "gpfs", "afs"}
_LOCAL_FUSE = {"fuse.fuse-overlayfs"}  # under containers of users without rights
_MOUNTS = Path("/proc/self/mountinfo")
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


def network_file_system(folder: Path) -> str | None:
    """The kind of file system that a folder lies on, or would, where that is one of a network; else None.

    There, kernels of several machines see the same files, and a lock of one of them may mean nothing to the others.
    Linux says what is mounted; elsewhere it is not known, and None.
    """
    try:
        lines = _MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return None
    mounts = {}  # of one mounted over another, the last counts
    for line in lines:
        about, _, source = line.partition(" - ")
        mounts[re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), about.split(" ")[4])] = source.split(" ")[0]
    path = folder.resolve()
    kinds = (mounts[str(at)] for at in (path, *path.parents) if str(at) in mounts)
    kind = next(kinds, "")
    is_network = kind in _OF_A_NETWORK or (kind.startswith("fuse.") and kind not in _LOCAL_FUSE)
    return kind if is_network else None
