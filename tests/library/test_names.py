import io
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rkd_pipeline.cli import main as cli
from rkd_pipeline.data.user_targets import OwnTarget, targets_in
from rkd_pipeline.errors import BadFiles, DataError, RkdError, of_the_system
from rkd_pipeline.names import printable, shown
from rkd_pipeline.stages import datasets
from rkd_pipeline.store.result_store import Store

NOT_UTF8 = os.fsdecode(b"sch\xf6n.png")


def test_every_error_of_ours_can_be_encoded() -> None:
    assert str(DataError(f"{NOT_UTF8} is gone")).encode() == rb"sch\xf6n.png is gone"
    assert printable("样品 ü\n") == "样品 ü\n"


def test_a_long_name_keeps_both_ends_and_its_length() -> None:
    name = "begin" + "x" * 240 + "end.png"
    cut = shown(name, 30)
    assert len(cut) == 30
    assert cut.startswith("begin")
    assert cut.endswith("end.png")


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8"])
def test_a_terminal_that_lacks_a_letter_ends_no_command(monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    for name in ("RKD_STORE", "RKD_DATA"):
        monkeypatch.setenv(name, "")
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2))
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)

    def status(_: object) -> int:
        print(f"样品 ü {NOT_UTF8}")
        raise RkdError("样品 is odd")

    monkeypatch.setattr("rkd_pipeline.operations.status.training_states", status)
    assert cli.main(["status"]) == 1
    out.flush()
    err.flush()
    said = out.buffer.getvalue() + err.buffer.getvalue()
    letters = "样品" if encoding == "utf-8" else r"\u6837\u54c1"
    assert said.decode(encoding).count(letters) == 2


@pytest.mark.parametrize(
    "error",
    [
        PermissionError(13, "Permission denied", "/store/x"),
        OSError(30, "Read-only file system", "/store/x"),
        RuntimeError("(sqlite3.OperationalError) attempt to write a readonly database\n[SQL: ...]"),
    ],
)
def test_a_store_of_another_user_is_named_with_the_fix(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("RKD_STORE", "RKD_DATA"):
        monkeypatch.setenv(name, "")

    def status(_: object) -> int:
        raise ValueError("wrapped") from error

    monkeypatch.setattr("rkd_pipeline.operations.status.training_states", status)
    assert cli.main(["status"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("rkd: ")
    assert "belongs to another user, or is read-only" in said
    assert "SQL:" not in said
    assert of_the_system(KeyError("x")) == ""


def test_an_image_whose_name_is_no_text_is_a_problem_of_its_own(tmp_path: Path) -> None:
    """In a dataset it is named, and can be left out; the tables hold the others."""
    rng = np.random.default_rng(0)
    for kind in ("good", "bad"):
        for name in ("0.png", "$1_$.png", NOT_UTF8):
            buffer = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(buffer, "PNG")
            (tmp_path / "mine" / kind).mkdir(parents=True, exist_ok=True)
            (tmp_path / "mine" / kind / name).write_bytes(buffer.getvalue())
    store = Store(tmp_path / "store")
    targets_in(store).add(OwnTarget("mine", tmp_path / "mine"))
    datasets.find_source(store, tmp_path, "mine")
    with pytest.raises(BadFiles, match=r"good/sch\\xf6n\.png: its name.* is no UTF-8 text; rename it"):
        datasets.index_images(store, "mine")
    found = datasets.read_index(datasets.index_images(store, "mine", skip_bad=True))
    assert sorted(found["image_id"]) == ["bad/$1_$.png", "bad/0.png", "good/$1_$.png", "good/0.png"]
