import numpy as np
import pandas as pd
import pytest
from scipy.stats import t, ttest_ind

from rkd_pipeline.stages.history import points, sheets_of
from rkd_pipeline.stages.rounds import values_of
from rkd_pipeline.statistics.multiple_testing import ALPHA, look_level
from rkd_pipeline.statistics.regressions import VALUE_COLUMNS, moves

RNG = np.random.default_rng(7)


def rows(number: int, values: dict[int, list[float]], **more: object) -> list[dict[str, object]]:
    """One round: repeat to the values of its seeds."""
    shared = {"round": number, "target": "demo.weave", "recipe": "rkd", "teacher": "embedded", "epochs": 8}
    shared |= {
        "metric": "image_auroc",
        "score_rule": "map_max",
        "draw": "fixed",
        "finished": "now",
        "code": "1",
        "data": "a",
        "images": "b",
    }
    return [
        shared | {"repeat": repeat, "seed": 1000 * number + i, "value": value} | more
        for repeat, of_repeat in values.items()
        for i, value in enumerate(of_repeat)
    ]


def table(*rounds: list[dict[str, object]]) -> pd.DataFrame:
    return pd.DataFrame([row for r in rounds for row in r]).reindex(columns=list(VALUE_COLUMNS))


def test_one_repeat_is_student_s_two_sample_test() -> None:
    """With one repeat the statistic is the textbook's; Holm with one series changes nothing."""
    old, new = [0.80, 0.83, 0.81, 0.79], [0.70, 0.72, 0.69]
    found = moves(table(rows(0, {0: old}), rows(1, {0: new}))).iloc[0]
    expected = ttest_ind(new, old)
    assert found["p"] == found["p_holm"] == pytest.approx(expected.pvalue)
    interval = expected.confidence_interval(0.95)
    assert (found["ci_low"], found["ci_high"]) == pytest.approx((interval.low, interval.high))
    assert found["move"] == pytest.approx(np.mean(new) - np.mean(old))
    assert found["verdict"] == "worse"
    assert found["level"] == 0.025


def test_repeats_are_compared_with_themselves() -> None:
    """A repeat that is harder than another is no noise: an analysis of variance with a factor for repeats."""
    old, new = {0: [0.90, 0.91], 1: [0.60, 0.61]}, {0: [0.92, 0.93], 1: [0.62, 0.63]}
    found = moves(table(rows(0, old), rows(1, new))).iloc[0]
    # By hand: within each of four groups of two, squares (0.005^2 * 2); 4 degrees of freedom; every difference 0.02.
    deviation = np.sqrt(4 * 2 * 0.005**2 / 4)
    error = deviation * np.sqrt(4 / 2) / 2
    assert found["move"] == pytest.approx(0.02)
    assert found["p"] == pytest.approx(2 * t.sf(0.02 / error, 4))


def test_a_visible_move_is_just_what_would_be_found() -> None:
    old, new = [0.80, 0.82, 0.78, 0.81], [0.80, 0.81, 0.79]
    visible = moves(table(rows(0, {0: old}), rows(1, {0: new}))).iloc[0]["visible"]
    centre = np.mean(old) - np.mean(new)
    for factor, moved in ((0.99, False), (1.01, True)):
        shifted = [x + centre + factor * visible for x in new]
        assert moves(table(rows(0, {0: old}), rows(1, {0: shifted}))).iloc[0]["moved"] == moved


def test_a_regression_that_stays_is_reported_until_its_level_is_accepted() -> None:
    rounds = [rows(n, {0: list(0.8 + RNG.normal(0, 0.005, 3))}) for n in range(4)]
    rounds += [rows(n, {0: list(0.6 + RNG.normal(0, 0.005, 3))}) for n in range(4, 8)]
    verdicts = moves(table(*rounds)).set_index("round")["verdict"]
    assert verdicts[verdicts.index < 4].eq("within noise").all()
    assert verdicts[verdicts.index >= 4].eq("worse").all()
    accepted = moves(table(*rounds), {5: "new teacher"}).set_index("round")["verdict"]
    assert accepted[accepted.index.isin([4, 5])].eq("worse").all()
    assert accepted[accepted.index > 5].eq("within noise").all()


def test_what_cannot_be_told_says_so() -> None:
    single = moves(table(rows(0, {0: [0.8]}), rows(1, {0: [0.2]}))).iloc[0]
    assert single["verdict"].startswith("cannot be told")
    assert not single["moved"]
    first = moves(table(rows(1, {0: [0.8, 0.7]}))).iloc[0]
    assert first["verdict"].startswith("first of its kind")
    apart = moves(table(rows(0, {0: [0.8, 0.7]}), rows(1, {1: [0.8, 0.7]}))).iloc[0]
    assert apart["verdict"] == "no repeat in common with earlier rounds"


@pytest.mark.parametrize("changed", ["data", "images"])
def test_a_round_on_other_data_is_not_comparable_and_says_so(changed: str) -> None:
    """Far worse numbers, but of other images: a test of old against new would find p below 1e-6."""
    old, new = {0: [0.90, 0.91, 0.905, 0.9]}, {0: [0.60, 0.61, 0.605]}
    assert ttest_ind(old[0], new[0]).pvalue < 1e-6
    found = moves(table(rows(0, old), rows(1, new, **{changed: "other"}))).iloc[0]
    assert found["verdict"].startswith("not comparable: earlier rounds are of other data")
    assert not found["moved"]
    assert found[["before", "move", "p", "ci_low", "visible"]].isna().all()
    assert (found["trainings_before"], found["trainings_now"]) == (0, 3)


def test_rounds_on_the_new_data_are_compared_with_each_other_and_never_with_the_old() -> None:
    """Numbers drop with the data in round 2 and stay; in round 4 the code gets worse; round 5 is on the old data."""
    noise = RNG.normal(0, 0.005, (6, 3))
    levels = [(0.9, "old"), (0.9, "old"), (0.6, "new"), (0.6, "new"), (0.4, "new"), (0.9, "old")]
    rounds = [rows(n, {0: list(level + noise[n])}, images=of) for n, (level, of) in enumerate(levels)]
    found = moves(table(*rounds)).set_index("round")
    assert [v.partition(":")[0] for v in found["verdict"]] == [
        "within noise",
        "not comparable",
        "within noise",
        "worse",
        "within noise",
    ]
    assert found.loc[[3, 4], "before"].tolist() == pytest.approx([0.6 + noise[2].mean(), 0.6 + noise[2:4].mean()])
    assert found.loc[5, "before"] == pytest.approx(0.9 + noise[:2].mean())


def test_older_records_that_know_their_split_alone_are_compared_by_it() -> None:
    """Records are read as they were written: the first had no hash of images."""
    old, now, other = (rows(n, {0: [0.8, 0.81]}, images=of, **shared) for n, of, shared in (
        (0, None, {}), (1, "b", {}), (2, "c", {}),
    ))  # fmt: skip
    for row in old:
        del row["images"]
    read = values_of([{"values": values} for values in (old, now, other)])
    assert moves(read)["verdict"].str.partition(":")[0].tolist() == ["within noise", "not comparable"]
    alone = values_of([{"values": old}, {"values": rows(1, {0: [0.8, 0.82]}, images=None)}])
    assert moves(alone)["verdict"].tolist() == ["within noise"]


def test_points_over_time_say_where_the_data_changed() -> None:
    values = values_of([{"values": [*rows(n, {0: [0.8, 0.81]}, images=of)]} for n, of in enumerate("aab")])
    found = points(values, moves(values))
    assert found["data"].duplicated().tolist() == [False, True, False]
    [_, over_time] = sheets_of(found, moves(values))
    assert ["other data" in row[5] for row in over_time.rows] == [False, False, True]


def test_a_new_draw_of_the_test_set_is_never_compared() -> None:
    drawn = rows(1, {7: [0.1, 0.11]}, draw="new")
    found = moves(table(rows(0, {0: [0.8, 0.81]}), rows(1, {0: [0.8, 0.82]}), drawn)).iloc[0]
    assert (found["trainings_now"], found["verdict"]) == (2, "within noise")


def test_seeds_that_agree_to_the_last_digit_do_not_make_a_tiny_move_real() -> None:
    found = moves(table(rows(0, {0: [0.9] * 4}), rows(1, {0: [0.9002] * 4}))).iloc[0]
    assert not found["moved"]
    assert moves(table(rows(0, {0: [0.9] * 4}), rows(1, {0: [0.8] * 4}))).iloc[0]["verdict"] == "worse"


def test_looks_without_end_spend_no_more_than_alpha() -> None:
    assert sum(look_level(n) for n in range(1, 100_000)) < ALPHA


def test_nothing_moves_and_an_alarm_in_ten_looks_at_four_targets_is_rare() -> None:
    """Four targets, ten looks each: uncorrected, 40 tests at 5% would raise an alarm in 87% of such histories."""
    histories, alarms = 60, 0
    for _ in range(histories):
        rounds = [
            rows(n, {r: list(0.8 + 0.1 * r + RNG.normal(0, 0.02, 2)) for r in range(2)}, target=f"t{k}")
            for n in range(11)
            for k in range(4)
        ]
        alarms += bool(moves(table(*rounds))["moved"].any())
    assert alarms <= 8  # a binomial of 60 at 5% stays there with probability 0.998
