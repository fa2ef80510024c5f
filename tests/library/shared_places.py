"""Places that several machines share, for tests: a mounted folder, and buckets on S3 servers that share no code."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import obstore
from obstore.store import LocalStore

from tests.conftest import need
from tests.library import s3_servers
from tests.library.s3_servers import BUCKET, S3Server

KINDS = ("folder", "moto", "ceph")
_HEADER = 2**16  # bytes, more than the header of a checkpoint has and less than a checkpoint


@dataclass(frozen=True)
class SharedPlace:
    """Where the machines' one store is.

    Attributes:
        address: for ``RKD_STORE``.
        environment: what a process needs to reach it.
        objects: the store's own part of the place.
        server: of a bucket.
        secrets: values that must stand nowhere.
    """

    address: str
    environment: dict[str, str]
    objects: Any
    server: S3Server | None = None
    secrets: tuple[str, ...] = ()

    def epochs(self, target: str, seed: int) -> int:
        """How far the checkpoint of a training is that other machines can go on from; 0 where there is none."""
        found = [name for name in self.names(f"backups/checkpoints/{target}") if name.endswith(f"s{seed}.safetensors")]
        return max(map(self._epochs_of, found), default=0)

    def names(self, under: str) -> list[str]:
        """Objects below a name."""
        return [str(entry["path"]) for batch in obstore.list(self.objects, under) for entry in batch]

    def _epochs_of(self, name: str) -> int:
        # The beginning of a safetensors file: its header's length, and the header. In one request: it may be replaced.
        try:
            beginning = bytes(obstore.get_range(self.objects, name, start=0, length=_HEADER))
        except FileNotFoundError:
            return 0
        header = json.loads(beginning[8 : 8 + int.from_bytes(beginning[:8], "little")])
        return int(header["__metadata__"]["progress"].count('"train_loss"'))


@contextmanager
def shared_place(kind: str, folder: Path) -> Iterator[SharedPlace]:
    """An empty place of one of ``KINDS``."""
    if kind == "folder":
        root = folder / "shared"
        root.mkdir(parents=True)
        yield SharedPlace(f"file://{root}", {}, LocalStore(root))
        return
    if kind == "ceph":
        need(
            s3_servers.has_ceph(),
            "Ceph is not installed (Debian: apt-get install ceph-mon ceph-osd ceph-common radosgw)",
        )
    serving = s3_servers.moto if kind == "moto" else s3_servers.ceph
    (folder / kind).mkdir(parents=True)
    with serving(folder / kind) as server:
        yield SharedPlace(
            f"s3://{BUCKET}/rkd",
            server.environment,
            server.objects("rkd"),
            server,
            (s3_servers.PASSWORD,),
        )
