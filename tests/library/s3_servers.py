"""S3 servers for tests, on loopback: moto, which keeps objects in memory, and Ceph's gateway where Debian's is there.

Two that share no line of code. Ceph's keeps its objects in another process: the gateway can be killed and started
again.
"""

import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import obstore
from obstore.store import S3Store

from tests.integration.servers import free_port, wait_until

KEY, PASSWORD, BUCKET = "rkdrkdrkdrkdrkdrkdrk", "another-secret", "results"
CEPH = ("ceph-mon", "ceph-osd", "radosgw", "ceph", "monmaptool", "radosgw-admin", "ceph-authtool")
_START = 180  # seconds


@dataclass
class S3Server:
    """A running server.

    Attributes:
        name: of what it is.
        endpoint: its address.
        command: what starts it.
    """

    name: str
    endpoint: str
    command: list[str]
    folder: Path
    process: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to use it."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": PASSWORD,
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def start(self) -> None:
        """Until it answers."""
        with (self.folder / f"{self.name}.log").open("ab") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log, start_new_session=True)
        wait_until(lambda: answers_at_all(self.endpoint), self.name, _START)

    def kill(self) -> None:
        """As where its machine is switched off; what it keeps elsewhere stays."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def objects(self, prefix: str = "") -> Any:
        """The bucket, or a part of it, for obstore."""
        return S3Store(
            BUCKET,
            prefix=prefix or None,
            endpoint=self.endpoint,
            access_key_id=KEY,
            secret_access_key=PASSWORD,
            region="us-east-1",
            client_options={"allow_http": True},
            virtual_hosted_style_request=False,
        )

    def names(self) -> list[str]:
        """Every object of the bucket."""
        return [str(entry["path"]) for batch in obstore.list(self.objects()) for entry in batch]


def answers_at_all(address: str) -> bool:
    """Whether a server answers, with whatever status."""
    try:
        urllib.request.urlopen(address, timeout=10)
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


@contextmanager
def moto(folder: Path) -> Iterator[S3Server]:
    """moto's server with an empty bucket."""
    port = free_port()
    program = str(Path(sys.executable).with_name("moto_server"))
    server = S3Server("moto", f"http://127.0.0.1:{port}", [program, "-H", "127.0.0.1", "-p", str(port)], folder)
    with _serving(server):
        yield server


@contextmanager
def _serving(server: S3Server) -> Iterator[None]:
    """Run for the block, with the bucket."""
    try:
        server.start()
        _make_bucket(server)
        yield
    finally:
        server.kill()


def has_ceph() -> bool:
    """Whether Ceph's programs are installed."""
    return all(shutil.which(program) for program in CEPH)


@contextmanager
def ceph(folder: Path) -> Iterator[S3Server]:
    """Ceph's gateway over one monitor and one disk in memory, with an empty bucket. A minute to start."""
    folder.mkdir(parents=True, exist_ok=True)
    monitor, port = free_port(), free_port()
    configuration = folder / "ceph.conf"
    configuration.write_text(_CEPH.format(fsid=uuid.uuid4(), folder=folder, monitor=monitor, port=port))
    begun: list[subprocess.Popen[bytes]] = []

    def begin(*words: str) -> None:
        with (folder / "daemons.log").open("ab") as log:
            begun.append(subprocess.Popen(words, stdout=log, stderr=log, start_new_session=True))

    asked = ("-c", str(configuration))
    fsid = configuration.read_text().split("fsid = ")[1].split()[0]
    try:
        said("monmaptool", "--create", "--fsid", fsid, "--addv", "a", f"[v2:127.0.0.1:{monitor}]", str(folder / "map"))
        keys = str(folder / "keyring")
        said("ceph-authtool", "--create-keyring", keys, "--gen-key", "-n", "mon.", "--cap", "mon", "allow *")
        all_of = [word for part in ("mon", "osd", "mgr") for word in ("--cap", part, "allow *")]
        said("ceph-authtool", keys, "--gen-key", "-n", "client.admin", *all_of)
        said("ceph-mon", *asked, "--mkfs", "-i", "a", "--monmap", str(folder / "map"), "--keyring", keys)
        begin("ceph-mon", *asked, "-i", "a", "-f")
        _again(lambda: said("ceph", *asked, "--connect-timeout", "20", "status"))
        (folder / "osd").mkdir()
        disk = str(uuid.uuid4())
        said("ceph", *asked, "osd", "new", disk)
        may = ("mon", "allow profile osd", "osd", "allow *")
        said("ceph", *asked, "auth", "get-or-create", "osd.0", *may, "-o", str(folder / "osd" / "keyring"))
        said("ceph-osd", *asked, "-i", "0", "--mkfs", "--osd-uuid", disk)
        begin("ceph-osd", *asked, "-i", "0", "-f")
        wait_until(lambda: "1 up" in said("ceph", *asked, "osd", "stat"), "Ceph's disk", _START)
        user = ("--uid=rkd", "--display-name=rkd", f"--access-key={KEY}", f"--secret={PASSWORD}")
        said("radosgw-admin", *asked, "user", "create", *user)
        gateway = ["radosgw", *asked, "-n", "client.admin", "-f"]
        server = S3Server("ceph", f"http://127.0.0.1:{port}", gateway, folder)
        with _serving(server):
            yield server
    finally:
        for process in reversed(begun):
            process.kill()
            process.wait()


def said(*words: str) -> str:
    """What a command printed. Raises ``AssertionError`` with what it said of a failure."""
    done = subprocess.run(words, capture_output=True, text=True, timeout=_START)
    assert done.returncode == 0, f"{words}: {done.stderr[-2000:]}"
    return done.stdout


def _again(ask: Callable[[], object], seconds: float = _START) -> None:
    """Until it does not fail."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            ask()
            return
        except AssertionError:
            if time.monotonic() > deadline:
                raise
            time.sleep(1)


def _make_bucket(server: S3Server) -> None:
    import boto3

    client = boto3.client(
        "s3",
        endpoint_url=server.endpoint,
        aws_access_key_id=KEY,
        aws_secret_access_key=PASSWORD,
        region_name="us-east-1",
    )
    with suppress(client.exceptions.BucketAlreadyOwnedByYou):
        client.create_bucket(Bucket=BUCKET)


_CEPH = """[global]
fsid = {fsid}
mon host = [v2:127.0.0.1:{monitor}]
mon initial members = a
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon data avail crit = 1
mon max pg per osd = 1000
ms bind ipv4 = true
ms bind ipv6 = false
public addr = 127.0.0.1
cluster addr = 127.0.0.1
run dir = {folder}
log file = {folder}/$name.log
admin socket = {folder}/$name.asok
crash dir = {folder}
setuser match path = /nowhere
[mon]
mon data = {folder}/mon
[osd]
osd data = {folder}/osd
osd objectstore = memstore
memstore device bytes = 2147483648
osd memory target = 939524096
[client]
keyring = {folder}/keyring
rgw frontends = beast endpoint=127.0.0.1:{port}
rgw data = {folder}/rgw
rgw thread pool size = 32
"""
