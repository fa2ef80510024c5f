"""What may be deleted, on a store whose trainings are made up; and that nothing else ever is."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rkd_pipeline.cli.main import main
from rkd_pipeline.data.user_targets import targets_in
from rkd_pipeline.operations import champions, work_orders
from rkd_pipeline.operations.pruning import Prunable, prunable, prune, sizes
from rkd_pipeline.recipes.plans import PlannedTraining
from rkd_pipeline.stages import datasets
from rkd_pipeline.stages.trained_model import checkpoint_file
from rkd_pipeline.store import stage_versions as flow
from rkd_pipeline.store.result_store import Ref, Store
from rkd_pipeline.store.stage_versions import ANOMALY_SCORES, IMAGES, METRICS, PREPARED_IMAGES, TRAINED_MODEL, Stage
from tests.library.arena import TARGET, Finish, build, enter

TRAINING, OTHER = "rkd-es-cal@resnet18.random~1e-s0", "rkd@resnet18.random~1e-s1"
Arena = tuple[Store, Finish]


def found(store: Store) -> dict[str, str]:
    return {item.what: item.why for item in prunable(store)}


def everything(store: Store) -> set[Path]:
    """Files, but for those of locks."""
    return {p for p in store.root.rglob("*") if p.is_file() and ".locks" not in p.parts}


def touch(file: Path, size: int = 0) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"x" * size)
    return file


def test_what_is_finished_and_up_to_date_stays(arena: Arena) -> None:
    store, finish = arena
    finish(TRAINING, 1.0)
    champions.challenge(store, TARGET)
    touch(checkpoint_file(store, TARGET, OTHER))  # of a training that is not finished: this is the work
    before = everything(store)
    assert prunable(store) == []
    assert prune(store, []) == {}
    assert everything(store) == before


def test_checkpoints_and_what_the_dead_left(arena: Arena) -> None:
    store, finish = arena
    finish(TRAINING, 1.0)
    done = touch(checkpoint_file(store, TARGET, TRAINING), 2**20)
    live = touch(checkpoint_file(store, TARGET, OTHER), 10)
    aside = touch(live.with_suffix(".set-aside"), 2**19)
    half = touch(live.with_name(f".{live.name}.0123abcd.tmp"), 7)
    folder = touch(store.root / "metrics" / TARGET / f".{TRAINING}.89abcdef.old.tmp" / "metrics.parquet", 5).parent
    table = touch(store.root / ".benchmark.01234567.tmp" / "benchmark.parquet", 3).parent
    export = touch(store.root / ".export-old" / "student.safetensors", 9).parent
    os.utime(export, (0, 0))
    before = everything(store)
    touch(store.root / ".export-new" / "student.safetensors")
    items = prunable(store)
    expected = [done, aside, half, table, folder, export]
    assert [item.path for item in items] == expected
    assert sizes(items) == [2**20, 2**19, 7, 3, 5, 9]
    assert "its training is finished" in items[0].why
    assert prune(store, items) == {}
    gone = {done, aside, half, table / "benchmark.parquet", folder / "metrics.parquet", export / "student.safetensors"}
    assert everything(store) == before - gone | {store.root / ".export-new" / "student.safetensors"}
    assert live.exists()


def test_results_of_another_version_of_the_code(arena: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    store, finish = arena
    finish(TRAINING, 1.0)
    champion = champions.challenge(store, TARGET).champion
    finish(OTHER, 1.0)
    before = everything(store)
    monkeypatch.setitem(flow.STAGES, "trained_model", Stage("trained_model", TRAINED_MODEL.version + 1))
    items = prunable(store)
    refs = [Ref(stage.name, TARGET, OTHER) for stage in (TRAINED_MODEL, ANOMALY_SCORES, METRICS)]
    assert [item.result for item in items] == refs  # not those of the champion's training
    assert all(f"made by version {TRAINED_MODEL.version} of trained_model" in item.why for item in items)
    weights = store.folder(refs[0]) / "student.safetensors"
    assert weights.stat().st_nlink > 1
    assert 0 < sizes(items)[0] < weights.stat().st_size  # they lie elsewhere too
    assert prune(store, items[:1]) == {}
    assert [(item.result, item.why) for item in prunable(store)] == [
        (refs[1], f"{refs[0]} is gone"),
        (refs[2], f"{refs[0]} is gone"),
    ]  # killed in between, it goes on
    assert prune(store, items[1:]) == {}
    assert everything(store) == {p for p in before if OTHER not in p.parts and p.stem != OTHER}
    assert champions.open_scorer(champion) is not None


def test_results_of_other_data_once_the_data_is_up_to_date(tmp_path: Path) -> None:
    """Files that were touched, or not yet read again, say nothing: the same images may come of them."""
    store = build(tmp_path)  # its images are this test's own
    enter(store)(OTHER, 1.0)
    images = targets_in(store).entries()[TARGET].path
    for step in ("touched", "deleted"):
        victim = images / "good" / "000.png"
        os.utime(victim, (1, 1)) if step == "touched" else victim.unlink()
        datasets.find_source(store, images, TARGET)
        assert store.find(Ref(IMAGES.name, TARGET)) is not None
        assert prunable(store) == []  # stale, and not yet known to be of other data
        datasets.index_images(store, TARGET)
        datasets.split_images(store, TARGET)
        datasets.prepare_images(store, TARGET, datasets.FIRST_SIDE)
        if step == "touched":
            assert prunable(store) == []
            assert store.require(METRICS, TARGET, OTHER)
    reasons = found(store)
    assert list(reasons) == [f"{s.name}[{TARGET}, {OTHER}]" for s in (TRAINED_MODEL, ANOMALY_SCORES, METRICS)]
    assert all(f"made from another split[{TARGET}]" in why for why in reasons.values())


def test_a_recipe_that_means_something_else_now(arena: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    store, finish = arena
    finish(OTHER, 1.0)
    from rkd_pipeline.stages import trained_model

    monkeypatch.setattr(trained_model, "training_parameters", lambda key: {"epochs": 99})
    assert found(store)[f"trained_model[{TARGET}, {OTHER}]"] == "its epochs changed since"


def test_sides_that_nothing_uses(arena: Arena) -> None:
    """128 pixels are unused, 192 those of a training under way, 256 those of a result; 224 is never listed."""
    store, finish = arena
    finish("rkd-official@resnet18.random~1e-s0", 1.0)
    for side in (128, 192):
        datasets.prepare_images(store, TARGET, side)
    touch(checkpoint_file(store, TARGET, "rkd-official-brief@resnet18.random~1e-s0"))
    ordered = work_orders.place(store, "some", "some", [PlannedTraining(TARGET, "mkd-brief-s0")])  # of 128 pixels
    assert prunable(store) == []
    work_orders.end(store, ordered, {})
    [item] = prunable(store)
    assert item.result == Ref(PREPARED_IMAGES.name, TARGET, "128px")
    assert prune(store, [item]) == {}
    sides = [key[1] for key in store.keys(PREPARED_IMAGES)]
    assert sides == ["192px", "224px", "256px"]
    assert store.require(METRICS, TARGET, "rkd-official@resnet18.random~1e-s0")


HOLDER = """
import sys, time
from pathlib import Path
from rkd_pipeline.store.result_store import Store
with Store(Path(sys.argv[1])).lock(sys.argv[2]):
    print("holding", flush=True)
    time.sleep(120)
"""


def held(store: Store, name: str) -> "subprocess.Popen[str]":
    """A process that holds a lock."""
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(store.root), name], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "holding\n"
    return holder


def test_what_a_process_works_on_stays(arena: Arena) -> None:
    store, finish = arena
    finish(TRAINING, 1.0)
    datasets.prepare_images(store, TARGET, 128)
    aside = touch(checkpoint_file(store, TARGET, OTHER).with_suffix(".set-aside"))
    done = touch(checkpoint_file(store, TARGET, TRAINING))
    holder = held(store, f"trained_model[{TARGET}, {OTHER}]")
    try:
        assert prune(store, prunable(store)) == {
            f"prepared_images[{TARGET}, 128px]": f"it may be in use: process {holder.pid} on {os.uname().nodename} is "
            "at work",
            f"checkpoint of {TARGET} {OTHER}, set aside": "a process works on it",
        }
        assert aside.exists()
        assert not done.exists()
    finally:
        holder.kill()
        holder.wait()
    assert prune(store, prunable(store)) == {}
    assert not aside.exists()


def test_what_came_into_use_since_it_was_listed_stays(arena: Arena) -> None:
    store, _ = arena
    datasets.prepare_images(store, TARGET, 128)
    [item] = prunable(store)
    touch(checkpoint_file(store, TARGET, "mkd~1e-s0"))
    assert isinstance(item, Prunable)
    assert list(prune(store, [item]).values()) == ["it is in use again"]
    assert store.require(PREPARED_IMAGES, TARGET, "128px")


def test_the_command_deletes_only_when_it_is_told(
    arena: Arena, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("RKD_STORE", "RKD_DATA"):  # main() sets them; monkeypatch puts them back
        monkeypatch.setenv(name, "")
    store, _ = arena
    aside = touch(checkpoint_file(store, TARGET, OTHER).with_suffix(".set-aside"), 3 * 2**20)
    row = f"| checkpoint of {TARGET} {OTHER}, set aside | 3.0 | it could not be resumed, and was set aside |"
    for words, says in (
        ([], "3.0 MiB could be deleted; nothing was, without --yes"),
        (["--yes"], "3.0 MiB deleted"),
        ([], "nothing can be deleted without loss"),
    ):
        assert main(["prune", "--store", str(store.root), *words]) == 0
        said = capfd.readouterr().out
        assert said.splitlines()[-1] == says
        assert (row in " ".join(said.split())) == ("MiB" in says)
        assert aside.exists() == (words == [] and "could" in says)
