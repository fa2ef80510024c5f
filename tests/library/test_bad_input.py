"""Bad input, kind by kind: what the user reads, and which files are left. Nothing the user has changes.

Each table row is: a name, what is wrong, a text that the message must contain, and whether ``--skip-bad`` goes on.
"""

import io
import stat
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from rkd_pipeline.data.download.archives import unpack
from rkd_pipeline.data.user_targets import make_entry, recognise, targets_in
from rkd_pipeline.errors import BadFiles, DataError, RkdError
from rkd_pipeline.stages import datasets
from rkd_pipeline.stages.dataset_card import make_card, read_card
from rkd_pipeline.store.result_store import Ref, Store
from rkd_pipeline.store.stage_versions import IMAGES, SPLIT


def noise_image(number: int, size: tuple[int, int] = (12, 10)) -> Image.Image:
    noise = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(noise)


def save(image: Image.Image, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return path


def mask(size: tuple[int, int] = (12, 10)) -> Image.Image:
    white = Image.new("L", size)
    white.paste(255, (2, 2, 6, 6))
    return white


def tree(folder: Path) -> dict[str, bytes | None]:
    """Every file below a folder with its content, every folder with None."""
    entries = sorted(folder.rglob("*"))
    return {p.relative_to(folder).as_posix(): p.read_bytes() if p.is_file() else None for p in entries}


def good_and_bad(base: Path) -> Path:
    for i in range(8):
        save(noise_image(i), base / f"good/{i}.png")
    for i in range(3):
        save(noise_image(100 + i), base / f"bad/{i}.png")
    return base


def mvtec(base: Path) -> Path:
    for i in range(6):
        save(noise_image(i), base / f"train/good/{i}.png")
    for i in range(2):
        save(noise_image(50 + i), base / f"test/good/{i}.png")
        save(noise_image(100 + i), base / f"test/dent/{i}.png")
        save(mask(), base / f"ground_truth/dent/{i}_mask.png")
    return base


def manifest(base: Path) -> Path:
    rows = ["path,label,split,mask"]
    for i in range(8):
        save(noise_image(i), base / f"p/{i}.png")
        rows.append(f"p/{i}.png,good,{'train' if i < 6 else 'test'},")
    for i in range(2):
        save(noise_image(100 + i), base / f"p/d{i}.png")
        save(mask(), base / f"p/m{i}.png")
        rows.append(f"p/d{i}.png,bad,test,p/m{i}.png")
    (base / "list.csv").write_text("\n".join(rows) + "\n")
    return base / "list.csv"


@dataclass(frozen=True)
class Case:
    name: str
    make: Callable[[Path], Path]
    spoil: Callable[[Path], object]
    says: str
    skippable: bool = True


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:60])


def png_of(width: int, height: int) -> bytes:
    """The header of a PNG that claims a size, and nothing behind it."""
    import struct
    import zlib

    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body)) + b"\0\0\0\4IDAT"


def frames(path: Path) -> None:
    noise_image(1).save(path, save_all=True, append_images=[noise_image(2)])


def line(number: int, text: str) -> Callable[[Path], object]:
    """Replace a line of the manifest, counted from 1 as an editor does."""

    def spoil(folder: Path) -> None:
        lines = (folder / "list.csv").read_text().splitlines()
        lines[number - 1] = text
        (folder / "list.csv").write_text("\n".join(lines) + "\n")

    return spoil


def write(name: str, content: bytes) -> Callable[[Path], object]:
    def spoil(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)

    return spoil


def saved(name: str, made: Image.Image) -> Callable[[Path], object]:
    return lambda folder: save(made, folder / name)


def remove(pattern: str) -> Callable[[Path], object]:
    return lambda folder: [p.unlink() for p in folder.glob(pattern)]


F, M, L = good_and_bad, mvtec, manifest
CASES = [
    # Images
    Case("empty file", F, write("good/x.png", b""), "good/x.png: the file is empty; restore it"),
    Case("cut short", F, lambda d: truncate(d / "good/1.png"), "good/1.png: cannot be decoded"),
    Case("text called png", F, write("bad/x.png", b"hello"), "bad/x.png: cannot be decoded (cannot identify"),
    Case("wrong check sum", F, write("good/x.png", png_of(4, 4) + b"\0zzzzzzz"), "good/x.png: cannot be decoded"),
    Case("900 megapixels", F, write("good/x.png", png_of(30000, 30000)), "has more than 400 megapixels; scale it down"),
    Case("450 megapixels", F, write("good/x.png", png_of(45000, 10000)), "has more than 400 megapixels; scale it down"),
    Case("floating point", F, saved("good/x.tif", Image.new("F", (4, 4), 0.5)), "holds floating-point pixels"),
    Case(
        "32 bits",
        F,
        saved("good/x.tif", Image.new("I", (4, 4), 70000)),
        "has pixel values from 70000 to 70000; save it",
    ),
    Case("two pages", F, lambda d: frames(d / "good/x.tif"), "good/x.tif: holds 2 images; save the one"),
    Case("animation", F, lambda d: frames(d / "good/x.gif"), "good/x.gif: holds 2 images; save the one"),
    Case("another format", F, write("good/x.heic", b"..."), "good/x.heic: is no image (.bmp"),
    Case("notes among images", F, write("bad/notes.txt", b"..."), "bad/notes.txt: is no image"),
    Case(
        "nested folder",
        F,
        saved("good/more/x.png", noise_image(70)),
        "good/more: is a folder inside a class folder; move",
    ),
    Case("image beside the classes", F, saved("x.png", noise_image(71)), "x.png: lies beside the class folders"),
    Case("dangling link", F, lambda d: (d / "good/x.png").symlink_to("nowhere"), "good/x.png: the file does not exist"),
    # Folders
    Case("no good folder", F, lambda d: (d / "good").rename(d / "worse"), "expected one folder named good", False),
    Case("two good folders", F, saved("OK/x.png", noise_image(72)), "expected one folder named good", False),
    Case(
        "masks in this layout",
        F,
        saved("masks/0.png", mask()),
        "masks looks like masks, of which 0.png and others lie directly",
        False,
    ),
    Case("nothing good", F, remove("good/*.png"), "has no normal images that can be used", False),
    Case("four good ones", F, remove("good/[4-9].png"), "4 distinct normal images; 5 are the least", False),
    # Masks, and MVTec AD's layout
    Case(
        "mask missing",
        M,
        remove("ground_truth/dent/1_mask.png"),
        "test/dent/1.png: shows a defect but has no mask; exp",
    ),
    Case("mask of another size", M, saved("ground_truth/dent/1_mask.png", mask((20, 10))), "the mask has 20x10 pixels"),
    Case(
        "mask rotated", M, saved("ground_truth/dent/0_mask.png", mask((10, 12))), "10x12 pixels, its image test/dent/0"
    ),
    Case(
        "mask cut short",
        M,
        lambda d: truncate(d / "ground_truth/dent/0_mask.png"),
        "dent/0_mask.png: cannot be decoded",
    ),
    Case(
        "mask empty file",
        M,
        write("ground_truth/dent/0_mask.png", b""),
        "ground_truth/dent/0_mask.png: the file is empty",
    ),
    Case(
        "defects in train",
        M,
        saved("train/dent/x.png", noise_image(73)),
        "train/dent/x.png: lies in train, where only normal",
    ),
    Case("no training images", M, remove("train/good/*"), "holds no images to train on", False),
    Case("three training images", M, remove("train/good/[3-9].png"), "4 are the least for training", False),
    Case("no good test images", M, remove("test/good/*"), "has a test part without good images (test/good", False),
    # Manifests
    Case("no label column", L, line(1, "path,class,split,mask"), "lacks the column label; it has path, class", False),
    Case("no rows", L, lambda d: (d / "list.csv").write_text("path,label\n"), "names no images; add a row", False),
    Case("empty manifest", L, write("list.csv", b""), "cannot be read as a table", False),
    Case("not UTF-8", L, write("list.csv", "path,label\nä.png,good\n".encode("latin-1")), "is not UTF-8 text", False),
    Case("ragged row", L, line(3, "p/1.png,good,train,,what,is,this"), "cannot be read as a table", False),
    Case("no such image", L, line(2, "p/99.png,good,train,"), "list.csv, row 2: p/99.png is not there; mend the path"),
    Case("no path", L, line(3, ",good,train,"), "list.csv, row 3: names no image; fill in its path"),
    Case("unknown label", L, line(2, "p/0.png,gud,train,"), "row 2: label 'gud' is not known; write good or bad"),
    Case("unknown split", L, line(2, "p/0.png,good,trane,"), "row 2: split 'trane' is not known; write train or test"),
    Case(
        "anomalous in train", L, line(10, "p/d0.png,bad,train,p/m0.png"), "row 10: p/d0.png is anomalous but not in the"
    ),
    Case(
        "no such mask", L, line(10, "p/d0.png,bad,test,p/m9.png"), "row 10: mask p/m9.png is not there; mend the path"
    ),
    Case("listed twice", L, line(3, "p/0.png,good,train,"), "p/0.png: is listed more than once; list it once"),
    Case(
        "good with a mask",
        L,
        line(2, "p/0.png,good,train,p/m0.png"),
        "p/0.png: is labelled good, but its mask p/m0.png",
    ),
]


def prepare(store: Store, *, skip_bad: bool = False) -> None:
    datasets.find_source(store, store.root, "mine")
    datasets.index_images(store, "mine", skip_bad=skip_bad)
    datasets.split_images(store, "mine")


def leftovers(store: Store) -> list[Path]:
    return [p for p in store.root.rglob("*") if p.name.endswith(".tmp")]


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_bad_images_masks_and_manifests(case: Case, store: Store, tmp_path: Path) -> None:
    path = case.make(tmp_path / "own images ä")
    folder = path if path.is_dir() else path.parent
    layout = recognise(path)
    case.spoil(folder)
    before = tree(folder)
    targets_in(store).add(make_entry("mine", str(path), layout))
    with pytest.raises(DataError) as caught:
        prepare(store)
    assert case.says in str(caught.value)
    assert isinstance(caught.value, BadFiles) == case.skippable
    if case.skippable:
        assert "--skip-bad" in str(caught.value)
        assert store.find(Ref(IMAGES.name, "mine")) is None
    assert store.find(Ref(SPLIT.name, "mine")) is None
    assert tree(folder) == before
    assert leftovers(store) == []
    if case.skippable:
        prepare(store, skip_bad=True)
        images = store.require(IMAGES, "mine")
        assert len(images.facts["skipped"]) == 1
        assert case.says in images.facts["skipped"][0]
        total = images.facts["normal"] + images.facts["anomalous"] + 1
        assert (
            datasets.data_note(targets_in(store).target("mine"), images)
            == f"without 1 of {total} files, which could not be used"
        )
        rows, arrays = datasets.read_index(images), np.load(images.folder / "pictures.npy", mmap_mode="r")
        assert len(rows) == len(arrays) == total - 1
        assert tree(folder) == before


def test_one_report_names_every_bad_file_of_every_kind(store: Store, tmp_path: Path) -> None:
    folder = mvtec(tmp_path / "own")
    truncate(folder / "train/good/2.png")
    (folder / "test/good/notes.txt").write_text("x")
    (folder / "ground_truth/dent/0_mask.png").unlink()
    save(mask((3, 3)), folder / "ground_truth/dent/1_mask.png")
    targets_in(store).add(make_entry("mine", str(folder)))
    with pytest.raises(BadFiles) as caught:
        prepare(store)
    assert sorted(p.path for p in caught.value.problems) == [
        "ground_truth/dent/1_mask.png",
        "test/dent/0.png",
        "test/good/notes.txt",
        "train/good/2.png",
    ]
    assert "mine in " in str(caught.value)
    assert str(caught.value).count("\n") == 5


def test_defects_without_a_mask_beside_others_that_have_one_are_warned_of(store: Store, tmp_path: Path) -> None:
    base = mvtec(tmp_path / "own")
    rows = [f"train/good/{i}.png,good,train," for i in range(6)] + [f"test/good/{i}.png,good,test," for i in range(2)]
    rows += ["test/dent/0.png,bad,test,ground_truth/dent/0_mask.png", "test/dent/1.png,bad,test,"]
    (base / "list.csv").write_text("\n".join(["path,label,split,mask", *rows]))
    targets_in(store).add(make_entry("mine", str(base / "list.csv")))
    prepare(store)
    images = store.require(IMAGES, "mine")
    assert images.facts["warnings"] == [
        "1 defect images have no mask, though others have one: they leave the pixel metrics: test/dent/1.png"
    ]
    datasets.prepare_images(store, "mine", datasets.FIRST_SIDE)
    assert (
        "- **Masks**: 1 images have one; 1 anomalous images have none that shows a defect: not in pixel metrics"
    ) in read_card(make_card(store, "mine"))


def test_odd_but_usable_input_is_warned_of_and_used(store: Store, tmp_path: Path) -> None:
    folder = mvtec(tmp_path / "own")
    save(Image.new("L", (12, 10)), folder / "ground_truth/dent/0_mask.png")
    save(Image.new("L", (12, 10), 255), folder / "ground_truth/dent/1_mask.png")
    save(mask(), folder / "ground_truth/dent/lone_mask.png")
    for litter in ("train/good/Thumbs.db", "test/.DS_Store", "test/good/._0.png"):
        (folder / litter).write_bytes(b"x")
    targets_in(store).add(make_entry("mine", str(folder)))
    prepare(store)
    facts = store.require(IMAGES, "mine").facts
    assert (facts["skipped"], facts["normal"], facts["anomalous"]) == ([], 8, 2)
    warned = "\n".join(facts["warnings"])
    for text in (
        "an empty mask: they leave the pixel metrics",
        "black and white swapped",
        "belong to no image",
        "lone_mask",
    ):
        assert text in warned


# targets.toml and names

TOML = [
    ("no path", '[targets]\nmine = { kind = "object" }\n', 'mine needs a path: mine = "/path/to/images"'),
    ("unknown key", '[targets]\nmine = { path = "x", colour = "red" }\n', "has colour = 'red'; known: path"),
    ("wrong type", '[targets]\nmine = { path = "x", skip_bad = "yes" }\n', "skip_bad (bool)"),
    (
        "unknown layout",
        '[targets]\nmine = { path = "x", layout = "coco" }\n',
        "layout 'coco' is not known; choose mvtec",
    ),
    ("unknown kind", '[targets]\nmine = { path = "x", kind = "food" }\n', "kind 'food' is not known; choose texture"),
    ("broken line", "[targets]\nmine = \n", "is not readable"),
    ("outside the table", 'mine = "x"\n', "entries belong under [targets]"),
    ("name of the catalog", '[targets]\nhead_ct = "x"\n', "head_ct is a dataset of the catalog; choose another name"),
    ("name that leaves", '[targets]\n"../x" = "x"\n', "'../x' cannot name a target: letters, digits"),
    ("name with a bar", '[targets]\n"a|b" = "x"\n', "'a|b' cannot name a target"),
]


@pytest.mark.parametrize(("name", "text", "says"), TOML, ids=[t[0] for t in TOML])
def test_bad_lines_in_targets_toml(name: str, text: str, says: str, store: Store) -> None:
    store.root.mkdir(parents=True)
    targets_in(store).file.write(text.encode())
    with pytest.raises(DataError) as caught:
        targets_in(store).entries()
    assert says in str(caught.value)
    with pytest.raises(DataError):
        targets_in(store).add(make_entry("other", "/x"))
    assert (targets_in(store).file.read() or b"").decode() == text


def test_adding_a_target_keeps_the_rest_of_the_file(store: Store) -> None:
    store.root.mkdir(parents=True)
    text = '# mine\n[targets]  # own\nfirst = "relative/folder"  # by hand\n'
    targets_in(store).file.write(text.encode())
    targets_in(store).add(make_entry("second.left", '/data/"quoted" ä', "folder", "texture", skip_bad=True))
    entries = targets_in(store).entries()
    assert list(entries) == ["first", "second.left"]
    assert entries["first"].path == store.root / "relative/folder"
    assert (entries["second.left"].path, entries["second.left"].skip_bad) == (Path('/data/"quoted" ä'), True)
    assert (targets_in(store).file.read() or b"").decode().startswith(text)
    with pytest.raises(DataError, match=r"first is in .* already; choose another name"):
        targets_in(store).add(make_entry("first", "/x"))
    with pytest.raises(RkdError, match=r"unknown target 'third'; known: .*first"):
        targets_in(store).target("third")


def test_layouts_are_recognised_and_misfits_explained(tmp_path: Path) -> None:
    assert recognise(good_and_bad(tmp_path / "a")) == "folder"
    assert recognise(mvtec(tmp_path / "b")) == "mvtec"
    assert recognise(manifest(tmp_path / "c")) == "manifest"
    misfits = {
        "does not exist; give a folder": tmp_path / "none",
        "is no manifest; a manifest ends in": save(noise_image(1), tmp_path / "x.png"),
        f"Did you mean {tmp_path / 'a'}?": tmp_path,
        "holds p, which is no layout": tmp_path / "c",
    }
    for says, path in misfits.items():
        with pytest.raises(DataError) as caught:
            recognise(path)
        assert says in str(caught.value)


def test_an_own_target_whose_folder_is_gone(store: Store, tmp_path: Path) -> None:
    targets_in(store).add(make_entry("mine", str(tmp_path / "usb"), "folder"))
    with pytest.raises(DataError, match="the images of mine, is not there; bring it back"):
        prepare(store)


# Archives

Member = tuple[tarfile.TarInfo, bytes]


def tar_of(*members: Member) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for info, content in members:
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def tar_member(name: str, content: bytes = b"x", kind: bytes = tarfile.REGTYPE, link: str = "") -> Member:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info, content


def zip_of(*members: tuple[str, bytes], mode: int = 0) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            info = zipfile.ZipInfo(name)
            info.external_attr, info.compress_type = mode << 16, zipfile.ZIP_DEFLATED
            archive.writestr(info, content)
    return buffer.getvalue()


def encrypted() -> bytes:
    content = bytearray(zip_of(("a.png", b"x" * 50)))
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(signature) + offset] |= 1
    return bytes(content)


OUT = "would leave the folder it is unpacked into"
ARCHIVES = [
    ("tar with ..", tar_of(tar_member("../evil")), OUT),
    ("tar with .. inside", tar_of(tar_member("a/../../evil")), OUT),
    ("tar with an absolute name", tar_of(tar_member("/rkd-evil/file")), OUT),
    ("tar with a symbolic link", tar_of(tar_member("a", b"", tarfile.SYMTYPE, "/etc/passwd")), "is a link or a device"),
    ("tar with a hard link", tar_of(tar_member("a", b"", tarfile.LNKTYPE, "b")), "is a link or a device"),
    ("tar with a device", tar_of(tar_member("a", b"", tarfile.CHRTYPE)), "is a link or a device"),
    ("tar with a named pipe", tar_of(tar_member("a", b"", tarfile.FIFOTYPE)), "is a link or a device"),
    ("tar with a name twice", tar_of(tar_member("a"), tar_member("a")), "holds a twice"),
    ("tar with a file as folder", tar_of(tar_member("a"), tar_member("a/b")), "holds a"),
    ("tar bomb", tar_of(tar_member("a", bytes(80 << 20))), "a decompression bomb"),
    (
        "tar cut short",
        tar_of(tar_member("a", bytes(np.random.default_rng(0).bytes(9999))))[:5000],
        "damaged or incomplete",
    ),
    ("zip with ..", zip_of(("../evil", b"x")), OUT),
    ("zip with a backslash", zip_of(("..\\evil", b"x")), OUT),
    ("zip with a drive", zip_of(("C:/evil", b"x")), OUT),
    ("zip with an absolute name", zip_of(("/rkd-evil/file", b"x")), OUT),
    ("zip with a symbolic link", zip_of(("a", b"/etc/passwd"), mode=stat.S_IFLNK | 0o777), "is a link or a device"),
    ("zip bomb", zip_of(("a", bytes(80 << 20))), "a decompression bomb"),
    ("zip cut short", zip_of(("a", b"x" * 500))[:-30], "neither a zip nor a tar archive"),
    ("zip with a password", encrypted(), "is encrypted; unpack it yourself"),
    ("no archive", b"<html>404</html>", "neither a zip nor a tar archive"),
    ("empty tar", tar_of(), "holds no files"),
]


@pytest.mark.parametrize(("name", "content", "says"), ARCHIVES, ids=[a[0] for a in ARCHIVES])
def test_bad_archives(name: str, content: bytes, says: str, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    archive.write_bytes(content)
    into = tmp_path / "into"
    into.mkdir()
    with pytest.raises(DataError) as caught:
        unpack(archive, into)
    assert says in str(caught.value)
    assert {p.name for p in tmp_path.iterdir()} == {"archive", "into"}
    assert not Path("/rkd-evil/file").exists()
    assert all(p.is_relative_to(into) and not p.is_symlink() for p in into.rglob("*"))


def test_good_archives_unpack_without_the_litter(tmp_path: Path) -> None:
    members = {"d/a ä.png": b"1" * 1000, "d/b.txt": b"2", "__MACOSX/d/._a.png": b"3", "d/.DS_Store": b"4"}
    made = {
        "a.zip": zip_of(*members.items()),
        "a.tar.gz": tar_of(*(tar_member(n, c) for n, c in members.items())),
    }
    for name, content in made.items():
        (tmp_path / name).write_bytes(content)
        into = tmp_path / f"{name} out"
        into.mkdir()
        unpack(tmp_path / name, into)
        assert tree(into) == {"d": None, "d/a ä.png": b"1" * 1000, "d/b.txt": b"2"}


def test_manifests_in_every_dialect_name_the_same_images(store: Store, tmp_path: Path) -> None:
    base = tmp_path / "own"
    csv = manifest(base)
    rows = pd.read_csv(csv, dtype=str, keep_default_na=False)
    spoken = {
        "semicolon.csv": rows.to_csv(index=False, sep=";").encode("utf-8-sig"),
        "tabs.tsv": rows.to_csv(index=False, sep="\t").encode(),
        "windows.csv": rows.assign(path=rows["path"].str.replace("/", "\\")).to_csv(index=False).encode(),
        "numbers.csv": rows.assign(label=rows["label"].map({"good": "0", "bad": "1"})).to_csv(index=False).encode(),
        "capitals.csv": rows.rename(columns=str.upper).to_csv(index=False).replace("good", "OK").encode(),
    }
    for name, content in spoken.items():
        (base / name).write_bytes(content)
    rows.assign(label=rows["label"] == "bad").to_parquet(base / "table.parquet", index=False)
    expected = make_entry("x", str(csv)).listing().images
    for name in [*spoken, "table.parquet"]:
        found = make_entry("x", str(base / name)).listing()
        assert found.problems == [], name
        assert found.images == expected, name


def test_a_split_column_that_nobody_filled_says_as_little_as_none(tmp_path: Path) -> None:
    csv = manifest(tmp_path / "own")
    rows = pd.read_csv(csv, dtype=str, keep_default_na=False)
    rows.assign(split="").to_csv(csv, index=False)
    found = make_entry("x", str(csv)).listing()
    assert found.problems == []
    assert {p.part for p in found.images} == {None}
    assert found.variant.endswith("without a split")
