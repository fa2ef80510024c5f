"""Fetching datasets, against a real HTTP server on loopback that misbehaves in every way we could think of."""

import base64
import hashlib
import io
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from rkd_pipeline.data.catalog import TARGETS, Archive, Dataset, dataset
from rkd_pipeline.data.download.fetch import Fetching, addresses, find_or_fetch, read_origin
from rkd_pipeline.data.download.transfer import download, shown
from rkd_pipeline.data.layouts.layout_of import list_images
from rkd_pipeline.errors import DataError

CONTENT = np.random.default_rng(1).bytes(700_000)
SHA = hashlib.sha256(CONTENT).hexdigest()
NAME = "big.tar"


@dataclass
class Server:
    """Serves files by path; how it misbehaves stands in the first part of the path."""

    url: str
    files: dict[str, bytes] = field(default_factory=lambda: {NAME: CONTENT})
    requests: list[tuple[str, str | None]] = field(default_factory=list)

    def address(self, manner: str, name: str = NAME) -> str:
        return f"{self.url}/{manner}/{name}"


@pytest.fixture
def server() -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            _, manner, name = self.path.split("/")
            span = self.headers.get("Range")
            found.requests.append((manner, span))
            content = found.files[name]
            if manner == "404":
                self.send_error(404)
                return
            if manner == "wrong":
                content = bytes(len(content))
            if manner == "page":
                content = b"<html>moved</html>"
            start = int(span.removeprefix("bytes=").rstrip("-")) if span and manner != "norange" else 0
            if start >= len(content):
                self.send_error(416)
                return
            body = content[start:]
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if manner == "truncated":  # says the right length, always ends early
                body = b""
            if manner in ("cut", "norange") and len(found.requests) == 1:
                body = body[:300_000]
            self.wfile.write(body)

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found = Server(f"http://127.0.0.1:{listening.server_port}")
    thread = threading.Thread(target=listening.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield found
    listening.shutdown()
    listening.server_close()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rkd_pipeline.data.download.transfer.time.sleep", lambda seconds: None)


def visible(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))


def test_a_download_is_verified_and_not_repeated(server: Server, tmp_path: Path) -> None:
    file = download([server.address("fine")], tmp_path, NAME, SHA, len(CONTENT))
    assert file.read_bytes() == CONTENT
    assert [p.name for p in tmp_path.iterdir()] == [NAME]
    assert download([server.address("404")], tmp_path, NAME, SHA) == file
    assert len(server.requests) == 1


def test_an_md5_has_to_do_where_there_is_no_sha_256(server: Server, tmp_path: Path) -> None:
    md5 = hashlib.md5(CONTENT).hexdigest()
    assert download([server.address("fine")], tmp_path, NAME, None, md5=md5).read_bytes() == CONTENT
    with pytest.raises(DataError, match=f"gives a file with another MD5 than {md5}; it was removed"):
        download([server.address("wrong")], tmp_path / "other", NAME, None, md5=md5)


@pytest.mark.parametrize("size", [None, len(CONTENT)])
def test_a_cut_connection_is_continued_where_it_ended(server: Server, tmp_path: Path, size: int | None) -> None:
    assert download([server.address("cut")], tmp_path, NAME, SHA, size).read_bytes() == CONTENT
    assert server.requests == [("cut", None), ("cut", "bytes=262144-")]


def test_without_ranges_it_begins_again(server: Server, tmp_path: Path) -> None:
    assert download([server.address("norange")], tmp_path, NAME, SHA).read_bytes() == CONTENT
    assert server.requests == [("norange", None), ("norange", "bytes=262144-")]


def test_a_later_call_goes_on_from_the_part_that_is_there(server: Server, tmp_path: Path) -> None:
    (tmp_path / f".{NAME}.part").write_bytes(CONTENT[:500_000])
    assert download([server.address("fine")], tmp_path, NAME, SHA, len(CONTENT)).read_bytes() == CONTENT
    assert server.requests == [("fine", "bytes=500000-")]


@pytest.mark.parametrize("part", [b"other bytes", bytes(len(CONTENT)), bytes(len(CONTENT) + 9)])
def test_a_part_of_something_else_costs_one_fresh_start(server: Server, tmp_path: Path, part: bytes) -> None:
    (tmp_path / f".{NAME}.part").write_bytes(part)
    assert download([server.address("fine")], tmp_path, NAME, SHA, len(CONTENT)).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("manner", "size", "says"),
    [
        ("404", None, "the server answers 404 Not Found"),
        ("wrong", None, f"gives a file with another SHA-256 than {SHA}; it was removed"),
        ("page", len(CONTENT), f"the server offers 18 bytes, not {len(CONTENT)}: another version, or an error page"),
        ("page", None, "gives a file with another SHA-256"),
        ("truncated", None, "3 times; run the same command again, it goes on from there"),
    ],
)
def test_a_failed_download_says_why_and_leaves_nothing(
    server: Server, tmp_path: Path, manner: str, size: int | None, says: str
) -> None:
    with pytest.raises(DataError) as caught:
        download([server.address(manner)], tmp_path, NAME, SHA, size)
    assert says in str(caught.value)
    assert server.address(manner) in str(caught.value)
    assert visible(tmp_path) == []


def test_dead_addresses_are_passed_over_and_all_named(server: Server, tmp_path: Path) -> None:
    dead = "http://127.0.0.1:9/x"
    urls = [dead, server.address("404"), server.address("wrong")]
    with pytest.raises(DataError) as caught:
        download(urls, tmp_path, NAME, SHA)
    for says in (f"{dead}: ConnectionError", "404 Not Found", "another SHA-256"):
        assert says in str(caught.value)
    assert download([*urls, server.address("fine")], tmp_path, NAME, SHA).read_bytes() == CONTENT


def test_a_full_disk_ends_it_with_the_fix(server: Server, tmp_path: Path) -> None:
    """``/dev/full`` is the kernel's own full disk: opening works, writing gives ENOSPC."""
    (tmp_path / f".{NAME}.part").symlink_to("/dev/full")
    with pytest.raises(DataError, match=r"No space left on device.*Free some space"):
        download([server.address("fine"), server.address("fine")], tmp_path, NAME, SHA)
    assert len(server.requests) == 1  # no other address would help
    assert visible(tmp_path) == []


def test_too_little_space_is_seen_before_the_first_byte(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("rkd_pipeline.data.download.transfer.shutil.disk_usage", lambda folder: free)
    with pytest.raises(DataError, match=r"0 MiB more are needed.*Free some space"):
        download([server.address("fine")], tmp_path, NAME, SHA)
    assert list(tmp_path.iterdir()) == []


def test_credentials_in_an_address_are_never_shown() -> None:
    assert shown("https://user:secret@host:81/a/b.tar?token=secret") == "https://host:81/a/b.tar"


# From a fetched archive to a dataset in place. Toothbrush is MVTec AD's smallest category.

BRUSH = TARGETS["mvtec_ad.toothbrush"]
MVTEC = dataset("mvtec_ad")


def brushes(folder: Path, train: int = 60) -> Path:
    for name, count in (("train/good", train), ("test/good", 12), ("test/defective", 30)):
        for i in range(count):
            write(folder / "toothbrush" / name / f"{i:03d}.png")
    for i in range(30):
        write(folder / f"toothbrush/ground_truth/defective/{i:03d}_mask.png")
    return folder


def write(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"not looked at while unpacking")


def packed(folder: Path, archive: Path) -> Path:
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive, "w:xz") as out:
        out.add(folder, "wrapped")
    return archive


def test_what_is_on_disk_is_used_in_place(tmp_path: Path) -> None:
    brushes(tmp_path / "mvtec_ad")
    said: list[str] = []
    assert find_or_fetch(MVTEC, BRUSH, tmp_path, Fetching(download=True, say=said.append)) == tmp_path / "mvtec_ad"
    assert said == []
    assert read_origin(tmp_path / "mvtec_ad") == {"from": "found on disk"}


def test_a_dataset_s_folder_may_have_the_name_that_its_archive_unpacks_to(tmp_path: Path) -> None:
    for folder, name, category in (
        ("BTech_Dataset_transformed", "btad", "01"), ("MVTEC_LOCO_anomaly_detection", "mvtec_loco", "pushpins"),
        ("MPDD", "mpdd", "tubes"),
    ):  # fmt: skip
        for part in ("train/good", "test/good", "test/broken"):
            write(tmp_path / folder / category / part / "000.png")
        wanted = TARGETS[f"{name}.{category}"]
        assert find_or_fetch(dataset(name), wanted, tmp_path, Fetching()) == tmp_path / folder
    (tmp_path / "Btad").mkdir()
    with pytest.raises(DataError, match=r"BTech_Dataset_transformed and Btad, each of which could be .*; keep one, or"):
        find_or_fetch(dataset("btad"), TARGETS["btad.01"], tmp_path, Fetching())


def test_archives_of_other_datasets_are_unpacked_as_their_publishers_pack_them(tmp_path: Path) -> None:
    """Wrapped in a folder or not: where the layout fits is the dataset."""
    made, archives = tmp_path / "made", tmp_path / "archives"
    archives.mkdir()
    for part, count in (("train/good", 3), ("test/good", 1), ("test/Ungood", 2)):
        for number in range(count):
            write(made / f"Chest/{part}/{number}.png")
    with zipfile.ZipFile(archives / "bmad.zip", "w") as out:
        for file in made.rglob("*.png"):
            out.write(file, file.relative_to(made))
    folder = find_or_fetch(dataset("bmad"), TARGETS["bmad.chest"], tmp_path / "data", Fetching(archives))
    assert (folder, visible(folder)) == (tmp_path / "data/bmad", ["Chest"])
    rows = ["object,split,label,image,mask"]
    for number in range(3):
        name = f"candle/Data/Images/Normal/{number}.JPG"
        write(tmp_path / "visa" / name)
        rows.append(f"candle,train,normal,{name},")
    (tmp_path / "visa/split_csv").mkdir()
    (tmp_path / "visa/split_csv/1cls.csv").write_text("\n".join(rows))
    wanted = replace(TARGETS["visa.candle"], counts=(3, 0))
    with tarfile.open(archives / "visa.tar", "w") as packing:
        packing.add(tmp_path / "visa", ".")
    folder = find_or_fetch(dataset("visa"), wanted, tmp_path / "data", Fetching(archives))
    assert visible(folder) == ["candle", "split_csv"]
    assert read_origin(folder)["from"] == "archive visa.tar"


def test_what_cannot_be_downloaded_is_not_said_to_be(tmp_path: Path) -> None:
    described, wanted = dataset("mpdd"), TARGETS["mpdd.tubes"]
    with pytest.raises(DataError) as caught:
        find_or_fetch(described, wanted, tmp_path / "data", Fetching(tmp_path))
    assert "MPDD.zip" in str(caught.value)
    assert "let it be downloaded" not in str(caught.value)
    with pytest.raises(DataError, match=r"no address that it can be downloaded from and checked; get it from .*MPDD"):
        find_or_fetch(described, wanted, tmp_path / "data", Fetching(tmp_path, download=True))


def test_absence_is_explained_with_every_way_out(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        find_or_fetch(MVTEC, BRUSH, tmp_path / "data", Fetching(tmp_path))
    for says in ("not for commercial use", "RKD_DATA", "mvtec_anomaly_detection.tar.xz", "toothbrush.tar.xz",
                 "RKD_ARCHIVES", "rkd data fetch mvtec_ad"):  # fmt: skip
        assert says in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_local_archive_is_unpacked_beside_what_is_there(tmp_path: Path) -> None:
    packed(brushes(tmp_path / "made"), tmp_path / "archives/toothbrush.tar.xz")
    write(tmp_path / "data/mvtec_ad/screw/train/good/000.png")
    said: list[str] = []
    folder = find_or_fetch(MVTEC, BRUSH, tmp_path / "data", Fetching(tmp_path / "archives", say=said.append))
    assert len(list_images(BRUSH, folder).images) == 102
    assert (folder / "screw/train/good/000.png").exists()
    assert "CC BY-NC-SA 4.0" in said[0]
    assert "Bergmann" in said[0]
    assert read_origin(folder)["from"] == "archive toothbrush.tar.xz"
    assert visible(tmp_path / "data") == ["mvtec_ad"]
    assert not list((tmp_path / "data").glob(".*.unpacking"))


@pytest.mark.parametrize(
    ("name", "train", "says"),
    [
        (
            "toothbrush.tar.xz",
            59,
            "holds 71 normal and 30 anomalous images of mvtec_ad.toothbrush; officially 72 and 30",
        ),
        (
            "mvtec_anomaly_detection.tar.xz",
            60,
            "damaged or another version. Get it again; if you packed it yourself, name",
        ),
    ],
)
def test_an_archive_that_is_not_what_it_should_be_leaves_nothing(
    tmp_path: Path, name: str, train: int, says: str
) -> None:
    packed(brushes(tmp_path / "made", train), tmp_path / f"archives/{name}")
    with pytest.raises(DataError) as caught:
        find_or_fetch(MVTEC, BRUSH, tmp_path / "data", Fetching(tmp_path / "archives"))
    assert says in str(caught.value)
    assert visible(tmp_path / "data") == []
    assert not list((tmp_path / "data").glob(".*.unpacking"))


def test_a_half_category_in_the_way_is_not_overwritten(tmp_path: Path) -> None:
    packed(brushes(tmp_path / "made"), tmp_path / "archives/mvtec_ad.tar.xz")
    write(tmp_path / "data/mvtec_ad/toothbrush/train/good/mine.png")
    with pytest.raises(DataError, match=r"an incomplete copy in the way; move .* aside"):
        find_or_fetch(MVTEC, BRUSH, tmp_path / "data", Fetching(tmp_path / "archives"))
    assert [p.name for p in (tmp_path / "data/mvtec_ad/toothbrush").rglob("*.png")] == ["mine.png"]


def test_a_disk_that_fills_while_unpacking_leaves_nothing(tmp_path: Path) -> None:
    """The kernel refuses to write past a file size limit, as it does on a full disk."""
    import resource

    big = brushes(tmp_path / "made")
    (big / "toothbrush/train/good/000.png").write_bytes(np.random.default_rng(0).bytes(3_000_000))
    packed(big, tmp_path / "archives/toothbrush.tar.xz")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    try:
        with pytest.raises(DataError, match="Free some space or give write permission"):
            find_or_fetch(MVTEC, BRUSH, tmp_path / "data", Fetching(tmp_path / "archives"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert visible(tmp_path / "data") == []
    assert not list((tmp_path / "data").glob(".*.unpacking"))


def small_mvtec(archive: Path) -> Dataset:
    """MVTec AD as if its publisher gave out this archive."""
    content = archive.read_bytes()
    official = Archive(
        ("official.tar.xz",), hashlib.sha256(content).hexdigest(), len(content), ("http://127.0.0.1:9/x",)
    )
    return Dataset("mvtec_ad", MVTEC.title, MVTEC.layout, MVTEC.source, MVTEC.licence, MVTEC.citation, official)


def test_a_download_ends_as_a_dataset_in_place(server: Server, tmp_path: Path) -> None:
    archive = packed(brushes(tmp_path / "made"), tmp_path / "served.tar.xz")
    server.files["served"] = archive.read_bytes()
    described, data = small_mvtec(archive), tmp_path / "data"
    fetching = Fetching(download=True, urls=addresses(f" {server.address('fine', 'served')} , "))
    folder = find_or_fetch(described, BRUSH, data, fetching)
    assert len(list_images(BRUSH, folder).images) == 102
    assert read_origin(folder)["from"] == "download"
    assert list((data / ".archives").iterdir()) == []
    with pytest.raises(DataError) as caught:
        find_or_fetch(described, BRUSH, tmp_path / "other", Fetching(download=True))
    for says in ("ConnectionError", "RKD_MVTEC_AD_URLS", "download official.tar.xz by hand", "RKD_ARCHIVES"):
        assert says in str(caught.value)
    assert visible(tmp_path / "other") == []


# Kaggle

CT = TARGETS["head_ct"]


def zipped_ct() -> bytes:
    """Head CT as Kaggle hands it out; the images are not looked at while unpacking."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for i in range(200):
            archive.writestr(f"head_ct/head_ct/{i:03d}.png", "not looked at while unpacking")
        rows = "".join(f"{i},{int(i < 100)}\n" for i in range(200))
        archive.writestr("labels.csv", "id, hemorrhage\n" + rows)
    return buffer.getvalue()


@pytest.fixture
def kaggle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The package itself, talking to a local server that answers as Kaggle's does; the paths that it asked for."""
    from kagglesdk import kaggle_env

    asked: list[str] = []

    class Kaggle(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            asked.append(self.path)
            if self.headers["Authorization"] != "Basic " + base64.b64encode(b"ann:right").decode():
                self.send_error(401)
                return
            found = self.path.endswith("GetDataset")
            body = b'{"currentVersionNumber": 7}' if found else zipped_ct()
            self.send_response(200)
            self.send_header("Content-Type", "application/json" if found else "application/zip")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Kaggle)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setitem(kaggle_env._env_to_endpoint, kaggle_env.KaggleEnv.PROD, address)
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("KAGGLE_USERNAME", "ann")
    monkeypatch.setenv("KAGGLE_KEY", "right")
    yield asked
    server.shutdown()
    server.server_close()


def test_kaggle_s_copy_is_put_in_place(tmp_path: Path, kaggle: list[str]) -> None:
    folder = find_or_fetch(dataset("head_ct"), CT, tmp_path / "data", Fetching(download=True))
    assert [path.rpartition("/")[2] for path in kaggle] == ["GetDataset", "DownloadDataset"]
    assert len(list_images(CT, folder).images) == 200
    origin = read_origin(folder)
    assert (origin["handle"], origin["version"]) == ("felipekitamura/head-ct-hemorrhage", "7")


def test_kaggle_s_refusal_never_shows_credentials(
    tmp_path: Path, kaggle: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KAGGLE_KEY", "0123456789abcdef")
    with pytest.raises(DataError, match=r"KaggleApiHTTPError.*kaggle.json") as caught:
        find_or_fetch(dataset("head_ct"), CT, tmp_path / "data", Fetching(download=True))
    assert len(kaggle) == 1
    assert "0123456789abcdef" not in str(caught.value) + "".join(capfd.readouterr())
    assert visible(tmp_path / "data") == []


def pretend_kaggle(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def dataset_download(handle: str) -> str:
        raise error

    module = ModuleType("kagglehub")
    vars(module)["dataset_download"] = dataset_download
    monkeypatch.setitem(sys.modules, "kagglehub", module)


def test_kaggle_s_errors_never_show_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_kaggle(monkeypatch, RuntimeError("401 for user:0123456789abcdef"))
    with pytest.raises(DataError, match=r"RuntimeError.*kaggle.json") as caught:
        find_or_fetch(dataset("head_ct"), CT, tmp_path / "data", Fetching(download=True))
    assert "0123456789abcdef" not in str(caught.value)
    assert caught.value.__suppress_context__
    assert visible(tmp_path / "data") == []


def test_without_kagglehub_the_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    with pytest.raises(DataError, match="pip install kagglehub"):
        find_or_fetch(dataset("head_ct"), CT, tmp_path / "data", Fetching(download=True))


# Retinal OCT's mirrors

OCT, HALF = TARGETS["retinal_oct"], TARGETS["retinal_oct.half"]


def oct_files(base: Path, train: int, test: int, val: int) -> None:
    for i in range(train):
        write(base / f"train/NORMAL/NORMAL-{i}.jpeg")
    write(base / "train/CNV/CNV-0.jpeg")
    for part, count in (("test", test), ("val", val)):
        for kind in ("NORMAL", "CNV", "DME", "DRUSEN"):
            for i in range(count):
                write(base / part / kind / f"{kind}-{part}-{i}.jpeg")


@pytest.mark.parametrize(
    ("nested", "test", "val", "variant"),
    [
        ("", 250, 0, "test 1000"),
        ("OCT2017 ", 242, 8, "test 968 and val 32, together the test part"),
        ("OCT2017", 250, 8, "test 1000; 32 in val, not used"),
    ],
)
def test_both_mirrors_of_oct_give_the_same_thousand(
    tmp_path: Path, nested: str, test: int, val: int, variant: str
) -> None:
    oct_files(tmp_path / nested, 31, test, val)
    full, half = list_images(OCT, tmp_path), list_images(HALF, tmp_path)
    assert full.variant == half.variant == variant
    tested = [p for p in full.images if p.part == "test"]
    assert (len(tested), sum(p.anomalous for p in tested)) == (1000, 750)
    train = [{Path(p.path).name for p in found.images if p.part == "train"} for found in (full, half)]
    assert (len(train[0]), len(train[1])) == (31, 15)
    assert train[1] < train[0]


def test_the_seeded_half_depends_on_file_names_alone() -> None:
    from rkd_pipeline.data.layouts.retinal_oct import seeded_half

    names = [f"train/NORMAL/NORMAL-{i}.jpeg" for i in range(1001)]
    half = seeded_half(names)
    assert len(half) == 500
    elsewhere = seeded_half([f"OCT2017 /{n}" for n in reversed(names)])
    assert elsewhere == [f"OCT2017 /{n}" for n in half]
