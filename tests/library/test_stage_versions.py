"""A store made by version 0.2, before the modules moved: it is read as it is, and nothing of it is made again.

``tests/data/store_0_2.tar.xz`` holds a target of 60 good and 12 bad images, four trainings with made-up weights and
scores, a champion, the tables and the figures; its teacher's weights were left out, since the package has them.
"""

import tarfile
from pathlib import Path

import pytest

from rkd_pipeline.operations.champions import champions_of, looks
from rkd_pipeline.stages import benchmark, dataset_card, datasets, leaderboard, trained_model
from rkd_pipeline.stages.anomaly_scores import read_metrics, read_scores
from rkd_pipeline.stages.history import build_history
from rkd_pipeline.stages.trained_model import recipe_changed
from rkd_pipeline.store.result_store import Ref, Store
from rkd_pipeline.store.stage_versions import (
    ANOMALY_SCORES,
    DATASET_SOURCE,
    METRICS,
    STAGES,
    TABLE_1,
    TABLE_3,
    TRAINED_MODEL,
)

TARGET = "arena"
TRAININGS = {"rkd@embedded-s0", "rkd-cal@embedded-s0", "rkd-cal@embedded-s1", "rkd-mkd-mean@embedded~10e-s0"}
# Made again: more is said below the tables now, and ranks are over other targets where systems share few.
TABLES = {"table_1", "table_2", "table_3", "table_4", "table_demo", "leaderboard"}


@pytest.fixture
def older(tmp_path: Path) -> Store:
    with tarfile.open(Path(__file__).parents[1] / "data" / "store_0_2.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    return Store(tmp_path / "store")


def test_every_result_of_an_older_store_is_valid(older: Store) -> None:
    """By the files' hashes, all inputs and the stages' versions; only the tables are of an older version."""
    results = {Ref(s.name, *key): older.find(Ref(s.name, *key)) for s in STAGES.values() for key in older.keys(s)}
    assert len(results) == 3 * len(TRAININGS) + 6 + 12  # of trainings, of the target, of everything
    reasons = {ref.stage: older.why_stale(result) for ref, result in results.items() if result}
    assert {stage for stage, reason in reasons.items() if reason} == TABLES
    assert all("version" in str(reasons[stage]) for stage in TABLES)


def test_nothing_of_an_older_store_is_made_again(older: Store) -> None:
    before = older.require(DATASET_SOURCE, TARGET).data_version
    # The images lie in another folder than then: that is recorded anew, and changes nothing.
    assert datasets.find_source(older, older.root, TARGET).data_version == before
    again = [
        datasets.index_images(older, TARGET),
        datasets.split_images(older, TARGET),
        datasets.prepare_images(older, TARGET, datasets.FIRST_SIDE),
        dataset_card.make_card(older, TARGET),
        trained_model.list_teachers(older),
        benchmark.build_benchmark(older),
        build_history(older),
    ]
    assert [r.provenance.stage for r in again if not r.reused] == []
    assert not leaderboard.build_leaderboard(older).reused
    for stage in (TABLE_1, TABLE_3):
        build = benchmark.build_table_3 if stage == TABLE_3 else lambda s: benchmark.build_category_table(s, TABLE_1)
        assert not build(older).reused


def test_an_older_store_is_read(older: Store) -> None:
    assert {training for _, training in older.keys(TRAINED_MODEL)} == TRAININGS
    for training in TRAININGS:
        model = older.require(TRAINED_MODEL, TARGET, training)
        assert recipe_changed(model) is None
        assert trained_model.read_model_card(model).training == training
        assert len(trained_model.read_history(model)) == 1
        scores, maps = read_scores(older.require(ANOMALY_SCORES, TARGET, training))
        assert len(scores) == len(maps) >= 24
        assert set(read_metrics(older.require(METRICS, TARGET, training))["metric"]) >= {"image_auroc", "threshold"}
    [champion] = champions_of(older, TARGET)
    assert (champion.training, champion.how) == ("rkd-cal@embedded-s0", "first")
    assert looks(older, TARGET) == []
    rows = benchmark.read_benchmark(benchmark.build_benchmark(older))
    assert set(rows.loc[rows["origin"] == "measured", "training"]) == TRAININGS
