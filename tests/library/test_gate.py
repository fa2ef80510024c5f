import re
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from rkd_pipeline.errors import StoreError
from rkd_pipeline.metrics.paired_auroc import Pair, paired_auroc
from rkd_pipeline.operations import champions, gate
from rkd_pipeline.stages.anomaly_scores import read_scores
from rkd_pipeline.store.result_store import Ref, Store
from tests.library.arena import TARGET, Finish, build, enter

ES, MKD, LAST = "rkd-es-cal@resnet18.random~1e", "rkd-cal@resnet18.random~1e", "rkd@resnet18.random~1e"


def test_configurations_are_keys_without_seed_and_repeat() -> None:
    assert gate.configuration("rkd-es@resnet18~40e-s1000r2") == "rkd-es@resnet18~40e"
    assert gate.configuration("rkd-s0") == "rkd"


def test_only_an_honest_threshold_makes_a_champion(arena: tuple[Store, Finish]) -> None:
    store, finish = arena
    finish(f"{LAST}-s0", 3.0)
    finish(f"{ES}-s0", 1.0)
    assert gate.honest_threshold(gate.require_eligible(store, TARGET, f"{ES}-s0")) is not None
    with pytest.raises(gate.NotEligible, match="no held-out ones can set a threshold"):
        gate.require_eligible(store, TARGET, f"{LAST}-s0")
    with pytest.raises(StoreError, match="is missing"):
        gate.require_eligible(store, TARGET, f"{ES}-s7")


def test_too_few_normals_are_counted_and_no_training_is_advised_that_cannot_help(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight normals in five folds: one or two test, and the others are too few for a calibration part."""
    monkeypatch.setattr("tests.library.arena.NORMAL", 8)
    store = build(tmp_path)
    finish = enter(store)
    finish(f"{ES}-s0", 1.0)
    with pytest.raises(champions.NoChampion) as refused:
        champions.challenge(store, TARGET)
    said = str(refused.value)
    assert re.search(r"takes 19 held-out normal images, and it has 0 \(", said)
    assert re.search(r"can hold out so many where 46 distinct normal images train; arena has [67]: add normal", said)
    assert "rkd run" not in said
    assert gate.threshold_of(store, TARGET, f"{ES}-s0")[0] is None


def test_a_recipe_that_holds_out_is_advised_where_the_split_has_enough() -> None:
    asked = ("screws", "rkd-s0", "the recipe trains on all normals", 0)
    assert "rkd run --targets screws --recipes" in gate.no_threshold_in_words(*asked, drawn=19, needed=19, normals=60)
    assert "rkd run" not in gate.no_threshold_in_words(*asked, drawn=0, needed=19, normals=45)


def test_a_comparison_is_over_shared_repeats_with_seeds_averaged(arena: tuple[Store, Finish]) -> None:
    store, finish = arena
    for seed in (0, 1, 2):
        finish(f"{ES}-s{seed}", 1.0)
    for key in ("s1", "s2", "s9r1", "s3"):  # two seeds on repeat 1, one on 2; 3 is not shared
        finish(f"{MKD}-{key}", 2.0)
    finished = gate.finished_trainings(store, TARGET)
    found = gate.compare(store, TARGET, finished[MKD], finished[ES])
    assert found is not None

    def auroc(training: str) -> float:
        scores, _ = read_scores(store.find(Ref("anomaly_scores", TARGET, training)))
        test = scores[scores["part"] == "test"]
        return float(roc_auc_score(test["anomalous"], test["map_max"]))

    first = np.mean([np.mean([auroc(f"{MKD}-s1"), auroc(f"{MKD}-s9r1")]), auroc(f"{MKD}-s2")])
    second = np.mean([auroc(f"{ES}-s1"), auroc(f"{ES}-s2")])
    assert (found.first, found.second) == (pytest.approx(first), pytest.approx(second))
    assert found.difference == pytest.approx(first - second)
    assert (found.repeats, found.n_normal, found.n_anomalous) == (2, 40, 40)  # disjoint folds, the same defects


def test_what_shares_no_repeat_is_not_compared(arena: tuple[Store, Finish]) -> None:
    store, finish = arena
    alone = [finish(f"{MKD}-s4", 2.0)]
    assert gate.compare(store, TARGET, alone, [finish(f"{ES}-s0", 1.0)]) is None
    assert "train it on the champion's seeds" in gate.in_words(MKD, None, 0.02)


def test_a_comparison_on_few_images_says_what_its_interval_cannot_promise() -> None:
    rng = np.random.default_rng(3)
    for of_a_class, said in ((12, True), (40, False)):
        anomalous, names = np.arange(2 * of_a_class) % 2 == 1, [str(i) for i in range(2 * of_a_class)]
        scores = [anomalous + rng.normal(size=len(names)) for _ in range(4)]
        found = paired_auroc([Pair(names, anomalous, [a], [b]) for a, b in (scores[:2], scores[2:])])
        text = gate.in_words(MKD, found, 0.02)
        assert f"{of_a_class} normal and {of_a_class} anomalous images" in text
        assert ("the 95% interval may hold the truth in 91% of cases only" in text) == said


def test_all_looks_together_spend_the_error_once() -> None:
    spent = sum(gate.level(number, 3) * 3 for number in range(1, 10_000))
    assert spent == pytest.approx(gate.ERROR, rel=1e-3)
    assert spent < gate.ERROR


def test_a_training_decides_by_its_system_s_own_score() -> None:
    assert gate.deciding_rule("rkd-es@resnet18-s0") == "map_max"
    assert gate.deciding_rule("mkd@resnet18-s0") == "loss"
