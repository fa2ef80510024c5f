from io import BytesIO

import numpy as np
import pandas as pd
from PIL import Image

from rkd_pipeline.figures import loss_curve, map_strip, score_distribution, thumbnail


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(png)).convert("RGB"))


def history(validation: list[float] | None) -> pd.DataFrame:
    return pd.DataFrame({"epoch": [1, 2, 3], "train_loss": [3.0, 2.0, 1.0], "validation_loss": validation})


def test_a_loss_curve_shows_validation_and_the_epoch_kept_only_where_there_are_any() -> None:
    plain = loss_curve(history(None), "t")
    stopped = loss_curve(history([3.0, 1.5, 2.0]), "t", best_epoch=2)
    assert pixels(plain).shape == pixels(stopped).shape
    assert (pixels(plain) != pixels(stopped)).any()
    assert plain == loss_curve(history(None), "t"), "the same history gives the same bytes"


def test_the_strip_outlines_the_ground_truth() -> None:
    rng = np.random.default_rng(0)
    shown, maps = rng.integers(0, 255, (2, 32, 32, 3)).astype(np.uint8), rng.random((2, 32, 32))
    masks = np.zeros((2, 32, 32), bool)
    masks[1, 8:20, 8:20] = True
    without, with_masks = map_strip(shown, maps, ["a", "b"], "t"), map_strip(shown, maps, ["a", "b"], "t", masks)
    changed = (pixels(without) != pixels(with_masks)).any(-1)
    left, right = np.array_split(changed, 2, axis=1)
    assert right.sum() > 50
    assert left.sum() == 0


def test_a_threshold_is_drawn_where_there_is_one() -> None:
    scores = pd.DataFrame({"part": "test", "anomalous": [False, True] * 10, "map_max": np.linspace(0, 1, 20)})
    assert score_distribution(scores, "map_max", None, "t") != score_distribution(scores, "map_max", 0.4, "t")


def test_a_thumbnail_is_small_and_keeps_its_shape() -> None:
    png = loss_curve(history(None), "t")
    height, width, _ = pixels(png).shape
    small = thumbnail(png, 300)
    assert len(small) < 20_000
    shown = pixels(small)
    assert shown.shape[1] == 300
    assert abs(shown.shape[0] - 300 * height / width) <= 1
