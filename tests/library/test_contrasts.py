import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm, t, ttest_rel

from rkd_pipeline.statistics.contrasts import (
    ONE_SEED,
    REPEATS,
    SEEDS,
    TARGETS,
    Estimate,
    Term,
    Unit,
    on_one_target,
    over_targets,
    unit,
)
from rkd_pipeline.statistics.replicates import Evidence, evidence

AUROC = ("image_auroc", "map_max")


@pytest.fixture
def two_models() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels and two scores that agree on what is hard."""
    rng = np.random.default_rng(1)
    anomalous = np.arange(200) < 120
    shared = anomalous * 1.0 + rng.normal(size=200)
    return anomalous, shared + 0.3 * rng.normal(size=200), shared + 0.1 * anomalous + 0.3 * rng.normal(size=200)


def of(anomalous: np.ndarray, scores: np.ndarray) -> Evidence:
    return evidence([str(i) for i in range(len(scores))], anomalous, {"map_max": scores}, None, None)


def difference(first: Evidence, second: Evidence) -> Unit:
    return unit([Term(1, first, AUROC), Term(-1, second, AUROC)])


def paired_delong(anomalous: np.ndarray, first: np.ndarray, second: np.ndarray) -> float:
    """Half-width of the 95% interval of the difference, from the definition of the placements."""

    def placements(s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        wins = s[anomalous][:, None] > s[~anomalous][None, :]
        return wins.mean(1), wins.mean(0)

    parts = [a - b for a, b in zip(placements(first), placements(second), strict=True)]
    return float(norm.ppf(0.975) * np.sqrt(sum(np.var(p, ddof=1) / len(p) for p in parts)))


def test_the_paired_interval_is_that_of_delong(two_models: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    anomalous, first, second = two_models
    found = on_one_target([difference(of(anomalous, first), of(anomalous, second))])
    assert (found.method, found.seeds) == (ONE_SEED, 1)
    half = paired_delong(anomalous, first, second)
    student = t.ppf(0.975, 79) / norm.ppf(0.975)  # of the 80 normal ones; a thousand draws know a width to 4%
    assert found.high - found.low == pytest.approx(2 * half * student, rel=0.13)
    single = of(anomalous, first).replicates[AUROC]
    assert found.high - found.low < 0.6 * np.ptp(np.quantile(single, [0.025, 0.975]))  # what pairing is for


def test_equal_models_have_no_difference_and_no_interval(two_models: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    anomalous, first, _ = two_models
    found = on_one_target([difference(of(anomalous, first), of(anomalous, first))])
    assert found.value == 0
    assert not found.known


def test_other_images_cannot_be_paired(two_models: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    anomalous, first, _ = two_models
    other = Evidence(("a",), {AUROC: 0.5}, {AUROC: np.zeros(1000)}, pd.DataFrame())
    with pytest.raises(ValueError, match="different images"):
        difference(of(anomalous, first), other)


def test_seeds_without_noise_of_images_are_a_paired_t_test() -> None:
    first, second = np.array([0.8, 0.85, 0.7, 0.9]), np.array([0.75, 0.84, 0.72, 0.8])
    still = np.array([0.0] * 10 + [1e-9] * 10)  # draws that hardly differ
    found = on_one_target([Unit(d, d + still) for d in first - second])
    expected = ttest_rel(first, second).confidence_interval(0.95)
    assert (found.low, found.high) == (pytest.approx(expected.low, abs=1e-6), pytest.approx(expected.high, abs=1e-6))
    assert (found.method, found.seeds) == (SEEDS, 4)


def test_repeats_are_corrected_for_what_they_share() -> None:
    units = [Unit(v, None, repeat) for repeat, v in enumerate((0.1, 0.2, 0.3))]
    found = on_one_target(units, test_to_train=0.125)
    # s = 0.1, t(2) = 4.3027: 4.3027 * 0.1 * sqrt(1/3 + 1/8)
    assert found.high - found.value == pytest.approx(0.29130, abs=1e-4)
    assert found.method == REPEATS
    # Two seeds of one repeat are one piece of evidence about repeats.
    again = on_one_target([*units[:2], Unit(0.4, None, 2), Unit(0.2, None, 2)], test_to_train=0.125)
    assert (again.low, again.high, again.seeds) == (pytest.approx(found.low), pytest.approx(found.high), 4)
    same_images = on_one_target([Unit(v, v + np.linspace(-1e-3, 1e-3, 50), 4) for v in (0.1, 0.2)], test_to_train=0.125)
    assert same_images.method == SEEDS


def test_repeats_that_agree_by_chance_are_no_surer_than_their_images() -> None:
    draws = 0.1 + np.linspace(-0.05, 0.05, 1001)  # 95% of them within 0.0475
    found = on_one_target([Unit(0.1, draws, repeat) for repeat in range(2)], test_to_train=0.125)
    assert found.high - found.value == pytest.approx(0.0475 * np.sqrt(1 / 2 + 1 / 8))
    silent = on_one_target([Unit(0.0, np.zeros(1001), repeat) for repeat in range(2)], test_to_train=0.125)
    assert not silent.known


def test_targets_are_independent() -> None:
    found = over_targets([Estimate(0.1, 0.0, 0.2, SEEDS, seeds=2), Estimate(0.3, 0.1, 0.4, SEEDS, seeds=3)])
    assert (found.value, found.targets, found.seeds, found.method) == (pytest.approx(0.2), 2, 2, TARGETS)
    assert found.low == pytest.approx(0.2 - np.hypot(0.1, 0.2) / 2)
    assert found.high == pytest.approx(0.2 + np.hypot(0.1, 0.1) / 2)
    unknown = over_targets([found, Estimate(0.1, np.nan, np.nan, "none")])
    assert not unknown.known


def test_a_true_difference_is_covered_as_often_as_promised() -> None:
    """Two models whose scores are normal: the true AUROCs are known."""
    rng = np.random.default_rng(7)
    truth = norm.cdf(1.2 / np.sqrt(2)) - norm.cdf(1.0 / np.sqrt(2))
    covered = 0
    for _ in range(60):
        anomalous = np.arange(120) < 70
        noise = rng.normal(size=120)
        scores = [gain * anomalous + np.sqrt(0.7) * noise + np.sqrt(0.3) * rng.normal(size=120) for gain in (1.2, 1.0)]
        found = on_one_target([difference(of(anomalous, scores[0]), of(anomalous, scores[1]))])
        covered += found.low <= truth <= found.high
    assert covered >= 52  # of 60 at 95%: fewer happens once in hundreds of times
