"""Tables that are what they would be now are read without Dagster; every change is noticed."""

import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

import pytest

from assets.jobs import TABLES
from rkd_pipeline.definitions import ASSETS
from rkd_pipeline.operations.tables_in_step import BUILT, tables_are_in_step
from rkd_pipeline.stages import benchmark
from rkd_pipeline.stages.anomaly_scores import read_metrics
from rkd_pipeline.stages.benchmark import build_benchmark
from rkd_pipeline.stages.report import copy_report
from rkd_pipeline.store.result_store import Ref, Result, Store
from rkd_pipeline.store.stage_versions import BENCHMARK, METRICS, REPORT, STAGES, TABLE_3, TRAINING_PAGE
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
        lambda store, finish: store.remove(Ref(TRAINING_PAGE.name, TARGET, FIRST)),
    ],
    ids=["a training more", "measured again", "a training less", "damaged", "a file less", "a page less"],
)
def test_every_change_is_noticed(built: tuple[Store, Finish], change: Callable[[Store, Finish], object]) -> None:
    store, finish = built
    change(store, finish)
    assert not tables_are_in_step(Store(store.root))


def test_the_report_links_to_a_page_that_leads_back(built: tuple[Store, Finish], tmp_path: Path) -> None:
    store, _ = built
    for report in (store.require(REPORT).folder / "report.html", copy_report(store, tmp_path / "copy")):
        [page] = linked(report, "training_page")
        assert f'<p class="lead">{FIRST}</p>' in page.read_text(encoding="utf-8")
        assert linked(page, "report") == [report.resolve()]


def linked(page: Path, stage: str) -> list[Path]:
    """Files that an HTML page links to below the folder of a stage, seen from where it lies."""
    found = re.findall(rf'href="((?:\.\./)+{stage}/[^"]*)"', page.read_text(encoding="utf-8"))
    return [(page.parent / unquote(address)).resolve() for address in found]


def test_a_refresh_makes_the_pages_of_what_is_new_alone(built: tuple[Store, Finish]) -> None:
    store, finish = built
    before = store.require(TRAINING_PAGE, TARGET, FIRST).provenance.environment
    finish(SECOND, 1.0)
    for build in BUILT:
        build(store)
    assert store.require(TRAINING_PAGE, TARGET, FIRST).provenance.environment == before
    assert len(linked(store.require(REPORT).folder / "report.html", "training_page")) == 2


def test_a_benchmark_that_goes_on_from_the_one_before_is_the_same(
    built: tuple[Store, Finish], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, finish = built
    finish(SECOND, 1.0)
    finish("rkd-es@resnet18.random~1e-s0", 1.5)
    build_benchmark(store)
    read: list[Result] = []
    monkeypatch.setattr(benchmark, "read_metrics", lambda result: read.append(result) or read_metrics(result))
    again = finish(SECOND, 1.0, 1)
    went_on = build_benchmark(store)
    assert [result.data_version for result in read] == [again.data_version]
    store.remove(Ref(BENCHMARK.name))
    assert build_benchmark(store).data_version == went_on.data_version
    assert len(read) == 1 + 3
    assert went_on.facts["measured_trainings"] == 3


def test_the_report_shows_maps_of_the_median_training(built: tuple[Store, Finish]) -> None:
    store, finish = built
    finish(SECOND, 1.0)  # of two, the lower one
    for build in BUILT:
        build(store)
    html = (store.require(REPORT).folder / "report.html").read_text(encoding="utf-8")
    assert f"{TARGET}, {SECOND}: the median by image AUROC of its target" in html
    assert f"{TARGET}, {FIRST}: the" not in html


def test_one_look_reads_each_result_once(built: tuple[Store, Finish], monkeypatch: pytest.MonkeyPatch) -> None:
    store, _ = built
    read: Counter[str] = Counter()
    find = store.place.find
    monkeypatch.setattr(store.place, "find", lambda name, *more: read.update([name]) or find(name, *more))
    looking = store.to_look_at()
    with looking.one_look():
        for build in BUILT:
            build(looking)
    made_here = {stage for stage in STAGES if store.folder(Ref(stage, TARGET, FIRST)).exists()} - {TRAINING_PAGE.name}
    of_the_training = {name: n for name, n in read.items() if name.split("/")[0] in made_here - {"evidence"}}
    assert set(of_the_training.values()) == {1}
