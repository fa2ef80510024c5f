from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from rkd_pipeline.catalog import TARGETS, dataset
from rkd_pipeline.datasets import demo
from rkd_pipeline.datasets.index import COLUMNS, index_pictures
from rkd_pipeline.datasets.pictures import read_rgb
from rkd_pipeline.datasets.prepare import prepare_masks, prepare_pictures
from rkd_pipeline.datasets.registry import list_pictures, locate
from rkd_pipeline.errors import DataError

MRI, CT, WEAVE = TARGETS["brain_mri"], TARGETS["head_ct"], TARGETS["demo.weave"]
GREEN = (0, 128, 0)


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


def test_grey_pictures_of_1_8_and_16_bits(tmp_path: Path) -> None:
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
        index_pictures(MRI, tmp_path / "brain_mri")
    for part in ("no/1.png", "yes/2.png", "restore it from the dataset's source"):
        assert part in str(caught.value)
    assert "no/0.png" not in str(caught.value)


def test_the_index_tells_copies_by_their_pixels(tmp_path: Path) -> None:
    picture = Image.effect_noise((20, 16), 50)
    save(tmp_path / "no/a.png", picture)
    save(tmp_path / "no/b ä.PNG", picture.convert("RGB"))
    save(tmp_path / "no/turned.png", picture.transpose(Image.Transpose.ROTATE_180))
    save(tmp_path / "yes/c.bmp", picture.rotate(90, expand=True))
    table = index_pictures(MRI, tmp_path)
    assert list(table.columns) == list(COLUMNS)
    rows = table.set_index("image_id")
    assert rows.loc["no/a.png", "pixel_sha256"] == rows.loc["no/b ä.PNG", "pixel_sha256"]
    assert rows["pixel_sha256"].nunique() == 3
    assert rows.loc["yes/c.bmp", ["anomalous", "defect", "mode", "width", "height"]].tolist() == [
        True, "tumour", "L", 16, 20,
    ]  # fmt: skip


def head_ct(folder: Path, labels: str, pictures: int = 2) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "labels.csv").write_text(labels)
    for i in range(pictures):
        save(folder / f"head_ct/{i:03d}.png", Image.new("L", (8, 8), i))
    return folder


def test_head_ct_s_header_has_a_leading_blank(tmp_path: Path) -> None:
    listed = list_pictures(CT, head_ct(tmp_path, "id, hemorrhage\n0,1\n1,0\n"))
    assert [(p.path, p.anomalous, p.defect) for p in listed] == [
        ("head_ct/000.png", True, "hemorrhage"),
        ("head_ct/001.png", False, "good"),
    ]


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        ("id,label\n0,1\n", r"expected columns id and hemorrhage \(0 or 1\)"),
        ("id, hemorrhage\n0,2\n", "expected columns"),
        ("id, hemorrhage\n0,1\n1,0\n2,0\n", r"names 1 pictures that are not there, first head_ct/002\.png"),
    ],
)
def test_head_ct_s_table_is_checked(tmp_path: Path, labels: str, says: str) -> None:
    with pytest.raises(DataError, match=says):
        list_pictures(CT, head_ct(tmp_path, labels))


def test_an_absent_dataset_says_where_it_belongs_and_where_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"brain_mri/no/\*.*set RKD_DATA"):
        locate(dataset("brain_mri"), tmp_path)
    (tmp_path / "brain_mri/no").mkdir(parents=True)
    with pytest.raises(DataError, match="yes is not a folder"):
        list_pictures(MRI, tmp_path / "brain_mri")


@pytest.fixture(scope="module")
def woven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    demo.generate(folder, targets=["weave"])
    return folder


def test_a_defect_without_its_mask_is_an_error(woven: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(woven, tmp_path / "copy")
    (tmp_path / "copy/weave/ground_truth/hole/082_mask.png").unlink()
    with pytest.raises(DataError, match=r"hole/082\.png shows a defect but has no mask"):
        list_pictures(WEAVE, tmp_path / "copy")


def test_prepared_pictures_are_pil_s_bilinear_in_the_index_s_order(woven: Path) -> None:
    table = index_pictures(WEAVE, woven).iloc[[5, 60, 2]]
    arrays = prepare_pictures(table, woven, 96)
    assert (arrays.shape, arrays.dtype) == ((3, 96, 96, 3), np.uint8)
    for name, array in zip(table["image_id"], arrays, strict=True):
        with Image.open(woven / name) as image:
            expected = image.convert("RGB").resize((96, 96), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(array, np.asarray(expected))


def test_masks_are_cut_at_one_half_after_resizing(tmp_path: Path) -> None:
    mask = np.zeros((8, 8), np.uint8)
    mask[:, :3] = 255  # at half the size: columns 0 full, 1 three quarters or less, 2 and 3 empty
    save(tmp_path / "m.png", Image.fromarray(mask))
    table = pd.DataFrame({"mask": ["m.png", ""]})
    prepared = prepare_masks(table, tmp_path, 4)
    exact = np.asarray(Image.fromarray(mask / np.float32(255)).resize((4, 4), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(prepared[0], exact > 0.5)
    assert prepared.dtype == bool
    assert not prepared[1].any()
