"""A target's files are known by what is in them: not by where they lie, nor by when they were copied."""

import os
import shutil
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from rkd_pipeline.data.user_targets import OwnTarget, targets_in
from rkd_pipeline.errors import DataError
from rkd_pipeline.stages.datasets import changed_source, find_source
from rkd_pipeline.store.result_store import Result, Store
from rkd_pipeline.store.stage_versions import DATASET_SOURCE, IMAGES

NAMES = ("no/1.png", "no/2.png", "yes/ä.png")


def mri(data: Path) -> Path:
    """Brain MRI's layout; files that are listed and never opened as images."""
    for number, name in enumerate(NAMES):
        file = data / "brain_mri" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(bytes([number]) * 100)
        os.utime(file, ns=(10**18, 10**18))
    return data


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were hashed."""
    hashed: list[str] = []

    def hash_and_count(path: Path) -> str:
        hashed.append(path.name)
        return sha256(path.read_bytes()).hexdigest()

    monkeypatch.setattr("rkd_pipeline.store.hashes.file_sha256", hash_and_count)
    return hashed


def after(store: Store, source: Result) -> Result:
    """A result made from the files."""

    def write(folder: Path) -> None:
        (folder / "index").write_text("made")

    return store.produce(IMAGES, ["brain_mri"], write, inputs=[source])


def test_the_listing_is_name_size_and_sha256(store: Store, tmp_path: Path) -> None:
    source = find_source(store, mri(tmp_path / "data"), "brain_mri")
    expected = [f"{name}\t100\t{sha256(bytes([n]) * 100).hexdigest()}" for n, name in enumerate(NAMES)]
    assert (source.folder / "files.tsv").read_text(encoding="utf-8").splitlines() == expected


@pytest.mark.parametrize("where", ["copied", "moved"])
def test_the_same_files_elsewhere_keep_every_result_current(store: Store, tmp_path: Path, where: str) -> None:
    first = find_source(store, mri(tmp_path / "data"), "brain_mri")
    made = after(store, first)
    shutil.copytree(tmp_path / "data", tmp_path / "other disk", copy_function=shutil.copyfile)  # with times of now
    (tmp_path / "other disk/brain_mri/.DS_Store").write_text("of whoever copied")
    if where == "moved":
        shutil.rmtree(tmp_path / "data")
        assert changed_source(store, "brain_mri") == "gone"
    second = find_source(store, tmp_path / "other disk", "brain_mri")
    assert second.data_version == first.data_version
    assert second.facts["folder"] == str(tmp_path / "other disk/brain_mri")
    assert changed_source(store, "brain_mri") is None
    assert store.why_stale(made) is None
    assert after(store, second).reused


def test_a_touched_file_changes_nothing_and_a_changed_byte_does(store: Store, tmp_path: Path, read: list[str]) -> None:
    file = mri(tmp_path / "data") / "brain_mri" / NAMES[0]
    source = find_source(store, tmp_path / "data", "brain_mri")
    made = after(store, source)
    os.utime(file, ns=(2 * 10**18, 10**18 + 5))
    assert changed_source(store, "brain_mri") is None
    assert find_source(store, tmp_path / "data", "brain_mri").reused
    assert store.why_stale(made) is None
    file.write_bytes(b"\7" + file.read_bytes()[1:])
    assert changed_source(store, "brain_mri") is not None
    find_source(store, tmp_path / "data", "brain_mri")
    assert store.why_stale(made) == "dataset_source[brain_mri] has changed since"


def test_files_are_read_once_and_then_only_where_they_changed(store: Store, tmp_path: Path, read: list[str]) -> None:
    data = mri(tmp_path / "data")
    for _ in range(3):
        find_source(Store(store.root), data, "brain_mri")
        assert changed_source(Store(store.root), "brain_mri") is None
    assert sorted(read) == ["1.png", "2.png", "ä.png"]
    os.utime(data / "brain_mri" / NAMES[1], ns=(1, 1))
    find_source(Store(store.root), data, "brain_mri")
    assert read[3:] == ["2.png"]
    shutil.rmtree(store.root / ".verified")  # safe to lose
    assert find_source(Store(store.root), data, "brain_mri").reused


def test_a_file_that_may_change_within_the_clock_s_tick_is_read_again(
    store: Store, tmp_path: Path, read: list[str]
) -> None:
    file = mri(tmp_path / "data") / "brain_mri" / NAMES[0]
    file.write_bytes(b"a" * 100)
    written = file.stat().st_mtime_ns
    find_source(store, tmp_path / "data", "brain_mri")
    file.write_bytes(b"b" * 100)
    os.utime(file, ns=(written, written))  # as if both had been written within one tick
    assert changed_source(store, "brain_mri") is not None


def test_results_of_the_former_listing_are_stale_for_that_and_readable(store: Store, tmp_path: Path) -> None:
    former = replace(DATASET_SOURCE, version=2)
    facts = {"folder": str(mri(tmp_path / "data") / "brain_mri"), "origin": {}}

    def write(folder: Path) -> dict[str, object]:
        (folder / "files.tsv").write_text("no/1.png\t100\t1000\n")
        return facts

    old = store.produce(former, ["brain_mri"], write, parameters={"folder": "/x", "files": 1, "listing": "0" * 64})
    assert store.why_stale(old) == "it was made by version 2 of dataset_source, which is now 3"
    assert changed_source(store, "brain_mri") is None  # nobody can say that the files have changed
    assert not find_source(store, tmp_path / "data", "brain_mri").reused


def test_own_images_too(store: Store, tmp_path: Path) -> None:
    for place in ("here", "there"):
        for name in ("good/1.png", "bad/2.png"):
            (tmp_path / place / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / place / name).write_bytes(name.encode())
    versions = []
    for place in ("here", "there"):
        targets_in(store).file.delete()
        targets_in(store).add(OwnTarget("mine", tmp_path / place))
        versions.append(find_source(store, tmp_path, "mine").data_version)
    assert versions[0] == versions[1]


def test_a_name_that_is_no_utf_8_is_listed(store: Store, tmp_path: Path) -> None:
    name = os.fsencode(mri(tmp_path / "data") / "brain_mri/no") + b"/caf\xe9.png"
    Path(os.fsdecode(name)).write_bytes(b"x")
    source = find_source(store, tmp_path / "data", "brain_mri")
    assert b"no/caf\xe9.png\t1\t" in (source.folder / "files.tsv").read_bytes()


def test_a_folder_that_cannot_be_read_is_named(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = mri(tmp_path / "data") / "brain_mri/yes"
    real = os.scandir

    def scandir(path: str) -> object:
        if Path(path) == closed:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(DataError, match=rf"{closed} cannot be read \(Permission denied\); give read permission"):
        find_source(store, tmp_path / "data", "brain_mri")
