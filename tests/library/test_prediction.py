"""New images: whatever one file is like, the others are scored, and the table is whole."""

import os
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from rkd_pipeline.cli.model_commands import _images
from rkd_pipeline.data.image_files import resized
from rkd_pipeline.errors import DataError
from rkd_pipeline.operations.prediction import TABLE, predict
from rkd_pipeline.results.figures.overlay import is_overlay, overlay

SIDE = 16


class MeanScorer:
    """Scores an image by its mean grey: a known value without a network."""

    def __init__(self, threshold: float | None = 100.0) -> None:
        self.card = SimpleNamespace(threshold=threshold, model=SimpleNamespace(training="rkd-s0"))

    def prepare(self, image: Image.Image) -> np.ndarray:
        return resized(image, SIDE)

    def score_prepared(self, pixels: list[np.ndarray]) -> tuple[pd.DataFrame, np.ndarray]:
        maps = np.stack(pixels).mean(-1).astype(np.float32)
        return pd.DataFrame({"score": maps.mean((1, 2))}), maps


def run(images: list[Path], output: Path | None, **given: object) -> pd.DataFrame:
    return predict(MeanScorer(), images, output, **given).table


def grey(file: Path, value: int, size: tuple[int, int] = (24, 20)) -> Path:
    buffer = BytesIO()
    Image.new("RGB", size, (value,) * 3).save(buffer, "PNG")
    file.write_bytes(buffer.getvalue())
    return file


HOSTILE = [
    "part$1_$2.png",
    "$\\frac{$ ^_{ %s {0}.png",
    "两行样品.png",
    "two\nlines.png",
    os.fsdecode(b"sch\xf6n.png"),
    "n" * 246 + ".png",
    "样" * 83 + ".png",  # 253 bytes
    "a|b.png",
    "._map.png",
]


def test_odd_names_and_bad_files_spoil_no_other(tmp_path: Path) -> None:
    images = [grey(tmp_path / name, 10 * i) for i, name in enumerate(HOSTILE)]
    broken, gone = tmp_path / "broken.png", tmp_path / "gone$.png"
    broken.write_bytes(b"no image")
    output = tmp_path / "out"
    run([*images[:4], broken, *images[4:], gone], output)
    table = pd.read_csv(output / TABLE, encoding="utf-8")
    assert len(table) == len(HOSTILE) + 2
    good = table[table["problem"].isna()]
    np.testing.assert_allclose(good["score"], [10 * i for i in range(len(HOSTILE))])
    assert good["picture"].str.contains("part$1_$2.png", regex=False).any()
    assert good["picture"].str.contains(r"sch\xf6n.png", regex=False).any()
    assert good["overlay"].nunique() == len(HOSTILE)
    drawn = list(output.glob("*_map.png"))
    assert len(drawn) == len(HOSTILE)
    assert all(len(os.fsencode(file.name)) < 200 for file in drawn)
    bad = table[table["problem"].notna()]["problem"].tolist()
    assert "broken.png: cannot be decoded" in bad[0]
    assert "gone$.png: the file does not exist" in bad[1]


def test_the_decision_is_by_the_threshold_that_is_given(tmp_path: Path) -> None:
    images = [grey(tmp_path / f"{value}.png", value) for value in (50, 90, 150)]
    assert run(images, None)["anomalous"].tolist() == [False, False, True]
    assert run(images, None, threshold=60.0)["anomalous"].tolist() == [False, True, True]
    undecided = predict(MeanScorer(None), images, tmp_path / "out").table
    assert undecided["anomalous"].isna().all()
    assert undecided["threshold"].isna().all()
    np.testing.assert_allclose(undecided["score"], [50, 90, 150])


def test_an_output_that_is_no_folder_is_refused_before_anything_is_scored(tmp_path: Path) -> None:
    file = grey(tmp_path / "a.png", 1)
    for output in (file, file / "sub"):
        with pytest.raises(DataError, match=r"--output .* is a file"):
            run([file], output)


@pytest.mark.parametrize("size", [(64, 12000), (12000, 64), (1, 5000)])
def test_a_narrow_strip_has_an_overlay_that_can_be_looked_at(size: tuple[int, int]) -> None:
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[: size[1] // 2, : size[0] // 2] = 255  # a light quarter: it must still be seen
    drawn = Image.open(BytesIO(overlay(Image.fromarray(pixels), np.ones((SIDE, SIDE)), None, "t")))
    assert max(drawn.size) < 2500
    left = np.asarray(drawn.convert("L"))[:, : drawn.width // 2]
    assert (left < 10).sum() > 2000  # pixels of the dark three quarters


def test_overlays_are_not_scored_in_the_folder_that_they_are_written_to(tmp_path: Path) -> None:
    names = ["a.png", "b_map.png"]  # the second is an image that somebody named so
    for name in names:
        grey(tmp_path / name, 40)
    for _ in range(3):
        images = _images([str(tmp_path)])
        assert [p.name for p in images] == names
        run(images, tmp_path)
    by_shell = [str(p) for p in sorted(tmp_path.glob("*.png"))]
    assert len(by_shell) == 4
    assert [p.name for p in _images(by_shell)] == names
    drawn = [p for p in tmp_path.iterdir() if is_overlay(p)]
    assert len(drawn) == 2
    with pytest.raises(DataError, match="no image to score"):
        _images([str(drawn[0])])


def test_an_overlay_that_fails_leaves_the_score(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = [grey(tmp_path / f"{i}.png", 10 * i) for i in range(3)]
    real = overlay

    def fails(ground: Image.Image, *rest: object) -> bytes:
        if ground.getpixel((0, 0)) == (10, 10, 10):
            raise ValueError("no glyph")
        return real(ground, *rest)

    monkeypatch.setattr("rkd_pipeline.results.figures.overlay.overlay", fails)
    table = run(images, tmp_path / "out")
    np.testing.assert_allclose(table["score"], [0, 10, 20])
    assert table["overlay"].notna().tolist() == [True, False, True]
    assert "its overlay could not be drawn (no glyph)" in table["problem"][1]
