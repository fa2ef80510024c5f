import numpy as np
import pytest

from rkd_pipeline.statistics.export_parity import agreement, no_worse, relative_difference, verdict_of
from rkd_pipeline.statistics.replicates import Evidence, evidence

RULE = ("image_auroc", "map_max")


def judged(n: int, noise: float, seed: int = 0, strength: float = 2.0) -> tuple[Evidence, Evidence, tuple[int, int]]:
    """A model and the same with noise on its scores, on n images of each class."""
    rng = np.random.default_rng(seed)
    anomalous = np.arange(2 * n) >= n
    scores = rng.normal(size=2 * n) + strength * anomalous
    ids = [str(i) for i in range(2 * n)]
    found = scores + noise * rng.normal(size=2 * n)
    made = [evidence(ids, anomalous, {"map_max": s}, None, None) for s in (scores, found)]
    return made[0], made[1], (n, n)


def test_arrays_agree_relative_to_the_largest_value_of_their_image() -> None:
    reference = np.array([[1.0, 100.0], [1.0, 1.0]])
    assert relative_difference(reference, reference + np.array([[0, 0.01], [0, 0]])) == pytest.approx(1e-4)
    assert relative_difference(reference, reference + np.array([[0, 0], [0.01, 0]])) == pytest.approx(1e-2)
    assert agreement("maps", reference, reference * (1 + 5e-5), 1e-4).verdict == "passed"
    assert agreement("maps", reference, reference * (1 + 5e-4), 1e-4).verdict == "failed"


@pytest.mark.parametrize("bad", [np.full((2, 2), np.nan), np.ones((3, 2)), np.full((2, 2), np.inf)])
def test_what_is_no_number_or_of_another_shape_does_not_agree(bad: np.ndarray) -> None:
    assert agreement("maps", np.ones((2, 2)), bad, 1e-4).verdict == "failed"


def test_maps_of_zeros_agree_with_zeros_alone() -> None:
    assert agreement("maps", np.zeros((1, 2)), np.zeros((1, 2)), 1e-4).verdict == "passed"
    assert agreement("maps", np.zeros((1, 2)), np.full((1, 2), 1e-9), 1e-4).verdict == "failed"


def test_the_same_ranking_keeps_its_quality() -> None:
    before, _, counts = judged(50, 0)
    assert no_worse(before, before, RULE, counts).verdict == "passed"


def test_a_little_noise_on_many_images_passes_and_much_fails() -> None:
    assert no_worse(*judged(400, 0.01)[:2], RULE, (400, 400)).verdict == "passed"
    assert no_worse(*judged(400, 3.0)[:2], RULE, (400, 400)).verdict == "failed"


def test_few_images_cannot_tell_but_a_ruined_model_fails_all_the_same() -> None:
    assert no_worse(*judged(19, 0)[:2], RULE, (19, 19)).verdict == "cannot be told"
    unsure = no_worse(*judged(60, 0.4)[:2], RULE, (60, 60))
    assert unsure.verdict == "cannot be told"
    assert "too few images" in unsure.why
    assert no_worse(*judged(19, 30.0, strength=4)[:2], RULE, (19, 19)).verdict == "failed"


def test_without_a_class_it_cannot_be_told() -> None:
    one = evidence(["a", "b"], np.array([False, False]), {"map_max": np.arange(2.0)}, None, None)
    assert no_worse(one, one, RULE, (2, 0)).verdict == "cannot be told"


def test_the_verdict_is_the_worst() -> None:
    before, _, counts = judged(50, 0)
    good = no_worse(before, before, RULE, counts)
    unknown = no_worse(before, before, RULE, (5, 50))
    bad = agreement("maps", np.ones((1, 1)), np.zeros((1, 1)), 1e-4)
    assert [verdict_of(f) for f in ([good], [good, unknown], [good, unknown, bad], [])] == [
        "passed",
        "cannot be told",
        "failed",
        "failed",
    ]
