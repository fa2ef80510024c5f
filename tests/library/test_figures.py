"""Figures are looked at by people; what can be checked is what they are drawn from, and that they can be read."""

from io import BytesIO

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from PIL import Image

from rkd_pipeline.metrics.pixel_curve import pixel_curve
from rkd_pipeline.results.card_content import Card
from rkd_pipeline.results.figures import (
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
    small_image,
    style,
    thumbnail,
)
from rkd_pipeline.results.figures.card_figures import copies, montage
from rkd_pipeline.results.figures.paper import Category, cover


def size(png: bytes) -> tuple[int, int]:
    with Image.open(BytesIO(png)) as image:
        image.load()
        return image.size


@pytest.fixture(scope="module")
def scene() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Four images, maps and masks of 32 x 32, the last two defective."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (4, 32, 32, 3), dtype=np.uint8)
    masks = np.zeros((4, 32, 32), bool)
    masks[2:, 8:16, 8:16] = True
    return images, rng.random((4, 32, 32)).astype(np.float32) + masks, masks


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
    images, maps, masks = scene
    scales = [maps[0][::s, ::s] for s in (4, 8, 16)]
    shown = feature_discrepancy(Discrepancy(images[0], scales), Discrepancy(images[2], scales), masks[2], "t")
    assert size(shown)[0] > 1000
    categories = [Category(h, images[2:], maps[2:], masks[2:]) for h in ("best", "worst")]
    assert size(best_and_worst(categories, "t"))[0] > size(best_and_worst(categories[:1], "t"))[0] > 400
    history = pd.DataFrame({"epoch": [1, 2], "train_loss": [2.0, 1.0], "validation_loss": [2.1, None]})
    histories = dict.fromkeys(("rkd", "rkd-es", "rkd-mkd", "rkd-mkd-es"), (history, 1))
    wide, high = size(recipe_losses(histories, "t"))
    assert wide > 1000
    assert high > size(recipe_losses({"rkd": (history, None)}, "t"))[1]


def test_a_defect_without_a_mask_is_said_to_have_none(
    scene: tuple[np.ndarray, np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    images, maps, masks = scene
    written: list[str] = []
    text = Axes.text
    monkeypatch.setattr(Axes, "text", lambda self, x, y, s, **k: (written.append(s), text(self, x, y, s, **k))[1])
    drawn = masks[2:].copy()
    best_and_worst([Category("best", images[2:], maps[2:], drawn)], "t")
    assert written == []
    drawn[1] = False
    best_and_worst([Category("best", images[2:], maps[2:], drawn)], "t")
    assert written == ["no mask"]


def test_ranks_are_drawn_with_and_without_bars() -> None:
    ranks = {"a": 1.2, "b": 1.8, "c": 3.0}
    assert rank_diagram(ranks, [["a", "b"]], "t") != rank_diagram(ranks, [], "t")


def test_thumbnails_are_small_and_keep_their_shape() -> None:
    whole = message("nothing to see")
    width, height = size(whole)
    small = thumbnail(whole, width // 2)
    assert size(small) == (width // 2, height // 2)
    smaller = small_image(whole, width // 2)
    with Image.open(BytesIO(smaller)) as image:
        assert (image.format, image.size) == ("WEBP", (width // 2, height // 2))
    assert len(smaller) < len(small)


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(png)).convert("RGB"))


def test_a_loss_curve_shows_validation_and_the_epoch_kept_only_where_there_are_any() -> None:
    history = pd.DataFrame({"epoch": [1, 2, 3], "train_loss": [3.0, 2.0, 1.0], "validation_loss": None})
    plain = loss_curve(history, "t")
    stopped = loss_curve(history.assign(validation_loss=[3.0, 1.5, 2.0]), "t", best_epoch=2)
    assert (pixels(plain) != pixels(stopped)).any()


def test_the_strip_outlines_the_ground_truth(scene: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    images, maps, masks = (array[[0, 2]] for array in scene)
    without, with_masks = map_strip(images, maps, ["a", "b"], "t"), map_strip(images, maps, ["a", "b"], "t", masks)
    left, right = np.array_split((pixels(without) != pixels(with_masks)).any(-1), 2, axis=1)
    assert right.sum() > 50
    assert left.sum() == 0


def test_a_threshold_is_drawn_where_there_is_one() -> None:
    scores = pd.DataFrame({"part": "test", "anomalous": [False, True] * 10, "map_max": np.linspace(0, 1, 20)})
    assert score_distribution(scores, "map_max", None, "t") != score_distribution(scores, "map_max", 0.4, "t")


DOLLARS = "part$1_$2 $\\frac{$ 5$ to 6$"


def test_a_dollar_is_a_dollar_in_every_figure(
    scene: tuple[np.ndarray, np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As matplotlib itself draws with its mathematics turned off, which is another way than the code's."""
    images, maps, masks = scene
    history = pd.DataFrame({"epoch": [1, 2], "train_loss": [2.0, 1.0], "validation_loss": [2.1, 1.0]})
    pair = {"first": "a" + DOLLARS, "second": "b", "first_part": DOLLARS, "second_part": "test", "identical": True}
    card = Card(pd.DataFrame(), pd.DataFrame(), pd.DataFrame([pair]))
    index = pd.DataFrame({"image_id": ["a" + DOLLARS, "b", "c", "d"], "defect": DOLLARS, "anomalous": True})
    split = pd.Series("test", index=index["image_id"])
    draws = [
        lambda: loss_curve(history, DOLLARS),
        lambda: map_strip(images, maps, [DOLLARS] * 4, DOLLARS, masks),
        lambda: rank_diagram({DOLLARS: 1.2, "b": 1.8}, [], DOLLARS),
        lambda: best_and_worst([Category(DOLLARS, images, maps, masks)], DOLLARS),
        lambda: recipe_losses({DOLLARS: (history, 1)}, DOLLARS),
        lambda: copies(index, images, card, DOLLARS),
        lambda: montage(index, split, images, masks, DOLLARS),
    ]
    drawn = [draw() for draw in draws]
    monkeypatch.setattr(Figure, "findobj", lambda *_: [])  # through which the code reaches texts
    with mpl.rc_context({"text.parse_math": False}):
        assert [draw() for draw in draws] == drawn


def test_a_message_draws_dollars_too() -> None:
    """matplotlib measures a text that it may wrap as mathematics, whether or not that is on."""
    figure = Figure(figsize=(7, 1.2))
    figure.text(0.5, 0.5, DOLLARS, ha="center", va="center", fontsize=11, color=style.GREY, parse_math=False)
    buffer = BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    np.testing.assert_array_equal(pixels(message(DOLLARS)), pixels(buffer.getvalue()))


@pytest.mark.filterwarnings("error")  # matplotlib warns of a glyph that it lacks
def test_what_no_font_can_draw_is_spelled_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(style, "FALLBACK_FONTS", ())
    assert message("a\u6837\udcf6\x07") == message(r"a\u6837\xf6\x07")
    assert message("ä 50 % ≤ ½") != message(r"\xe4 50 % \u2264 \xbd")


@pytest.mark.filterwarnings("error")
def test_another_font_draws_what_the_first_one_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    own, other = (set(get_font(findfont(name)).get_charmap()) for name in ("DejaVu Sans", "STIXGeneral"))
    character = chr(min(c for c in other - own if c > 0x2000))
    monkeypatch.setattr(style, "FALLBACK_FONTS", ("STIXGeneral",))
    spelled_out = message(character.encode("unicode_escape").decode())
    assert (pixels(message(character)) < 128).any()
    assert message(character) != spelled_out
