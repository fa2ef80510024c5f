"""What every place of a store promises: a folder, and a bucket on obstore's own stores, which need no server."""

import errno
import json
import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import obstore
import pytest
from obstore.store import LocalStore, MemoryStore, ObjectStore

from rkd_pipeline.errors import StoreError, Superseded
from rkd_pipeline.operations import store_care
from rkd_pipeline.operations.status import states_of
from rkd_pipeline.recipes.plans import PlannedTraining
from rkd_pipeline.store import bucket_place, node_cache
from rkd_pipeline.store.bucket_place import BucketPlace
from rkd_pipeline.store.folder_place import FolderPlace
from rkd_pipeline.store.place import Place
from rkd_pipeline.store.result_store import Ref, Store, files_in
from rkd_pipeline.store.stage_versions import BENCHMARK, IMAGES, METRICS, SPLIT
from tests.library.s3_servers import S3Server
from tests.library.shared_places import shared_place

ODD = ("brain_mri", "rkd+beta2=0.999@resnet18.4c740094~2e-s0r1")
SERVERS = ("moto", "ceph")
Machine = Callable[[str], Place]  # the same place, as another machine sees it


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], S3Server]]:
    """A bucket on a real server of a kind, started when it is first asked for."""
    with ExitStack() as running:

        @cache
        def start(kind: str) -> S3Server:
            made = running.enter_context(shared_place(kind, tmp_path_factory.mktemp("server"))).server
            assert made is not None
            return made

        yield start


@pytest.fixture(params=["folder", "memory", "local", *(pytest.param(kind, marks=pytest.mark.slow) for kind in SERVERS)])
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Machine:
    if request.param == "folder":
        return lambda name: FolderPlace(tmp_path / "store")
    if request.param in SERVERS:
        part = request.getfixturevalue("server")(request.param).objects(f"part-{uuid.uuid4().hex}")
        return lambda name: BucketPlace(part, f"s3://bucket/{tmp_path.name}", tmp_path / name)
    (tmp_path / "bucket").mkdir()
    objects = MemoryStore() if request.param == "memory" else LocalStore(tmp_path / "bucket")
    return lambda name: BucketPlace(objects, "s3://bucket/rkd", tmp_path / name)


@pytest.fixture
def objects() -> ObjectStore:
    return MemoryStore()


def bucket(objects: ObjectStore, root: Path, **more: float) -> BucketPlace:
    return BucketPlace(objects, "s3://bucket/rkd", root, **more)


def writing(**files: bytes) -> Callable[[Path], dict[str, int]]:
    def write(folder: Path) -> dict[str, int]:
        for name, content in files.items():
            (folder / name).write_bytes(content)
        return {"files": len(files)}

    return write


def never(folder: Path) -> None:
    raise AssertionError("made again although it was done")


def test_what_one_machine_made_another_reads_and_does_not_make_again(machine: Machine) -> None:
    made = Store(machine("a")).produce(METRICS, ODD, writing(a=b"1", b=b"22"), parameters={"x": 1})
    other = Store(machine("b"))
    found = other.require(METRICS, *ODD)
    assert (found.data_version, found.facts) == (made.data_version, {"files": 2})
    assert {p.name: p.read_bytes() for p in found.folder.iterdir() if p.name in "ab"} == {"a": b"1", "b": b"22"}
    assert json.loads((found.folder / "provenance.json").read_text())["key"] == list(ODD)
    assert found.file("b").read_bytes() == b"22"
    assert other.keys(METRICS) == [ODD]
    assert other.produce(METRICS, ODD, never, parameters={"x": 1}).reused


def test_what_is_made_again_takes_the_place_of_what_was(machine: Machine) -> None:
    a, b = Store(machine("a")), Store(machine("b"))
    images = a.produce(IMAGES, ["t"], writing(a=b"1", gone=b""))
    split = a.produce(SPLIT, ["t"], writing(b=b"2"), inputs=[images])
    before = b.require(SPLIT, "t")
    assert before.file("b").read_bytes() == b"2"
    a.produce(IMAGES, ["t"], writing(a=b"other"), parameters={"new": True})
    with pytest.raises(StoreError, match=r"images\[t\] has changed since"):
        b.require(SPLIT, "t")
    again = b.find(Ref(IMAGES.name, "t"))
    assert again is not None
    assert {p.name for p in again.folder.iterdir()} - {".used"} == {"a", "provenance.json"}
    assert split.provenance.inputs == {"images[t]": images.data_version}


def test_a_removed_result_is_gone_everywhere_and_can_be_made_again(machine: Machine) -> None:
    a, b = Store(machine("a")), Store(machine("b"))
    a.produce(METRICS, ODD, writing(a=b"1"))
    a.produce(BENCHMARK, [], writing(a=b"2"))
    assert b.find(Ref(METRICS.name, *ODD)) is not None
    a.remove(Ref(METRICS.name, *ODD))
    assert b.find(Ref(METRICS.name, *ODD)) is None
    assert b.keys(METRICS) == []
    assert b.keys(BENCHMARK) == [()]
    assert b.produce(METRICS, ODD, writing(a=b"3")).file("a").read_bytes() == b"3"
    assert a.require(METRICS, *ODD).file("a").read_bytes() == b"3"


def test_within_one_look_own_changes_are_seen(machine: Machine) -> None:
    store = Store(machine("a"))
    store.produce(IMAGES, ["t"], writing(a=b"1"))
    with store.one_look():
        assert store.keys(IMAGES) == [("t",)]
        store.produce(IMAGES, ["u"], writing(a=b"1"))
        assert store.keys(IMAGES) == [("t",), ("u",)]
        store.remove(Ref(IMAGES.name, "t"))
        assert store.find(Ref(IMAGES.name, "t")) is None
        assert store.require(IMAGES, "u").file("a").read_bytes() == b"1"


def test_within_one_look_a_change_is_seen_in_all_that_was_made_from_it(machine: Machine) -> None:
    store = Store(machine("a"))
    made = store.produce(IMAGES, ["t"], writing(a=b"1"))
    split = store.produce(SPLIT, ["t"], writing(a=b"1"), inputs=[made])
    store.produce(METRICS, ["t", "k"], writing(a=b"1"), inputs=[split])
    other = store.produce(METRICS, ["u", "k"], writing(a=b"1"))
    with store.one_look():
        assert store.require(METRICS, "t", "k").file("a").read_bytes() == b"1"
        store.produce(IMAGES, ["t"], writing(a=b"2"), parameters={"new": True})
        with pytest.raises(StoreError, match=r"split\[t\] is stale \(images\[t\] has changed since\)"):
            store.require(METRICS, "t", "k")
        assert store.require(METRICS, "u", "k").data_version == other.data_version


def test_within_one_look_nothing_is_made_that_another_has_made_meanwhile(machine: Machine) -> None:
    a, b = Store(machine("a")), Store(machine("b"))
    with a.one_look():
        assert a.find(Ref(IMAGES.name, "t")) is None
        b.produce(IMAGES, ["t"], writing(a=b"1"))
        assert a.produce(IMAGES, ["t"], never).reused


def test_a_look_at_one_store_says_nothing_of_another(objects: ObjectStore, tmp_path: Path) -> None:
    one, other = Store(bucket(objects, tmp_path / "a")), Store(bucket(MemoryStore(), tmp_path / "b"))
    split = one.produce(SPLIT, ["t"], writing(a=b"1"), inputs=[one.produce(IMAGES, ["t"], writing(a=b"1"))])
    images = other.produce(IMAGES, ["t"], writing(a=b"2"))
    with one.one_look():
        assert one.why_stale(split) is None
        stale = other.produce(SPLIT, ["t"], writing(a=b"1"), inputs=[images])
        other.produce(IMAGES, ["t"], writing(a=b"3"), parameters={"new": True})
        assert other.keys(SPLIT) == [("t",)]
        assert other.why_stale(stale) == "images[t] has changed since"
        one.produce(IMAGES, ["t"], writing(a=b"4"), parameters={"new": True})
        assert one.why_stale(split) == "images[t] has changed since"  # its own change is seen at once


def test_a_failed_write_leaves_nothing(machine: Machine) -> None:
    store = Store(machine("a"))

    def fail(folder: Path) -> None:
        (folder / "half").touch()
        raise RuntimeError("half done")

    with pytest.raises(RuntimeError):
        store.produce(IMAGES, ["t"], fail)
    assert Store(machine("b")).find(Ref(IMAGES.name, "t")) is None
    assert not [p for p in (store.root / "images").rglob("*") if p.is_file()]


def test_documents_are_read_as_they_were_written_last(machine: Machine) -> None:
    a, b = Store(machine("a")), Store(machine("b"))
    document = ("rebenchmarks", "0001", "plan~.json")
    assert a.document(*document).read() is None
    a.document(*document).write_json({"n": 1})
    assert b.document(*document).read_json("") == {"n": 1}
    b.document(*document).write_json({"n": 2})
    assert a.document(*document).read_json("") == {"n": 2}
    assert [d.name for d in a.documents("rebenchmarks")] == ["/".join(document)]
    a.document(*document).delete()
    a.document(*document).delete()
    assert b.document(*document).read() is None
    assert b.documents("rebenchmarks") == []
    b.document(*document).write_json({"n": 3})
    assert a.document(*document).read_json("") == {"n": 3}


def test_what_lies_below_a_name_goes_at_once(machine: Machine, tmp_path: Path) -> None:
    a, b = Store(machine("a")), Store(machine("b"))
    with a.half_made("champions/t/0001") as folder:
        (folder / "reign.json").write_text("{}")
        a.place.publish(folder, "champions/t/0001", files_in(folder), "reign.json")
    a.document("champions", "t", "looks.json").write_json([])
    a.document("champions", "tt", "looks.json").write_json([])
    assert b.place.entries("champions", "reign.json") == ["champions/t/0001"]
    a.place.clear("champions/t")
    assert b.place.entries("champions", "reign.json") == []
    assert b.place.find("champions/t/0001", "reign.json") is None
    assert [d.name for d in b.documents("champions")] == ["champions/tt/looks.json"]


def test_a_document_changed_by_another_meanwhile_is_not_written_over(objects: ObjectStore, tmp_path: Path) -> None:
    a, b = Store(bucket(objects, tmp_path / "a")), Store(bucket(objects, tmp_path / "b"))
    a.document("x").write(b"1")
    assert b.document("x").read() == b"1"
    a.document("x").write(b"2")
    with pytest.raises(Superseded, match="written by another process first"):
        b.document("x").write(b"3")
    assert a.document("x").read() == b"2"


def test_of_two_that_publish_the_same_one_wins_and_the_other_is_told(objects: ObjectStore, tmp_path: Path) -> None:
    a, b = (Store(bucket(objects, tmp_path / name)) for name in "ab")

    def overtaken(folder: Path) -> None:
        (folder / "a").write_bytes(b"mine")
        b.produce(IMAGES, ["t"], writing(a=b"theirs"))  # the two share no locks here, as if one had lost its own

    with pytest.raises(Superseded, match="written by another process first; nothing of this one's was kept"):
        a.produce(IMAGES, ["t"], overtaken)
    assert b.require(IMAGES, "t").file("a").read_bytes() == b"theirs"
    assert list((tmp_path / "a" / "images").iterdir()) == []


def test_an_own_request_that_arrived_twice_is_no_conflict(objects: ObjectStore, tmp_path: Path) -> None:
    place = bucket(objects, tmp_path)
    place._create("records/x/00000001.json", b"{}")
    place._create("records/x/00000001.json", b"{}")  # its first answer was lost
    with pytest.raises(Superseded):
        place._create("records/x/00000001.json", b"other")


class Careless:
    """A server that takes every PUT, whatever its condition: some do."""

    def __init__(self) -> None:
        self.real = MemoryStore()

    def put(self, store: object, path: str, content: object, mode: str = "overwrite", **more: object) -> object:
        return obstore.put(self.real, path, content, use_multipart=False)

    def __getattr__(self, name: str) -> object:
        found = getattr(obstore, name)
        if name == "exceptions":
            return found
        return lambda store, *given, **more: found(self.real, *given, **more)


def test_a_server_that_ignores_conditions_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    careless = Careless()
    monkeypatch.setattr(bucket_place, "_obstore", lambda: careless)
    with pytest.raises(StoreError, match=r"s3://bucket/rkd.*If-None-Match.*conditional writes; use another server"):
        bucket(careless.real, tmp_path)


@pytest.mark.parametrize("name", ["../../outside", "/outside", "a/../../outside", "..\\outside"])
def test_a_name_that_leads_out_of_its_folder_is_refused(objects: ObjectStore, tmp_path: Path, name: str) -> None:
    store = Store(bucket(objects, tmp_path / "a"))
    store.produce(IMAGES, ["t"], writing(a=b"1"))
    [path] = [str(o["path"]) for page in obstore.list(objects, "records") for o in page]
    record = json.loads(bytes(obstore.get(objects, path).bytes()))
    record["files"][name] = record["files"]["a"]
    obstore.put(objects, path, json.dumps(record).encode())
    with pytest.raises(StoreError, match="leads out of its folder"):
        Store(bucket(objects, tmp_path / "b")).find(Ref(IMAGES.name, "t"))
    obstore.put(objects, "backups/checkpoints/=2E=2E/=2E=2E/outside", b"x")
    with pytest.raises(StoreError, match="leads out of its folder"):
        store.place.backups("checkpoints")
    assert not list(tmp_path.rglob("outside"))


def test_a_store_of_another_layout_is_refused(objects: ObjectStore, tmp_path: Path) -> None:
    obstore.put(objects, "store.json", b'{"layout": 2}')
    with pytest.raises(StoreError, match="has layout 2, and this version of rkd-pipeline knows 1; upgrade"):
        bucket(objects, tmp_path)


class Cutting:
    """A server that keeps three bytes of what is written below a prefix, and says that all is well: some do."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix

    def put(self, target: ObjectStore, path: str, content: Path | bytes, **more: Any) -> object:
        written = content.read_bytes() if isinstance(content, Path) else content
        return obstore.put(target, path, written[:3] if path.startswith(self._prefix) else written, **more)

    def __getattr__(self, name: str) -> object:
        return getattr(obstore, name)


def test_an_upload_that_was_cut_is_not_believed(
    objects: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(bucket(objects, tmp_path))
    with monkeypatch.context() as patched:
        patched.setattr(bucket_place, "_obstore", lambda: Cutting("blobs"))
        with pytest.raises(StoreError, match=r"has 3 bytes after 5 were uploaded"):
            store.produce(IMAGES, ["t"], writing(a=b"12345"))
    assert store.find(Ref(IMAGES.name, "t")) is None
    assert store.produce(IMAGES, ["t"], writing(a=b"12345")).file("a").read_bytes() == b"12345"


def test_a_store_that_is_begun_anew_at_an_address_is_another(objects: ObjectStore, tmp_path: Path) -> None:
    """A machine's cache of the first one must not be believed: both count their entries from 1."""
    Store(bucket(objects, tmp_path / "a")).produce(IMAGES, ["t"], writing(a=b"first"))
    here = Store(bucket(objects, tmp_path / "b"))
    assert here.require(IMAGES, "t").file("a").read_bytes() == b"first"
    obstore.delete(objects, [str(o["path"]) for page in obstore.list(objects) for o in page])
    Store(bucket(objects, tmp_path / "a")).produce(IMAGES, ["t"], writing(a=b"other"))
    again = Store(bucket(objects, tmp_path / "b"))
    assert again.place.identity != here.place.identity
    assert again.require(IMAGES, "t").file("a").read_bytes() == b"other"


def test_a_record_that_was_cut_is_no_result_and_can_be_made_again(
    objects: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(bucket(objects, tmp_path))
    store.produce(SPLIT, ["t"], writing(a=b"1"))
    with monkeypatch.context() as patched:
        patched.setattr(bucket_place, "_obstore", lambda: Cutting("records"))
        with pytest.raises(StoreError, match=r"has 3 bytes after \d+ were written.*rkd store verify --mend"):
            store.produce(IMAGES, ["t"], writing(a=b"12345"))
    with pytest.raises(StoreError, match=r"records/images/t/00000001.json is damaged in the bucket \(3 bytes"):
        store.find(Ref(IMAGES.name, "t"))
    with pytest.raises(StoreError, match="is damaged; run `rkd store verify --mend` first"):
        store.place.unused()
    wrong = store_care.verify(store)
    assert list(wrong) == ["images/t"]
    assert store_care.copy(store, Store(tmp_path / "copy")).unreadable == list(wrong.values())
    assert store_care.mend(store, wrong) == []
    assert store.produce(IMAGES, ["t"], writing(a=b"12345")).file("a").read_bytes() == b"12345"
    assert store_care.verify(store) == {}


def test_a_request_whose_answer_was_lost_and_whose_object_was_cut_is_no_other_s(
    objects: ObjectStore, tmp_path: Path
) -> None:
    place = bucket(objects, tmp_path)
    obstore.put(objects, "records/x/00000001.json", b'{"a"')
    with pytest.raises(StoreError, match="has 4 bytes after 9 were written"):
        place._create("records/x/00000001.json", b'{"a": 12}')
    place._create("records/x/00000002.json", b"")
    place._create("records/x/00000002.json", b"")  # gone twice is gone


def test_a_file_that_was_written_again_meanwhile_is_not_deleted(objects: ObjectStore, tmp_path: Path) -> None:
    place = bucket(objects, tmp_path)
    obstore.put(objects, "blobs/ab/abc", b"x")
    place.discard(["blobs/ab/abc", "blobs/ab/gone"])  # as an older list of unused ones may say
    assert bytes(obstore.get(objects, "blobs/ab/abc").bytes()) == b"x"


def test_a_share_that_is_not_mounted_is_no_new_store(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"there is no folder .*See that the share is mounted on this machine"):
        bucket_place.open_bucket(f"file://{tmp_path}/share", tmp_path / "root", cache_bytes=1, backup_seconds=1.0)


@pytest.mark.parametrize(("content", "said"), [(b"12X45", "damaged"), (b"123", "damaged"), (None, "gone")])
def test_a_damaged_blob_is_not_handed_out(
    objects: ObjectStore, tmp_path: Path, content: bytes | None, said: str
) -> None:
    Store(bucket(objects, tmp_path / "a")).produce(IMAGES, ["t"], writing(a=b"12345"))
    [blob] = [str(o["path"]) for page in obstore.list(objects, "blobs") for o in page if o["size"] == 5]
    obstore.delete(objects, blob) if content is None else obstore.put(objects, blob, content)
    found = Store(bucket(objects, tmp_path / "b")).require(IMAGES, "t")
    with pytest.raises(StoreError, match=rf"s3://bucket/rkd/images/t/a is {said}.*rkd store verify --mend"):
        list(found.folder.iterdir())
    assert not list((tmp_path / "b").rglob("a"))


def test_a_server_that_fails_and_a_full_disk_are_not_taken_for_damage(
    objects: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Store(bucket(objects, tmp_path / "a")).produce(IMAGES, ["t"], writing(a=b"12345"))
    found, real = Store(bucket(objects, tmp_path / "b")).require(IMAGES, "t"), bucket_place._obstore()

    class Failing:
        def get(self, store: object, path: str) -> object:
            raise real.exceptions.GenericError("503 Slow Down")

        def __getattr__(self, name: str) -> object:
            return getattr(real, name)

    with monkeypatch.context() as patched:
        patched.setattr(bucket_place, "_obstore", Failing)
        with pytest.raises(StoreError, match="could not fetch images/t/a: 503 Slow Down") as failed:
            found.file("a")
    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left")))
        with pytest.raises(StoreError, match=r"the disk of .* is full.*RKD_CACHE") as full:
            found.file("a")
    assert "damaged" not in f"{failed.value} {full.value}"
    assert found.file("a").read_bytes() == b"12345"


def test_the_cache_keeps_its_bound_and_what_was_asked_for_last(
    objects: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maker, kib = Store(bucket(objects, tmp_path / "a")), 1024
    for n in range(12):
        maker.produce(IMAGES, [f"t{n}"], writing(a=bytes([n]) * 10 * kib))
    reader = Store(bucket(objects, tmp_path / "b", cache_bytes=50 * kib))
    first = reader.require(IMAGES, "t0")
    opened = first.file("a").open("rb")
    monkeypatch.setattr(node_cache, "GRACE_SECONDS", 0.0)
    for n in range(12):
        assert reader.require(IMAGES, f"t{n}").file("a").read_bytes() == bytes([n]) * 10 * kib
        time.sleep(0.01)  # so that the order of use can be told
    kept = sorted(p.parent.parent.name for p in (tmp_path / "b/cache").rglob("a"))
    assert kept == ["t10", "t11", "t7", "t8", "t9"]
    assert opened.read() == bytes(10 * kib)  # in use: its bytes stay when its name is gone
    opened.close()
    assert first.file("a").read_bytes() == bytes(10 * kib)  # and it is fetched again


def test_what_was_just_asked_for_stays(objects: ObjectStore, tmp_path: Path) -> None:
    maker = Store(bucket(objects, tmp_path / "a"))
    for n in range(4):
        maker.produce(IMAGES, [f"t{n}"], writing(a=bytes(1024)))
    reader = Store(bucket(objects, tmp_path / "b", cache_bytes=1024))
    paths = [reader.require(IMAGES, f"t{n}").file("a") for n in range(4)]
    assert all(path.exists() for path in paths)  # whoever got a path has a minute to open it


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every request that reads, by its name."""
    real, found = bucket_place._obstore(), []

    class Counting:
        def __getattr__(self, name: str) -> object:
            if name in ("get", "head", "list", "list_with_delimiter"):
                found.append(name)
            return getattr(real, name)

    monkeypatch.setattr(bucket_place, "_obstore", Counting)
    return found


def test_what_is_missing_of_a_plan_costs_no_request_of_its_own(
    objects: ObjectStore, tmp_path: Path, asked: list[str]
) -> None:
    """Who follows an order of thousands looks every few seconds."""
    store = Store(bucket(objects, tmp_path))
    cells = [PlannedTraining("t", f"rkd@resnet18.random-s{seed}r0") for seed in range(30)]
    asked.clear()
    assert set(states_of(store, cells).values()) == {"missing"}
    assert asked == ["list", "list"]  # of results, and of checkpoints


def test_many_results_are_listed_by_one_request(objects: ObjectStore, tmp_path: Path, asked: list[str]) -> None:
    store = Store(bucket(objects, tmp_path))
    for n in range(30):
        store.produce(METRICS, ["t", f"k{n}"], writing(a=b"1"))
    asked.clear()
    with store.one_look():
        found = [store.find(Ref(METRICS.name, *key)) for key in store.keys(METRICS)]
    assert len(found) == 30
    assert None not in found
    # The records were read when they were written, or are on this machine from the first time that they were.
    assert asked.count("list") == 1
    assert asked.count("list_with_delimiter") == 0
    before = asked.count("get")
    with store.one_look():
        assert all(store.find(Ref(METRICS.name, *key)) for key in store.keys(METRICS))
    assert asked.count("get") == before


def test_a_checkpoint_goes_on_on_another_machine(objects: ObjectStore, tmp_path: Path) -> None:
    a, b = (bucket(objects, tmp_path / name, backup_seconds=0.05) for name in "ab")
    here, there = (place.root / "checkpoints" / "t" / "k-s0.safetensors" for place in (a, b))
    here.parent.mkdir(parents=True)
    with a.backing_up(here):
        for epoch in range(3):
            here.write_bytes(b"epoch %d" % epoch)
            wait_for(lambda epoch=epoch: stored(objects) == b"epoch %d" % epoch)
    assert b.backups("checkpoints") == ["checkpoints/t/k-s0.safetensors"]
    b.restore(there)
    assert there.read_bytes() == b"epoch 2"
    there.write_bytes(b"epoch 5")
    b.restore(there)  # what was uploaded last is this machine's own, and it has gone further since
    assert there.read_bytes() == b"epoch 5"
    with b.backing_up(there):
        wait_for(lambda: stored(objects) == b"epoch 5")
    a.restore(here)  # the other machine has gone further
    assert here.read_bytes() == b"epoch 5"
    a.forget(here)
    assert not here.exists()
    assert b.backups("checkpoints") == ["checkpoints/t/k-s0.safetensors"]  # its own copy
    b.forget(there)
    assert b.backups("checkpoints") == []


def stored(objects: ObjectStore) -> bytes:
    found = [o["path"] for page in obstore.list(objects, "backups") for o in page]
    return bytes(obstore.get(objects, found[0]).bytes()) if found else b""


def wait_for(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_only_what_nothing_refers_to_is_unused(
    objects: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(bucket(objects, tmp_path))
    store.produce(IMAGES, ["t"], writing(a=b"old", kept=b"both"))
    store.produce(IMAGES, ["t"], writing(a=b"new!", kept=b"both"), parameters={"again": True})
    store.document("x").write(b"1")
    store.document("x").write(b"2")
    young = store.place.unused()
    assert sorted(path.partition("/")[0] for path in young) == ["documents", "records"]  # blobs may be on their way
    monkeypatch.setattr(bucket_place, "UNUSED_FOR", bucket_place.UNUSED_FOR * 0)
    unused = store.place.unused()
    assert sorted(unused.values()) == sorted([*young.values(), len(b"old"), *provenance_sizes(objects, unused)])
    store.place.discard(list(unused))
    assert store.place.unused() == {}
    other = Store(bucket(objects, tmp_path / "other"))
    assert other.require(IMAGES, "t").file("a").read_bytes() == b"new!"
    assert other.require(IMAGES, "t").file("kept").read_bytes() == b"both"
    assert other.document("x").read() == b"2"


def provenance_sizes(objects: ObjectStore, unused: dict[str, int]) -> list[int]:
    blobs = {path: bytes(obstore.get(objects, path).bytes()) for path in unused if path.startswith("blobs")}
    return [len(content) for content in blobs.values() if content.startswith(b"{")]


def test_a_bucket_that_cannot_be_reached_says_which_and_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_REGION", "here")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "who")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret")
    monkeypatch.setattr(bucket_place, "RETRIES", 0)
    with pytest.raises(StoreError, match=r"s3://bucket/rkd could not open the store: .*credentials") as raised:
        bucket_place.open_bucket("s3://bucket/rkd", tmp_path, cache_bytes=1, backup_seconds=1.0)
    assert "a-secret" not in str(raised.value)
    assert os.environ["AWS_SECRET_ACCESS_KEY"] == "a-secret"
