"""Pixel metrics against oracles written from the definitions: slow loops over every threshold and every region."""

import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from rkd_pipeline.metrics import aupro, pixel_blocks, pixel_curve, pixel_metrics
from rkd_pipeline.metrics.aupimo import aupimo, aupimo_per_image
from rkd_pipeline.metrics.pixel_ap import pixel_ap
from rkd_pipeline.metrics.pixel_auroc import pixel_auroc
from rkd_pipeline.metrics.pixel_blocks import ArrayPixels, Grid, TensorPixels
from rkd_pipeline.metrics.pixel_f1_max import pixel_f1_max
from rkd_pipeline.metrics.pro_rd4ad import pro_rd4ad, pro_rd4ad_per_image
from rkd_pipeline.metrics.pro_youden import pro_youden
from rkd_pipeline.metrics.regions import Undefined, anomalous_pixels

TIED = [-2.0, -0.0, 0.0, 1e-30, 0.25, 0.5, 0.50000006, 1.0, 3e38]
shapes = st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5))


@st.composite
def cases(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Maps, many of them with ties, and ground truth, not all of it anomalous."""
    shape = draw(shapes)
    dtype = draw(st.sampled_from([np.float16, np.float32, np.float64]))
    width = np.dtype(dtype).itemsize * 8
    values = st.sampled_from(TIED) if width > 16 else st.sampled_from(TIED[:-1])
    finite = st.floats(allow_nan=False, allow_infinity=False, width=width)
    maps = draw(arrays(dtype, shape, elements=draw(st.sampled_from([values, finite]))))
    masks = draw(arrays(bool, shape))
    assume(0 < masks.sum() < masks.size)
    return maps, masks


def regions(mask: np.ndarray) -> list[list[tuple[int, int]]]:
    """8-connected components by flood fill."""
    left, found = {(int(r), int(c)) for r, c in np.argwhere(mask)}, []
    while left:
        region, border = [], [left.pop()]
        while border:
            row, column = border.pop()
            region.append((row, column))
            near = {(row + i, column + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & left
            left -= near
            border += near
        found.append(region)
    return found


def thresholds(maps: np.ndarray) -> list[float]:
    return [np.inf, *np.unique(maps)[::-1].tolist()]


def overlaps(maps: np.ndarray, masks: np.ndarray, threshold: float) -> list[float]:
    return [
        float(np.mean([maps[i][place] >= threshold for place in region]))
        for i in range(len(maps))
        for region in regions(masks[i])
    ]


def area_up_to(x: list[float], y: list[float], limit: float) -> float:
    at = [*[v for v in x if v < limit], limit]
    # At equal x the later, higher point is where the next segment begins; np.interp would take either.
    area = 0.0
    for x0, y0, x1, y1 in zip(x, y, x[1:], y[1:], strict=False):
        if x0 >= limit or x0 == x1:
            continue
        end = min(x1, limit)
        y_end = y0 + (y1 - y0) * (end - x0) / (x1 - x0)
        area += (end - x0) * (y0 + y_end) / 2
    assert at[-1] == limit
    return area


def aupro_by_definition(maps: np.ndarray, masks: np.ndarray, limit: float) -> float:
    rate = [float((maps[~masks] >= t).mean()) for t in thresholds(maps)]
    overlap = [float(np.mean(overlaps(maps, masks, t))) for t in thresholds(maps)]
    return area_up_to(rate, overlap, limit) / limit


def aupimo_by_definition(maps: np.ndarray, masks: np.ndarray, low: float, high: float) -> list[float]:
    normal = maps[~masks.any(axis=(1, 2))]
    found = []
    for one, mask in zip(maps, masks, strict=True):
        if not mask.any():
            continue
        rate = [float((normal >= t).mean()) for t in thresholds(maps)]
        recall = [float((one[mask] >= t).mean()) for t in thresholds(maps)]
        area = 0.0
        for x0, y0, x1, y1 in zip(rate, recall, rate[1:], recall[1:], strict=False):
            a, b = max(x0, low), min(x1, high)
            if a >= b:
                continue
            slope = (y1 - y0) / (x1 - x0)
            area += (y0 - slope * x0) * np.log(b / a) + slope * (b - a)  # of y = y0 + slope (x - x0), over d ln x
        found.append(area / np.log(high / low))
    return found


def rd4ad_loop(one: np.ndarray, mask: np.ndarray) -> float:
    """The official loop over thresholds, for one image."""
    one = one.astype(np.float64)
    pairs = []
    for t in np.arange(one.min(), one.max(), (one.max() - one.min()) / 200):
        called = one > t
        overlap = float(np.mean([np.mean([called[p] for p in region]) for region in regions(mask)]))
        pairs.append((float((called & ~mask).sum() / (~mask).sum()), overlap))
    kept = np.array([p for p in pairs if p[0] < 0.3])
    x = kept[:, 0] / kept[:, 0].max()
    return float(-np.trapezoid(kept[:, 1], x))


@contextmanager
def small_machinery(bits: int, share: float, division: int, block: int) -> Iterator[None]:
    """The same algorithm with few bins and small blocks, so that few pixels go through all of it."""
    curve = {"MIN_BITS": bits, "MAX_BITS": bits, "SORTED_SHARE": share, "SORTED_ANYWAY": 0, "DIVISION_BITS": division}
    with patch.multiple(pixel_curve, **curve), patch.multiple(pixel_blocks, BLOCK=block):
        yield


machinery = st.builds(
    small_machinery, st.integers(1, 6), st.sampled_from([0, 0.3, 1]), st.integers(1, 6), st.sampled_from([3, 1 << 18])
)


@given(cases(), st.sampled_from([0.05, 0.1, 0.3, 0.5, 1.0]), machinery)
@settings(max_examples=120, deadline=None)
def test_aupro_is_its_definition(case: tuple[np.ndarray, np.ndarray], limit: float, machinery: None) -> None:
    with machinery:
        assert aupro(*case, limit) == pytest.approx(aupro_by_definition(*case, limit), abs=1e-9)


@given(cases(), machinery)
@settings(max_examples=80, deadline=None)
def test_all_in_one_pass_are_their_definitions(case: tuple[np.ndarray, np.ndarray], machinery: None) -> None:
    maps, masks = case
    with machinery:
        found = pixel_metrics(maps, masks)
    scores, labels = maps.ravel().astype(float), masks.ravel()
    assert found.pixel_auroc == pytest.approx(roc_auc_score(labels, scores), abs=1e-9)
    assert found.pixel_ap == pytest.approx(average_precision_score(labels, scores), abs=1e-9)
    precision, recall, _ = precision_recall_curve(labels, scores)
    best = np.max(2 * precision * recall / np.maximum(precision + recall, 1e-300))
    assert found.pixel_f1_max == pytest.approx(best, abs=1e-9)
    for limit, value in ((0.3, found.aupro_30), (0.1, found.aupro_10), (0.05, found.aupro_05)):
        assert value == pytest.approx(aupro_by_definition(maps, masks, limit), abs=1e-9)
    # By counts: rates differ in the last digit where J is equal.
    false, true, at = roc_curve(labels, scores, drop_intermediate=False)
    j = np.round(true * labels.sum()) * (~labels).sum() - np.round(false * (~labels).sum()) * labels.sum()
    assert found.pro_youden == pytest.approx(np.mean(overlaps(maps, masks, at[np.argmax(j)])), abs=1e-9)


@given(cases())
@settings(max_examples=20, deadline=None)
def test_alone_they_are_what_they_are_together(case: tuple[np.ndarray, np.ndarray]) -> None:
    alone = [pixel_auroc, pixel_ap, pixel_f1_max, aupro, pro_youden]
    together = pixel_metrics(*case)
    names = ["pixel_auroc", "pixel_ap", "pixel_f1_max", "aupro_30", "pro_youden"]
    assert [f(*case) for f in alone] == pytest.approx([asdict(together)[n] for n in names], abs=1e-12)


@given(cases(), st.sampled_from([(1e-5, 1e-4), (0.01, 0.3), (0.2, 1.0)]))
@settings(max_examples=80, deadline=None)
def test_aupimo_is_its_definition(case: tuple[np.ndarray, np.ndarray], bounds: tuple[float, float]) -> None:
    maps, masks = case
    masks[0] = False
    assume(masks.any())
    expected = aupimo_by_definition(maps, masks, *bounds)
    assert aupimo_per_image(maps, masks, bounds) == pytest.approx(expected, abs=1e-9)
    assert aupimo(maps, masks, bounds) == pytest.approx(np.mean(expected), abs=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_pro_rd4ad_is_the_official_loop(dtype: type) -> None:
    rng = np.random.default_rng(2)
    maps = np.round(rng.normal(size=(6, 9, 11)), 2).astype(dtype)
    masks = rng.random((6, 9, 11)) < 0.15
    masks[1] = False
    maps[masks] += 1
    expected = [rd4ad_loop(m, k) for m, k in zip(maps, masks, strict=True) if k.any()]
    assert pro_rd4ad_per_image(maps, masks) == pytest.approx(expected, abs=1e-9)
    assert pro_rd4ad(maps, masks) == pytest.approx(np.mean(expected), abs=1e-9)


@given(cases(), machinery)
@settings(max_examples=40, deadline=None)
def test_a_device_counts_as_the_cpu_does(case: tuple[np.ndarray, np.ndarray], machinery: None) -> None:
    """The torch passes, run on the CPU, against the NumPy ones; and tensors in the public entry."""
    maps, masks = case
    tensors = torch.from_numpy(maps), torch.from_numpy(masks)
    with machinery:
        expected = pixel_metrics(maps, masks)
        assert pixel_metrics(*tensors) == expected
        with patch.object(pixel_curve, "pixels_of", TensorPixels):
            assert pixel_metrics(*tensors) == expected


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_gives_the_same() -> None:
    maps, masks = one_defect()
    assert pixel_metrics(torch.from_numpy(maps).cuda(), torch.from_numpy(masks).cuda()) == pixel_metrics(maps, masks)


def test_bfloat16_and_integers_are_taken_exactly() -> None:
    maps, masks = one_defect()
    half = torch.from_numpy(maps).bfloat16()
    assert aupro(half, torch.from_numpy(masks)) == aupro(half.float().numpy(), masks)
    grey = (maps * 200).astype(np.uint8)
    assert aupro(grey, masks.astype(np.uint8) * 255) == aupro(grey.astype(float), masks)


def one_defect() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    maps, masks = rng.random((3, 8, 8), np.float32), np.zeros((3, 8, 8), bool)
    masks[1, 2:5, 2:5] = True
    maps[masks] += 0.3
    return maps, masks


def test_a_constant_map_ranks_nothing() -> None:
    _, masks = one_defect()
    found = pixel_metrics(np.ones((3, 8, 8), np.float32), masks)
    # The curve is the diagonal: up to 0.3 its area is 0.3^2 / 2.
    assert (found.pixel_auroc, found.aupro_30) == pytest.approx((0.5, 0.15))
    assert found.pixel_ap == pytest.approx(masks.mean())
    assert found.pro_youden == 0  # no threshold has a positive J, so none is taken


def test_regions_weigh_the_same_whatever_their_size_and_one_pixel_is_a_region() -> None:
    masks = np.zeros((2, 6, 6), bool)
    masks[0, :4, :4] = True
    masks[0, 4, 4] = True  # touches the square at a corner: the same region
    masks[1, 0, 5] = True  # one pixel
    maps = np.where(masks, 1.0, 0.0)
    maps[1, 0, 5] = -1
    assert aupro(maps, masks) == pytest.approx(0.5)


def test_neighbours_are_joined_within_a_image_not_across() -> None:
    masks = np.ones((3, 2, 2), bool)
    masks[2] = False
    assert anomalous_pixels(np.zeros((3, 2, 2)), masks).region_size.tolist() == [4, 4]


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"nan": (1, 3, 4)}, ValueError, "map 1 is nan at row 3, column 4 .1 such"),
        ({"inf": (2, 0, 7)}, ValueError, "map 2 is inf at row 0, column 7"),
        ({"masks": np.zeros((3, 8, 8), bool)}, Undefined, "no anomalous pixel in 3 maps"),
        ({"masks": np.ones((3, 8, 8), bool)}, Undefined, "no normal pixel in 3 maps"),
        ({"masks": np.zeros((3, 8, 7), bool)}, ValueError, r"\(3, 8, 8\) and masks \(3, 8, 7\)"),
        ({"masks": np.zeros((3, 8, 8))}, TypeError, "masks > 0.5"),
        ({"dtype": np.int64}, TypeError, "maps are int64"),
        ({"limit": 0.0}, ValueError, r"\(0, 1\]"),
    ],
)
def test_what_has_no_aupro_is_an_error_that_says_why(change: dict, error: type[Exception], says: str) -> None:
    maps, masks = one_defect()
    for name, value in (("nan", np.nan), ("inf", np.inf)):
        if name in change:
            maps[change[name]] = value
    maps, masks = maps.astype(change.get("dtype", np.float32)), change.get("masks", masks)
    for put in (np.asarray, torch.from_numpy):
        with pytest.raises(error, match=says):
            aupro(put(maps), put(masks), change.get("limit", 0.3))


def test_what_has_no_aupimo_or_rd4ad_pro_says_why() -> None:
    maps, masks = one_defect()
    with pytest.raises(Undefined, match="no image without an anomalous pixel"):
        aupimo(maps[1:2], masks[1:2])
    maps[1] = 4
    with pytest.raises(Undefined, match="map 1 is constant"):
        pro_rd4ad(maps, masks)


def test_maps_are_streamed() -> None:
    """A memory-mapped or strided set of maps is read block by block: no copy of it is made."""
    rng = np.random.default_rng(1)
    wide = rng.random((40, 256, 512), np.float32)
    maps, masks = wide[:, :, ::2], np.zeros((40, 256, 256), bool)
    masks[::3, 40:60, 100:130] = True
    expected = pixel_metrics(maps.copy(), masks)
    tracemalloc.start()
    found = pixel_metrics(maps, masks)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found == expected
    assert peak < 1.5 * maps[0].nbytes * len(maps) + 40 * 2**20  # a quarter of the pixels, and the bins


def test_bins_hold_scores_in_order_over_all_magnitudes() -> None:
    scores = np.array([-3e38, -1.0, -1e-40, -0.0, 0.0, 1e-45, 1e-3, 1.0, 3e38], np.float32)
    keys = pixel_blocks.keys_of(scores, signed=True)
    assert (np.sign(np.diff(keys)) == np.sign(np.diff(scores))).all()
    for bits in (1, 8, 31):
        grid = Grid.spanning(-3e38, 3e38, scores.dtype, bits)
        bins = pixel_blocks.bins_of(scores, (grid,))
        assert (np.diff(bins) >= 0).all()
        assert bins[0] == 0
        assert bins[-1] == grid.bins - 1
        assert ArrayPixels(scores.reshape(1, 3, 3)).counts((grid,)).sum() == 9
