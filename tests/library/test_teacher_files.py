import errno
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from obstore.store import MemoryStore
from safetensors.torch import load_file, save_file

from rkd_pipeline.data.user_targets import OwnTargets
from rkd_pipeline.errors import StoreError, TeacherError
from rkd_pipeline.models.teacher import Teacher
from rkd_pipeline.models.teacher_files import RegisteredFile, TeacherName, TeacherRegistry
from rkd_pipeline.models.weights import EMBEDDED_FILE, load_weights, read_state, register_weights
from rkd_pipeline.operations import store_care
from rkd_pipeline.store.bucket_place import BucketPlace
from rkd_pipeline.store.document import Document
from rkd_pipeline.store.files import file_sha256
from rkd_pipeline.store.result_store import Store


@pytest.fixture
def registry(tmp_path: Path) -> TeacherRegistry:
    return TeacherRegistry(tmp_path / "teachers.toml")


@pytest.fixture
def weights_file(tmp_path: Path, registry: TeacherRegistry) -> Path:
    """A complete conv1-to-layer3 file, as some exporters write it: without BatchNorm's counters."""
    state = load_weights(registry, TeacherName("resnet18", "random")).state
    file = tmp_path / "weights of mine.pth"
    torch.save({k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}, file)
    return file


def test_a_registered_file_is_named_by_its_hash_and_loads(registry: TeacherRegistry, weights_file: Path) -> None:
    name = register_weights(registry, weights_file)
    assert name == TeacherName("resnet18", file_sha256(weights_file)[:8])  # the architecture is recognised
    loaded = load_weights(TeacherRegistry(registry.file), name)
    assert loaded.sha256 == file_sha256(weights_file)
    random = load_weights(registry, TeacherName("resnet18", "random"))
    image = torch.randint(0, 256, (1, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for a, b in zip(Teacher(loaded)(image), Teacher(random)(image), strict=True):
        assert torch.equal(a, b)


def test_safetensors_are_read_too(registry: TeacherRegistry, weights_file: Path, tmp_path: Path) -> None:
    save_file(read_state(weights_file), tmp_path / "w.safetensors")
    assert register_weights(registry, tmp_path / "w.safetensors").arch == "resnet18"


def test_two_files_can_be_registered_and_a_moved_one_registered_again(
    registry: TeacherRegistry, weights_file: Path, tmp_path: Path
) -> None:
    first = register_weights(registry, weights_file)
    state = read_state(weights_file)
    state["conv1.weight"] += 1
    torch.save(state, tmp_path / "second.pth")
    second = register_weights(registry, tmp_path / "second.pth")
    moved = tmp_path / 'a "quoted" name.pth'
    shutil.move(weights_file, moved)
    with pytest.raises(TeacherError, match="does not exist"):
        load_weights(registry, first)
    assert register_weights(registry, moved) == first
    assert set(registry.files()) == {str(first), str(second)}
    assert load_weights(registry, first).origin == str(moved)


def test_a_changed_file_is_refused(registry: TeacherRegistry, weights_file: Path) -> None:
    name = register_weights(registry, weights_file)
    state = read_state(weights_file)
    state["conv1.weight"] += 1
    torch.save(state, weights_file)
    with pytest.raises(TeacherError, match="has changed"):
        load_weights(registry, name)


def test_a_file_of_another_architecture_says_which(registry: TeacherRegistry, weights_file: Path) -> None:
    with pytest.raises(TeacherError, match="it is a resnet18: say --teacher resnet18"):
        register_weights(registry, weights_file, "wide_resnet50_2")


def test_a_file_without_layer3_is_refused(registry: TeacherRegistry, weights_file: Path) -> None:
    state = {k: v for k, v in read_state(weights_file).items() if not k.startswith("layer3.1")}
    torch.save(state, weights_file)
    with pytest.raises(TeacherError, match=r"layer3\.1\.conv1\.weight is missing"):
        register_weights(registry, weights_file, "resnet18")
    with pytest.raises(TeacherError, match="fits none of"):
        register_weights(registry, weights_file)


class _Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("pickle-was-run"),))


def test_pickled_code_is_not_run(registry: TeacherRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"conv1.weight": _Evil()}, tmp_path / "evil.pth")
    with pytest.raises(TeacherError, match="cannot be read as weights"):
        register_weights(registry, tmp_path / "evil.pth")
    assert not (tmp_path / "pickle-was-run").exists()


@pytest.mark.parametrize("content", [b"", b"not weights", b"PK\x03\x04 cut short"])
def test_garbage_is_named(registry: TeacherRegistry, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "g.pth").write_bytes(content)
    with pytest.raises(TeacherError, match=r"g\.pth cannot be read as weights"):
        register_weights(registry, tmp_path / "g.pth")


LFS = (
    b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32\nsize 46830571\n"
)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (LFS, "git lfs pull"),
        (b"\n <!DOCTYPE html><html><body>Sign in</body></html>", "web page"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "web page"),
        (b"", "it is empty"),
        (b"not weights", "neither a torch file nor safetensors|no safetensors"),
    ],
)
def test_what_is_no_weights_file_is_named_for_what_it_is(
    registry: TeacherRegistry, tmp_path: Path, content: bytes, said: str, suffix: str
) -> None:
    file = tmp_path / f"w{suffix}"
    file.write_bytes(content)
    refused(registry, file, said)


def refused(registry: TeacherRegistry, file: Path, said: str) -> None:
    with pytest.raises(TeacherError, match=said) as error:
        register_weights(registry, file)
    assert file.name in str(error.value)
    assert "weights_only" not in str(error.value)
    assert registry.files() == {}


@pytest.mark.parametrize("new_format", [True, False])
def test_a_pickled_model_is_refused_without_the_advice_to_run_it(
    registry: TeacherRegistry, tmp_path: Path, new_format: bool
) -> None:
    file = tmp_path / "whole.pth"
    torch.save(torch.nn.Sequential(torch.nn.Linear(2, 2)), file, _use_new_zipfile_serialization=new_format)
    refused(registry, file, r"holds Python objects \(torch\.nn\..*Sequential.*state_dict\(\)")


def test_cut_nested_and_other_archives_are_told_apart(
    registry: TeacherRegistry, weights_file: Path, tmp_path: Path
) -> None:
    state = read_state(weights_file)
    whole = weights_file.read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[: len(whole) // 2])
    refused(registry, tmp_path / "cut.pth", "cut short")
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    old = (tmp_path / "old.pth").read_bytes()
    (tmp_path / "cut old.pth").write_bytes(old[: len(old) // 2])
    refused(registry, tmp_path / "cut old.pth", "cut short or damaged")
    save_file(state, tmp_path / "w.safetensors")
    tensors = (tmp_path / "w.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(tensors[: len(tensors) // 2])
    refused(registry, tmp_path / "cut.safetensors", "cut short")
    torch.save({"epoch": 3, "model": state}, tmp_path / "nested.pth")
    refused(registry, tmp_path / "nested.pth", "its entry 'model' is one")
    with zipfile.ZipFile(tmp_path / "packed.pth", "w") as archive:
        archive.writestr("weights.txt", "in here")
    refused(registry, tmp_path / "packed.pth", "no torch file; unpack it")
    refused(registry, tmp_path, "is a folder")
    shutil.copyfile(tmp_path / "w.safetensors", tmp_path / "by another name.bin")
    assert register_weights(registry, tmp_path / "by another name.bin").arch == "resnet18"


@pytest.mark.parametrize(("key", "value", "said"), [
    ("conv1.weight", float("nan"), "holds 1 of 9408 values that are NaN or infinite"),
    ("layer3.1.bn2.weight", float("inf"), "holds 1 of 256 values"),
    ("bn1.running_var", -1.0, "is a variance below 0"),
])  # fmt: skip
def test_weights_that_give_no_features_are_refused(
    registry: TeacherRegistry, weights_file: Path, key: str, value: float, said: str
) -> None:
    state = read_state(weights_file)
    state[key].view(-1)[0] = value
    torch.save(state, weights_file)
    refused(registry, weights_file, rf"{key} {said}")


def test_a_web_page_in_torchvision_s_cache_is_named(
    registry: TeacherRegistry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cached = tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth"
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"<html>please sign in</html>")
    with pytest.raises(TeacherError, match=r"resnet18-f37072fd\.pth .* web page"):
        load_weights(registry, TeacherName("resnet18"))


def test_unregistered_and_absent_weights_are_errors_with_the_fix(
    registry: TeacherRegistry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(TeacherError, match="--weights FILE"):
        load_weights(registry, TeacherName("resnet18", "deadbeef"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))  # an empty cache
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # and nobody to ask
    with pytest.raises(TeacherError, match="Put the file there, or name weights that you have"):
        load_weights(registry, TeacherName("wide_resnet50_2"))


def test_torchvision_s_cache_is_used(
    registry: TeacherRegistry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """torchvision checks the hash in the file name: a cached file of another content must not pass for the teacher."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    cached = tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth"
    cached.parent.mkdir(parents=True)
    torch.save(load_weights(registry, TeacherName("resnet18", "random")).state, cached)
    loaded = load_weights(registry, TeacherName("resnet18"))
    assert (loaded.origin, loaded.sha256) == (str(cached), file_sha256(cached))


def test_the_embedded_teacher_comes_with_the_package(registry: TeacherRegistry) -> None:
    assert EMBEDDED_FILE.stat().st_size <= 6_000_000
    assert {v.dtype for v in load_file(EMBEDDED_FILE).values()} == {torch.float16}
    loaded = load_weights(registry, TeacherName.parse("embedded"))
    assert loaded.sha256 == file_sha256(EMBEDDED_FILE)
    image = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    features = Teacher(loaded)(image)
    assert [f.dtype for f in features] == [torch.float32] * 3
    assert [tuple(f.shape[1:]) for f in features] == [(64, 16, 16), (128, 8, 8), (256, 4, 4)]
    for f in features:
        assert f.isfinite().all()
        alive = f.amax((0, 2, 3)) > 0
        assert alive.float().mean() > 0.5


def test_a_file_in_half_precision_is_used_in_single(registry: TeacherRegistry, tmp_path: Path) -> None:
    halves = {k: v.half() for k, v in load_weights(registry, TeacherName("resnet18", "random")).state.items()}
    save_file(halves, tmp_path / "half.safetensors")
    teacher = Teacher(load_weights(registry, register_weights(registry, tmp_path / "half.safetensors")))
    assert [f.dtype for f in teacher(torch.zeros(1, 32, 32, 3, dtype=torch.uint8))] == [torch.float32] * 3


def test_a_damaged_registry_says_how_to_mend_it(registry: TeacherRegistry) -> None:
    registry.file.write(b'[teachers."resnet18.4c740094"]\npath = "x"\n')
    with pytest.raises(TeacherError, match="sha256"):
        registry.files()


def test_what_people_wrote_into_the_registry_stays(registry: TeacherRegistry, tmp_path: Path) -> None:
    by_hand = '# ours\n\n[teachers."resnet18.00000001"]  # from the lab\npath = "/old"  # moved often\nsha256 = "1"\n'
    registry.file.write(by_hand.encode())
    registry.add(TeacherName("resnet18", "00000002"), RegisteredFile(tmp_path / 'a "b"', "2"))
    assert (registry.file.read() or b"").decode().startswith(by_hand)
    registry.add(TeacherName("resnet18", "00000001"), RegisteredFile(Path("/new"), "1"))
    assert (registry.file.read() or b"").decode().startswith(by_hand.replace("/old", "/new"))
    assert tomllib.loads((registry.file.read() or b"").decode())["teachers"] == {
        "resnet18.00000001": {"path": "/new", "sha256": "1"},
        "resnet18.00000002": {"path": str(tmp_path / 'a "b"'), "sha256": "2"},
    }


def test_a_registry_that_is_no_toml_is_not_written_over(registry: TeacherRegistry) -> None:
    registry.file.write(b"[teachers\n")
    with pytest.raises(TeacherError, match="is not readable"):
        registry.add(TeacherName("resnet18", "00000002"), RegisteredFile(Path("/x"), "2"))
    assert (registry.file.read() or b"").decode() == "[teachers\n"


EACH = 12
# Both wait for the same file to appear, so that they start together.
ADD = """
import sys, time
from pathlib import Path
from rkd_pipeline.data.user_targets import OwnTarget, OwnTargets
from rkd_pipeline.models.teacher_files import RegisteredFile, TeacherName, TeacherRegistry
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


def test_a_file_registered_on_one_machine_is_there_for_the_others(weights_file: Path, tmp_path: Path) -> None:
    objects = MemoryStore()
    here, there = (Store(BucketPlace(objects, "s3://bucket/rkd", tmp_path / name)) for name in ("here", "there"))
    name = register_weights(TeacherRegistry(here.teachers_file), weights_file)
    sha256 = file_sha256(weights_file)
    register_weights(TeacherRegistry(here.teachers_file), weights_file)  # again: it is sent once
    copied = Store(tmp_path / "copied")
    assert store_care.copy(there, copied).unreadable == []
    weights_file.unlink()
    for store in (there, copied):
        assert load_weights(TeacherRegistry(store.teachers_file), name).sha256 == sha256
        assert store_care.verify(store) == {}
    assert there.place.number(f"teacher_files/{sha256}") == 1
    assert load_weights(TeacherRegistry(here.teachers_file), name).sha256 == sha256  # it lost its own, and has this


def test_without_file_locks_nothing_is_edited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_flock(lock: FileLock) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(FileLock, "acquire", lambda self, **_: no_flock(self))
    monkeypatch.setattr(FileLock, "__enter__", no_flock)
    with pytest.raises(StoreError, match="has no locks"), Document.at(tmp_path / "targets.toml").edited():
        pytest.fail("went on without the lock")
