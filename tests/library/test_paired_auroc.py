import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from rkd_pipeline.metrics.image_auroc import image_auroc
from rkd_pipeline.metrics.paired_auroc import Pair, paired_auroc

LABELS = np.arange(60) % 3 == 0
NAMES = [f"p{i}" for i in range(60)]


def scores(seed: int, strength: float) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=60) + strength * LABELS


def test_one_repeat_has_delongs_variance_of_a_difference() -> None:
    """Against the definition: covariances of the placements, by double loops (DeLong et al. 1988)."""
    first, second = scores(1, 1.5), scores(2, 0.8)
    order = [np.array([[(a > n) + (a == n) / 2 for n in s[~LABELS]] for a in s[LABELS]]) for s in (first, second)]
    of_anomalous = np.cov([o.mean(axis=1) for o in order])
    of_normal = np.cov([o.mean(axis=0) for o in order])
    both = of_anomalous / LABELS.sum() + of_normal / (~LABELS).sum()
    contrast = np.array([1, -1])
    found = paired_auroc([Pair(NAMES, LABELS, [first], [second])])
    assert found.error_of_images**2 == pytest.approx(contrast @ both @ contrast, rel=1e-12)
    assert found.difference == pytest.approx(image_auroc(LABELS, first) - image_auroc(LABELS, second), abs=1e-12)
    assert (found.p_better, found.ci_low, found.error_of_trainings) == (None, None, None)  # one repeat: no claim


def test_the_same_images_again_are_no_new_evidence_and_others_are() -> None:
    first, second = scores(1, 1.5), scores(2, 0.8)
    once = paired_auroc([Pair(NAMES, LABELS, [first], [second])]).error_of_images
    again = paired_auroc([Pair(NAMES, LABELS, [first], [second])] * 2)
    assert again.error_of_images == pytest.approx(once, rel=1e-12)
    assert (again.n_normal, again.n_anomalous) == (40, 20)
    others = [f"q{i}" for i in range(60)]
    apart = paired_auroc([Pair(n, LABELS, [first], [second]) for n in (NAMES, others)])
    assert apart.error_of_images == pytest.approx(once / np.sqrt(2), rel=0.02)
    assert (apart.n_normal, apart.n_anomalous) == (80, 40)


def test_copies_within_a_repeat_are_one_image() -> None:
    """Every image twice: a variance that took them for independent would be half as large."""
    first, second = scores(1, 1.5), scores(2, 0.8)
    once = paired_auroc([Pair(NAMES, LABELS, [first], [second])]).error_of_images
    doubled = Pair(NAMES * 2, np.tile(LABELS, 2), [np.tile(first, 2)], [np.tile(second, 2)])
    assert paired_auroc([doubled]).error_of_images == pytest.approx(once, rel=1e-9)


@given(st.integers(0, 10_000))
def test_swapping_the_systems_turns_everything_round(seed: int) -> None:
    pairs = [(scores(seed, 1.0), scores(seed + 1, 0.5)), (scores(seed + 2, 1.0), scores(seed + 3, 0.5))]
    one = paired_auroc([Pair(NAMES, LABELS, [a], [b]) for a, b in pairs], test_to_train=0.3)
    other = paired_auroc([Pair(NAMES, LABELS, [b], [a]) for a, b in pairs], test_to_train=0.3)
    assert one.difference == pytest.approx(-other.difference)
    assert one.p_better is not None
    assert other.p_better == pytest.approx(1 - one.p_better)
    assert one.ci_low == pytest.approx(-other.ci_high)


def test_equal_systems_differ_by_nothing_as_far_as_sixty_images_tell() -> None:
    """No image is placed differently; of 20 anomalous ones, with t(19) = 2.093, a third may yet be: +- 0.0349."""
    same = scores(1, 1.0)
    found = paired_auroc([Pair(NAMES, LABELS, [same], [same])] * 3)
    assert (found.difference, found.p_better) == (0, 0.5)
    assert (found.ci_low, found.ci_high) == pytest.approx((-0.03488, 0.03488), abs=1e-5)


@pytest.mark.parametrize(("m", "n"), [(30, 10), (10, 10), (5, 5)])
def test_a_difference_of_few_images_is_held_as_often_as_promised(m: int, n: int) -> None:
    """Normal scores that agree on what is hard; AUROCs of .99 and .97. DeLong's own interval holds 31 to 76%."""
    rng, labels, names = np.random.default_rng(m), np.arange(m + n) < m, [str(i) for i in range(m + n)]
    shifts = np.sqrt(2) * norm.ppf([0.99, 0.97])
    inside = 0
    for _ in range(100):
        hard = rng.normal(size=m + n)
        first, second = (labels * s + np.sqrt(0.9) * hard + np.sqrt(0.1) * rng.normal(size=m + n) for s in shifts)
        found = paired_auroc([Pair(names, labels, [first], [second])] * 2)  # the training adds no noise of its own
        assert found.ci_low is not None
        assert found.ci_high is not None
        inside += found.ci_low <= 0.02 <= found.ci_high
    assert inside >= 90


def test_systems_that_are_equally_good_pass_as_seldom_as_promised() -> None:
    """Images have a common difficulty; both systems see it with noise of their own, and every training has its luck.

    Both kinds of noise at once, in 400 worlds: at most the nominal share is called better. Counting images alone
    would call several times as many.
    """
    rng, called, by_images_alone, worlds = np.random.default_rng(7), 0, 0, 400
    for _ in range(worlds):
        difficulty = rng.normal(size=60)
        pairs = []
        for _ in range(4):
            luck = rng.normal(scale=0.6, size=2)
            first, second = (LABELS * (1 + k) + difficulty + rng.normal(scale=0.4, size=60) for k in luck)
            pairs.append(Pair(NAMES, LABELS, [first], [second]))
        found = paired_auroc(pairs)
        assert found.p_better is not None
        called += found.p_better < 0.05
        by_images_alone += found.difference > 1.645 * found.error_of_images
    assert called <= 0.05 * worlds + 2 * np.sqrt(0.05 * 0.95 * worlds)
    assert by_images_alone > 3 * called


def test_a_clear_advantage_is_found() -> None:
    pairs = [Pair(NAMES, LABELS, [scores(i, 2.5)], [scores(50 + i, 0.5)]) for i in range(3)]
    found = paired_auroc(pairs, test_to_train=0.1)
    assert found.p_better is not None
    assert found.p_better < 0.01


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ValueError, match="without a repeat"):
        paired_auroc([])
    with pytest.raises(ValueError, match="two of each class"):
        paired_auroc([Pair(["a", "b", "c"], np.array([True, False, False]), [np.arange(3.0)], [np.arange(3.0)])])
