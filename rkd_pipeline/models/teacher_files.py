"""Teachers by name, and the registry of weights files.

Names: ``wide_resnet50_2`` is torchvision's architecture with its ImageNet-1k V1 weights;
``wide_resnet50_2.imagenet1k_v2`` another published set; ``resnet18.4c740094`` a file, by the first 8 hex digits of
its SHA-256, found through ``teachers.toml`` in the store; ``resnet18.random`` weights drawn from a fixed seed, for
comparison; ``embedded`` the ResNet-18 that comes with this package, pretrained on images made by formula; ``none``
no teacher at all, for systems that have none. A vision transformer's weights come from a file alone:
``dinov2_vit_s14.0a1b2c3d``. Nothing ever falls back to another set: a missing file is an error.

What belongs here: names. What does not: tensors (``models/weights.py``), so that keys parse without torch.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from rkd_pipeline.errors import TeacherError
from rkd_pipeline.models.architectures import Transformer, network
from rkd_pipeline.store.document import Document
from rkd_pipeline.store.files import link_or_copy
from rkd_pipeline.store.toml_files import read_toml, write_toml

if TYPE_CHECKING:
    from tomlkit import TOMLDocument

DEFAULT_WEIGHTS = "imagenet1k_v1"
RANDOM = "random"
EMBEDDED = "embedded"
EMBEDDED_ARCH = "resnet18"
NONE = "none"
FOLDER, RECORD = "teacher_files", "teacher.json"  # in a store that machines share
_FILE_ID = re.compile(r"[0-9a-f]{8}")


@dataclass(frozen=True)
class TeacherName:
    """An architecture and one set of weights for it; spelled ``arch``, ``arch.weights`` or ``embedded``."""

    arch: str
    weights: str = DEFAULT_WEIGHTS

    @classmethod
    def parse(cls, text: str) -> "TeacherName":
        """The teacher that ``text`` names; raises ``UnknownName`` or ``TeacherError`` when there is none such."""
        if text == EMBEDDED:
            return cls(EMBEDDED_ARCH, EMBEDDED)
        if text == NONE:
            return cls(NONE)
        arch, _, weights = text.partition(".")
        found = network(arch)
        name = cls(arch, weights or DEFAULT_WEIGHTS)
        known = (RANDOM,) if weights and isinstance(found, Transformer) else (DEFAULT_WEIGHTS, RANDOM)
        if not (name.from_file or name.weights in known or name.weights in name.published()):
            raise TeacherError(
                f"{text!r}: weights of {arch} are {', '.join([*name.published(), RANDOM])}, or 8 hex digits of a file; "
                f"the teacher that comes with this package is {EMBEDDED}, without an architecture"
            )
        return name

    @property
    def from_file(self) -> bool:
        """The weights come from a file registered in ``teachers.toml``."""
        return _FILE_ID.fullmatch(self.weights) is not None

    def published(self) -> list[str]:
        """torchvision's weight sets for this architecture, in lower case; none for a vision transformer."""
        if isinstance(network(self.arch), Transformer):
            return []
        from torchvision.models import get_model_weights

        return [w.name.lower() for w in get_model_weights(self.arch)]

    def __str__(self) -> str:
        if self.weights == EMBEDDED:
            return EMBEDDED
        return self.arch if self.weights == DEFAULT_WEIGHTS else f"{self.arch}.{self.weights}"


@dataclass(frozen=True)
class RegisteredFile:
    """A weights file that a store knows, and its SHA-256 when it was registered."""

    path: Path
    sha256: str


class TeacherRegistry:
    """The weights files known to a store: ``teachers.toml``, one table per file.

    ``file`` is the store's, or any other by its path.
    """

    def __init__(self, file: Document | Path) -> None:
        self.file = Document.at(file) if isinstance(file, Path) else file

    def files(self) -> dict[str, RegisteredFile]:
        """Registered files by teacher name; empty where nothing was. Raises ``TeacherError`` if unreadable."""
        try:
            table = self._read().unwrap().get("teachers", {})
            return {name: RegisteredFile(Path(entry["path"]), entry["sha256"]) for name, entry in table.items()}
        except (KeyError, TypeError, AttributeError) as error:
            raise self._unreadable(error) from error

    def add(self, name: TeacherName, file: RegisteredFile) -> None:
        """Enter a file under a name, replacing an older path of the same file; keeps all else in ``teachers.toml``.

        Into a shared store the file itself goes, too.
        """
        import tomlkit

        with self.file.edited():
            self.files()  # a damaged registry is mended by people, not written over
            registry = self._read()
            if not registry:
                registry.add(tomlkit.comment("Weights files by name; written by `rkd run --weights FILE`."))
            teachers = registry.setdefault("teachers", tomlkit.table(is_super_table=True))
            entry = teachers.setdefault(str(name), tomlkit.table())
            entry.update({"path": str(file.path), "sha256": file.sha256})
            write_toml(self.file, registry)
            self._share(file)

    def open(self, file: RegisteredFile) -> Path:
        """Where a registered file is on this machine: where it was registered, or else a copy of a shared store's."""
        place, name = self.file.place, f"{FOLDER}/{file.sha256}"
        record = None if file.path.exists() else place.find(name, RECORD)
        return file.path if record is None else place.file(record, json.loads(record.content)["file"])

    def _share(self, file: RegisteredFile) -> None:
        """Put a file where the other machines of a shared store find it."""
        place, name = self.file.place, f"{FOLDER}/{file.sha256}"
        if not place.shared or not file.path.exists() or place.find(name, RECORD) is not None:
            return
        place.root.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=place.root) as scratch:
            folder = Path(scratch) / "entry"
            folder.mkdir()
            link_or_copy(file.path, folder / file.path.name)
            content = {file.path.name: {"sha256": file.sha256, "bytes": file.path.stat().st_size}}
            record = {"file": file.path.name, "files": content}
            (folder / RECORD).write_text(json.dumps(record), encoding="utf-8")
            place.publish(folder, name, content, RECORD, after=place.number(name))

    def _read(self) -> "TOMLDocument":
        try:
            return read_toml(self.file)
        except ValueError as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> TeacherError:
        return TeacherError(
            f'{self.file} is not readable ({error!r}); each entry is [teachers."<arch>.<8 hex digits>"] with '
            "path and sha256. Mend it, or delete it and register the files again with --weights FILE"
        )

    def find(self, name: TeacherName) -> RegisteredFile:
        """The file of that name; raises ``TeacherError`` with the fix when it was never registered."""
        try:
            return self.files()[str(name)]
        except KeyError:
            raise TeacherError(
                f"{name} is not registered in {self.file}; run `rkd run ... --weights FILE` once with it"
            ) from None
