"""Published datasets on generated folders of exactly the form that their publishers ship.

Every mask is drawn by the test, which keeps its pixels: what the index says of it is compared with those.
"""

import csv
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from rkd_pipeline.data.catalog import TARGETS
from rkd_pipeline.data.image_files import Listing
from rkd_pipeline.data.index import MASKS, Index, index_listing
from rkd_pipeline.data.layouts.layout_of import list_images, target_files
from rkd_pipeline.data.split import split, verify
from rkd_pipeline.data.user_targets import make_entry, recognise, targets_in
from rkd_pipeline.errors import BadFiles, DataError
from rkd_pipeline.stages.datasets import changed_source, find_source, index_images, split_images
from rkd_pipeline.store.result_store import Store

SIDE = 16  # of the images, and of the index's arrays: nothing is resized
RNG = np.random.default_rng(5)


def image(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RNG.integers(0, 256, (SIDE, SIDE), np.uint8)).save(path)
    return path


def images(folder: Path, count: int, suffix: str = "png", first: int = 0) -> None:
    for number in range(first, first + count):
        image(folder / f"{number:03d}.{suffix}")


def drawn() -> np.ndarray:
    """A defect: a rectangle, bool."""
    pixels = np.zeros((SIDE, SIDE), bool)
    row, column, height, width = *RNG.integers(0, 8, 2), *RNG.integers(2, 8, 2)
    pixels[row : row + height, column : column + width] = True
    return pixels


def white(path: Path, pixels: np.ndarray) -> np.ndarray:
    """A mask, white on black."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.where(pixels, 255, 0).astype(np.uint8)).save(path)
    return pixels


def indexed(listing: Listing, target: str, root: Path, out: Path) -> tuple[Index, dict[str, np.ndarray]]:
    """The index, and the mask of every image that has one, by the image's id."""
    out.mkdir()
    index = index_listing(TARGETS[target], root, listing, SIDE, out)
    masks = np.load(out / MASKS) if (out / MASKS).exists() else []
    return index, {name: mask for name, mask in zip(index.table["image_id"], masks, strict=False) if mask.any()}


def agree(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert set(found) == set(expected)
    for name, pixels in expected.items():
        np.testing.assert_array_equal(found[name], pixels, name)


def parts(table: pd.DataFrame) -> dict[tuple[str, str], int]:
    """How many images of each part and kind of defect."""
    return table.groupby(["part", "defect"]).size().to_dict()


def own(path: Path) -> Listing:
    return make_entry("mine", str(path)).listing()


def splits(target: str, table: pd.DataFrame) -> None:
    """The index can be split: verified, as every split is."""
    verify(TARGETS[target], table, split(TARGETS[target], table))


# VisA


@dataclass
class Visa:
    """A folder as VisA_20220922.tar unpacks, with two categories, and what its masks show."""

    root: Path
    masks: dict[str, np.ndarray] = field(default_factory=dict)
    rows: list[list[str]] = field(default_factory=list)

    def add(self, category: str, train: int, good: int, bad: int) -> None:
        for number in range(train + good):
            name = f"{category}/Data/Images/Normal/{number:04d}.JPG"
            image(self.root / name)
            self.rows.append([category, "train" if number < train else "test", "normal", name, ""])
        for number in range(bad):
            name, mask = (f"{category}/Data/{kind}/Anomaly/{number:03d}" for kind in ("Images", "Masks"))
            image(self.root / f"{name}.JPG")
            self.masks[f"{name}.JPG"] = self.label_mask(self.root / f"{mask}.png", number)
            self.rows.append([category, "test", "anomaly", f"{name}.JPG", f"{mask}.png"])
        (self.root / category / "image_anno.csv").write_text("image,label,mask\n")

    @staticmethod
    def label_mask(path: Path, number: int) -> np.ndarray:
        """Two kinds of defects, labels from 1 to 9; every third with a palette."""
        path.parent.mkdir(parents=True, exist_ok=True)
        first, second = drawn(), drawn()
        labels = np.zeros((SIDE, SIDE), np.uint8)
        labels[first], labels[second] = 1 + number % 9, 1 + (number + 4) % 9
        made = Image.fromarray(labels)
        if number % 3 == 2:
            made = made.convert("P")
            made.putpalette([0, 0, 0] + [128, 0, 0, 0, 128, 0, 128, 128, 0] * 3)
        made.save(path)
        return labels != 0

    def write(self, header: str = "object,split,label,image,mask") -> Path:
        table = self.root / "split_csv/1cls.csv"
        table.parent.mkdir(parents=True, exist_ok=True)
        with table.open("w", newline="") as out:
            out.write(header + "\r\n")  # the publisher's has line ends of Windows
            csv.writer(out).writerows(self.rows)
        return table


@pytest.fixture
def visa(tmp_path: Path) -> Visa:
    made = Visa(tmp_path / "visa")
    made.add("candle", train=8, good=3, bad=9)
    made.add("pcb4", train=6, good=2, bad=2)
    made.write()
    return made


def test_visa_s_official_split_and_label_masks(visa: Visa, tmp_path: Path) -> None:
    listing = list_images(TARGETS["visa.candle"], visa.root)
    index, masks = indexed(listing, "visa.candle", visa.root, tmp_path / "out")
    assert parts(index.table) == {("train", "good"): 8, ("test", "good"): 3, ("test", "Anomaly"): 9}
    assert listing.problems == []
    assert listing.warnings == [
        "not used, since labels and masks are those of split_csv/1cls.csv: candle/image_anno.csv"
    ]
    agree(masks, {name: mask for name, mask in visa.masks.items() if name.startswith("candle/")})
    splits("visa.candle", index.table)


def test_a_category_of_visa_as_an_own_target_has_the_official_split_too(visa: Visa, tmp_path: Path) -> None:
    base = visa.root / "candle"
    assert recognise(base) == "visa"
    listing = own(base)
    index, masks = indexed(listing, "visa.candle", base, tmp_path / "out")
    assert parts(index.table) == {("train", "good"): 8, ("test", "good"): 3, ("test", "Anomaly"): 9}
    expected = {name: mask for name, mask in visa.masks.items() if name.startswith("candle/")}
    agree(masks, {name.removeprefix("candle/"): mask for name, mask in expected.items()})
    assert listing.variant == "visa, split by split_csv/1cls.csv"


def test_without_its_table_visa_is_no_benchmark_but_an_own_target(visa: Visa, tmp_path: Path) -> None:
    (visa.root / "split_csv/1cls.csv").unlink()
    with pytest.raises(
        DataError, match=r"1cls\.csv does not exist, and candle is measured on its split; copy the folder"
    ):
        list_images(TARGETS["visa.candle"], visa.root)
    listing = own(visa.root / "candle")
    index, masks = indexed(listing, "visa.candle", visa.root / "candle", tmp_path / "out")
    assert parts(index.table) == {("", "good"): 11, ("", "Anomaly"): 9}
    assert len(masks) == 9
    assert listing.variant == "visa, without split_csv/1cls.csv: not the official split"
    assert listing.warnings == ["not used, since it is in no class folder: image_anno.csv"]


def test_visa_s_names_in_another_case_and_files_that_the_table_does_not_name(visa: Visa, tmp_path: Path) -> None:
    images_folder = visa.root / "candle/Data/Images"
    (images_folder / "Normal").rename(images_folder / "NORMAL")
    (visa.root / "candle").rename(visa.root / "Candle")
    (visa.root / "split_csv").rename(visa.root / "Split_CSV")
    image(visa.root / "Candle/Data/Images/NORMAL/9999.JPG")
    white(visa.root / "Candle/Data/Masks/Anomaly/999.png", drawn())
    listing = list_images(TARGETS["visa.candle"], visa.root)
    assert (len(listing.images), listing.problems) == (20, [])
    assert (
        "not used, since split_csv/1cls.csv does not name it: Candle/Data/Images/NORMAL/9999.JPG, "
        "Candle/Data/Masks/Anomaly/999.png" in listing.warnings
    )


def test_what_visa_s_table_names_and_is_not_there_is_a_problem(visa: Visa) -> None:
    (visa.root / "candle/Data/Images/Normal/0000.JPG").unlink()
    (visa.root / "candle/Data/Masks/Anomaly/003.png").unlink()
    visa.rows[1][1:3] = ["train", "anomaly"]
    visa.rows[-1][4] = ""
    visa.write()
    candle = [str(problem) for problem in list_images(TARGETS["visa.candle"], visa.root).problems]
    for says, problem in zip(
        (
            "names an image that cannot be used: candle/Data/Images/Normal/0000.JPG is not there",
            "Normal/0001.JPG: is anomalous and trains",
            "Anomaly/003.JPG: shows a defect but has no mask: candle/Data/Masks/Anomaly/003.png is not there",
        ),
        candle,
        strict=True,
    ):
        assert says in problem
    (other,) = list_images(TARGETS["visa.pcb4"], visa.root).problems
    assert other.what == "shows a defect but has no mask: split_csv/1cls.csv names none"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("object,part,label,image,mask\n", "expected columns object, split, label, image, mask, found object, part"),
        ("object,split,label,image,mask\ncandle,val,normal,x.JPG,\n", "expected train or test"),
        ("object,split,label,image,mask\npcb4,train,normal,x.JPG,\n", "names no image of candle, but of pcb4"),
        ("", "cannot be read as a table"),
    ],
)
def test_another_table_than_visa_s_is_refused(text: str, says: str, visa: Visa) -> None:
    (visa.root / "split_csv/1cls.csv").write_text(text)
    for read in (lambda: list_images(TARGETS["visa.candle"], visa.root), lambda: own(visa.root / "candle")):
        with pytest.raises(DataError, match=says):
            read()


def test_a_changed_split_makes_visa_stale_and_another_category_does_not(
    visa: Visa, store: Store, tmp_path: Path
) -> None:
    targets_in(store).add(make_entry("mine", str(visa.root / "candle")))
    before = {name: find_source(store, tmp_path, name).data_version for name in ("visa.candle", "mine")}
    listed = (find_source(store, tmp_path, "mine").folder / "files.tsv").read_text()
    assert "../split_csv/1cls.csv\t" in listed
    assert str(tmp_path) not in listed
    image(visa.root / "pcb4/Data/Images/Normal/0000.JPG")
    assert [changed_source(store, name) for name in before] == [None, None]
    visa.rows[0][1] = "test"
    visa.write()
    assert all(changed_source(store, name) for name in before)
    after = {name: find_source(store, tmp_path, name).data_version for name in before}
    assert [after[name] != before[name] for name in before] == [True, True]


# Relatives of MVTec AD


def btad(root: Path, suffixes: tuple[str, str]) -> dict[str, np.ndarray]:
    """Product 01: bmp images, png masks; 02: png, png; 03: bmp, bmp."""
    image_suffix, mask_suffix = suffixes
    images(root / "train/ok", 8, image_suffix)
    images(root / "test/ok", 3, image_suffix)
    images(root / "test/ko", 4, image_suffix)
    return {
        f"{root.name}/test/ko/{n:03d}.{image_suffix}": white(root / f"ground_truth/ko/{n:03d}.{mask_suffix}", drawn())
        for n in range(4)
    }


@pytest.mark.parametrize(
    ("product", "suffixes"), [("01", ("bmp", "png")), ("02", ("png", "png")), ("03", ("bmp", "bmp"))]
)
def test_btad(product: str, suffixes: tuple[str, str], tmp_path: Path) -> None:
    expected = btad(tmp_path / "btad" / product, suffixes)
    target = f"btad.{product}"
    listing = list_images(TARGETS[target], tmp_path / "btad")
    index, masks = indexed(listing, target, tmp_path / "btad", tmp_path / "out")
    assert parts(index.table) == {("train", "good"): 8, ("test", "good"): 3, ("test", "ko"): 4}
    assert (listing.problems, listing.warnings) == ([], [])
    agree(masks, expected)
    splits(target, index.table)
    assert recognise(tmp_path / "btad" / product) == "mvtec"


def loco(base: Path) -> dict[str, np.ndarray]:
    """A category of MVTec LOCO: a folder of masks for each image, one per defect, each with its kind's grey value."""
    images(base / "train/good", 7)
    images(base / "validation/good", 2)
    images(base / "test/good", 3)
    (base / "defects_config.json").write_text("[]")
    expected = {}
    for kind, count in (("logical_anomalies", 3), ("structural_anomalies", 2)):
        images(base / "test" / kind, count)
        for number in range(count):
            shown = [drawn() for _ in range(1 + number)]
            for part, pixels in enumerate(shown):
                place = base / f"ground_truth/{kind}/{number:03d}/{part:03d}.png"
                place.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(np.where(pixels, 255 - 20 * part, 0).astype(np.uint8)).save(place)
            expected[f"{base.name}/test/{kind}/{number:03d}.png"] = np.logical_or.reduce(shown)
    return expected


def test_mvtec_loco_keeps_logical_and_structural_apart(tmp_path: Path) -> None:
    root = tmp_path / "mvtec_loco"
    expected = loco(root / "juice_bottle")
    listing = list_images(TARGETS["mvtec_loco.juice_bottle"], root)
    index, masks = indexed(listing, "mvtec_loco.juice_bottle", root, tmp_path / "out")
    assert parts(index.table) == {
        ("train", "good"): 9,
        ("test", "good"): 3,
        ("test", "logical_anomalies"): 3,
        ("test", "structural_anomalies"): 2,
    }
    assert listing.problems == []
    assert listing.warnings == [
        "not used, since its saturation thresholds are for sPRO, which is not computed here: "
        "juice_bottle/defects_config.json"
    ]
    agree(masks, expected)
    splits("mvtec_loco.juice_bottle", index.table)
    assert parts(indexed(own(root / "juice_bottle"), "mvtec_loco.juice_bottle", root / "juice_bottle",
                         tmp_path / "own")[0].table) == parts(index.table)  # fmt: skip


def test_mvtec_ad_2_tests_on_its_public_part(tmp_path: Path) -> None:
    root, base = tmp_path / "mvtec_ad_2", tmp_path / "mvtec_ad_2/can"
    for folder, names in {
        "train/good": ["000_regular", "001_regular", "002_regular", "003_regular", "004_regular"],
        "validation/good": ["000_regular"],
        "test_public/good": ["000_regular", "000_overexposed"],
        "test_public/bad": ["000_regular", "000_shift_1"],
        "test_private": ["000_regular", "001_regular"],
        "test_private_mixed": ["000_mixed"],
    }.items():
        for name in names:
            image(base / folder / f"{name}.png")
    expected = {
        f"can/test_public/bad/{name}.png": white(base / f"test_public/ground_truth/bad/{name}_mask.png", drawn())
        for name in ("000_regular", "000_shift_1")
    }
    listing = list_images(TARGETS["mvtec_ad_2.can"], root)
    index, masks = indexed(listing, "mvtec_ad_2.can", root, tmp_path / "out")
    assert parts(index.table) == {("train", "good"): 6, ("test", "good"): 2, ("test", "bad"): 2}
    assert listing.warnings == [
        "not used, since the publisher keeps its labels to himself: can/test_private/ (2 files), "
        "can/test_private_mixed/ (1 file)"
    ]
    agree(masks, expected)
    splits("mvtec_ad_2.can", index.table)


def test_mpdd(tmp_path: Path) -> None:
    root, base = tmp_path / "mpdd", tmp_path / "mpdd/bracket_black"
    images(base / "train/good", 6)
    images(base / "test/good", 2)
    expected = {}
    for kind, count in (("hole", 2), ("scratches", 3)):
        images(base / "test" / kind, count)
        for number in range(count):
            mask = white(base / f"ground_truth/{kind}/{number:03d}_mask.png", drawn())
            expected[f"bracket_black/test/{kind}/{number:03d}.png"] = mask
    (root / "__MACOSX/bracket_black/test/hole").mkdir(parents=True)  # the archive holds macOS's files
    (root / "__MACOSX/bracket_black/test/hole/._001.png").write_bytes(b"x")
    listing = list_images(TARGETS["mpdd.bracket_black"], root)
    index, masks = indexed(listing, "mpdd.bracket_black", root, tmp_path / "out")
    assert parts(index.table) == {
        ("train", "good"): 6,
        ("test", "good"): 2,
        ("test", "hole"): 2,
        ("test", "scratches"): 3,
    }
    assert (listing.problems, listing.warnings) == ([], [])
    agree(masks, expected)
    splits("mpdd.bracket_black", index.table)


def test_a_category_is_found_in_another_case(tmp_path: Path) -> None:
    loco(tmp_path / "Juice_Bottle")
    target = TARGETS["mvtec_loco.juice_bottle"]
    assert len(list_images(target, tmp_path).images) == 17
    assert {p.relative_to(tmp_path).parts[0] for p in target_files(target, tmp_path)} == {"Juice_Bottle"}


# KolektorSDD2


def ksdd2(root: Path) -> dict[str, np.ndarray]:
    """Normal: an empty mask. Training holds defective images, and a pair of copies, as in the publisher's archive."""
    expected = {}
    for part, normal, defective in (("train", 7, 2), ("test", 3, 4)):
        for number in range(normal + defective):
            stem = f"{10_000 + number if part == 'train' else 20_000 + number}"
            image(root / part / f"{stem}.png")
            mask = white(root / part / f"{stem}_GT.png", drawn() if number >= normal else np.zeros((SIDE, SIDE), bool))
            if part == "test" and number >= normal:
                expected[f"test/{stem}.png"] = mask
    for name in ("10001", "10001_GT"):
        (root / f"train/{name} (copy).png").write_bytes((root / f"train/{name}.png").read_bytes())
    return expected


def test_ksdd2_s_masks_say_what_is_normal(tmp_path: Path) -> None:
    root = tmp_path / "ksdd2"
    expected = ksdd2(root)
    listing = list_images(TARGETS["ksdd2"], root)
    index, masks = indexed(listing, "ksdd2", root, tmp_path / "out")
    assert parts(index.table) == {("train", "good"): 7, ("test", "good"): 3, ("test", "defect"): 4}
    assert listing.problems == []
    assert sorted(listing.warnings) == [
        "not used, since it is a copy of the file beside it, of that name: train/10001 (copy).png, "
        "train/10001_GT (copy).png",
        "not used, since it shows a defect, and training is on normal images: train/10007.png, train/10007_GT.png, "
        "train/10008.png, train/10008_GT.png",
    ]
    agree(masks, expected)
    splits("ksdd2", index.table)
    assert recognise(root) == "ksdd2"
    again = own(root)
    assert (again.images, again.variant) == (listing.images, "ksdd2")


def test_ksdd2_s_pairs_that_are_incomplete_or_damaged(tmp_path: Path) -> None:
    ksdd2(tmp_path)
    (tmp_path / "train/10000_GT.png").unlink()
    (tmp_path / "test/20000_GT.png").write_bytes(b"no image")
    (tmp_path / "test/20001.png").unlink()
    image(tmp_path / "train/10001 (copy).png")
    found = list_images(TARGETS["ksdd2"], tmp_path)
    told = [str(problem) for problem in found.problems]
    for says, problem in zip(
        (
            "train/10001 (copy).png: is called a copy of 10001.png, but differs from it",
            "train/10000.png: has no mask, so nobody knows whether it shows a defect. expected train/10000_GT.png",
            "test/20000_GT.png: cannot be decoded",
        ),
        told,
        strict=True,
    ):
        assert says.split(". expected")[0] in problem
    assert "not used, since these masks belong to no image: test/20001_GT.png" in found.warnings
    (tmp_path / "test").rename(tmp_path / "other")
    with pytest.raises(DataError, match=r"test is not a folder; expected .*10000_GT\.png"):
        list_images(TARGETS["ksdd2"], tmp_path)


def test_a_mask_of_ksdd2_that_was_drawn_again_counts_as_it_is_now(tmp_path: Path) -> None:
    ksdd2(tmp_path)
    before = list_images(TARGETS["ksdd2"], tmp_path)
    white(tmp_path / "test/20000_GT.png", drawn())
    after = list_images(TARGETS["ksdd2"], tmp_path)
    assert sum(p.anomalous for p in after.images) == sum(p.anomalous for p in before.images) + 1


# DAGM 2007


def dagm(base: Path) -> dict[str, np.ndarray]:
    """A class: numbered PNG files, and in each part Label/Labels.txt with the masks of the defective ones."""
    expected = {}
    for part, first, defective in (("Train", 576, (577, 580)), ("Test", 1, (2, 3, 5))):
        lines = ["1"]
        for number in range(first, first + 8):
            name = f"{number:04d}"
            image(base / part / f"{name}.PNG")
            shown = number in defective
            lines.append(
                "\t".join((str(number), str(int(shown)), f"{name}.PNG", "0", f"{name}_label.PNG" if shown else "0"))
            )
            if shown:
                mask = white(base / part / f"Label/{name}_label.PNG", drawn())
                if part == "Test":
                    expected[f"{base.name}/Test/{name}.PNG"] = mask
        (base / part / "Label/Labels.txt").write_text("\r\n".join(lines) + "\r\n")
    return expected


def test_dagm(tmp_path: Path) -> None:
    root = tmp_path / "dagm"
    expected = dagm(root / "Class7")
    listing = list_images(TARGETS["dagm.class7"], root)
    index, masks = indexed(listing, "dagm.class7", root, tmp_path / "out")
    assert parts(index.table) == {("train", "good"): 6, ("test", "good"): 5, ("test", "defect"): 3}
    assert listing.problems == []
    assert listing.warnings == [
        "not used, since it shows a defect, and training is on normal images: Class7/Train/0577.PNG, "
        "Class7/Train/0580.PNG, Class7/Train/Label/0577_label.PNG, Class7/Train/Label/0580_label.PNG"
    ]
    agree(masks, expected)
    splits("dagm.class7", index.table)
    assert recognise(root / "Class7") == "dagm"
    assert len(own(root / "Class7").images) == 14


def test_a_class_of_dagm_in_a_folder_of_its_name(tmp_path: Path) -> None:
    dagm(tmp_path / "Class1/Class1")
    assert len(list_images(TARGETS["dagm.class1"], tmp_path).images) == 14
    assert recognise(tmp_path / "Class1/Class1") == "dagm"


def test_dagm_s_table_decides_and_is_checked(tmp_path: Path) -> None:
    dagm(tmp_path / "Class1")
    table = tmp_path / "Class1/Test/Label/Labels.txt"
    (tmp_path / "Class1/Test/0001.PNG").unlink()
    (tmp_path / "Class1/Test/Label/0002_label.PNG").unlink()
    image(tmp_path / "Class1/Train/9999.PNG")
    found = list_images(TARGETS["dagm.class1"], tmp_path)
    assert [(p.path, p.what) for p in found.problems] == [
        ("Class1/Test/0001.PNG", "is named in Labels.txt but is not there"),
        ("Class1/Test/0002.PNG", "shows a defect but has no mask"),
    ]
    assert "not used, since Labels.txt does not name it: Class1/Train/9999.PNG" in found.warnings
    text = table.read_text()
    table.write_text(text.replace("2\t1\t0002.PNG", "2\t0\t0002.PNG"))
    with pytest.raises(DataError, match=r"Labels\.txt, row 2: expected number, 0 or 1, image"):
        list_images(TARGETS["dagm.class1"], tmp_path)
    table.unlink()
    with pytest.raises(DataError, match=r"Labels\.txt does not exist, which says what the images of Class1 are"):
        list_images(TARGETS["dagm.class1"], tmp_path)


# BMAD


def bmad(base: Path, *, masks: bool) -> dict[str, np.ndarray]:
    """A set of BMAD, with img and label as Brain has it, or without as Histopathology."""
    inner = "img" if masks else ""
    expected = {}
    for folder, count in (
        ("train/good", 6),
        ("valid/good", 2),
        ("valid/Ungood", 3),
        ("test/good", 3),
        ("test/Ungood", 4),
    ):
        images(base / folder / inner, count)
        if masks and "Ungood" in folder:
            for number in range(count):
                mask = white(base / folder / f"label/{number:03d}.png", drawn())
                if "test" in folder:
                    expected[f"{base.name}/test/Ungood/img/{number:03d}.png"] = mask
    return expected


@pytest.mark.parametrize(
    ("target", "folder", "masks"),
    [
        ("bmad.brain", "Brain", True), ("bmad.liver", "liver", True), ("bmad.resc", "Retina_RESC", True),
        ("bmad.histopathology", "camelyon16", False), ("bmad.chest", "Chest_AD", False),
        ("bmad.oct2017", "oct2017", False),
    ],
)  # fmt: skip
def test_bmad(target: str, folder: str, masks: bool, tmp_path: Path, store: Store) -> None:
    root = tmp_path / "bmad"
    expected = bmad(root / folder, masks=masks)
    listing = list_images(TARGETS[target], root)
    index, found = indexed(listing, target, root, tmp_path / "out")
    assert parts(index.table) == {("train", "good"): 8, ("test", "good"): 3, ("test", "Ungood"): 4}
    assert listing.problems == []
    assert listing.warnings == [
        f"not used, since it is anomalous and in valid, and only normal images train: {folder}/valid/Ungood/ "
        f"({6 if masks else 3} files)"
    ]
    agree(found, expected)
    assert recognise(root / folder) == "bmad"
    assert len(own(root / folder).images) == 15
    find_source(store, tmp_path, target)  # and through the stages, as `rkd data verify` goes
    assert index_images(store, target).facts["normal"] == 11
    assert split_images(store, target).facts["verified"]["test"] == 7


def test_bmad_s_masks_belong_to_images_and_its_classes_are_two(tmp_path: Path) -> None:
    bmad(tmp_path / "Brain", masks=True)
    (tmp_path / "Brain/test/Ungood/label/001.png").unlink()
    white(tmp_path / "Brain/test/Ungood/label/777.png", drawn())
    white(tmp_path / "Brain/test/good/label/000.png", np.zeros((SIDE, SIDE), bool))
    found = list_images(TARGETS["bmad.brain"], tmp_path)
    assert [(p.path, p.what) for p in found.problems] == [
        ("Brain/test/Ungood/img/001.png", "shows a defect but has no mask")
    ]
    assert (
        "not used, since these masks belong to no image that tests: Brain/test/Ungood/label/777.png" in found.warnings
    )
    assert [p.mask for p in found.images if p.path == "Brain/test/good/img/000.png"] == [
        "Brain/test/good/label/000.png"
    ]
    white(tmp_path / "Brain/test/good/label/001.png", drawn())
    found = list_images(TARGETS["bmad.brain"], tmp_path)
    found.problems.clear()
    with pytest.raises(BadFiles, match=r"test/good/img/001\.png: is labelled good, but its mask"):
        indexed(found, "bmad.brain", tmp_path, tmp_path / "out")
    images(tmp_path / "Brain/test/strange/img", 2)
    with pytest.raises(DataError, match="strange is neither good nor Ungood"):
        list_images(TARGETS["bmad.brain"], tmp_path)
    bmad(tmp_path / "Brain_AD", masks=True)
    with pytest.raises(DataError, match="Brain and Brain_AD, each of which could be the set brain; keep one"):
        list_images(TARGETS["bmad.brain"], tmp_path)


def test_a_set_of_bmad_in_mvtec_ad_s_form_is_read_as_such(tmp_path: Path) -> None:
    for folder in ("train/good", "test/good", "test/Ungood"):
        images(tmp_path / folder, 4)
    assert recognise(tmp_path) == "mvtec"
    for number in range(4):
        white(tmp_path / f"ground_truth/Ungood/{number:03d}_mask.png", drawn())
    assert recognise(tmp_path) == "mvtec"
    assert sum(p.mask is not None for p in own(tmp_path).images) == 4


# A dataset's whole folder


def test_the_whole_folder_of_a_dataset_leads_to_a_category(visa: Visa, tmp_path: Path) -> None:
    btad(tmp_path / "btad/01", ("bmp", "png"))
    loco(tmp_path / "loco/pushpins")
    dagm(tmp_path / "dagm/Class1")
    bmad(tmp_path / "bmad/Brain", masks=True)
    for root, category in (
        (visa.root, "candle"), (tmp_path / "btad", "01"), (tmp_path / "loco", "pushpins"),
        (tmp_path / "dagm", "Class1"), (tmp_path / "bmad", "Brain"),
    ):  # fmt: skip
        with pytest.raises(DataError) as caught:
            recognise(root)
        assert f"Did you mean {root / category}?" in str(caught.value)
