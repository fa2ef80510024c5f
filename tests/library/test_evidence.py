from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from rkd_pipeline.metrics.aupro import aupro
from rkd_pipeline.metrics.pixel_auroc import pixel_auroc
from rkd_pipeline.metrics.region_overlap import region_overlap
from rkd_pipeline.statistics.replicates import PIXEL_METRICS, evidence, read_evidence, resampled_auroc, write_evidence


@pytest.fixture
def scored() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, maps and masks of ten images; six have regions of several sizes."""
    rng = np.random.default_rng(3)
    masks = np.zeros((10, 32, 32), bool)
    for i in range(6):
        masks[i, 2 : 4 + i, 3 : 6 + i] = True
        masks[i, 20:22, 20 : 21 + i] = True
    maps = (rng.normal(size=masks.shape) + 1.5 * masks).astype(np.float32)
    return masks.any((1, 2)), maps, masks


def test_resampled_auroc_is_that_of_the_repeated_images() -> None:
    rng = np.random.default_rng(0)
    anomalous, scores = np.arange(12) < 5, np.round(rng.normal(size=12), 1)  # some are equal
    weights = rng.integers(0, 3, (6, 12)).astype(float)
    weights[:, [0, 11]] += 1
    found = resampled_auroc(anomalous, scores, weights)
    expected = [roc_auc_score(np.repeat(anomalous, w.astype(int)), np.repeat(scores, w.astype(int))) for w in weights]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_region_overlap_is_aupro_region_by_region(scored: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    _, maps, masks = scored
    found = region_overlap(maps, masks)
    assert found.size.tolist()[:2] == [6, 2]
    assert found.overlap.mean() == pytest.approx(aupro(maps, masks), abs=1e-12)
    # One region by its definition: at every threshold the share above it against the share of normal pixels above.
    region = masks[5].copy()
    region[20:22] = False
    normal, inside = np.sort(maps[~masks])[::-1], maps[5][region]
    thresholds = np.sort(np.r_[normal, inside])[::-1]
    fpr = np.searchsorted(-normal, -thresholds, "right") / len(normal)
    share = (inside[None, :] >= thresholds[:, None]).mean(1)
    grid = np.linspace(0, 0.3, 20001)
    expected = np.trapezoid(np.interp(grid, np.r_[0, fpr], np.r_[0, share]), grid) / 0.3
    [at] = np.flatnonzero((found.image == 5) & (found.size == region.sum()))
    assert found.overlap[at] == pytest.approx(expected, abs=2e-3)


def test_evidence_holds_the_exact_values_and_survives_the_disk(
    scored: tuple[np.ndarray, np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    anomalous, maps, masks = scored
    ids = [f"{i}.png" for i in range(10)]
    found = evidence(ids, anomalous, {"map_max": maps.max((1, 2)).astype(float)}, maps, masks)
    assert found.values["pixel_auroc", "map"] == pytest.approx(pixel_auroc(maps, masks))
    assert found.values["aupro_30", "map"] == pytest.approx(found.regions["overlap"].mean())
    assert {m for m, _ in found.values} == {*PIXEL_METRICS, "image_auroc"}
    for quantity, replicates in found.replicates.items():
        low, high = np.quantile(replicates, [0.001, 0.999])
        assert low - 0.05 <= found.values[quantity] <= high + 0.05
    write_evidence(found, tmp_path / "a")
    other = evidence(ids, anomalous, {"product_max": maps.max((1, 2)).astype(float)}, maps**3, masks, "product")
    write_evidence(other, tmp_path / "b")
    both = read_evidence(lambda: tmp_path / "a", lambda: tmp_path / "b")
    assert both.values == {**found.values, **other.values}
    assert both.image_ids == tuple(ids)
    np.testing.assert_array_equal(both.replicates["aupro_30", "map"], found.replicates["aupro_30", "map"])
    assert both.regions["size"].tolist() == found.regions["size"].tolist()


def test_without_masks_or_regions_there_are_image_scores_only(
    scored: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    anomalous, maps, masks = scored
    for absent in (None, np.zeros_like(masks)):
        found = evidence(list("abcdefghij"), anomalous, {"map_max": maps.max((1, 2))}, maps, absent)
        assert set(found.values) == {("image_auroc", "map_max")}
        assert found.regions.empty


def test_anomalous_images_without_a_mask_leave_the_pixels_evidence_alone(
    scored: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    """As if they had never been there, for pixels; for images they are."""
    anomalous, maps, masks = scored
    drawn = masks.copy()
    drawn[4:6] = False  # two of six defects were never drawn
    ids, rules = list("abcdefghij"), {"map_max": maps.max((1, 2))}
    found = evidence(ids, anomalous, rules, maps, drawn)
    kept = np.r_[0:4, 6:10]
    alone = evidence([ids[i] for i in kept], anomalous[kept], {}, maps[kept], masks[kept])
    for metric in PIXEL_METRICS:
        assert found.values[metric, "map"] == alone.values[metric, "map"]
        np.testing.assert_array_equal(found.replicates[metric, "map"], alone.replicates[metric, "map"])
    assert found.regions["image_id"].tolist() == list("aabbccdd")
    assert found.values["image_auroc", "map_max"] == roc_auc_score(anomalous, maps.max((1, 2)))
