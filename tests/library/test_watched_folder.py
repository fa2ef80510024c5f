import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rkd_pipeline.operations import champions, watched_folder
from rkd_pipeline.results.figures.overlay import overlay
from rkd_pipeline.store.result_store import Store
from tests.library.arena import TARGET, Finish

ES = "rkd-es-cal@resnet18.random~1e"


def settle(file: Path) -> None:
    os.utime(file, (1e9, 1e9), follow_symlinks=False)


def test_one_file_never_keeps_the_others_from_being_scored(arena: tuple[Store, Finish], tmp_path: Path) -> None:
    store, finish = arena
    finish(f"{ES}-s0", 1.0)
    champion = champions.challenge(store, TARGET).champion
    watched = tmp_path / "watched"
    (watched / "a folder.png").mkdir(parents=True)
    source = champion.folder / champions.EXAMPLE
    names = ["part$1_$2.jpg", "样品.jpg", os.fsdecode(b"sch\xf6n.jpg"), "n" * 250 + ".jpg", "plain.jpg"]
    for name in names:
        shutil.copyfile(source, watched / name)
    (watched / "broken.png").write_bytes(b"no image")
    (watched / "leads nowhere.png").symlink_to(tmp_path / "gone.png")
    (watched / "plain_map.png").write_bytes(overlay(Image.new("RGB", (9, 9)), np.ones((4, 4)), None, "drawn before"))
    for file in watched.iterdir():
        settle(file)

    look = watched_folder.look(store, watched, TARGET)
    rows = watched_folder.read_scored(watched_folder.score_new(store, look)).set_index("picture")
    problems = rows[rows["problem"] != ""]["problem"]
    assert sorted(problems.index) == ["broken.png", "leads nowhere.png"]
    assert "the file does not exist" in problems["leads nowhere.png"]
    good = rows[rows["problem"] == ""]
    assert set(good.index) == {n.replace("\udcf6", r"\xf6") for n in names}
    expected, _ = champions.open_scorer(champion).score([source])
    np.testing.assert_allclose(good["score"].astype(float), float(expected["score"].iloc[0]), rtol=1e-4)
    assert watched_folder.look(store, watched, TARGET).new == []  # what was looked at is known, odd names too


def test_a_file_that_may_be_read_again_is_new(
    arena: tuple[Store, Finish], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, finish = arena
    finish(f"{ES}-s0", 1.0)
    champion = champions.challenge(store, TARGET).champion
    file = tmp_path / "watched" / "a.jpg"
    file.parent.mkdir()
    shutil.copyfile(champion.folder / champions.EXAMPLE, file)
    settle(file)
    real = Path.read_bytes

    def refused(path: Path) -> bytes:
        if path == file:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    with monkeypatch.context() as another_user:  # permissions do not bind the superuser, who may run the tests
        another_user.setattr(os, "access", lambda path, mode: False)
        another_user.setattr(Path, "read_bytes", refused)
        rows = watched_folder.read_scored(
            watched_folder.score_new(store, watched_folder.look(store, file.parent, TARGET))
        )
        assert "Permission denied" in rows["problem"].iloc[0]
        assert watched_folder.look(store, file.parent, TARGET).new == []
    look = watched_folder.look(store, file.parent, TARGET)
    assert look.new == ["a.jpg"]
    assert watched_folder.read_scored(watched_folder.score_new(store, look))["problem"].tolist() == [""]
