"""Figures are looked at by people; what can be checked is what they are drawn from, and that they can be read."""

from io import BytesIO

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from PIL import Image

from rkd_pipeline.figures import (
    Discrepancy,
    best_and_worst,
    detection_curves,
    feature_discrepancy,
    loss_curve,
    map_strip,
    message,
    rank_diagram,
    recipe_losses,
    score_distribution,
    thumbnail,
)
from rkd_pipeline.figures.paper import Category, cover
from rkd_pipeline.metrics.pixel_curve import pixel_curve


def size(png: bytes) -> tuple[int, int]:
    with Image.open(BytesIO(png)) as image:
        image.load()
        return image.size


@pytest.fixture(scope="module")
def scene() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Four pictures, maps and masks of 32 x 32, the last two defective."""
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 255, (4, 32, 32, 3), dtype=np.uint8)
    masks = np.zeros((4, 32, 32), bool)
    masks[2:, 8:16, 8:16] = True
    return pictures, rng.random((4, 32, 32)).astype(np.float32) + masks, masks


def test_a_mask_covers_every_cell_that_it_touches() -> None:
    mask = np.zeros((8, 8), bool)
    mask[3, 4] = True
    assert cover(mask, 8).sum() == 1
    assert np.argwhere(cover(mask, 2)).tolist() == [[0, 1]]
    mask[4, 4] = True
    assert np.argwhere(cover(mask, 4)).tolist() == [[1, 2], [2, 2]]


def test_the_same_figure_has_the_same_bytes(scene: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    _, maps, masks = scene
    curve = pixel_curve(maps, masks)
    drawn = [detection_curves(masks.any((1, 2)), maps.max((1, 2)), curve, "t") for _ in range(2)]
    assert drawn[0] == drawn[1]
    without = detection_curves(masks.any((1, 2)), maps.max((1, 2)), None, "t")
    assert size(without)[0] < size(drawn[0])[0]


def test_figures_of_the_paper_are_wide_enough_to_read(scene: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    pictures, maps, masks = scene
    scales = [maps[0][::s, ::s] for s in (4, 8, 16)]
    shown = feature_discrepancy(Discrepancy(pictures[0], scales), Discrepancy(pictures[2], scales), masks[2], "t")
    assert size(shown)[0] > 1000
    categories = [Category(h, pictures[2:], maps[2:], masks[2:]) for h in ("best", "worst")]
    assert size(best_and_worst(categories, "t"))[0] > size(best_and_worst(categories[:1], "t"))[0] > 400
    history = pd.DataFrame({"epoch": [1, 2], "train_loss": [2.0, 1.0], "validation_loss": [2.1, None]})
    histories = dict.fromkeys(("rkd", "rkd-es", "rkd-mkd", "rkd-mkd-es"), (history, 1))
    wide, high = size(recipe_losses(histories, "t"))
    assert wide > 1000
    assert high > size(recipe_losses({"rkd": (history, None)}, "t"))[1]


def test_a_defect_without_a_mask_is_said_to_have_none(
    scene: tuple[np.ndarray, np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures, maps, masks = scene
    written: list[str] = []
    text = Axes.text
    monkeypatch.setattr(Axes, "text", lambda self, x, y, s, **k: (written.append(s), text(self, x, y, s, **k))[1])
    drawn = masks[2:].copy()
    best_and_worst([Category("best", pictures[2:], maps[2:], drawn)], "t")
    assert written == []
    drawn[1] = False
    best_and_worst([Category("best", pictures[2:], maps[2:], drawn)], "t")
    assert written == ["no mask"]


def test_ranks_are_drawn_with_and_without_bars() -> None:
    ranks = {"a": 1.2, "b": 1.8, "c": 3.0}
    assert rank_diagram(ranks, [["a", "b"]], "t") != rank_diagram(ranks, [], "t")


def test_thumbnails_are_small_and_keep_their_shape() -> None:
    whole = message("nothing to see")
    width, height = size(whole)
    small = thumbnail(whole, width // 2)
    assert size(small) == (width // 2, height // 2)


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(png)).convert("RGB"))


def test_a_loss_curve_shows_validation_and_the_epoch_kept_only_where_there_are_any() -> None:
    history = pd.DataFrame({"epoch": [1, 2, 3], "train_loss": [3.0, 2.0, 1.0], "validation_loss": None})
    plain = loss_curve(history, "t")
    stopped = loss_curve(history.assign(validation_loss=[3.0, 1.5, 2.0]), "t", best_epoch=2)
    assert (pixels(plain) != pixels(stopped)).any()


def test_the_strip_outlines_the_ground_truth(scene: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    pictures, maps, masks = (array[[0, 2]] for array in scene)
    without, with_masks = map_strip(pictures, maps, ["a", "b"], "t"), map_strip(pictures, maps, ["a", "b"], "t", masks)
    left, right = np.array_split((pixels(without) != pixels(with_masks)).any(-1), 2, axis=1)
    assert right.sum() > 50
    assert left.sum() == 0


def test_a_threshold_is_drawn_where_there_is_one() -> None:
    scores = pd.DataFrame({"part": "test", "anomalous": [False, True] * 10, "map_max": np.linspace(0, 1, 20)})
    assert score_distribution(scores, "map_max", None, "t") != score_distribution(scores, "map_max", 0.4, "t")
