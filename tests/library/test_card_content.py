from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageFilter

from rkd_pipeline.data.near_duplicates import near_pairs, perceptual_hash
from rkd_pipeline.data.user_targets import make_entry, targets_in
from rkd_pipeline.results.card_content import trivial_aurocs
from rkd_pipeline.stages import dataset_card, datasets
from rkd_pipeline.store.result_store import Store


def noise(number: int, side: int = 64) -> Image.Image:
    """A scene of its own, with grain of its own."""
    rng = np.random.default_rng(number)
    scene = Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8)).resize((side, side), Image.Resampling.BICUBIC)
    grain = rng.normal(0, 12, (side, side, 1))
    return Image.fromarray(np.clip(np.asarray(scene) + grain, 0, 255).astype(np.uint8))


def rows_of(images: list[Image.Image]) -> tuple[pd.DataFrame, np.ndarray]:
    arrays = np.stack([np.asarray(p.resize((64, 64))) for p in images])
    index = pd.DataFrame(
        {
            "image_id": [f"p{i}" for i in range(len(images))],
            "phash": [perceptual_hash(np.asarray(Image.fromarray(a).convert("L"))) for a in arrays],
            "pixel_sha256": [p.tobytes().hex() for p in images],
        }
    )
    return index, arrays


def test_copies_are_found_and_only_copies() -> None:
    first = noise(1)
    brighter = Image.fromarray(np.clip(np.asarray(first).astype(int) + 10, 0, 255).astype(np.uint8))
    same_scene = Image.fromarray(
        np.clip(
            np.asarray(first.filter(ImageFilter.GaussianBlur(2))) + np.random.default_rng(9).normal(0, 12, (64, 64, 1)),
            0,
            255,
        ).astype(np.uint8)
    )
    index, arrays = rows_of([first, noise(2), first.copy(), brighter, same_scene, *(noise(n) for n in range(10, 30))])
    pairs = near_pairs(index, arrays)
    found = {(p.first, p.second): p.identical for p in pairs.itertuples()}
    assert found == {("p0", "p2"): True, ("p0", "p3"): False, ("p2", "p3"): False}


def test_images_of_one_colour_are_not_copies_unless_they_are() -> None:
    flat = [Image.new("RGB", (64, 64), (c, c, c)) for c in (0, 0, 200)]
    pairs = near_pairs(*rows_of(flat))
    assert [(p.first, p.second, p.identical) for p in pairs.itertuples()] == [("p0", "p1", True)]
    assert near_pairs(*rows_of(flat[1:2])).empty


def test_trivial_statistics_are_flagged_on_both_sides() -> None:
    test = pd.DataFrame(
        {
            "anomalous": [False] * 4 + [True] * 4,
            "pixel_sha256": list("abcdefgh"),
            "mean": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8],
            "contrast": [5, 6, 7, 8, 1, 2, 3, 4],
            "bytes": [1, 2, 3, 4, 1, 2, 3, 4],
            "pixels": [9] * 8,
        }
    )
    found = trivial_aurocs(test).set_index("statistic")
    assert found["auroc"].to_dict() == {"mean intensity": 1, "contrast": 0, "file size": 0.5, "image size": 0.5}
    assert found["flagged"].to_dict() == {
        "mean intensity": True, "contrast": True, "file size": False, "image size": False,
    }  # fmt: skip


def make(store: Store, root: Path, name: str) -> str:
    datasets.find_source(store, root, name)
    datasets.index_images(store, name)
    datasets.split_images(store, name)
    datasets.prepare_images(store, name, datasets.FIRST_SIDE)
    return dataset_card.read_card(dataset_card.make_card(store, name))


def test_the_card_of_own_images(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "own"
    for i in range(12):
        (folder / "good").mkdir(parents=True, exist_ok=True)
        noise(i).save(folder / f"good/{i}.png")
    (folder / "dark").mkdir()
    for i in range(4):
        Image.fromarray(np.asarray(noise(50 + i)) // 3).save(folder / f"dark/{i}.png")
    noise(3).save(folder / "good/same as 3.png")
    (folder / "good/broken.png").write_bytes(b"x")
    targets_in(store).add(make_entry("mine", str(folder), skip_bad=True))
    text = make(store, tmp_path, "mine")
    for says in (
        "mean intensity alone reaches", "lower in anomalous test images", "cannot be decoded",
        "Layout**: folder", "1 pairs with the same pixels",
    ):  # fmt: skip
        assert says in text, says
    result = dataset_card.make_card(store, "mine")
    assert result.reused
    pairs = pd.read_parquet(result.folder / "pairs.parquet")
    assert pairs[["first", "second"]].to_numpy().tolist() == [["good/3.png", "good/same as 3.png"]]
    for name in ("montage.png", "histograms.png", "copies.png"):
        with Image.open(result.folder / name) as image:
            assert min(image.size) > 250


def test_screw_s_darker_good_images_are_told(real_data: Path, store: Store) -> None:
    text = make(store, real_data, "mvtec_ad.screw")
    assert "mean intensity alone reaches an image AUROC of 1.00: it is higher in anomalous test images" in text
    assert "None between training and test." in text
    assert "screw/train/good/053.png" not in text  # the one near-copy is inside the training part
    pairs = pd.read_parquet(dataset_card.make_card(store, "mvtec_ad.screw").folder / "pairs.parquet")
    assert pairs[["first", "second"]].to_numpy().tolist() == [["screw/train/good/053.png", "screw/train/good/173.png"]]


def test_one_decoding_pass_serves_index_and_arrays(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rkd_pipeline.data import index as module

    decoded: list[str] = []
    real = module.decode
    monkeypatch.setattr(module, "decode", lambda path, name: decoded.append(name) or real(path, name))
    folder = tmp_path / "own"
    for kind, count in (("good", 6), ("bad", 2)):
        (folder / kind).mkdir(parents=True)
        for i in range(count):
            noise(i + 90 * (kind == "bad")).save(folder / f"{kind}/{i}.png")
    targets_in(store).add(make_entry("mine", str(folder)))
    make(store, tmp_path, "mine")
    make(store, tmp_path, "mine")
    assert len(decoded) == 8
    first, second = (store.root / s for s in ("images/mine/pictures.npy", "prepared_images/mine/224px/pictures.npy"))
    assert first.samefile(second)
