"""Tables that are what they would be now are read without Dagster; every change is noticed."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from assets.jobs import TABLES
from rkd_pipeline.definitions import ASSETS
from rkd_pipeline.operations.tables_in_step import BUILT, tables_are_in_step
from rkd_pipeline.store.result_store import Ref, Store
from rkd_pipeline.store.stage_versions import BENCHMARK, METRICS, TABLE_3
from tests.library.arena import TARGET, Finish, enter

FIRST, SECOND = "rkd@resnet18.random~1e-s0", "rkd@resnet18.random~1e-s1"


@pytest.fixture(scope="module")
def original(new_arena: Callable[[Path], tuple[Store, Finish]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    store, finish = new_arena(tmp_path_factory.mktemp("built"))
    finish(FIRST, 2.0)
    assert not tables_are_in_step(store)
    for build in BUILT:
        build(store)
    return store.root


@pytest.fixture
def built(original: Path, tmp_path: Path) -> tuple[Store, Finish]:
    """A store with one training and everything made of it, and the function that finishes more."""
    store = Store(Path(shutil.copytree(original, tmp_path / "store")))
    assert tables_are_in_step(store)
    return store, enter(store)


def test_everything_that_a_refresh_makes_is_looked_at(built: tuple[Store, Finish]) -> None:
    store, _ = built
    refreshed = {key.to_user_string() for key in TABLES.resolve(ASSETS)}
    assert {name for name in refreshed if store.find(Ref(name))} == refreshed
    assert len(BUILT) == len(refreshed)


def test_a_look_makes_nothing(built: tuple[Store, Finish]) -> None:
    store, _ = built
    store.remove(Ref(TABLE_3.name))
    before = sorted(p for p in store.root.rglob("*") if ".locks" not in p.parts and ".verified" not in p.parts)
    assert not tables_are_in_step(store)
    assert sorted(p for p in store.root.rglob("*") if ".locks" not in p.parts and ".verified" not in p.parts) == before


@pytest.mark.parametrize(
    "change",
    [
        lambda store, finish: finish(SECOND, 1.0),
        lambda store, finish: finish(FIRST, 1.0, 1),
        lambda store, finish: store.remove(Ref(METRICS.name, TARGET, FIRST)),
        lambda store, finish: (store.folder(Ref(BENCHMARK.name)) / "benchmark.parquet").write_bytes(b"PAR1"),
        lambda store, finish: (store.folder(Ref(TABLE_3.name)) / "table_3.md").unlink(),
    ],
    ids=["a training more", "measured again", "a training less", "damaged", "a file less"],
)
def test_every_change_is_noticed(built: tuple[Store, Finish], change: Callable[[Store, Finish], object]) -> None:
    store, finish = built
    change(store, finish)
    assert not tables_are_in_step(Store(store.root))
