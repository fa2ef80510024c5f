import struct
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from torchvision.transforms import Compose, Resize, ToTensor

from rkd_pipeline.data import synthetic
from rkd_pipeline.data.catalog import TARGETS, Target, dataset
from rkd_pipeline.data.download.fetch import Fetching, find_or_fetch
from rkd_pipeline.data.image_files import BadImage, full_mask, read_rgb, resized_mask
from rkd_pipeline.data.index import COLUMNS, MASKS, PIXELS, check_counts, index_listing
from rkd_pipeline.data.layouts.layout_of import list_images
from rkd_pipeline.data.prepare import prepare_arrays
from rkd_pipeline.errors import DataError
from rkd_pipeline.stages.datasets import data_note
from rkd_pipeline.store.result_store import Result
from tests.conftest import need

MRI, CT, WEAVE = TARGETS["brain_mri"], TARGETS["head_ct"], TARGETS["demo.weave"]
GREEN = (0, 128, 0)


def index(target: Target, folder: Path, out: Path, side: int = 32) -> pd.DataFrame:
    out.mkdir(exist_ok=True)
    return index_listing(target, folder, list_images(target, folder), side, out).table


def save(path: Path, image: Image.Image) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return path


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "CMYK"])
def test_every_colour_mode_reads_as_rgb(tmp_path: Path, mode: str) -> None:
    green = Image.new("RGB", (8, 6), GREEN)
    painted = green.quantize(4) if mode == "P" else green.convert(mode)  # convert() would dither
    file = save(tmp_path / ("x.tif" if mode == "CMYK" else "x.png"), painted)
    read = read_rgb(file)
    assert (read.mode, read.size) == ("RGB", (8, 6))
    assert np.abs(np.asarray(read).astype(int) - GREEN).max() <= 1


def test_grey_images_of_1_8_and_16_bits(tmp_path: Path) -> None:
    ramp = np.array([[0, 128, 255]], np.uint8)
    cases = {
        "8.png": (Image.fromarray(ramp), [0, 128, 255]),
        "16.png": (Image.fromarray(ramp.astype(np.uint16) * 257), [0, 128, 255]),
        "1.png": (Image.fromarray(ramp > 100), [0, 255, 255]),
    }
    for name, (image, expected) in cases.items():
        pixels = np.asarray(read_rgb(save(tmp_path / name, image)))
        assert pixels[0, :, 0].tolist() == expected, name
        assert (pixels == pixels[..., :1]).all()


def test_a_rotated_photograph_is_set_upright(tmp_path: Path) -> None:
    image, exif = Image.new("RGB", (8, 4)), Image.Exif()
    exif[274] = 6
    image.save(tmp_path / "x.jpg", exif=exif)
    assert read_rgb(tmp_path / "x.jpg").size == (4, 8)


def test_all_damaged_files_are_named_at_once(tmp_path: Path) -> None:
    for i in range(3):
        save(tmp_path / f"brain_mri/no/{i}.png", Image.new("L", (9, 9), i))
        save(tmp_path / f"brain_mri/yes/{i}.png", Image.new("L", (9, 9), i + 9))
    whole = (tmp_path / "brain_mri/no/1.png").read_bytes()
    (tmp_path / "brain_mri/no/1.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "brain_mri/yes/2.png").write_bytes(b"")
    with pytest.raises(DataError) as caught:
        index(MRI, tmp_path / "brain_mri", tmp_path / "out")
    for part in ("no/1.png", "yes/2.png", "restore it from the dataset's source"):
        assert part in str(caught.value)
    assert "no/0.png" not in str(caught.value)


def test_the_index_tells_copies_by_their_pixels(tmp_path: Path) -> None:
    image = Image.effect_noise((20, 16), 50)
    save(tmp_path / "no/a.png", image)
    save(tmp_path / "no/b ä.PNG", image.convert("RGB"))
    save(tmp_path / "no/rotated.png", image.transpose(Image.Transpose.ROTATE_180))
    save(tmp_path / "yes/c.bmp", image.rotate(90, expand=True))
    table = index(MRI, tmp_path, tmp_path / "out")
    assert list(table.columns) == list(COLUMNS)
    rows = table.set_index("image_id")
    assert rows.loc["no/a.png", "pixel_sha256"] == rows.loc["no/b ä.PNG", "pixel_sha256"]
    assert rows["pixel_sha256"].nunique() == 3
    assert rows.loc["yes/c.bmp", ["anomalous", "defect", "mode", "width", "height"]].tolist() == [
        True, "tumour", "L", 16, 20,
    ]  # fmt: skip


def head_ct(folder: Path, labels: str, images: int = 2) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "labels.csv").write_text(labels)
    for i in range(images):
        save(folder / f"head_ct/{i:03d}.png", Image.new("L", (8, 8), i))
    return folder


def test_head_ct_s_header_has_a_leading_blank(tmp_path: Path) -> None:
    listed = list_images(CT, head_ct(tmp_path, "id, hemorrhage\n0,1\n1,0\n")).images
    assert [(p.path, p.anomalous, p.defect) for p in listed] == [
        ("head_ct/000.png", True, "hemorrhage"),
        ("head_ct/001.png", False, "good"),
    ]


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        ("id,label\n0,1\n", r"expected columns id and hemorrhage \(0 or 1\)"),
        ("id, hemorrhage\n0,2\n", "expected columns"),
        ("id, hemorrhage\nx,1\n", "expected columns"),
    ],
)
def test_head_ct_s_table_is_checked(tmp_path: Path, labels: str, says: str) -> None:
    with pytest.raises(DataError, match=says):
        list_images(CT, head_ct(tmp_path, labels))


def test_an_absent_dataset_says_where_it_belongs_and_where_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"brain_mri/no/\*.*set RKD_DATA"):
        find_or_fetch(dataset("brain_mri"), MRI, tmp_path, Fetching())
    (tmp_path / "brain_mri/no").mkdir(parents=True)
    with pytest.raises(DataError, match="yes is not a folder"):
        list_images(MRI, tmp_path / "brain_mri")


@pytest.fixture(scope="module")
def woven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    synthetic.generate(folder, targets=["weave"])
    return folder


def test_both_ways_of_preparing_give_pil_s_bilinear_in_the_index_s_order(woven: Path, tmp_path: Path) -> None:
    table = index(WEAVE, woven, tmp_path, 96)
    again = tmp_path / "again"
    again.mkdir()
    prepare_arrays(table, woven, 96, again)
    arrays, masks = np.load(tmp_path / PIXELS), np.load(tmp_path / MASKS)
    assert (arrays.shape, arrays.dtype) == ((116, 96, 96, 3), np.uint8)
    assert (masks.shape, masks.dtype) == ((116, 96, 96), np.bool_)
    np.testing.assert_array_equal(np.load(again / PIXELS), arrays)
    np.testing.assert_array_equal(np.load(again / MASKS), masks)
    for row in (5, 60, 2):
        with Image.open(woven / table["image_id"][row]) as image:
            expected = image.convert("RGB").resize((96, 96), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(arrays[row], np.asarray(expected))


def rd4ad_mask(image: Image.Image, side: int) -> np.ndarray:
    """As RD4AD's dataset.py and test.py make it: Resize and ToTensor of torchvision, then above 0.5."""
    steps = Compose([Resize((side, side)), ToTensor()])
    return np.asarray(steps(image)[0] > 0.5)


def test_a_pixel_of_a_mask_that_is_half_covered_stays(tmp_path: Path) -> None:
    mask = np.zeros((8, 8), np.uint8)
    mask[:, :3] = 255
    # At half the size each pixel weighs four columns by 1, 3, 3, 1 eighths; outside there is nothing to weigh: the
    # shares of white are 1, (1 + 3) / 8 and 0.
    half = resized_mask(full_mask(save(tmp_path / "m.png", Image.fromarray(mask))), 4)
    assert half.all(axis=0).tolist() == half.any(axis=0).tolist() == [True, True, False, False]


@pytest.mark.parametrize("side", [32, 48, 56])
def test_masks_are_resized_as_rd4ad_does(tmp_path: Path, side: int) -> None:
    rng = np.random.default_rng(side)
    for number in range(20):
        mask = np.zeros((96, 96), np.uint8)
        for _ in range(4):
            row, column, height, width = *rng.integers(0, 90, 2), *rng.integers(1, 12, 2)
            mask[row : row + height, column : column + width] = 255
        file = save(tmp_path / f"{number}.png", Image.fromarray(mask))
        np.testing.assert_array_equal(resized_mask(full_mask(file), side), rd4ad_mask(Image.fromarray(mask), side))


@pytest.mark.parametrize("side", [224, 256])
def test_real_masks_are_resized_as_rd4ad_does(real_data: Path, side: int) -> None:
    files = sorted((real_data / "mvtec_ad" / "screw" / "ground_truth").rglob("*.png"))
    need(files, "no masks of screw")
    for file in files[::12]:
        with Image.open(file) as image:
            np.testing.assert_array_equal(resized_mask(full_mask(file), side), rd4ad_mask(image, side))


@pytest.mark.parametrize("label", [1, 2, 127, 255, 256, 4095, 40000, 65535])
def test_a_label_in_a_mask_of_many_bits_is_a_defect(tmp_path: Path, label: int) -> None:
    for dtype, suffix in ((np.uint16, "png"), (np.uint16, "tif"), (np.int32, "tif")):
        file = save(tmp_path / f"mask.{suffix}", Image.fromarray(np.array([[0, label, 0]], dtype)))
        assert full_mask(file).tolist() == [[False, True, False]]


def test_a_mask_whose_labels_cannot_be_read_is_refused_and_not_taken_for_empty(tmp_path: Path) -> None:
    file = tmp_path / "mask.png"
    for label in (1, 255):
        file.write_bytes(png_of_16_bit_colours(label))
        with pytest.raises(BadImage, match=r"mask\.png: is a mask in colours of 16 bits.* save it with one channel"):
            full_mask(file)
    file.write_bytes(png_of_16_bit_colours(65535))
    assert full_mask(file).tolist() == [[False, True]]


def png_of_16_bit_colours(value: int) -> bytes:
    """A PNG of 2 x 1 pixels, the first 0 and the second ``value`` in each of three channels, by the standard's text."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    row = b"\0" + struct.pack(">6H", 0, 0, 0, value, value, value)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(row)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def test_masks_of_labels_and_of_grey_are_both_understood(tmp_path: Path) -> None:
    ramp = np.array([[0, 1, 2, 3]], np.uint8)
    assert full_mask(save(tmp_path / "labels.png", Image.fromarray(ramp))).tolist() == [[False, True, True, True]]
    grey = np.array([[0, 9, 127, 128, 255]], np.uint8)  # 9: the noise of a JPEG
    expected = [[False, False, False, True, True]]
    assert full_mask(save(tmp_path / "grey.png", Image.fromarray(grey))).tolist() == expected


def test_mvtec_ad_s_official_numbers_add_up() -> None:
    targets = [t for t in TARGETS.values() if t.dataset == "mvtec_ad"]
    test = [t.test or (0, 0) for t in targets]
    train = sum((t.counts or (0, 0))[0] - normal for t, (normal, _) in zip(targets, test, strict=True))
    assert (len(targets), train, sum(map(sum, test)), sum(normal for normal, _ in test)) == (15, 3629, 1725, 467)
    assert sum(t.kind == "texture" for t in targets) == 5


@pytest.mark.parametrize(
    ("name", "normal", "anomalous", "with_mask", "parts"),
    [
        ("brain_mri", 98, 155, 0, {"": 253}),
        ("head_ct", 100, 100, 0, {"": 200}),
        ("mvtec_ad.screw", 361, 119, 119, {"train": 320, "test": 160}),
    ],
)
def test_the_real_datasets_are_complete(
    real_data: Path, tmp_path: Path, name: str, normal: int, anomalous: int, with_mask: int, parts: dict[str, int]
) -> None:
    target = TARGETS[name]
    table = index(target, real_data / target.dataset, tmp_path / "out")
    check_counts(target, table)
    assert (int((~table["anomalous"]).sum()), int(table["anomalous"].sum())) == (normal, anomalous)
    assert table["part"].value_counts().to_dict() == parts
    assert (table["mask_area"] > 0).sum() == with_mask


def test_images_of_another_size_than_the_publisher_s_are_said_to_be_so() -> None:
    def facts(low: int, high: int) -> Result:
        sizes = {"width": [low, high], "height": [low, high], "skipped": [], "normal": 1, "anomalous": 1}
        return cast(Result, SimpleNamespace(facts=sizes))

    screw, brain = TARGETS["mvtec_ad.screw"], TARGETS["brain_mri"]
    assert data_note(screw, facts(1024, 1024)) == ""
    assert data_note(screw, facts(512, 512)) == (
        "not the publisher's files: images of 512 pixels, the publisher's have 1024"
    )
    assert "of 512 to 1024 pixels" in data_note(screw, facts(512, 1024))
    assert data_note(brain, facts(150, 1900)) == ""  # nobody promises a size
