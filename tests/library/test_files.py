"""What a power cut may leave of files, results and datasets: whole or absent, and never damage that is believed."""

import errno
import fcntl
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from rkd_pipeline.data.catalog import TARGETS, dataset
from rkd_pipeline.data.download import fetch
from rkd_pipeline.errors import StoreError
from rkd_pipeline.store.files import keep, write_atomically
from rkd_pipeline.store.locks import locked
from rkd_pipeline.store.result_store import Ref, Store
from rkd_pipeline.store.stage_versions import IMAGES, TRAINED_MODEL
from tests.library.power_cut import PowerCuts

OLD, NEW = b"the old content", b"what is new here"


@pytest.fixture(autouse=True)
def _without_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking up the versions of libraries takes longer than everything else here."""
    monkeypatch.setattr("rkd_pipeline.store.result_store._environment", lambda seconds: {"seconds": seconds})


def result(text: bytes) -> Callable[[Path], None]:
    def into(folder: Path) -> None:
        (folder / "deeper").mkdir()
        (folder / "deeper/data.bin").write_bytes(text)
        (folder / "more.bin").write_bytes(text * 2)

    return into


def text_of(store: Store) -> bytes | None:
    """What a current result says, whichever text it was asked for; None where none is current."""
    for text in (OLD, NEW):
        found = store.current(IMAGES, ["t"], {"text": text.decode()}, [])
        if found:
            assert (found.folder / "more.bin").read_bytes() == text * 2
            assert (found.folder / "deeper/data.bin").read_bytes() == text
            return text
    return None


def test_the_simulation_catches_a_write_that_is_not_synced(tmp_path: Path) -> None:
    """The classic: a file renamed before its bytes are on the disk is found under its name, empty or full of zeros."""
    disk = tmp_path / "disk"
    disk.mkdir()
    (disk / "file").write_bytes(OLD)
    cuts = PowerCuts(disk)
    with cuts.watched():
        (disk / "temporary").write_bytes(NEW)
        os.replace(disk / "temporary", disk / "file")
    found = {(ended, (folder / "file").read_bytes()) for folder, ended in cuts.crashes(tmp_path / "crashes")}
    assert found == {
        *((ended, content) for ended in (False, True) for content in (OLD,)),
        *((True, content) for content in (NEW, bytes(len(NEW)), b"")),
    }


@pytest.mark.parametrize("before", [None, OLD])
def test_a_file_is_old_or_new_and_new_once_written(tmp_path: Path, before: bytes | None) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if before:
        write_atomically(disk / "deep/er/file", before)
    cuts = PowerCuts(disk)
    with cuts.watched():
        write_atomically(disk / "deep/er/file", NEW)
    found: dict[bool, set[bytes | None]] = {False: set(), True: set()}
    for folder, ended in cuts.crashes(tmp_path / "crashes"):
        file = folder / "deep/er/file"
        found[ended].add(file.read_bytes() if file.exists() else None)
    assert found == {False: {before, NEW}, True: {NEW}}


@pytest.mark.parametrize("before", [None, OLD])
def test_a_result_is_whole_or_made_again(tmp_path: Path, before: bytes | None) -> None:
    store = Store(tmp_path / "store")
    store.root.mkdir()
    if before:
        store.produce(IMAGES, ["t"], result(OLD), parameters={"text": OLD.decode()})
    cuts = PowerCuts(store.root)
    with cuts.watched():
        store.produce(IMAGES, ["t"], result(NEW), parameters={"text": NEW.decode()})
    found: dict[bool, set[bytes | None]] = {False: set(), True: set()}
    for folder, ended in cuts.crashes(tmp_path / "crashes"):
        again = Store(folder)
        found[ended].add(text_of(again))
        again.produce(IMAGES, ["t"], result(NEW), parameters={"text": NEW.decode()})
        assert text_of(Store(folder)) == NEW  # the same command goes on from there
    assert found == {False: {before, None, NEW}, True: {NEW}}


def test_work_is_in_the_checkpoint_or_in_the_result(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    checkpoint = store.root / "checkpoints/t/k.safetensors"
    write_atomically(checkpoint, OLD)
    cuts = PowerCuts(store.root)
    with cuts.watched():
        write_atomically(checkpoint, NEW)
        store.produce(TRAINED_MODEL, ["t", "k"], result(NEW))
        checkpoint.unlink()
    for folder, ended in cuts.crashes(tmp_path / "crashes"):
        done = Store(folder).current(TRAINED_MODEL, ["t", "k"], {}, [])
        kept = folder / "checkpoints/t/k.safetensors"
        assert done or (not ended and kept.read_bytes() in (OLD, NEW))


def test_a_removed_result_is_gone_or_whole_or_known_to_be_damaged(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.produce(IMAGES, ["t"], result(OLD), parameters={"text": OLD.decode()})
    cuts = PowerCuts(store.root)
    with cuts.watched():
        store.remove(Ref("images", "t"))
    found: dict[bool, set[bytes | None]] = {False: set(), True: set()}
    for folder, ended in cuts.crashes(tmp_path / "crashes"):
        found[ended].add(text_of(Store(folder)))
    assert found == {False: {OLD, None}, True: {None}}


def test_what_is_kept_for_many_is_whole_or_made_again(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    cuts = PowerCuts(disk)
    with cuts.watched():
        keep(disk / "shared/weights.bin", lambda path: path.write_bytes(NEW) and None)
    for folder, ended in cuts.crashes(tmp_path / "crashes"):
        made: list[Path] = []

        def make(path: Path, made: list[Path] = made) -> None:
            made.append(path)
            path.write_bytes(NEW)

        assert keep(folder / "shared/weights.bin", make).read_bytes() == NEW
        assert not (ended and made)


def test_a_kept_file_with_a_flipped_bit_is_made_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = keep(tmp_path / "weights.bin", lambda path: path.write_bytes(NEW) and None)
    file.write_bytes(bytes([NEW[0] ^ 1]) + NEW[1:])
    assert keep(file, lambda path: path.write_bytes(NEW) and None).read_bytes() == NEW
    assert "weights.bin is damaged" in caplog.text


def test_a_fetched_dataset_is_whole_or_absent(tmp_path: Path) -> None:
    data, target = tmp_path / "data", replace(TARGETS["brain_mri"], counts=None)
    data.mkdir()
    cuts = PowerCuts(data)
    with cuts.watched():
        unpacked = data / ".brain_mri.00000000.unpacking"
        for name in ("wrapped/no/1.png", "wrapped/yes/2.png"):
            (unpacked / name).parent.mkdir(parents=True)
            (unpacked / name).write_bytes(NEW)
        fetch._install(dataset("brain_mri"), target, unpacked, data / "brain_mri", {"from": "archive"})
        shutil.rmtree(unpacked)
    for folder, ended in cuts.crashes(tmp_path / "crashes"):
        found = folder / "brain_mri"
        assert found.exists() or not ended
        if found.exists():
            assert [(found / name).read_bytes() for name in ("no/1.png", "yes/2.png")] == [NEW, NEW]


@pytest.mark.parametrize("answer", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def test_a_file_system_without_locks_is_refused(
    store: Store, tmp_path: Path, answer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(handle: int, operation: int) -> None:
        raise OSError(answer, os.strerror(answer))

    monkeypatch.setattr(fcntl, "flock", flock)
    for hold in (lambda: store.lock("x"), lambda: store.lock_if_free("x"), lambda: locked(store.root / "x")):
        with pytest.raises(StoreError, match=rf"{store.root} has no locks.*local file system \(RKD_STORE"), hold():
            pytest.fail("held a lock that is none")
    with pytest.raises(StoreError, match=rf"{tmp_path} has no locks.*RKD_DATA"):
        fetch.find_or_fetch(
            dataset("mvtec_ad"), TARGETS["mvtec_ad.toothbrush"], tmp_path, fetch.Fetching(download=True)
        )
