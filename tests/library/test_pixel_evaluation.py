"""Intervals of pixel metrics, the pixel threshold, and what a trained model's table says about pixels."""

from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
from scipy.ndimage import gaussian_filter
from scipy.stats import sem, t

from rkd_pipeline.metrics import pixel_metrics
from rkd_pipeline.metrics.aupimo import aupimo
from rkd_pipeline.metrics.evaluation import measure
from rkd_pipeline.metrics.measurement import CALIBRATION, LAST_EPOCH, ORACLE, TRAINS_ON_ALL, VALIDATION
from rkd_pipeline.metrics.pixel_evaluation import AT_THRESHOLD, PER_IMAGE, RANKED
from rkd_pipeline.metrics.pixel_intervals import draws, image_counts, pixel_intervals, resampled
from rkd_pipeline.metrics.pro_rd4ad import pro_rd4ad
from rkd_pipeline.metrics.regions import anomalous_pixels
from rkd_pipeline.metrics.threshold import pixel_threshold
from rkd_pipeline.recipes.lookup import recipe
from rkd_pipeline.recipes.score_rules import SCORE_RULES
from rkd_pipeline.stages.anomaly_scores import mask_note


def smooth_maps(n: int, n_normal: int, seed: int = 0, side: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Smooth, heavy-tailed maps; all but the first ``n_normal`` images have one or two defects."""
    rng = np.random.default_rng(seed)
    maps = np.stack([gaussian_filter(rng.normal(size=(side, side)), 3) for _ in range(n)])
    masks = np.zeros(maps.shape, bool)
    for i in range(n_normal, n):
        for _ in range(rng.integers(1, 3)):
            row, column = rng.integers(0, side - 12, 2)
            masks[i, row : row + rng.integers(3, 12), column : column + rng.integers(3, 12)] = True
        maps[i] += masks[i] * rng.uniform(0, 2 * maps.std())
    return np.exp(maps / maps.std()).astype(np.float32), masks


def exact(maps: np.ndarray, masks: np.ndarray) -> dict[str, float]:
    return asdict(pixel_metrics(maps, masks)) | {"aupimo": aupimo(maps, masks)}


def whole_draws(anomalous: np.ndarray, replicates: int) -> np.ndarray:
    """As many images as there are, so that a replicate can be made of pixels too."""
    rng, weights = np.random.default_rng(1), np.zeros((replicates, len(anomalous)))
    for group in (np.flatnonzero(anomalous), np.flatnonzero(~anomalous)):
        weights[:, group] = rng.multinomial(len(group), np.full(len(group), 1 / len(group)), replicates)
    return weights


def test_a_replicate_from_counts_is_close_to_one_from_pixels() -> None:
    """What the docstring promises about the bins: 0.001 for the images as they are; here for drawn ones too."""
    maps, masks = smooth_maps(40, 15)
    counts = image_counts(maps, anomalous_pixels(maps, masks))
    weights = np.r_[np.ones((1, 40)), whole_draws(counts.regions > 0, 4)]
    found = resampled(counts, weights)
    for row, times in enumerate(weights):
        drawn = np.repeat(np.arange(40), times.astype(int))
        for name, value in exact(maps[drawn], masks[drawn]).items():
            allowed = 0.004 if row and name == "pro_youden" else 0.001  # it jumps where two thresholds are as good
            assert found[name][row] == pytest.approx(value, abs=allowed), name


def test_a_replicate_of_tied_maps_is_off_by_what_is_said() -> None:
    """Maps of eight values: exact from the pixels; the docstring promises 0.05 for AP, and no longer 0.001."""
    maps, masks = smooth_maps(24, 9)
    maps = np.digitize(maps, np.quantile(maps, np.linspace(0, 1, 9)[1:-1])).astype(np.float32)
    counts = image_counts(maps, anomalous_pixels(maps, masks))
    weights = whole_draws(counts.regions > 0, 3)
    found = resampled(counts, weights)["pixel_ap"]
    truth = [pixel_metrics(*(x[np.repeat(np.arange(24), w.astype(int))] for x in (maps, masks))) for w in weights]
    off = np.abs(found - [m.pixel_ap for m in truth])
    assert 0.001 < off.max() < 0.05


def test_draws_keep_the_weight_of_both_groups() -> None:
    labels = np.array([True] * 7 + [False] * 3)
    weights = draws(labels, 200)
    assert weights[:, labels].sum(axis=1) == pytest.approx(np.full(200, 7))
    assert weights[:, ~labels].sum(axis=1) == pytest.approx(np.full(200, 3))
    assert np.array_equal(weights, draws(labels, 200))


def test_the_mean_of_ten_images_varies_over_draws_as_student_s_t_says() -> None:
    """The interval of a mean is known: mean +- t s / sqrt(n). Drawing n of n gives four fifths of it."""
    labels, values = np.arange(20) < 10, np.random.default_rng(3).normal(size=20)
    weights = draws(labels, 20_000)
    low, high = np.quantile(weights[:, :10] @ values[:10] / 10, [0.025, 0.975])
    assert high - low == pytest.approx(2 * t.ppf(0.975, 9) * sem(values[:10]), rel=0.06)


def test_intervals_are_as_wide_as_values_spread_over_sets_of_images() -> None:
    """Twenty independent sets: 95% intervals should be about 3.92 standard deviations wide, and hold the mean.

    Of 64 images each; docs/metrics.md has what fewer images give.
    """
    names = ("pixel_auroc", "pixel_ap", "aupro_30", "pro_youden")
    values, intervals = [], []
    for seed in range(20):
        maps, masks = smooth_maps(64, 21, seed)
        values.append(exact(maps, masks))
        intervals.append(pixel_intervals(maps, anomalous_pixels(maps, masks), values[-1]))
    for name in names:
        found = np.array([v[name] for v in values])
        low, high = np.array([(i[name].low, i[name].high) for i in intervals]).T
        assert (high - low).mean() == pytest.approx(3.92 * found.std(ddof=1), rel=0.35), name
        assert ((low <= found.mean()) & (found.mean() <= high)).mean() >= 0.8, name


def test_an_interval_known_to_be_too_narrow_says_so() -> None:
    for n_normal, said in ((10, {"pro_youden", "aupimo"}), (22, set())):
        maps, masks = smooth_maps(n_normal + 22, n_normal)
        found = pixel_intervals(maps, anomalous_pixels(maps, masks), exact(maps, masks))
        assert {name for name, interval in found.items() if "too narrow" in interval.method} == said


def test_replicates_that_do_not_differ_give_no_interval() -> None:
    """No image of the set shows how much values vary: an interval without width would claim certainty."""
    maps, masks = smooth_maps(8, 4)
    maps[masks] = maps.max() + 1
    values = exact(maps, masks)
    assert values["pixel_auroc"] == values["aupro_30"] == 1
    assert pixel_intervals(maps, anomalous_pixels(maps, masks), values) == {}


def test_one_image_of_a_kind_has_no_interval() -> None:
    maps, masks = smooth_maps(4, 1)
    assert pixel_intervals(maps, anomalous_pixels(maps, masks), exact(maps, masks)) == {}


@pytest.mark.parametrize(("n", "rate"), [(19, 0.05), (40, 0.05), (100, 0.01), (150, 0.02)])
def test_the_pixel_threshold_is_the_lowest_that_controls_the_risk(n: int, rate: float) -> None:
    maps = np.random.default_rng(n).integers(0, 500, (n, 5, 4)).astype(float)

    def risk(threshold: float) -> float:
        return n / (n + 1) * float((maps > threshold).mean()) + 1 / (n + 1)

    threshold = pixel_threshold(maps, rate)
    assert threshold is not None
    assert risk(threshold) <= rate + 1e-12
    below = maps[maps < threshold]
    assert below.size == 0 or risk(below.max()) > rate
    assert pixel_threshold(maps[: round(1 / rate) - 2], rate) is None


def table(n_calibration: int, anomalous: np.ndarray) -> pd.DataFrame:
    n = n_calibration + len(anomalous)
    rows = pd.DataFrame({rule: np.random.default_rng(0).random(n) for rule in SCORE_RULES})
    return rows.assign(
        part=["calibration"] * n_calibration + ["test"] * len(anomalous),
        anomalous=[False] * n_calibration + anomalous.tolist(),
    )


def of_pixels(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows["score_rule"] == "map"].set_index("metric")


def test_a_trained_model_s_table_has_every_pixel_metric() -> None:
    maps, masks = smooth_maps(50, 35)
    rows = of_pixels(measure(table(25, masks[25:].any(axis=(1, 2))), maps, masks, recipe("rkd-es-cal")))
    assert set(rows.index) == {*RANKED, *PER_IMAGE, *AT_THRESHOLD}
    test_maps, test_masks = maps[25:], masks[25:]
    for name, value in {**exact(test_maps, test_masks), "pro_rd4ad": pro_rd4ad(test_maps, test_masks)}.items():
        assert rows.loc[name, "value"] == pytest.approx(value, abs=1e-12)
        if value not in (0, 1):
            assert rows.loc[name, "ci_low"] < rows.loc[name, "ci_high"], name
    oracles = {"pixel_f1_max", "pro_youden"}
    assert (rows["protocol"] == ORACLE).loc[list(oracles)].all()
    assert (rows["protocol"].drop([*oracles, *AT_THRESHOLD]) == VALIDATION).all()
    assert (rows.loc[list(AT_THRESHOLD), "protocol"] == CALIBRATION).all()
    called = test_maps > pixel_threshold(maps[:25])
    assert rows.loc["pixel_fpr_at_threshold", "value"] == called[~test_masks].mean()
    assert rows.loc["pixel_tpr_at_threshold", "value"] == called[test_masks].mean()


def test_what_a_table_cannot_say_it_gives_a_reason_for() -> None:
    maps, masks = smooth_maps(12, 5)
    labels = masks.any(axis=(1, 2))
    rows = of_pixels(measure(table(0, labels), maps, masks, recipe("rkd")))
    assert rows.loc["aupro_30", "protocol"] == LAST_EPOCH
    assert (rows.loc[list(AT_THRESHOLD), "protocol"] == TRAINS_ON_ALL).all()
    rows = of_pixels(measure(table(3, labels[3:]), maps, masks, recipe("rkd-es-cal")))
    assert (rows.loc[list(AT_THRESHOLD), "protocol"].str.contains("3, where 19 are needed")).all()

    rows = of_pixels(measure(table(0, labels), maps, np.zeros_like(masks), recipe("rkd")))
    assert set(rows.index) == {*RANKED, *PER_IMAGE, *AT_THRESHOLD}
    assert (rows["protocol"] == "none: no anomalous pixel in 5 maps").all()
    assert rows["value"].isna().all()

    maps[-1] = 1
    rows = of_pixels(measure(table(0, labels), maps, masks, recipe("rkd")))
    assert rows.loc["pro_rd4ad", "protocol"] == "none: RD4AD's PRO: map 11 is constant"
    assert rows["value"].drop(["pro_rd4ad", *AT_THRESHOLD]).notna().all()


def test_anomalous_images_without_a_mask_leave_the_pixel_metrics_and_stay_in_those_of_images() -> None:
    """Perfect maps: found exactly, whether or not somebody drew the masks of all images."""
    rng = np.random.default_rng(0)
    masks = np.zeros((30, 24, 24), bool)
    for i in range(18, 30):
        row, column = rng.integers(0, 16, 2)
        masks[i, row : row + 5, column : column + 5] = True
    maps = (masks + 0.1 * rng.random(masks.shape)).astype(np.float32)
    labels = masks.any(axis=(1, 2))
    drawn = masks.copy()
    drawn[24:] = False
    scores = table(0, labels)
    whole, part = (measure(scores, maps, m, recipe("rkd")) for m in (masks, drawn))
    found = of_pixels(part)
    for name in ("pixel_auroc", "pixel_ap", "pixel_f1_max", "aupro_30", "aupro_10", "aupro_05", "aupimo", "pro_rd4ad"):
        assert found.loc[name, "value"] == pytest.approx(1.0, abs=1e-12), name
    assert found["n_without_mask"].unique().tolist() == [6]
    assert found["n_anomalous"].unique().tolist() == [6]
    assert of_pixels(whole)["n_without_mask"].unique().tolist() == [0]
    images = ["metric", "score_rule", "value", "n_normal", "n_anomalous"]
    of_images = [rows.loc[rows["score_rule"] != "map", images] for rows in (whole, part)]
    pd.testing.assert_frame_equal(*of_images)
    assert part.loc[part["score_rule"] != "map", "n_without_mask"].isna().all()
    # The same numbers as if the images without a mask had never been there.
    alone = measure(table(0, labels[:24]), maps[:24], masks[:24], recipe("rkd"))
    columns = ["value", "ci_low", "ci_high", "n_anomalous"]
    pd.testing.assert_frame_equal(found[columns], of_pixels(alone)[columns])
    assert mask_note(part) == "6 anomalous test images have no mask that shows a defect, and left the pixel metrics"
    assert mask_note(whole) == mask_note(whole.drop(columns="n_without_mask")) == ""
