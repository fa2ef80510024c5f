"""A store copied from place to place, verified, and used in a bucket as in a folder."""

import json
import shutil
from pathlib import Path
from typing import Any

import obstore
import pytest
from obstore.store import MemoryStore, ObjectStore

from rkd_pipeline.cli.main import main
from rkd_pipeline.data.user_targets import targets_in
from rkd_pipeline.errors import StoreError
from rkd_pipeline.operations import champions, pruning, rebenchmark, removal, store_care, work_orders
from rkd_pipeline.operations.status import training_states
from rkd_pipeline.stages import rounds
from rkd_pipeline.stages.benchmark import build_benchmark, read_benchmark
from rkd_pipeline.stages.trained_model import WEIGHTS_FILE, checkpoint_file
from rkd_pipeline.store import bucket_place
from rkd_pipeline.store.bucket_place import BucketPlace
from rkd_pipeline.store.place import Record
from rkd_pipeline.store.result_store import Ref, Store
from rkd_pipeline.store.stage_versions import BENCHMARK, METRICS, SPLIT, TRAINED_MODEL
from tests.library.arena import TARGET, Finish, enter

ES, MKD = "rkd-es-cal@resnet18.random~1e", "rkd-cal@resnet18.random~1e"
Arena = tuple[Store, Finish]


def in_bucket(objects: ObjectStore, root: Path) -> Store:
    return Store(BucketPlace(objects, "s3://bucket/rkd", root))


@pytest.fixture
def objects() -> ObjectStore:
    return MemoryStore()


@pytest.fixture
def bucket_arena(arena: Arena, objects: ObjectStore, tmp_path: Path) -> Arena:
    """The arena's store in a bucket."""
    folder, _ = arena
    store = in_bucket(objects, tmp_path / "node")
    assert not store_care.copy(folder, store).unreadable
    shutil.copy(folder.root / WEIGHTS_FILE, store.root / WEIGHTS_FILE)  # which the arena keeps beside its results
    return store, enter(store)


def use(store: Store, finish: Finish) -> None:
    """A bit of everything that people do with a store."""
    for seed in range(2):
        finish(f"{ES}-s{seed}", 1.0)
    champions.challenge(store, TARGET)
    for seed in range(3):
        finish(f"{MKD}-s{seed}", 3.0)
    assert champions.challenge(store, TARGET).champion.number == 2
    build_benchmark(store)
    rebenchmark.begin(store, rebenchmark.MEASURED, "by hand", seeds=1)
    begun = rebenchmark.open_rounds(store)[0]
    rebenchmark.close(store, begun, {f"{c.target} {c.training}": "no power" for c in begun.cells})
    rebenchmark.accept(store, "a new lens")
    work_orders.place(store, "order", "an order", begun.cells)


def versions(store: Store) -> dict[str, str]:
    """Every result's data version."""
    names = [(stage, key) for stage in (SPLIT, TRAINED_MODEL, METRICS, BENCHMARK) for key in store.keys(stage)]
    return {f"{stage.name} {key}": store.require(stage, *key).data_version for stage, key in names}


def test_a_bucket_gives_the_same_numbers_byte_for_byte(arena: Arena, bucket_arena: Arena, tmp_path: Path) -> None:
    use(*arena)
    use(*bucket_arena)
    folder, bucket = arena[0], bucket_arena[0]
    assert versions(bucket) == versions(folder)
    found = [champions.require_champion(store, TARGET) for store in (folder, bucket)]
    assert (found[0].training, found[0].threshold, found[0].files) == (
        found[1].training,
        found[1].threshold,
        found[1].files,
    )
    assert champions.open_scorer(found[1]).card == champions.open_scorer(found[0]).card
    measured = [read_benchmark(store.require(BENCHMARK)) for store in (folder, bucket)]
    assert measured[0].equals(measured[1])
    assert training_states(bucket).equals(training_states(folder))
    for store in (folder, bucket):
        [record] = rounds.records(store)
        assert len(record["failures"]) == len(record["values"]) or record["failures"]
        assert rounds.references(store) == {1: "a new lens"}
        assert [order.name for order in work_orders.open_orders(store)] == ["order"]


def test_another_machine_goes_on_where_the_first_has_ended(
    bucket_arena: Arena, objects: ObjectStore, tmp_path: Path
) -> None:
    use(*bucket_arena)
    other = in_bucket(objects, tmp_path / "another node")
    assert versions(other) == versions(bucket_arena[0])
    assert champions.require_champion(other, TARGET).number == 2
    assert champions.open_scorer(champions.require_champion(other, TARGET)).card is not None
    assert champions.force(other, TARGET, f"{ES}-s1", "by hand").number == 3
    assert champions.require_champion(bucket_arena[0], TARGET).number == 3


def test_pruning_and_removal_work_in_a_bucket_too(
    bucket_arena: Arena, objects: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, finish = bucket_arena
    use(store, finish)
    finish(f"{ES}-s0", 1.5)  # another model: what was made from the former is not wanted
    images = sorted(targets_in(store).entries()[TARGET].path.rglob("*"))
    monkeypatch.setattr(bucket_place, "UNUSED_FOR", bucket_place.UNUSED_FOR * 0)
    items = pruning.prunable(store)
    assert [size for size in pruning.sizes(items) if size > 1000]
    assert pruning.prune(store, items) == {}
    assert [item.what for item in pruning.prunable(store) if "objects" in item.what] == []
    assert champions.open_scorer(champions.require_champion(in_bucket(objects, tmp_path / "b"), TARGET)) is not None

    rebenchmark.accept(store, "the order is done")
    assert removal.remove(store, TARGET, removal.removable(store, TARGET)) == {}
    again = in_bucket(objects, tmp_path / "c")
    assert [again.keys(stage) for stage in (SPLIT, TRAINED_MODEL, METRICS, BENCHMARK)] == [[], [], [], [()]]
    assert champions.targets_with_champions(again) == []
    assert TARGET not in targets_in(again).names()
    assert sorted(p for p in images if p.exists()) == images


def test_a_store_goes_into_a_bucket_and_comes_back_whole(arena: Arena, objects: ObjectStore, tmp_path: Path) -> None:
    folder, finish = arena
    use(folder, finish)
    checkpoint = checkpoint_file(folder, TARGET, f"{MKD}-s7")
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(b"half trained")
    bucket = in_bucket(objects, tmp_path / "node")
    first = store_care.copy(folder, bucket)
    assert (first.there, first.unreadable) == (0, [])
    again = store_care.copy(folder, bucket)
    assert (again.copied, again.there) == (1, first.copied - 1)  # of a checkpoint nobody knows, so it goes again
    back = Store(tmp_path / "back")
    assert store_care.copy(in_bucket(objects, tmp_path / "another node"), back).copied == first.copied
    assert versions(back) == versions(folder)
    assert checkpoint_file(back, TARGET, f"{MKD}-s7").read_bytes() == b"half trained"
    assert champions.champions_of(back, TARGET) == champions.champions_of(folder, TARGET)
    assert champions.looks(back, TARGET) == champions.looks(folder, TARGET)
    assert rounds.records(back) == rounds.records(folder)
    assert store_care.verify(back) == store_care.verify(bucket) == {}
    weights = Path(TRAINED_MODEL.name) / TARGET / f"{MKD}-s0" / WEIGHTS_FILE
    assert (back.root / weights).stat().st_ino != (folder.root / weights).stat().st_ino


def test_a_copy_that_broke_off_goes_on(
    arena: Arena, objects: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, finish = arena
    finish(f"{ES}-s0", 1.0)
    bucket, real, left = in_bucket(objects, tmp_path / "node"), BucketPlace.publish, [3]

    def failing(place: BucketPlace, *given: Any, **more: Any) -> Record:
        left[0] -= 1
        if left[0] < 0:
            raise StoreError("the network is gone")
        return real(place, *given, **more)

    with monkeypatch.context() as patched:
        patched.setattr(BucketPlace, "publish", failing)
        with pytest.raises(StoreError, match="network is gone"):
            store_care.copy(folder, bucket)
    done = store_care.copy(folder, bucket)
    assert done.there >= 3
    assert versions(bucket) == versions(folder)


def test_damage_is_found_named_and_mended(arena: Arena, objects: ObjectStore, tmp_path: Path) -> None:
    folder, finish = arena
    use(folder, finish)
    bucket = in_bucket(objects, tmp_path / "node")
    store_care.copy(folder, bucket)
    metrics = bucket.require(METRICS, TARGET, f"{MKD}-s1")
    reign = champions.require_champion(bucket, TARGET)
    wanted = [metrics.provenance.files["metrics.parquet"]["sha256"], reign.files["scores.parquet"]]
    obstore.put(objects, f"blobs/{wanted[0][:2]}/{wanted[0]}", b"cut")
    obstore.delete(objects, f"blobs/{wanted[1][:2]}/{wanted[1]}")
    fresh = in_bucket(objects, tmp_path / "another node")
    found = store_care.verify(fresh)
    assert {name.rpartition("/")[2] for name in found} >= {f"{MKD}-s1", "0002"}
    assert "metrics.parquet is damaged in the bucket" in found[f"metrics/{TARGET}/{MKD}-s1"]
    assert "scores.parquet is missing in the bucket" in found[f"champions/{TARGET}/0002"]
    kept = store_care.mend(fresh, found)
    assert kept == [f"champions/{TARGET}/0002"]
    assert fresh.find(Ref(METRICS.name, TARGET, f"{MKD}-s1")) is None
    assert fresh.find(Ref(METRICS.name, TARGET, f"{MKD}-s0")) is not None

    victim = folder.folder(Ref(METRICS.name, TARGET, f"{MKD}-s2")) / "metrics.parquet"
    content = bytearray(victim.read_bytes())
    content[10] ^= 1
    victim.write_bytes(content)
    assert list(store_care.verify(folder)) == [f"metrics/{TARGET}/{MKD}-s2"]
    copied = store_care.copy(folder, Store(tmp_path / "copy"))
    assert len(copied.unreadable) == 1
    assert "metrics.parquet is damaged" in copied.unreadable[0]


def test_the_commands_say_what_they_did(
    arena: Arena, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RKD_STORE", "")
    folder, finish = arena
    finish(f"{ES}-s0", 1.0)
    root, copied = str(folder.root), str(tmp_path / "copy")
    assert main(["store", "copy", root, copied]) == 0
    assert "copied, 0 were there" in capsys.readouterr().out
    assert main(["store", "verify", "--store", copied]) == 0
    assert "every file is what was written" in capsys.readouterr().out
    (Path(copied) / METRICS.name / TARGET / f"{ES}-s0" / "metrics.parquet").write_bytes(b"")
    assert main(["store", "verify", "--store", copied]) == 1
    assert "1 damaged; with --mend" in capsys.readouterr().out
    assert main(["store", "verify", "--store", copied, "--mend"]) == 0
    assert "1 let go" in capsys.readouterr().out
    assert main(["store", "copy", root, copied]) == 0
    assert main(["store", "verify", "--store", copied]) == 0
    capsys.readouterr()
    for wrong, said in (
        ((root, root), "are the same store"),
        ((str(tmp_path / "nowhere"), copied), "is no folder, so no store is there"),
        ((root, "s3://bucket"), "RKD_LOCKS is not set"),
        ((root, "ftp://bucket"), "begins with none of s3://"),
    ):
        assert main(["store", "copy", *wrong]) == 1
        assert said in capsys.readouterr().err
    assert json.loads((folder.root / METRICS.name / TARGET / f"{ES}-s0" / "provenance.json").read_text())
