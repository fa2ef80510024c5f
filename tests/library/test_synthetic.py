from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import binary_dilation

from rkd_pipeline.data import synthetic
from rkd_pipeline.data.catalog import TARGETS, targets_of
from rkd_pipeline.data.index import check_counts, index_listing
from rkd_pipeline.data.layouts.layout_of import list_images
from rkd_pipeline.detectors.baselines import nearest_colours, pixel_deviation
from rkd_pipeline.metrics.pixel_auroc import pixel_auroc

KINDS = [(target, defect) for target, module in synthetic.TARGETS.items() for defect in module.DEFECTS]


def test_the_catalog_lists_what_is_generated() -> None:
    assert [t.name for t in targets_of("demo")] == [f"demo.{name}" for name in synthetic.TARGETS]
    assert {len(module.DEFECTS) >= 3 for module in synthetic.TARGETS.values()} == {True}


@pytest.mark.parametrize("name", synthetic.TARGETS)
def test_a_generated_target_is_complete(name: str, tmp_path: Path) -> None:
    synthetic.generate(tmp_path, targets=[name])
    target, out = TARGETS[f"demo.{name}"], tmp_path / "arrays"
    out.mkdir()
    index = index_listing(target, tmp_path, list_images(target, tmp_path), 32, out).table
    check_counts(target, index)
    assert index["pixel_sha256"].is_unique
    assert set(index["defect"]) == {"good", *synthetic.TARGETS[name].DEFECTS}
    assert set(index["width"]) == set(index["height"]) == {synthetic.SIDE}


@pytest.mark.parametrize("name", synthetic.TARGETS)
def test_images_depend_on_seed_and_number_alone(name: str) -> None:
    first, _ = synthetic.image(name, 1, 0)
    assert np.array_equal(synthetic.image(name, 1, 0)[0], first)
    assert not np.array_equal(synthetic.image(name, 2, 0)[0], first)
    assert not np.array_equal(synthetic.image(name, 1, 1)[0], first)
    assert first.min() >= 0
    assert first.max() <= 1


@pytest.mark.parametrize(("name", "defect"), KINDS)
def test_a_mask_shows_where_the_image_differs_from_its_normal_twin(name: str, defect: str) -> None:
    """The same random numbers without the defect give the twin; lens, relief and shadow carry a change a few pixels."""
    for number in (80, 81):
        spoiled, mask = synthetic.image(name, 3, number, defect)
        normal, empty = synthetic.image(name, 3, number)
        assert not empty.any()
        changed = np.abs(spoiled - normal).max(-1) > 0.02
        assert changed[mask].mean() > 0.3
        # A chip moves the plate's shadow: 6 pixels away, blurred over 12 more.
        beyond = binary_dilation(mask, iterations=20 if name == "bracket" else 7)
        assert changed[~beyond].sum() <= 0.02 * mask.sum()


@pytest.mark.parametrize("name", synthetic.TARGETS)
def test_defects_are_small_and_of_different_sizes(name: str) -> None:
    areas = []
    for number, defect in synthetic.contents(name):
        if defect is not None:
            rng = np.random.default_rng([synthetic.SEED, list(synthetic.TARGETS).index(name), number])
            areas.append(synthetic.TARGETS[name].draw(rng, defect).defect.mean())
    assert len(areas) == synthetic.TEST_DEFECTIVE
    assert np.median(areas) < 0.02
    assert 0 < min(areas) < 0.002
    assert max(areas) > 2 * min(areas)


@pytest.mark.slow
@pytest.mark.parametrize("name", synthetic.TARGETS)
def test_neither_a_fixed_place_nor_a_colour_tells_a_defect(name: str) -> None:
    made = [synthetic.image(name, synthetic.SEED, number, defect) for number, defect in synthetic.contents(name)]
    pixels = np.stack([(255 * p).round().astype(np.uint8) for p, _ in made])
    masks = np.stack([m for _, m in made[synthetic.TRAIN :]])
    for baseline in (pixel_deviation, nearest_colours):
        assert pixel_auroc(baseline(pixels[: synthetic.TRAIN], pixels[synthetic.TRAIN :]), masks) < 0.85, (
            baseline.__name__
        )
