"""Locks among machines, on a real PostgreSQL: who dies or falls silent loses them, and finds out before it commits."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rkd_pipeline.errors import LockLost, RkdError, StoreError
from rkd_pipeline.settings import Settings
from rkd_pipeline.store import locks
from rkd_pipeline.store.open_store import open_store, require_settings_of_a_shared_store
from rkd_pipeline.store.postgres_locks import PostgresLocks
from rkd_pipeline.store.result_store import Ref, Store
from rkd_pipeline.store.stage_versions import IMAGES
from tests.library.postgres_server import PostgresServer, serving

HOLD = """
import sys, time
from pathlib import Path
from rkd_pipeline.store.postgres_locks import PostgresLocks
from rkd_pipeline.store.result_store import Store
from rkd_pipeline.store.stage_versions import IMAGES

def write(folder):
    (folder / "a").write_text("of the other process")
    Path(sys.argv[3]).touch()
    while not Path(sys.argv[3]).with_name("go").exists():
        time.sleep(0.01)

locks = PostgresLocks(sys.argv[1], "s3://store", silence=float(sys.argv[4]))
Store(Path(sys.argv[2]), locks).produce(IMAGES, ["t"], write)
"""
Started = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(scope="module")
def server(postgres_programs: Path) -> Iterator[PostgresServer]:
    with serving(postgres_programs) as running:
        yield running


@pytest.fixture
def holder(server: PostgresServer, tmp_path: Path) -> Iterator[Started]:
    """Starts a process that is in the middle of making ``images[t]``, under its lock."""
    started = []

    def start(silence: float = 60.0) -> "subprocess.Popen[str]":
        began = tmp_path / "began"
        command = [sys.executable, "-c", HOLD, server.address, str(tmp_path / "store"), str(began), str(silence)]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        started.append(process)
        while not began.exists():
            assert process.poll() is None, process.stderr and process.stderr.read()
            time.sleep(0.01)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.kill()
        process.communicate()


def write(folder: Path) -> None:
    (folder / "a").write_text("of this process")


def test_a_lock_is_held_by_one(server: PostgresServer) -> None:
    one, other = (PostgresLocks(server.address, "s3://store") for _ in range(2))
    elsewhere = PostgresLocks(server.address, "s3://another")
    assert one.at_work() == []
    with one.hold("x") as still_held:
        still_held()
        with other.try_hold("x") as held:
            assert held is None
        with one.try_hold("x") as held:  # not twice in one process either
            assert held is None
        with other.try_hold("y") as held, elsewhere.try_hold("x") as also:
            assert held is not None
            assert also is not None
        assert other.holder("x").startswith(f"process {os.getpid()} on ")
        assert other.at_work() == [other.holder("x")]
        assert elsewhere.at_work() == []
    with other.try_hold("x") as held:
        assert held is not None


def test_a_killed_holder_frees_its_lock_at_once(server: PostgresServer, holder: Started, tmp_path: Path) -> None:
    store = Store(tmp_path / "store", PostgresLocks(server.address, "s3://store"))
    process = holder()
    with store.lock_if_free(str(Ref(IMAGES.name, "t"))) as held:
        assert not held
    assert store.at_work()[0].startswith(f"process {process.pid} on ")
    process.kill()
    process.wait()
    begun = time.monotonic()
    assert store.produce(IMAGES, ["t"], write).file("a").read_text() == "of this process"
    assert time.monotonic() - begun < 5
    assert os.listdir(tmp_path / "store" / "images") == ["t"]


def test_a_frozen_holder_loses_its_lock_and_commits_nothing_when_it_thaws(
    server: PostgresServer, holder: Started, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    process = holder(silence=1.0)
    process.send_signal(signal.SIGSTOP)
    store = Store(tmp_path / "store", PostgresLocks(server.address, "s3://store", silence=1.0))
    made = store.produce(IMAGES, ["t"], write)
    assert f"waiting for images[t], held by process {process.pid} on " in caplog.text
    assert "has not been heard of" in caplog.text
    (tmp_path / "go").touch()
    process.send_signal(signal.SIGCONT)
    _, said = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "LockLost: this process no longer holds images[t]" in said
    found = store.require(IMAGES, "t")
    assert found.data_version == made.data_version
    assert found.file("a").read_text() == "of this process"


def test_who_speaks_keeps_its_lock_however_long_it_works(
    server: PostgresServer, holder: Started, tmp_path: Path
) -> None:
    process = holder(silence=0.4)
    waiting = PostgresLocks(server.address, "s3://store", silence=0.4)
    begun = time.monotonic()
    with waiting.try_hold("images[t]") as held:
        assert held is None
    while time.monotonic() - begun < 2:
        with PostgresLocks(server.address, "s3://store").try_hold("images[t]") as held:
            assert held is None
        time.sleep(0.1)
    (tmp_path / "go").touch()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    store = Store(tmp_path / "store", waiting)
    assert store.produce(IMAGES, ["t"], write).file("a").read_text() == "of the other process"


def test_who_loses_the_server_holds_nothing(server: PostgresServer, tmp_path: Path) -> None:
    store = Store(tmp_path / "store", PostgresLocks(server.address, "s3://store"))

    def lose(folder: Path) -> None:
        write(folder)
        server.stop()
        server.start()

    with pytest.raises(LockLost, match=r"no longer holds images\[t\].*nothing more is written here"):
        store.produce(IMAGES, ["t"], lose)
    assert store.find(Ref(IMAGES.name, "t")) is None
    assert store.produce(IMAGES, ["t"], write).file("a").read_text() == "of this process"


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("postgresql://rkd:a-secret@127.0.0.1:9/x", "Connection refused"),
        ("postgresql://rkd:wrong-secret@127.0.0.1:{port}/postgres", "password authentication failed"),
        ("postgresql://rkd:a-secret@127.0.0.1:{port}/nowhere", 'database "nowhere" does not exist'),
        ("nonsense", "no address of a PostgreSQL database"),
    ],
)
def test_a_server_that_cannot_be_used_is_said_without_its_password(
    server: PostgresServer, address: str, said: str
) -> None:
    with pytest.raises(StoreError, match=rf"RKD_LOCKS=.*{said}.*; see that PostgreSQL runs there") as raised:
        PostgresLocks(address.format(port=server.port), "s3://store")
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("password", ["a@secret", "a/secret", "a?secret", "a#secret", "a[secret"])
def test_a_password_that_ends_the_host_early_is_not_repeated(password: str) -> None:
    with pytest.raises(StoreError, match="write them as %40 %2F") as raised:
        PostgresLocks(f"postgresql://rkd:{password}@127.0.0.1:9/x", "s3://store")
    assert "secret" not in str(raised.value)


def test_what_each_machine_would_choose_for_itself_is_refused() -> None:
    given = {"store": "s3://bucket/rkd", "locks": "postgresql://rkd@127.0.0.1:9/x", "mlflow_uri": "http://host:5000"}
    with pytest.raises(RkdError, match=r"RKD_PRECISION=auto lets each choose.*Set it to fp32, tf32 or bf16"):
        require_settings_of_a_shared_store(Settings(**given))
    require_settings_of_a_shared_store(Settings(**given, precision="fp32"), on_a_cluster=True)
    with pytest.raises(RkdError, match=r"is a folder of one machine.*file:///results"):
        require_settings_of_a_shared_store(Settings(store=Path("/results")), on_a_cluster=True)


MOUNTS = """22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
23 22 0:5 / /mnt/with\\040blank rw - nfs4 server:/x rw
24 22 0:6 / /mnt/with\\040blank/local rw - ext4 /dev/vdb rw
25 22 0:7 / /mnt/ssh rw - fuse.sshfs me@host: rw
"""


def test_a_folder_of_a_network_needs_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mounts").write_text(MOUNTS)
    monkeypatch.setattr(locks, "_MOUNTS", tmp_path / "mounts")
    kinds = {
        "/home/me/store": None,
        "/mnt/with blank/store": "nfs4",
        "/mnt/with blank/local/store": None,
        "/mnt/ssh": "fuse.sshfs",
        "/mnt/sshx": None,
    }
    assert {folder: locks.network_file_system(Path(folder)) for folder in kinds} == kinds
    with pytest.raises(
        RkdError, match=r"lies on a network file system \(nfs4\), and RKD_LOCKS is not set.*file:///mnt"
    ):
        open_store(Settings(store=Path("/mnt/with blank/store")))
    monkeypatch.setattr(locks, "_MOUNTS", tmp_path / "none")
    assert locks.network_file_system(Path("/mnt/ssh")) is None


def test_a_shared_store_needs_locks_and_an_mlflow_server(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"store": "s3://bucket/rkd"}
    with pytest.raises(RkdError, match=r"RKD_LOCKS is not set.*postgresql://user@host"):
        open_store(Settings(**settings))
    with pytest.raises(RkdError, match="set MLFLOW_TRACKING_URI to a server"):
        require_settings_of_a_shared_store(Settings(**settings, locks="postgresql://rkd:a-secret@127.0.0.1:9/x"))
    for wrong, why in (
        ("https://bucket/x", "begins with none of s3://"),
        ("s3://", "names no bucket"),
        ("s3://key:a-secret@bucket", "who may come in is said in the environment"),
    ):
        monkeypatch.setenv("RKD_STORE", wrong)
        with pytest.raises(RkdError, match=f"RKD_STORE=.*{why}") as raised:
            Settings.from_environment()
        assert "a-secret" not in str(raised.value)
