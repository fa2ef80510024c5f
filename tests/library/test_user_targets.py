"""What people bring: layouts, names, litter, channels and depths. Each is used, or named with the reason."""

import os
import struct
import tomllib
import unicodedata
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from rkd_pipeline.data.catalog import TARGETS
from rkd_pipeline.data.image_files import BadImage, Listing, full_mask
from rkd_pipeline.data.index import Index, index_listing
from rkd_pipeline.data.layouts.layout_of import list_images
from rkd_pipeline.data.layouts.litter import files_below
from rkd_pipeline.data.user_targets import OwnTargets, make_entry, recognise
from rkd_pipeline.errors import BadFiles, DataError, Problem

SIZE = (12, 10)
DEFECT = np.zeros((10, 12), bool)
DEFECT[2:6, 2:6] = True
AREA = 16 / 120


def grey(number: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(number).integers(0, 256, (10, 12), np.uint8))


def mask() -> Image.Image:
    return Image.fromarray(np.where(DEFECT, 255, 0).astype(np.uint8))


def save(made: Image.Image, path: Path, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    made.save(path, **options)
    return path


def fill(base: Path, **counts: int) -> Path:
    """So many different images in each folder; ``__`` stands for a slash. A folder of masks gets masks."""
    for folder, count in counts.items():
        place = folder.replace("__", "/")
        masks = place.lower().startswith(("ground_truth", "masks", "gt"))
        for i in range(count):
            save(mask() if masks else grey(zlib.crc32(f"{place} {i}".encode())), base / place / f"{i:03d}.png")
    return base


def listed(path: Path) -> Listing:
    return make_entry("mine", str(path)).listing()


def counted(found: Listing) -> tuple[int, int, int]:
    """Normal, anomalous, and anomalous with a mask."""
    anomalous = [p for p in found.images if p.anomalous]
    return len(found.images) - len(anomalous), len(anomalous), sum(p.mask is not None for p in anomalous)


def indexed(path: Path, out: Path) -> Index:
    entry = make_entry("mine", str(path))
    out.mkdir()
    return index_listing(entry.target(), entry.root, entry.listing(), 16, out)


LAYOUTS = {
    "MVTec AD": ({"train__good": 5, "test__good": 2, "test__hole": 3, "ground_truth__hole": 3}, (7, 3, 3)),
    "BTAD": ({"train__ok": 5, "test__ok": 2, "test__ko": 3, "ground_truth__ko": 3}, (7, 3, 3)),
    "MVTec AD 2": (
        {"train__good": 5, "validation__good": 2, "test_public__good": 2, "test_public__bad": 3}, (9, 3, 0)),
    "capitals": ({"TRAIN__Good": 5, "Test__GOOD": 2, "Test__Hole": 3, "Ground_Truth__HOLE": 3}, (7, 3, 3)),
    "training and testing": ({"training__normal": 5, "testing__normal": 2, "testing__crack": 3}, (7, 3, 0)),
    "masks beside": ({"train__good": 5, "test__good": 2, "test__hole": 3, "masks__hole": 3}, (7, 3, 3)),
    "GT": ({"train__good": 5, "test__good": 2, "test__hole": 3, "GT__hole": 3}, (7, 3, 3)),
    "ok beside good": ({"train__good": 5, "test__ok": 2, "test__ng": 3}, (7, 3, 0)),
    "normal masks": ({"train__good": 5, "test__ok": 2, "test__ng": 3, "ground_truth__ng": 3}, (7, 3, 3)),
    "pass and fail": ({"pass": 6, "fail": 2}, (6, 2, 0)),
    "defect-free": ({"Defect-Free": 6, "scratch": 2, "dent": 1}, (6, 3, 0)),
    "normal and anomaly": ({"Normal": 6, "Anomaly": 2}, (6, 2, 0)),
    "ok, nok and ng": ({"OK": 6, "n.ok": 2, "NG": 2}, (6, 4, 0)),
    "not good": ({"good": 6, "not_good": 2}, (6, 2, 0)),
    "VisA": ({"Images__Normal": 6, "Images__Anomaly": 2, "Masks__Anomaly": 2}, (6, 2, 2)),
    "good, bad and masks": ({"good": 6, "bad": 2, "masks__bad": 2}, (6, 2, 2)),
    "only good": ({"good": 6}, (6, 0, 0)),
    "only train/good": ({"train__good": 6}, (6, 0, 0)),
    "only train and validation": ({"Train__ok": 6, "Val__ok": 2}, (8, 0, 0)),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_as_publishers_and_people_make_them(name: str, tmp_path: Path) -> None:
    folders, expected = LAYOUTS[name]
    found = listed(fill(tmp_path, **folders))
    assert (counted(found), found.problems) == (expected, [])
    assert {p.defect for p in found.images if not p.anomalous} == {"good"}
    only_good = expected[1] == 0
    assert [("no anomalous images" in w) for w in found.warnings] == ([True] if only_good else [])
    split = "test" in name.lower() or any("test" in f.lower() for f in folders)
    assert {p.part for p in found.images} == ({"train", "test"} if split else {None})


def test_mvtec_loco_s_folders_of_masks_are_merged(tmp_path: Path) -> None:
    base = fill(tmp_path / "own", train__good=5, test__good=2, test__logical_anomalies=2, validation__good=1)
    halves = (DEFECT & (np.arange(12) < 4), DEFECT & (np.arange(12) >= 4))
    for number, masks in ((0, halves), (1, (DEFECT,))):
        for part, pixels in enumerate(masks):
            grown = Image.fromarray(np.where(pixels, 255 - part, 0).astype(np.uint8))  # LOCO: a value per kind
            save(grown, base / f"ground_truth/logical_anomalies/{number:03d}/{part:03d}.png")
    table = indexed(base, tmp_path / "out").table
    assert table["mask_area"].dropna().tolist() == pytest.approx([AREA, AREA])
    assert (table["part"] == "train").sum() == 6
    (base / "ground_truth/logical_anomalies/001/notes.txt").write_text("x")
    with pytest.raises(BadFiles, match=r"001/notes\.txt: lies in a folder of masks and is none"):
        indexed(base, tmp_path / "again")


def test_mvtec_ad_2_s_masks_lie_in_its_public_part_and_its_private_ones_are_named(tmp_path: Path) -> None:
    base = fill(tmp_path, train__good=5, test_public__good=2, test_public__bad=2, test_private=3, test_private_mixed=3)
    for i in range(2):
        save(mask(), base / f"test_public/ground_truth/bad/{i:03d}_mask.png")
    found = listed(base)
    assert counted(found) == (7, 2, 2)
    assert found.warnings == [
        "not used, since the publisher keeps its labels to himself: test_private/ (3 files), "
        "test_private_mixed/ (3 files)"
    ]


@pytest.mark.parametrize(
    ("image_name", "mask_name"),
    [
        ("a.png", "a_mask.PNG"),
        ("A.JPG", "a_MASK.bmp"),
        ("a.png", "a.TIF"),
        ("a.b.png", "a.b_mask.png"),
        ("a.jpg", "a.jpg.png"),
        ("a.png", "a_gt.png"),
        (unicodedata.normalize("NFC", "größe.png"), unicodedata.normalize("NFD", "größe_mask.png")),
        (unicodedata.normalize("NFD", "ä.png"), unicodedata.normalize("NFC", "Ä.png")),
    ],
)
def test_masks_are_found_whatever_suffix_case_and_unicode_form(image_name: str, mask_name: str, tmp_path: Path) -> None:
    base = fill(tmp_path, train__good=5, test__good=2)
    save(grey(1), base / f"test/Dent/{image_name}")
    save(mask(), base / f"ground_truth/dent/{mask_name}")
    found = listed(base)
    assert (counted(found), found.problems, found.warnings) == ((7, 1, 1), [], [])


MVTEC = {"train__good": 5, "test__good": 2, "test__dent": 2, "ground_truth__dent": 2}


def refusal(path: Path) -> str:
    try:
        found = listed(path)
    except DataError as error:
        return str(error)
    pytest.fail(f"{path} was accepted: {found}")


def test_what_is_ambiguous_is_refused_with_the_fix(tmp_path: Path) -> None:
    cases = [
        (MVTEC | {"masks__dent": 2}, "each of which could be its folder of masks; keep or rename one"),
        (MVTEC | {"Train__good": 2}, "which are one name; merge the two folders"),
        (MVTEC | {"training__good": 2}, "each of which could be its train part"),
        (MVTEC | {"test__OK": 2}, "OK and good, which all mean normal"),
        (MVTEC | {"test__DENT": 2}, "DENT and dent, which are one name"),
        (MVTEC | {"test__good_2": 2}, "good_2, which may be normal or anomalous; move its images to good, or name"),
        (MVTEC | {"test__unlabeled": 2}, "unlabeled, which may be normal or anomalous"),
        (MVTEC | {"good": 2}, "lies beside train/, so it is not clear whether it trains or tests"),
        ({"train__good": 5, "bad": 2}, "bad lies beside train/"),
        ({"train__good": 5, "holes": 2}, "holes lies beside train/"),
        ({"train__gut": 5, "test__good": 2}, "train holds gut, but only normal images belong there; name their folder"),
        ({"train": 5, "test__good": 2}, "holds images but no class folders"),
        ({"good": 5, "bad": 2, "masks": 2}, "000.png and others lie directly in it; move them into a folder named"),
        ({"train__good": 5, "test__hole": 2}, "test part without good images (test/good is missing or empty)"),
    ]
    for number, (folders, says) in enumerate(cases):
        message = refusal(fill(tmp_path / str(number), **folders))
        assert says in message, folders
        assert "\n" not in message, folders


def test_masks_among_the_images_are_refused(tmp_path: Path) -> None:
    base = fill(tmp_path, good=5, bad=2)
    save(mask(), base / "bad/001_Mask.PNG")
    assert "001_Mask.PNG, which look like masks of the images beside them" in refusal(base)


def test_an_image_with_two_masks_is_a_problem_and_one_mask_of_two_images_is_told(tmp_path: Path) -> None:
    base = fill(tmp_path, **MVTEC)
    save(mask(), base / "ground_truth/dent/000.bmp")
    save(grey(5), base / "test/dent/001.jpg")
    found = listed(base)
    assert found.problems == [Problem("test/dent/000.png", "has 2 masks: 000.bmp, 000.png", "keep one of them")]
    shared = "ground_truth/dent/001.png of test/dent/001.jpg and test/dent/001.png"
    assert f"masks that several images share, which are right for one at most: {shared}" in found.warnings


def test_a_mask_of_a_good_image_is_read_too(tmp_path: Path) -> None:
    base = fill(tmp_path / "own", **MVTEC)
    save(Image.new("L", SIZE), base / "ground_truth/OK/000_mask.png")
    table = indexed(base, tmp_path / "out").table.set_index("image_id")
    assert table.loc["test/good/000.png", ["mask", "mask_area"]].tolist() == ["ground_truth/OK/000_mask.png", 0]
    save(mask(), base / "ground_truth/OK/001_mask.png")
    with pytest.raises(BadFiles, match=r"test/good/001\.png: is labelled good, but its mask ground_truth/OK/001_mask"):
        indexed(base, tmp_path / "again")


def test_whatever_is_not_used_is_named_in_a_line_per_reason(tmp_path: Path) -> None:
    base = fill(tmp_path, **MVTEC, extra__deep=30)
    for name in ("readme.txt", "ground_truth/dent/000.json", "ground_truth/scratch/7.png"):
        (base / name).parent.mkdir(exist_ok=True)
        (base / name).write_bytes(b"x")
    (base / "test/empty").mkdir()
    found = listed(base)
    assert sorted(found.warnings) == [
        "not used, since it is no image or mask of train, validation or test: readme.txt, "
        "extra/ (30 files), ground_truth/dent/000.json",
        "not used, since these masks belong to no image: ground_truth/scratch/ (1 file)",
        "test/empty holds no images",
    ]


def test_hundreds_of_files_that_cannot_be_used_are_counted_and_not_all_spelled_out(tmp_path: Path) -> None:
    base = fill(tmp_path, good=5, bad=2)
    for i in range(300):
        (base / f"good/{i}.json").write_bytes(b"{}")
        (base / f"bad/{i}.json").write_bytes(b"{}")
    found = listed(base)
    lines = str(BadFiles("mine", found.problems)).splitlines()
    assert len(found.problems) == 600
    assert len(lines) == 1 + 2 * 11 + 1
    assert lines.count("  and 290 more like these in good") == 1


LITTER = (
    "@eaDir/000.png/SYNOPHOTO.jpg", "#recycle/a.png", ".Trash-1000/files/b.png", "__MACOSX/._c.png", "._000.png",
    ".DS_Store", "Thumbs.db", "DESKTOP.INI", "000.png:Zone.Identifier", ".ipynb_checkpoints/000-checkpoint.png",
    "lost+found/d.png", ".git/e.png", "$RECYCLE.BIN/f.png", "System Volume Information/g.png", "~$list.png", "h.png~",
)  # fmt: skip


def test_litter_is_ignored_everywhere_alike(tmp_path: Path) -> None:
    from rkd_pipeline.cli.model_commands import _images

    clean, littered = (fill(tmp_path / name, **MVTEC) for name in ("clean", "littered"))
    for place in ("", "train", "train/good", "test", "test/dent", "ground_truth", "ground_truth/dent"):
        for name in LITTER:
            file = littered / place / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(b"litter")
    assert listed(littered) == listed(clean)
    names = [p.relative_to(clean) for p in files_below(clean)]
    assert [p.relative_to(littered) for p in files_below(littered)] == names
    assert [p.relative_to(littered) for p in _images([str(littered)])] == sorted(names)


def test_links_to_folders_are_followed_and_circles_end(tmp_path: Path) -> None:
    real = fill(tmp_path / "real", good=6, bad=2)
    own = tmp_path / "own"
    own.mkdir()
    for name in ("good", "bad"):
        (own / name).symlink_to(real / name)
    (own / "loop").symlink_to(own)
    assert len(list(files_below(own))) == 8
    (own / "loop").unlink()
    assert counted(listed(own)) == (6, 2, 0)


def test_names_that_are_no_text_and_pipes_are_problems(tmp_path: Path) -> None:
    base = fill(tmp_path, good=5, bad=2)
    os.mkfifo(base / "good/pipe.png")
    try:
        (Path(os.fsdecode(os.fsencode(base) + b"/good/\xe4.png"))).write_bytes(b"x")
    except OSError:
        pytest.skip("this file system takes no such names")
    found = listed(base)
    assert [p.what for p in found.problems] == ["is no file but a pipe or a device", "its name is no UTF-8 text"]
    assert (found.problems[1].path, found.warnings) == (r"good/\xe4.png", [])


def test_hints_were_tried(tmp_path: Path) -> None:
    layouts = {
        "nested": {"screws__train__good": 5, "screws__test__good": 1, "screws__test__dent": 1},
        "deeper": {"a__b__OK": 5, "a__b__NG": 1},
        "visa": {"candle__Data__Images__Normal": 5, "candle__Data__Images__Anomaly": 1},
        "misleading": {"Aaa__test__hole": 2, "Aaa__train__good": 5, "zzz__good": 5},
    }
    for name, folders in layouts.items():
        path = fill(tmp_path / name, **folders)
        with pytest.raises(DataError) as caught:
            recognise(path)
        hinted = Path(str(caught.value).rpartition("Did you mean ")[2].rstrip("?"))
        found = listed(hinted)
        assert counted(found)[0] >= 5, name
        assert found.problems == [], name
    inside = fill(tmp_path / "inside", good=5, bad=1)
    assert f"Did you mean {inside}?" in refusal(inside / "good")
    flat = fill(tmp_path / "flat", images=5) / "images"
    assert f"Move its 5 images into {flat / 'good'} if they are normal" in refusal(flat)
    hopeless = fill(tmp_path / "hopeless", a=5, b=5)
    assert "Did you mean" not in refusal(hopeless)


# Manifests


def table_of(base: Path, labels: list[str], name: str = "list.csv", **columns: list[str]) -> Path:
    for i in range(len(labels)):
        save(grey(i), base / f"Img/{i}.png")
    rows = pd.DataFrame({"path": [f"Img/{i}.png" for i in range(len(labels))], "label": labels} | columns)
    rows.to_csv(base / name, index=False)
    return base / name


@pytest.mark.parametrize(
    ("normal", "anomalous"),
    [
        ("normal", "abnormal"), ("pass", "fail"), ("PASSED", "Failed"), ("0.0", "1.0"), ("0", "1"), ("0.", "1.00"),
        ("defect-free", "defective"), ("Defect Free", "KO"), ("ok", "N.OK"), ("good", "not good"), ("false", "TRUE"),
    ],
)  # fmt: skip
def test_labels_as_people_write_them(normal: str, anomalous: str, tmp_path: Path) -> None:
    found = listed(table_of(tmp_path, [normal] * 5 + [anomalous] * 2))
    assert (counted(found), found.problems, found.warnings) == ((5, 2, 0), [], [])


@pytest.mark.parametrize("label", ["-1", "+1", "2", "0.5", "!good", "10.0", "no"])
def test_labels_that_may_mean_anything_are_refused(label: str, tmp_path: Path) -> None:
    found = listed(table_of(tmp_path, ["good"] * 5 + [label]))
    assert [p.what for p in found.problems] == [f"label {label!r} is not known"]


def test_manifests_do_not_mind_case_and_name_the_columns_that_they_do_not_read(tmp_path: Path) -> None:
    file = table_of(tmp_path, ["good"] * 5 + ["bad"], object=["x"] * 6, Mask_Path=["m.png"] * 6)
    file.write_text(file.read_text().replace("Img/", "IMG\\").replace(".png,good", ".PNG,good"))
    found = listed(file)
    assert [p.path for p in found.images] == [f"Img/{i}.png" for i in range(6)]
    assert found.warnings == ["columns that are not read: object, mask_path; known: path, label, split, mask, defect"]


def test_a_manifest_whose_test_part_has_no_good_images_is_refused_once(tmp_path: Path) -> None:
    file = table_of(tmp_path, ["good"] * 5 + ["bad"], split=["train"] * 5 + ["test"])
    assert "no row of split test is labelled good" in refusal(file)
    assert "\n" not in refusal(file)
    only_good = table_of(tmp_path, ["good"] * 5, "good.csv", split=["train"] * 5)
    assert {p.part for p in listed(only_good).images} == {None}


# Channels and depths


def rgba(colour: tuple[int, int, int], ground: tuple[int, int, int], alpha: np.ndarray) -> Image.Image:
    pixels = np.where(DEFECT[..., None], np.array(colour, np.uint8), np.array(ground, np.uint8))
    return Image.fromarray(np.dstack([pixels, alpha]).astype(np.uint8), "RGBA")


def test_ink_on_a_transparent_ground_is_the_defect(tmp_path: Path) -> None:
    ink = np.where(DEFECT, 255, 0)
    black, white, red = (0, 0, 0), (255, 255, 255), (255, 0, 0)
    for number, (colour, ground) in enumerate([(black, black), (white, white), (white, black), (red, white)]):
        file = save(rgba(colour, ground, ink), tmp_path / f"{number}.png")
        np.testing.assert_array_equal(full_mask(file), DEFECT)
    opaque = save(rgba(white, black, np.full_like(ink, 255)), tmp_path / "opaque.png")
    np.testing.assert_array_equal(full_mask(opaque), DEFECT)
    grey_alpha = Image.merge("LA", [Image.new("L", SIZE), mask()])
    np.testing.assert_array_equal(full_mask(save(grey_alpha, tmp_path / "la.png")), DEFECT)
    palette = Image.fromarray(DEFECT.astype(np.uint8), "P")
    palette.putpalette([255, 255, 255, 0, 0, 0])
    np.testing.assert_array_equal(full_mask(save(palette, tmp_path / "p.png", transparency=0)), DEFECT)
    assert not full_mask(save(Image.new("RGBA", SIZE), tmp_path / "nothing drawn.png")).any()


def test_transparency_that_contradicts_the_colours_is_refused(tmp_path: Path) -> None:
    corner = np.full(DEFECT.shape, 255)
    corner[-1, -1] = 0
    mixed = save(rgba((255, 255, 255), (0, 0, 0), corner), tmp_path / "mixed.png")
    hidden = save(rgba((255, 255, 255), (0, 0, 0), corner * 0), tmp_path / "hidden.png")
    for file in (mixed, hidden):
        with pytest.raises(BadImage, match=rf"{file.name}: has transparency.*save it without transparency"):
            full_mask(file)


def test_no_coloured_label_is_lost_beside_a_bright_one(tmp_path: Path) -> None:
    labels = np.zeros((10, 12), np.uint8)
    labels[0, :3] = 1, 2, 3
    coloured = Image.fromarray(labels, "P")
    coloured.putpalette([0, 0, 0, 255, 255, 0, 128, 0, 0, 0, 0, 128])  # yellow is bright; dark red and blue are not
    for name, image in {
        "p.png": coloured,
        "rgb.png": coloured.convert("RGB"),
        "rgb.bmp": coloured.convert("RGB"),
    }.items():
        np.testing.assert_array_equal(full_mask(save(image, tmp_path / name)), labels > 0)
    grey_as_rgb = mask().convert("RGB")
    np.testing.assert_array_equal(full_mask(save(grey_as_rgb, tmp_path / "g.jpg", quality=60)), DEFECT)
    np.testing.assert_array_equal(full_mask(save(Image.fromarray(DEFECT), tmp_path / "1.png")), DEFECT)


def deep(base: Path, largest: int, suffix: str = "png", colour: bool = False) -> Path:
    """Good and bad images of 16 bits whose largest value is as given; TIFF is written by hand where it has colours."""
    for i in range(6):
        pixels = np.random.default_rng(i).integers(0, largest + 1, (10, 12)).astype(np.uint16)
        pixels[0, 0] = largest
        file = base / ("good" if i < 5 else "bad") / f"{i}.{suffix}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png16(np.dstack([pixels] * 3))) if colour else Image.fromarray(pixels).save(file)
    return base


def png16(pixels: np.ndarray) -> bytes:
    """A PNG of 16-bit colours, by the standard's text: Pillow reads such files and cannot write them."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("suffix", "colour"), [("png", False), ("tif", False), ("png", True)])
@pytest.mark.parametrize(("largest", "says"), [(255, "refused"), (4095, "refused"), (4096, "64 of 256"), (65535, "")])
def test_twelve_bits_in_sixteen_are_refused(suffix: str, colour: bool, largest: int, says: str, tmp_path: Path) -> None:
    base = deep(tmp_path / "own", largest, suffix, colour)
    if says == "refused":
        with pytest.raises(DataError, match=r"6 images have 16 bits a channel.* Multiply all their pixels by 16"):
            indexed(base, tmp_path / "out")
        return
    warnings = indexed(base, tmp_path / "out").warnings
    assert [says in w for w in warnings] == ([True] if says else [])


def test_a_file_of_twelve_bits_among_deeper_ones_is_named(tmp_path: Path) -> None:
    base = deep(tmp_path / "own", 60000)
    Image.fromarray(np.full((10, 12), 4095, np.uint16)).save(base / "good/2.png")
    warnings = indexed(base, tmp_path / "out").warnings
    assert len(warnings) == 1
    assert warnings[0].startswith("1 16-bit images have no value above 4095")
    assert warnings[0].endswith(": good/2.png")


def test_transparent_images_and_turned_ones_with_masks_are_named(tmp_path: Path) -> None:
    base = fill(tmp_path / "own", **MVTEC)
    glass = grey(7).convert("RGBA")
    save(glass, base / "train/good/opaque.png")
    glass.putalpha(mask())
    save(glass, base / "train/good/glass.png")
    exif = Image.Exif()
    exif[274] = 3  # upside down: nothing about the mask's size would tell
    save(grey(8), base / "test/dent/000.png", exif=exif)
    save(grey(9), base / "train/good/000.png", exif=exif)
    assert indexed(base, tmp_path / "out").warnings == [
        "1 images have transparent parts; the colour beneath is used: train/good/glass.png",
        "1 images with a mask are rotated upright, as their EXIF says; see that their masks were drawn upright: "
        "test/dent/000.png",
    ]


# The catalog's own datasets


def test_the_catalog_s_readers_do_not_mind_case_and_name_what_they_do_not_read(tmp_path: Path) -> None:
    mri = fill(tmp_path / "mri", No=2, YES=3, brain_tumor_dataset__no=2)
    found = list_images(TARGETS["brain_mri"], mri)
    assert counted(found) == (2, 3, 0)
    assert found.warnings == ["not used, since only the folders no and yes are read: brain_tumor_dataset/ (2 files)"]
    ct = fill(tmp_path / "ct", Head_CT=3)
    (ct / "Labels.csv").write_text("id, hemorrhage\n0,1\n1,0\n")
    found = list_images(TARGETS["head_ct"], ct)
    assert counted(found) == (1, 1, 0)
    assert found.warnings == ["not used, since labels.csv does not name it: Head_CT/002.png"]
    oct_folder = fill(tmp_path / "oct", Train__normal=4, train__x=0, test__Normal=2, test__cnv=2, Train__CNV=5)
    found = list_images(TARGETS["retinal_oct"], oct_folder)
    assert counted(found) == (6, 2, 0)
    assert found.warnings == ["not used, since training is on normal images: Train/CNV/ (5 files)"]


# targets.toml


@pytest.mark.parametrize(
    "written",
    [
        "",
        "# none yet\n",
        "[targets]",
        '# by hand\n[targets]\n  a = "/a"  # the first\n\n# the end\n',
        '[targets]\na = "/a"\n[targets.b]\npath = "/b"\n',
        '[targets.b]\npath = "/b"  # far away\n',
        'targets = { a = "/a" }\n',
        'targets.a = "/a"\n',
        '[targets]\r\na = "/a"\r\n',
    ],
)
def test_whatever_form_the_file_has_what_is_added_can_be_taken_out_again(tmp_path: Path, written: str) -> None:
    """Read by the standard library's parser, not by the one that writes."""
    file = tmp_path / "targets.toml"
    file.write_bytes(written.encode())
    before = tomllib.loads(written).get("targets", {})
    OwnTargets(file).add(make_entry("new.x", '/data/"quoted" ä'))
    added = {"new.x": {"path": '/data/"quoted" ä', "kind": "object"}}
    assert tomllib.loads(file.read_bytes().decode()) == {"targets": before | added}
    assert [line for line in written.splitlines() if "#" in line and line not in file.read_text()] == []
    OwnTargets(file).remove("new.x")
    assert tomllib.loads(file.read_bytes().decode()).get("targets", {}) == before
    assert ("\r\n" in written) == (b"\r\n" in file.read_bytes())
