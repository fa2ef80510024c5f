"""Files that several commands add to at once: what one adds, another must not lose."""

import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from rkd_pipeline.errors import StoreError
from rkd_pipeline.files import edited
from rkd_pipeline.own_targets import OwnTargets
from rkd_pipeline.teachers import TeacherRegistry

EACH = 12
# Both wait for the same file to appear, so that they start together.
ADD = """
import sys, time
from pathlib import Path
from rkd_pipeline.own_targets import OwnTarget, OwnTargets
from rkd_pipeline.teachers import RegisteredFile, TeacherName, TeacherRegistry
root, me = Path(sys.argv[1]), sys.argv[2]
(root / f"ready {me}").touch()
while not (root / "go").exists():
    time.sleep(0.001)
for n in range(int(sys.argv[3])):
    OwnTargets(root / "targets.toml").add(OwnTarget(f"{me}{n}", root))
    name = TeacherName("resnet18", f"{me}{n:07x}")
    TeacherRegistry(root / "teachers.toml").add(name, RegisteredFile(root / me, name.weights * 8))
"""


def test_two_processes_that_add_at_once_lose_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-c", ADD, str(tmp_path)]
    adding = [subprocess.Popen([*command, me, str(EACH)]) for me in "ab"]
    while not all((tmp_path / f"ready {me}").exists() for me in "ab"):
        assert all(process.poll() is None for process in adding)
    (tmp_path / "go").touch()
    assert [process.wait(60) for process in adding] == [0, 0]
    assert OwnTargets(tmp_path / "targets.toml").entries().keys() == {f"{me}{n}" for me in "ab" for n in range(EACH)}
    names = {f"resnet18.{me}{n:07x}" for me in "ab" for n in range(EACH)}
    assert TeacherRegistry(tmp_path / "teachers.toml").files().keys() == names


def test_without_file_locks_nothing_is_edited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_flock(lock: FileLock) -> None:
        raise NotImplementedError("FileSystem does not appear to support flock")

    monkeypatch.setattr(FileLock, "acquire", lambda self, **_: no_flock(self))
    monkeypatch.setattr(FileLock, "__enter__", no_flock)
    with pytest.raises(StoreError, match="has no locks"), edited(tmp_path / "targets.toml"):
        pytest.fail("went on without the lock")
