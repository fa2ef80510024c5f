import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rkd_pipeline import __version__
from rkd_pipeline.errors import NewerResult, StoreError
from rkd_pipeline.store import stage_versions as flow
from rkd_pipeline.store.result_store import Ref, Result, Store
from rkd_pipeline.store.stage_versions import IMAGES, METRICS, SPLIT, Stage


def write(text: str):
    def into(folder: Path) -> dict[str, str]:
        (folder / "data.txt").write_text(text)
        return {"said": text}

    return into


def never(folder: Path) -> None:
    raise AssertionError("made again although it was done")


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_what_is_done_is_not_done_again(store: Store) -> None:
    first = store.produce(IMAGES, ["t"], write("a"), parameters={"x": 1})
    again = store.produce(IMAGES, ["t"], never, parameters={"x": 1})
    assert (first.reused, again.reused) == (False, True)
    assert again.data_version == first.data_version
    assert store.require(IMAGES, "t").facts == {"said": "a"}


def test_provenance_says_what_was_made_from_what(store: Store) -> None:
    images = store.produce(IMAGES, ["t"], write("a"))
    split = store.produce(SPLIT, ["t"], write("b"), parameters={"x": [1, 2]}, inputs=[images])
    record = json.loads((store.root / "split" / "t" / "provenance.json").read_text())
    assert record["inputs"] == {"images[t]": images.data_version}
    assert record["parameters"] == {"x": [1, 2]}
    assert record["files"]["data.txt"]["bytes"] == 1
    assert {"torch", "rkd-pipeline"} <= set(record["environment"]["versions"])
    assert split.data_version != images.data_version


@pytest.mark.parametrize("change", ["parameters", "version", "input", "file"])
def test_every_change_makes_it_again(store: Store, change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    images = store.produce(IMAGES, ["t"], write("a"))
    store.produce(SPLIT, ["t"], write("old"), parameters={"x": 1}, inputs=[images])
    parameters, stage = {"x": 1}, SPLIT
    if change == "parameters":
        parameters = {"x": 2}
    elif change == "version":
        stage = Stage("split", SPLIT.version + 1)
        monkeypatch.setitem(flow.STAGES, "split", stage)
    elif change == "input":
        images = store.produce(IMAGES, ["t"], write("changed"), parameters={"new": True})
    else:
        (store.root / "split" / "t" / "data.txt").write_text("cut")
        with pytest.raises(StoreError, match=r"data\.txt is missing or cut short"):
            Store(store.root).require(SPLIT, "t") if (store.root / "split/t/data.txt").write_text("") == 0 else None
    made = store.produce(stage, ["t"], write("new"), parameters=parameters, inputs=[images])
    assert not made.reused
    assert (made.folder / "data.txt").read_text() == "new"
    assert names(store.root / "split") == ["t"]


def test_an_equal_input_made_again_stops_the_change(store: Store) -> None:
    images = store.produce(IMAGES, ["t"], write("a"))
    store.produce(SPLIT, ["t"], write("b"), inputs=[images])
    again = store.produce(IMAGES, ["t"], write("a"), parameters={"touched": True})
    assert store.produce(SPLIT, ["t"], never, inputs=[again]).reused


def test_staleness_is_seen_from_two_steps_away(store: Store) -> None:
    images = store.produce(IMAGES, ["t"], write("a"))
    split = store.produce(SPLIT, ["t"], write("b"), inputs=[images])
    store.produce(METRICS, ["t", "rkd-s0"], write("c"), inputs=[split])
    assert store.require(METRICS, "t", "rkd-s0").facts == {"said": "c"}
    store.produce(IMAGES, ["t"], write("other"), parameters={"new": 1})
    with pytest.raises(
        StoreError, match=r"metrics\[t, rkd-s0\] is stale: split\[t\] is stale \(images\[t\] has changed"
    ):
        store.require(METRICS, "t", "rkd-s0")
    with pytest.raises(StoreError, match=r"trained_model\[t, k\] is missing"):
        store.require(flow.TRAINED_MODEL, "t", "k")


def test_a_failure_leaves_the_old_result_and_nothing_else(store: Store) -> None:
    store.produce(IMAGES, ["t"], write("old"))

    def fail(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        store.produce(IMAGES, ["t"], fail, parameters={"new": 1})
    assert store.require(IMAGES, "t").facts == {"said": "old"}
    assert names(store.root / "images") == ["t"]


def test_damaged_provenance_names_the_folder_to_delete(store: Store) -> None:
    folder = store.produce(IMAGES, ["t"], write("a")).folder
    (folder / "provenance.json").write_text("{")
    with pytest.raises(StoreError, match="delete the folder"):
        store.find(Ref("images", "t"))


HOLDER = """
import sys, time
from pathlib import Path
from rkd_pipeline.store.stage_versions import IMAGES
from rkd_pipeline.store.result_store import Store
def write(folder):
    (folder / "half").write_text("half")
    print("holding", flush=True)
    time.sleep(120)
Store(Path(sys.argv[1])).produce(IMAGES, ["t"], write)
"""


def test_a_killed_writer_frees_its_lock_and_its_half_result_never_counts(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(store.root)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "holding\n"
    with pytest.raises(StoreError, match="missing"):
        store.require(IMAGES, "t")
    subprocess.Popen(["sh", "-c", f"sleep 1; kill -{signal.SIGKILL.value} {holder.pid}"])
    started = time.monotonic()
    made: Result = store.produce(IMAGES, ["t"], write("whole"))
    assert 0.5 < time.monotonic() - started < 30  # it waited, and no longer than needed
    assert f"waiting for images[t], held by process {holder.pid}" in caplog.text
    assert made.facts == {"said": "whole"}
    assert names(store.root / "images") == ["t"]
    holder.wait()


def test_keys_lists_partitions_and_no_leftovers(store: Store) -> None:
    for key in (["b", "rkd-s1"], ["a", "rkd@resnet18~2e-s0"]):
        store.produce(METRICS, key, write("x"))
    os.makedirs(store.root / "metrics" / "a" / ".rkd-s9.12345678.tmp")
    (store.root / "metrics" / "a" / ".rkd-s9.12345678.tmp" / "provenance.json").write_text("{}")
    assert store.keys(METRICS) == [("a", "rkd@resnet18~2e-s0"), ("b", "rkd-s1")]


def damaged(file: Path, how: str) -> None:
    content = file.read_bytes()
    file.write_bytes(bytes(len(content)) if how == "zeros" else bytes([content[0] ^ 1]) + content[1:])


@pytest.mark.parametrize("how", ["zeros", "a flipped bit"])
@pytest.mark.parametrize("known", [True, False])
def test_damage_of_the_same_size_is_found_and_mended(store: Store, how: str, known: bool) -> None:
    images = store.produce(IMAGES, ["t"], write("abc"))
    split = store.produce(SPLIT, ["t"], write("b"), inputs=[images])
    damaged(images.folder / "data.txt", how)
    if not known:
        shutil.rmtree(store.root / ".verified")  # a record that is lost costs time, nothing else
    reader = Store(store.root)
    says = rf"images\[t\] is stale: {images.folder}/data\.txt is damaged: its SHA-256 .*; materialise it again"
    with pytest.raises(StoreError, match=says):
        reader.require(IMAGES, "t")
    assert "data.txt is damaged" in str(reader.why_stale(split))
    mended = reader.produce(IMAGES, ["t"], write("abc"))
    assert not mended.reused
    assert mended.data_version == images.data_version
    assert reader.why_stale(split) is None


def test_a_file_is_hashed_once_per_state(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    made = store.produce(IMAGES, ["t"], write("abc"))
    hashed: list[str] = []

    def count(path: Path) -> str:
        hashed.append(path.name)
        return hashlib.sha256(path.read_bytes()).hexdigest()

    monkeypatch.setattr("rkd_pipeline.store.hashes.file_sha256", count)
    assert Store(store.root).require(IMAGES, "t").data_version == made.data_version
    assert hashed == []  # its writer has hashed it
    (store.root / ".verified/images/t.json").write_bytes(b"\0" * 40)
    os.utime(made.folder / "data.txt", ns=(1, 1))
    for _ in range(3):
        Store(store.root).require(IMAGES, "t")
    assert hashed == ["data.txt"]
    os.utime(made.folder / "data.txt", ns=(2, 2))
    assert Store(store.root).require(IMAGES, "t").data_version == made.data_version
    assert hashed == ["data.txt"] * 2


def test_results_of_before_there_were_records_are_read(store: Store) -> None:
    made = store.produce(IMAGES, ["t"], write("abc"))
    shutil.rmtree(store.root / ".verified")
    assert Store(store.root).require(IMAGES, "t").data_version == made.data_version


def by_a_newer_version(folder: Path) -> bytes:
    """Rewrite a result's record as a version to come may write it: with a field that nobody knows yet."""
    file = folder / "provenance.json"
    record = json.loads(file.read_text())
    record |= {"stage_version": 1000, "unheard_of": True}
    record["environment"]["versions"]["rkd-pipeline"] = "9.8.7"
    file.write_text(json.dumps(record))
    return file.read_bytes()


USES: dict[str, Callable[[Store], object]] = {
    "find": lambda store: store.find(Ref("images", "t")),
    "require": lambda store: store.require(IMAGES, "t"),
    "produce": lambda store: store.produce(IMAGES, ["t"], never, parameters={"new": 1}),
}


@pytest.mark.parametrize("use", USES)
def test_a_result_of_a_newer_version_is_refused_and_stays_as_it_is(store: Store, use: str) -> None:
    folder = store.produce(IMAGES, ["t"], write("of the future")).folder
    record = by_a_newer_version(folder)
    with pytest.raises(NewerResult) as refused:
        USES[use](store)
    said = str(refused.value)
    mine = [f"rkd-pipeline {__version__},", f"version {IMAGES.version};", str(folder)]
    for part in ("images[t]", "version 1000", "rkd-pipeline 9.8.7", "upgrade", "RKD_STORE", *mine):
        assert part in said
    assert (folder / "provenance.json").read_bytes() == record
    assert (folder / "data.txt").read_text() == "of the future"


def test_what_was_made_from_a_newer_result_is_refused_too(store: Store) -> None:
    images = store.produce(IMAGES, ["t"], write("a"))
    split = store.produce(SPLIT, ["t"], write("b"), inputs=[images])
    by_a_newer_version(images.folder)
    with pytest.raises(NewerResult, match=r"images\[t\] was made by version 1000"):
        store.why_stale(split)


def test_a_record_that_is_no_record_is_damaged_not_newer(store: Store) -> None:
    folder = store.produce(IMAGES, ["t"], write("a")).folder
    for content in ("[]", '"text"', '{"stage_version": "1000"}'):
        (folder / "provenance.json").write_text(content)
        with pytest.raises(StoreError, match="is damaged") as refused:
            store.find(Ref("images", "t"))
        assert not isinstance(refused.value, NewerResult)


def test_a_store_that_is_only_looked_at_gives_what_is_there_and_makes_nothing(store: Store) -> None:
    made = store.produce(SPLIT, ["a"], lambda folder: (folder / "x.txt").write_text("x") and None)
    looking = Store(store.root, only_look=True)
    assert looking.produce(SPLIT, ["a"], lambda folder: None).data_version == made.data_version
    with pytest.raises(StoreError, match=r"split\[b\] is missing or not up to date, and .* opened to look only"):
        looking.produce(SPLIT, ["b"], lambda folder: None)
    assert store.keys(SPLIT) == [("a",)]
