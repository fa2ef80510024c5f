import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import binomtest, norm
from sklearn.metrics import f1_score, roc_auc_score

from rkd_pipeline.data.catalog import Target
from rkd_pipeline.data.split import part_of, split
from rkd_pipeline.metrics.evaluation import measure
from rkd_pipeline.metrics.image_ap import image_ap
from rkd_pipeline.metrics.image_auroc import image_auroc, image_auroc_interval
from rkd_pipeline.metrics.image_f1_max import image_f1_max
from rkd_pipeline.metrics.intervals import nadeau_bengio, wilson
from rkd_pipeline.metrics.measurement import CALIBRATION, ORACLE, VALIDATION
from rkd_pipeline.metrics.pixel_auroc import pixel_auroc
from rkd_pipeline.metrics.threshold import calibrated_threshold
from rkd_pipeline.recipes.lookup import recipe
from rkd_pipeline.recipes.score_rules import SCORE_RULES

# Few distinct values: ties are the hard part.
tied = st.lists(st.tuples(st.booleans(), st.integers(0, 6)), min_size=4, max_size=40)


def both_classes(rows: list[tuple[bool, int]]) -> tuple[np.ndarray, np.ndarray]:
    labels, scores = (np.array(column) for column in zip(*rows, strict=True))
    assume(2 <= labels.sum() <= len(labels) - 2)
    return labels.astype(bool), scores / 7


@given(tied)
def test_auroc_is_the_share_of_pairs_in_order(rows: list[tuple[bool, int]]) -> None:
    labels, scores = both_classes(rows)
    pairs = [(a > n) + (a == n) / 2 for a in scores[labels] for n in scores[~labels]]
    assert image_auroc(labels, scores) == pytest.approx(np.mean(pairs), abs=1e-12)
    assert image_auroc(labels, scores) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


def test_with_many_images_the_interval_is_delongs() -> None:
    """Against the definition by double loops; with 400 images of each class the two agree within a twentieth."""
    rng = np.random.default_rng(3)
    labels = np.repeat([True, False], 400)
    scores = np.r_[rng.normal(1.5, 2, 400), rng.normal(0, 1, 400)]
    order = scores[labels][:, None] > scores[~labels][None, :]
    half = norm.ppf(0.975) * (order.mean(1).var(ddof=1) / 400 + order.mean(0).var(ddof=1) / 400) ** 0.5
    interval = image_auroc_interval(labels, scores)
    assert interval.high - interval.low == pytest.approx(2 * half, rel=0.05)
    assert interval.low < order.mean() < interval.high


@pytest.mark.parametrize(
    ("m", "n", "auroc", "ratio"),
    [(155, 10, 0.93, 1), (155, 10, 0.97, 0.5), (100, 10, 0.95, 1),
     (10, 155, 0.85, 2), (10, 10, 0.99, 1), (5, 5, 0.9, 2)],
)  # fmt: skip
def test_the_interval_holds_the_truth_as_often_as_it_says(m: int, n: int, auroc: float, ratio: float) -> None:
    """Normal scores, anomalous ones ``ratio`` times as wide: their AUROC is known. 150 samples at 95%.

    DeLong's own interval holds it in 66 to 90% of them. benchmarks/coverage.py is the large version.
    """
    rng, labels = np.random.default_rng(m + n), np.arange(m + n) < m
    shift = norm.ppf(auroc) * (1 + ratio**2) ** 0.5
    inside = 0
    for _ in range(150):
        scores = np.r_[rng.normal(shift, ratio, m), rng.normal(0, 1, n)]
        interval = image_auroc_interval(labels, scores)
        inside += interval.low <= auroc <= interval.high
    assert inside >= 0.9 * 150  # fewer at 95% happens once in hundreds of times


@given(tied)
@settings(deadline=None, max_examples=50)
def test_no_result_looks_surer_than_a_perfect_one(rows: list[tuple[bool, int]]) -> None:
    labels, scores = both_classes(rows)
    interval, perfect = image_auroc_interval(labels, scores), image_auroc_interval(labels, labels * 1.0)
    assert interval.low <= image_auroc(labels, scores) <= interval.high
    assert interval.high - interval.low >= perfect.high - perfect.low - 1e-9
    assert perfect.high == 1


def test_one_swapped_pair_changes_little_and_constant_scores_say_nothing() -> None:
    labels = np.arange(165) < 155
    scores = np.r_[np.arange(155) + 10.0, np.arange(10)]
    perfect = image_auroc_interval(labels, scores)
    scores[[0, 164]] = scores[[164, 0]]
    swapped = image_auroc_interval(labels, scores)
    assert image_auroc(labels, scores) == pytest.approx(1 - 1 / 1550)
    assert perfect.low - 0.01 < swapped.low < perfect.low < 0.9
    constant = image_auroc_interval(labels, np.zeros(165))
    assert constant.low < 0.35
    assert constant.high > 0.65


def test_copies_count_once() -> None:
    """Every image three times, and said so: the interval of the images themselves. Unsaid it is much too narrow."""
    rng, labels = np.random.default_rng(5), np.arange(40) < 25
    scores = rng.normal(size=40) + labels
    once = image_auroc_interval(labels, scores)
    three = np.tile(labels, 3), np.tile(scores, 3)
    told = image_auroc_interval(*three, clusters=np.tile(np.arange(40), 3))
    assert (told.low, told.high) == pytest.approx((once.low, once.high))
    unsaid = image_auroc_interval(*three)
    assert unsaid.high - unsaid.low < 0.7 * (once.high - once.low)


@given(arrays(float, 30, elements=st.floats(-5, 5, width=16)), st.integers(1, 29))
def test_auroc_ignores_any_increasing_change_of_scale(scores: np.ndarray, anomalous: int) -> None:
    labels = np.arange(30) < anomalous
    assert image_auroc(labels, scores) == image_auroc(labels, np.exp(scores) + 3)
    assert image_auroc(labels, -scores) == pytest.approx(1 - image_auroc(labels, scores))


@given(tied)
def test_f1_max_is_the_best_of_all_thresholds(rows: list[tuple[bool, int]]) -> None:
    labels, scores = both_classes(rows)
    best = max(f1_score(labels, scores >= t) for t in scores)
    assert image_f1_max(labels, scores) == pytest.approx(best, abs=1e-12)


def test_ap_of_a_perfect_and_of_a_useless_score() -> None:
    labels = np.array([True, True, False, False])
    assert image_ap(labels, np.array([4, 3, 2, 1])) == 1
    assert image_ap(labels, np.zeros(4)) == 0.5


@pytest.mark.parametrize(
    ("labels", "scores", "says"),
    [
        ([True, True], [1, 2], "both classes"),
        ([False, False], [1, 2], "both classes"),
        ([True, False], [1, np.nan], "1 of 2 scores are NaN"),
        ([True, False], [1, np.inf], "NaN or infinite"),
    ],
)
def test_what_has_no_auroc_is_an_error(labels: list[bool], scores: list[float], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        image_auroc(np.array(labels), np.array(scores))


@pytest.mark.parametrize(("successes", "trials"), [(0, 1), (1, 1), (0, 20), (3, 7), (81, 263), (999, 1000)])
def test_wilson_is_scipy_s_for_whole_numbers(successes: int, trials: int) -> None:
    expected = binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    found = wilson(successes, trials)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-14)


def test_wilson_by_known_values() -> None:
    # Newcombe 1998, table I.
    assert (wilson(81, 263).low, wilson(81, 263).high) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert (wilson(0, 20).low, wilson(0, 20).high) == pytest.approx((0, 0.1611), abs=5e-5)
    with pytest.raises(ValueError, match="at least one"):
        wilson(0, 0)


def test_nadeau_bengio_by_hand() -> None:
    # s^2 = 0.0025; t at 2 degrees of freedom = 4.3027; half = 4.3027 * sqrt(0.0025 * (1/3 + 0.1)).
    interval = nadeau_bengio([0.80, 0.85, 0.90], test_to_train=0.1)
    assert interval is not None
    assert (interval.low, interval.high) == pytest.approx((0.85 - 0.14162, 0.85 + 0.14162), abs=1e-4)
    assert nadeau_bengio([0.8], 0.1) is None


@given(st.integers(0, 60), st.sampled_from([0.01, 0.05, 0.1, 0.5]))
def test_the_threshold_is_the_conformal_quantile(n: int, rate: float) -> None:
    scores = np.random.default_rng(n).permutation(n).astype(float)
    threshold = calibrated_threshold(scores, rate)
    if threshold is None:
        assert n < round(1 / rate) - 1
    else:
        # Among n + 1 exchangeable scores, one more lands above with this probability at most.
        assert (n - 1 - threshold + 1) / (n + 1) <= rate + 1e-9


def test_pixel_auroc_is_over_all_pixels_together() -> None:
    maps = np.random.default_rng(0).random((3, 4, 4))
    masks = maps > 0.7
    maps[0] -= 1  # a whole image darker: what separates within it no longer counts
    assert pixel_auroc(maps, masks) == pytest.approx(roc_auc_score(masks.ravel(), maps.ravel()))
    assert pixel_auroc(maps, masks) < 1


def scores_table(calibration: int) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    n = calibration + 30
    table = pd.DataFrame({rule: rng.random(n) for rule in SCORE_RULES})
    table["part"] = ["calibration"] * calibration + ["test"] * 30
    table["anomalous"] = [False] * (calibration + 10) + [True] * 20
    return table


@pytest.mark.parametrize(
    ("name", "calibration", "reason"),
    [
        ("rkd", 0, "the recipe trains on all normals"),
        ("rkd-es", 0, "held-out normals stop or normalise its training"),
        ("rkd-cal", 5, "5, where 19 are needed"),
        ("rkd-es-cal", 18, "18, where 19 are needed"),
    ],
)
def test_without_calibration_normals_there_is_no_threshold_and_the_table_says_why(
    name: str, calibration: int, reason: str
) -> None:
    table = scores_table(calibration)
    rows = measure(table, np.zeros((len(table), 2, 2)), None, recipe(name))
    at = rows[rows["metric"].isin(["threshold", "fpr_at_threshold", "tpr_at_threshold"])]
    assert len(at) == 3 * len(SCORE_RULES)
    assert at["value"].isna().all()
    assert at["protocol"].str.startswith("none: ").all()
    assert at["protocol"].str.contains(reason).all()


def test_one_class_alone_leaves_the_metrics_that_need_both_undefined_and_keeps_the_rates() -> None:
    table = scores_table(40)
    for keep, reason, rate, absent in (
        (False, "none: no anomalous images", "fpr_at_threshold", "tpr_at_threshold"),
        (True, "none: no normal test images", "tpr_at_threshold", "fpr_at_threshold"),
    ):
        one = table[(table["part"] == "calibration") | (table["anomalous"] == keep)]
        rows = measure(one, np.zeros((len(one), 2, 2)), None, recipe("rkd-cal")).set_index("metric")
        assert (rows.loc[["image_auroc", "image_ap", "image_f1_max", absent], "protocol"] == reason).all()
        assert rows.loc[["image_auroc", "image_ap", "image_f1_max", absent], "value"].isna().all()
        assert rows.loc[rate, "value"].notna().all()


def test_only_calibration_images_keep_the_promised_rate_when_others_stopped_the_training() -> None:
    """300 trainings that stop where their validation images score lowest; the true rate is counted on new images."""
    rng = np.random.default_rng(3)
    normals, epochs, fresh = 88, 40, 4000
    index = pd.DataFrame({"image_id": [f"n{i:02d}" for i in range(normals + 10)], "anomalous": False})
    index["pixel_sha256"] = index["image_id"]
    own = Target("mine", "mine", "mine", "object", None, official_split=False, has_masks=None, own=True)
    index["part"] = ["train"] * normals + ["test"] * 10
    rows = split(own, index)
    stopped = recipe("rkd-es-cal")
    rates: dict[str, list[float]] = {"validation": [], "calibration": []}
    for run in range(300):
        # An epoch moves every image's score by a common amount and by one of its own.
        ids = {part: part_of(rows, own, run % 10, part) for part in rates}
        scores = {name: rng.normal(size=epochs) for part in rates for name in ids[part]}
        kept = np.argmin(np.mean([scores[name] for name in ids["validation"]], axis=0))
        of_new = rng.normal(size=fresh)  # whatever the epoch, new images have the same distribution
        for part in rates:
            at = calibrated_threshold(np.array([scores[name][kept] for name in ids[part]]))
            assert at is not None
            rates[part].append(float((of_new > at).mean()))
    assert "calibration" in stopped.scored_parts
    assert "validation" not in stopped.scored_parts
    assert not set(ids["calibration"]) & set(part_of(rows, own, 299 % 10, *stopped.training_parts))
    # 22 calibration images: the promised rate is at most 1/23, and it holds within three standard errors (.042 / 17).
    assert np.mean(rates["calibration"]) <= 1 / 23 + 0.0075
    assert np.mean(rates["validation"]) > 0.06  # what is lost where the images that chose the epoch set the threshold


def test_rates_are_those_of_the_test_images_and_oracles_are_marked() -> None:
    table = scores_table(40)
    rows = measure(table, np.zeros((70, 2, 2)), None, recipe("rkd-es-cal")).set_index(["metric", "score_rule"])
    threshold = rows.loc[("threshold", "l_kd"), "value"]
    test = table[table["part"] == "test"]
    called = test["l_kd"] > threshold
    assert rows.loc[("fpr_at_threshold", "l_kd"), "value"] == called[~test["anomalous"]].mean()
    assert rows.loc[("tpr_at_threshold", "l_kd"), "value"] == called[test["anomalous"]].mean()
    assert rows.loc["image_f1_max", "protocol"].unique().tolist() == [ORACLE]
    assert rows.loc["image_auroc", "protocol"].unique().tolist() == [VALIDATION]
    assert rows.loc["threshold", "protocol"].unique().tolist() == [CALIBRATION]
    assert rows["n_normal"].unique().tolist() == [10]
    assert rows["n_anomalous"].unique().tolist() == [20]
    assert rows.loc["image_auroc", "ci_low"].lt(rows.loc["image_auroc", "value"]).all()


def test_a_test_set_that_is_there_twice_is_no_surer_than_once() -> None:
    once = scores_table(40)
    twice = once.iloc[[*range(70), *range(40, 70)]].reset_index(drop=True)
    rows = [
        measure(table, np.zeros((len(table), 2, 2)), None, recipe("rkd-cal"), clusters=names)
        for table, names in ((once, list(range(70))), (twice, [*range(70), *range(40, 70)]))
    ]
    bounds = [r.loc[r["ci_low"].notna(), ["metric", "value", "ci_low", "ci_high"]] for r in rows]
    assert {"image_auroc", "fpr_at_threshold", "tpr_at_threshold"} == set(bounds[0]["metric"])
    assert bounds[1]["ci_low"].to_numpy() == pytest.approx(bounds[0]["ci_low"].to_numpy())
    assert bounds[1]["ci_high"].to_numpy() == pytest.approx(bounds[0]["ci_high"].to_numpy())
