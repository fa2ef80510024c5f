"""A teacher's weights: read, checked against an architecture, identified by SHA-256. Never a silent substitute."""

import hashlib
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor

from rkd_pipeline.errors import TeacherError
from rkd_pipeline.models.architectures import NETWORKS, Network, Transformer, network, untrained
from rkd_pipeline.models.teacher_files import EMBEDDED, NONE, RANDOM, RegisteredFile, TeacherName, TeacherRegistry
from rkd_pipeline.store.files import file_sha256

_UNUSED = ("layer4.", "fc.", "classifier.")
# Made by rkd_pipeline/pretraining; its model card is docs/embedded-teacher.md.
EMBEDDED_FILE = Path(__file__).with_name("embedded_teacher.safetensors")


@dataclass(frozen=True)
class TeacherWeights:
    """Weights in memory: the part of a state dict that a teacher uses, its origin, and its identity.

    That is a ResNet from conv1 to layer3, a VGG's features, a vision transformer in timm's names.

    ``sha256`` is the file's; for random weights, that of the drawn values; ``none`` where there are none.
    """

    name: TeacherName
    state: dict[str, Tensor]
    origin: str
    sha256: str


def register_weights(registry: TeacherRegistry, file: Path, arch: str | None = None) -> TeacherName:
    """Enter a weights file, of architecture ``arch`` (recognised by its shapes where None); returns its name.

    Raises ``TeacherError`` when the file is missing, is no state dict, or fits no (or not that) architecture.
    """
    state = read_state(file)
    if arch is None:
        fitting = _fitting(state)
        if not fitting:
            raise TeacherError(f"{file} fits none of {', '.join(NETWORKS)}, of a ResNet from conv1 to layer3")
        arch = fitting[0]
    _require_fit(state, network(arch), file)
    digest = file_sha256(file)
    name = TeacherName(arch, digest[:8])
    registry.add(name, RegisteredFile(file.resolve(), digest))
    return name


def load_weights(registry: TeacherRegistry, name: TeacherName) -> TeacherWeights:
    """The weights of that name. Raises ``TeacherError`` with the fix when they cannot be had or do not match."""
    if name.arch == NONE:
        return TeacherWeights(name, {}, NONE, NONE)
    if name.weights == RANDOM:
        return _random_weights(name)
    if name.weights == EMBEDDED:
        return _embedded_weights(name)
    return _registered_weights(registry, name) if name.from_file else _published_weights(name)


def read_state(file: Path) -> dict[str, Tensor]:
    """A state dict from a safetensors or a torch file, never unpickling code; floats in single precision.

    Raises ``TeacherError`` when the file is missing, unreadable, or holds anything but named tensors: what it is
    instead, as far as its first bytes tell, and the fix.
    """
    from safetensors.torch import load_file

    if file.is_dir():
        raise TeacherError(f"{file} is a folder; give the weights file in it")
    if not file.is_file():
        raise TeacherError(
            f"weights file {file} does not exist; give the path of a state dict, such as torchvision's of a ResNet"
        )
    try:
        if reason := _no_weights(file):
            raise TeacherError(f"{file} cannot be read as weights: {reason}")
        state: Any = load_file(file) if _is_safetensors(file) else _unpickled(file)
    except OSError as error:
        raise TeacherError(
            f"{file} cannot be read as weights: {error.strerror}; give read permission, or copy it"
        ) from error
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        inside = _state_inside(state)
        hint = f"; its entry {inside!r} is one: save that" if inside else ""
        raise TeacherError(f"{file} is not a plain state dict (names to tensors){hint or f'; {_SAVE}'}")
    # A file in half precision is a smaller file, not another computation.
    return {k: v.float() if v.is_floating_point() else v for k, v in state.items()}


def not_finite(state: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors that hold a NaN or an infinity."""
    numbers = {name: v for name, v in state.items() if v.is_floating_point()}
    # One number for all of them, so that a GPU is waited for once, not for each tensor.
    if torch.isfinite(torch.nn.utils.get_total_norm(numbers.values())):
        return []
    return [name for name, v in numbers.items() if not torch.isfinite(v).all()]


_SAVE = "where the model is trusted, load it and torch.save(model.state_dict(), FILE)"
_AGAIN = "get it again, whole"


def _no_weights(file: Path) -> str:
    """What a file is that cannot be weights, by its first bytes, and the fix; empty where it may be weights."""
    with file.open("rb") as stream:
        head = stream.read(512)
    text = head.lstrip().lower()
    if not head:
        return f"it is empty; {_AGAIN}"
    if head.startswith(b"version https://git-lfs"):
        return "it is a pointer of git-lfs, not the file itself; run `git lfs pull` in its repository"
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<body")):
        return "it is a web page, not the file that the page offers; download that one"
    if head.startswith(b"PK\x03\x04"):
        return _no_torch_archive(file)
    if file.suffix == ".safetensors" or _is_safetensors(file):
        return _no_safetensors(file)
    if not head.startswith(b"\x80"):
        return "it is neither a torch file nor safetensors; give the file that torch.save or save_file wrote"
    return ""


def _no_torch_archive(file: Path) -> str:
    try:
        with zipfile.ZipFile(file) as archive:
            names = {PurePosixPath(name).name for name in archive.namelist()}
            damaged = archive.testzip()
    except zipfile.BadZipFile:
        return f"it is cut short; {_AGAIN}"
    if damaged:
        return f"it is damaged at {damaged}; {_AGAIN}"
    if "constants.pkl" in names:
        return f"it is a TorchScript archive, which holds a program; {_SAVE}"
    return "" if "data.pkl" in names else "it is a zip archive, but no torch file; unpack it, and give what is in it"


def _is_safetensors(file: Path) -> bool:
    """Eight bytes for the length of a header, then the header, which is JSON."""
    with file.open("rb") as stream:
        head = stream.read(9)
    return len(head) == 9 and head[8:] == b"{" and int.from_bytes(head[:8], "little") < 2**32


def _no_safetensors(file: Path) -> str:
    from safetensors import safe_open

    try:
        with safe_open(file, "pt"):
            return ""
    except Exception as error:  # the library raises kinds of its own, and OSError
        return f"it is cut short, or no safetensors ({error}); {_AGAIN}"


def _unpickled(file: Path) -> Any:
    """What a torch file holds, if that is tensors and plain values; a name of anything else in it is refused."""
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # torch raises a dozen unrelated kinds for a damaged file
        if type(error).__name__ != "UnpicklingError":  # by name: nothing here imports pickle
            raise TeacherError(f"{file} cannot be read as weights: it is cut short or damaged; {_AGAIN}") from error
        # torch advises to read such a file with weights_only=False, which runs what it holds.
        found = re.search(r"(?:GLOBAL|class|function|Unsupported (?:global|class|operand))\W+([\w.]+\.\w+)", str(error))
        what = f" ({found[1]})" if found else ""
        raise TeacherError(
            f"{file} cannot be read as weights: it is damaged, or holds Python objects{what}, such as a whole model, "
            f"and reading those would run code; {_SAVE}"
        ) from None


def _state_inside(content: Any) -> str | None:
    """The entry of a checkpoint that is a state dict; None where there is none."""
    if not isinstance(content, Mapping):
        return None
    inner = ((name, v) for name, v in content.items() if isinstance(v, Mapping) and v)
    return next((str(name) for name, v in inner if all(isinstance(w, Tensor) for w in v.values())), None)


def _needed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    state = in_timms_names(state) if _is_transformers(state) else state
    return {k: v for k, v in state.items() if not k.startswith(_UNUSED)}


def _is_transformers(state: Mapping[str, Tensor]) -> bool:
    return "patch_embed.proj.weight" in state


def in_timms_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A vision transformer's state as timm has it, of a file of timm's or DINOv2's own; both compute the same.

    The authors' class token has a position embedding; with registers, timm adds it to the token once and for all.
    """
    renamed = {"register_tokens": "reg_token"}
    mlp = (("mlp.w12.", "mlp.fc1."), ("mlp.w3.", "mlp.fc2."))  # of the giant: SwiGLU
    found: dict[str, Tensor] = {}
    for key, values in state.items():
        name = renamed.get(key, key)
        for theirs, timms in mlp:
            name = name.replace(theirs, timms)
        found[name] = values
    found.pop("mask_token", None)  # of the pretraining
    if "register_tokens" in state and {"cls_token", "pos_embed"} <= found.keys():
        found["cls_token"] = found["cls_token"] + found["pos_embed"][:, :1]
        found["pos_embed"] = found["pos_embed"][:, 1:]
    return found


def _misfits(state: Mapping[str, Tensor], arch: Network) -> list[str]:
    """What keeps ``state`` from being the used part of ``arch``, in words; empty when it fits."""
    with torch.device("meta"):
        blank = untrained(arch)
    wanted = {k: tuple(v.shape) for k, v in _needed(blank.state_dict()).items()}
    found = {k: tuple(v.shape) for k, v in _needed(state).items()}
    # Counters of BatchNorm's training steps play no part in eval mode; exporters drop them.
    missing = [f"{k} is missing" for k in wanted if k not in found and not k.endswith("num_batches_tracked")]
    unknown = [f"{k} is unknown" for k in found if k not in wanted]
    differing = [f"{k} is {found[k]}, not {wanted[k]}" for k in wanted if k in found and found[k] != wanted[k]]
    return missing + unknown + differing


def _fitting(state: Mapping[str, Tensor]) -> list[str]:
    return [a.name for a in NETWORKS.values() if _may_fit(state, a) and not _misfits(state, a)]


def _may_fit(state: Mapping[str, Tensor], arch: Network) -> bool:
    """Cheap, since it takes seconds to build the large ones; a file of another kind must not need timm, either."""
    if not isinstance(arch, Transformer):
        return not _is_transformers(state)
    return _is_transformers(state) and len(state["patch_embed.proj.weight"]) == arch.width


def _require_fit(state: Mapping[str, Tensor], arch: Network, file: Path) -> None:
    if misfits := _misfits(state, arch):
        fitting = _fitting(state)
        own = f"give {arch.files}" if isinstance(arch, Transformer) else "give torchvision's own names"
        fix = f"it is a {fitting[0]}: say --teacher {fitting[0]}" if fitting else own
        raise TeacherError(f"{file} is not {arch.name} {arch.part} ({'; '.join(misfits[:3])}); {fix}")
    for key, values in _needed(state).items():
        if wrong := _unusable(key, values):
            raise TeacherError(f"{file}: {key} {wrong}, so its features would be worth nothing; get other weights")


def _unusable(key: str, values: Tensor) -> str:
    """What is wrong with the values of a tensor; empty where nothing is."""
    if key.endswith("num_batches_tracked"):
        return ""
    if not values.is_floating_point():
        return f"holds {str(values.dtype).removeprefix('torch.')}, not floating-point numbers"
    if bad := int((~values.isfinite()).sum()):
        return f"holds {bad} of {values.numel()} values that are NaN or infinite"
    return "is a variance below 0" if key.endswith("running_var") and bool((values < 0).any()) else ""


def _registered_weights(registry: TeacherRegistry, name: TeacherName) -> TeacherWeights:
    registered = registry.find(name)
    file = registry.open(registered)
    state = read_state(file)
    digest = file_sha256(file)
    if digest != registered.sha256 or not digest.startswith(name.weights):
        raise TeacherError(
            f"{file} has changed: SHA-256 {digest[:8]} now, {registered.sha256[:8]} when registered as {name}. "
            "Restore the file, or register the new one with --weights FILE under its own name"
        )
    _require_fit(state, network(name.arch), file)
    return TeacherWeights(name, _needed(state), str(file), digest)


def _published_weights(name: TeacherName) -> TeacherWeights:
    if isinstance(arch := network(name.arch), Transformer):
        raise TeacherError(
            f"weights of {name} come from a file, and are never downloaded; run "
            f"`rkd run ... --teacher {name} --weights FILE` once, where FILE is {arch.files}"
        )
    from torchvision.models import get_model_weights

    weights = next(w for w in get_model_weights(name.arch) if w.name.lower() == name.weights)
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
    if file.exists():
        return TeacherWeights(name, _needed(read_state(file)), str(file), file_sha256(file))
    try:
        state = weights.get_state_dict(progress=True, check_hash=True)
    except Exception as error:  # urllib, OSError, hash mismatch: one fix for all
        raise TeacherError(
            f"torchvision's {weights} is not at {file} and could not be downloaded ({error}). Put the file there, "
            "or name weights that you have: --weights FILE"
        ) from error
    return TeacherWeights(name, _needed(state), str(file), file_sha256(file))


def _embedded_weights(name: TeacherName) -> TeacherWeights:
    state = read_state(EMBEDDED_FILE)
    _require_fit(state, network(name.arch), EMBEDDED_FILE)
    return TeacherWeights(name, state, "the package's own embedded_teacher.safetensors", file_sha256(EMBEDDED_FILE))


def _random_weights(name: TeacherName) -> TeacherWeights:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        state = _needed(untrained(network(name.arch)).state_dict())
    digest = hashlib.sha256()
    for key in sorted(state):
        digest.update(key.encode() + state[key].numpy().tobytes())
    return TeacherWeights(name, state, "drawn from seed 0", digest.hexdigest())
