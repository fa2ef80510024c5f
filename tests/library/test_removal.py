import shutil
import tomllib
from pathlib import Path

import pytest

from rkd_pipeline.cli.main import main
from rkd_pipeline.data.user_targets import OwnTargets, targets_in
from rkd_pipeline.errors import DataError, UnknownName
from rkd_pipeline.operations import champions, removal
from rkd_pipeline.store.result_store import Ref, Store
from rkd_pipeline.store.stage_versions import IMAGES, METRICS
from tests.library.arena import TARGET, Finish

ES = "rkd-es-cal@resnet18.random~1e"


def holding(root: Path, name: str) -> list[Path]:
    """Everything under a folder that has a part of that name in its path."""
    return [p for p in root.rglob("*") if name in p.relative_to(root).parts]


def test_a_removed_target_leaves_nothing_but_its_images(
    arena: tuple[Store, Finish], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RKD_STORE", "RKD_DATA"):
        monkeypatch.setenv(name, "")
    store, finish = arena
    finish(f"{ES}-s0", 1.0)
    champions.challenge(store, TARGET)
    images = targets_in(store).entries()[TARGET].path
    before = sorted(images.rglob("*"))
    other = store.folder(Ref(IMAGES.name, "other"))
    shutil.copytree(store.folder(Ref(IMAGES.name, TARGET)), other)
    command = ["remove-target", TARGET, "--store", str(store.root)]

    assert main(command) == 1  # nobody answers
    said = capfd.readouterr().out
    assert "champions" in said
    assert f"stays: the images in {images}" in said
    assert "nothing was removed; with --yes it is" in said
    assert store.find(Ref(METRICS.name, TARGET, f"{ES}-s0")) is not None

    with store.lock(f"champion {TARGET}"):
        assert main([*command, "--yes"]) == 1
    assert "a process works on it" in capfd.readouterr().err
    assert TARGET in targets_in(store).entries()

    assert main([*command, "--yes"]) == 0
    assert holding(store.root, TARGET) == []
    assert TARGET not in targets_in(store).names()
    assert other.exists()
    assert sorted(images.rglob("*")) == before


def test_only_own_targets_can_be_removed(store: Store) -> None:
    with pytest.raises(DataError, match="target of the catalog"):
        removal.removable(store, "brain_mri")
    with pytest.raises(UnknownName, match="nobody"):
        removal.removable(store, "nobody")


@pytest.mark.parametrize(
    "entry",
    [
        'b = "/b"  # mine\n',
        '"b" = { path = "/b", kind = "texture" }\n',
        "'b' = { path = '/b' }\n",
        '  b = "/b"\n',
    ],
)
def test_a_line_is_taken_out_and_the_rest_stays_as_it_is(tmp_path: Path, entry: str) -> None:
    file = tmp_path / "targets.toml"
    begin, end = '# by hand\n[targets]\na = "/a"\n', '"b.c" = "/bc"\nbb = "/bb"\n'
    file.write_text(begin + entry + end)
    OwnTargets(file).remove("b")
    assert file.read_text() == begin + end


def test_tables_and_entries_of_an_inline_table_are_taken_out_too(tmp_path: Path) -> None:
    file = tmp_path / "targets.toml"
    file.write_text('[targets.b]\npath = "/b"\nkind = "object"\n[targets."c.d"]\npath = "/c"\n')
    OwnTargets(file).remove("b")
    assert tomllib.loads(file.read_text()) == {"targets": {"c.d": {"path": "/c"}}}
    file.write_text('targets = { b = "/b", c = "/c" }\n')
    OwnTargets(file).remove("b")
    assert tomllib.loads(file.read_text()) == {"targets": {"c": "/c"}}


def test_what_is_not_there_cannot_be_taken_out(tmp_path: Path) -> None:
    file = tmp_path / "targets.toml"
    with pytest.raises(DataError, match="b is not in"):
        OwnTargets(file).remove("b")
    assert not file.exists()
    file.write_text('# none\n[targets]\na = "/a"\n')
    with pytest.raises(DataError, match="b is not in"):
        OwnTargets(file).remove("b")
    assert file.read_text() == '# none\n[targets]\na = "/a"\n'
