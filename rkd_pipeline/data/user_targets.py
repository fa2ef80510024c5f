"""The user's own images as targets: ``targets.toml`` in the store, one line each.

    [targets]
    screws = "/data/screws"
    tiles = { path = "/data/tiles.csv", kind = "texture", skip_bad = true }

Layouts: ``mvtec`` (train/good, test/<defect>, ground_truth/<defect> where there are masks), ``folder`` (good/, and
bad/ where there are bad ones), ``manifest`` (a CSV or parquet table), and those of published datasets that are
neither: ``visa``, ``ksdd2``, ``dagm``, ``bmad``. What is not said is recognised.

What belongs here: names and where the images are. What does not: reading them (``data/``).
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

import tomlkit

from rkd_pipeline.data import catalog
from rkd_pipeline.data.catalog import Dataset, Kind, Target
from rkd_pipeline.data.image_files import Listing
from rkd_pipeline.data.layouts import bmad, dagm, folder, ksdd2, manifest, mvtec, visa
from rkd_pipeline.data.layouts.class_names import TRAIN, is_good
from rkd_pipeline.data.layouts.listing import NORMAL, folders_in, is_image, one_called
from rkd_pipeline.data.layouts.litter import entries_of
from rkd_pipeline.errors import DataError, UnknownName
from rkd_pipeline.store.document import Document
from rkd_pipeline.store.result_store import Store
from rkd_pipeline.store.toml_files import read_toml, write_toml

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
LAYOUTS = ("mvtec", "folder", "manifest", "visa", "ksdd2", "dagm", "bmad")
_DEEPEST, _MOST_TRIED = 3, 50  # how far a hint is looked for
_KEYS = {"path": str, "layout": str, "kind": str, "skip_bad": bool}


@dataclass(frozen=True)
class OwnTarget:
    """An entry of ``targets.toml``.

    Attributes:
        name: the target's.
        path: a folder, or a manifest.
        layout: one of ``LAYOUTS``; None recognises it.
        kind: what the tables sort it under.
        skip_bad: go on without files that cannot be used.
    """

    name: str
    path: Path
    layout: str | None = None
    kind: Kind = "object"
    skip_bad: bool = False

    @property
    def root(self) -> Path:
        """The folder that image names are relative to."""
        return self.path.parent if self.path.suffix.lower() in manifest.SUFFIXES else self.path

    def recognised(self) -> str:
        """The layout, given or found. Raises ``DataError`` naming what would fit."""
        return self.layout or recognise(self.path)

    def listing(self) -> Listing:
        """What is there. Raises ``DataError`` where it does not fit the layout, or holds no normal images to learn."""
        layout = self.recognised()
        if not self.path.exists():
            raise DataError(
                f"{self.path}, the images of {self.name}, is not there; bring it back or add the target again"
            )
        readers: dict[str, Callable[[], Listing]] = {
            "mvtec": lambda: mvtec.listing(self.path, "", complete=False),
            "folder": lambda: folder.listing(self.path),
            "manifest": lambda: manifest.listing(self.path),
            "visa": lambda: visa.own_listing(self.path),
            "ksdd2": lambda: ksdd2.listing(self.path),
            "dagm": lambda: dagm.listing(self.path, ""),
            "bmad": lambda: bmad.listing(self.path, ""),
        }
        found = readers[layout]()
        if not found.problems or self.skip_bad:  # otherwise they are the reason, and are told
            _check_classes(self, found)
        found.variant = layout + (f", {found.variant}" if found.variant else "")
        return found

    def target(self) -> Target:
        """As the rest of the code knows targets. Whether the split is given shows in the images, and masks too."""
        return Target(self.name, self.name, self.name, self.kind, None, False, None, own=True)

    def dataset(self) -> Dataset:
        """The dataset that this target is the only one of."""
        return Dataset(
            self.name,
            f"{self.name}, the user's own images",
            self.layout or "as found",
            str(self.path),
            "as the owner of the images says",
            "none needed",
        )


def recognise(path: Path) -> str:
    """Which layout a folder or file has. Raises ``DataError`` naming what was found and what would fit."""
    if not path.exists():
        raise DataError(f"{path} does not exist; give a folder of images, or a CSV or parquet file that lists them")
    if path.is_file():
        if path.suffix.lower() in manifest.SUFFIXES:
            return "manifest"
        raise DataError(f"{path} is no manifest; a manifest ends in {', '.join(sorted(manifest.SUFFIXES))}")
    if layout := _layout_of(path):
        return layout
    names = ", ".join(p.name for p in folders_in(path))
    loose = sum(is_image(p) for p in entries_of(path) if not p.is_dir())
    fix = f" Move its {loose} images into {path / NORMAL} if they are normal." if loose and not names else ""
    raise DataError(
        f"{path} holds {names or 'no folders'}, which is no layout that is known: train/good with test/<defect>, or "
        f"good/ with bad/, or a CSV or parquet manifest.{_hint(path) or fix}"
    )


def _layout_of(path: Path) -> str | None:
    if path.is_file():
        return "manifest"
    if one_called(path, TRAIN, "train part"):
        published = {"dagm": dagm.looks_like, "ksdd2": ksdd2.looks_like, "bmad": bmad.looks_like}
        return next((layout for layout, fits in published.items() if fits(path)), "mvtec")
    if visa.is_category(path):
        return "visa"
    return "folder" if any(is_good(p.name) for p in folders_in(folder.images_folder(path))) else None


def _hint(path: Path) -> str:
    """The nearest folder or manifest that can be added as it is: each was tried, so that the advice works."""
    level = [path]
    nearby = [path.parent] if is_good(path.name) else []
    for _ in range(_DEEPEST):
        level = [p for place in level for p in entries_of(place) if p.is_dir() or p.suffix.lower() in manifest.SUFFIXES]
        nearby += level[: _MOST_TRIED - len(nearby)]
        level = [p for p in level if p.is_dir()]
    for candidate in nearby:
        try:
            layout = _layout_of(candidate)
            if layout and not OwnTarget("hint", candidate, layout).listing().problems:
                return f" Did you mean {candidate}?"
        except DataError:
            continue
    return ""


def _check_classes(entry: OwnTarget, found: Listing) -> None:
    """Note where only normal images are there. Raises ``DataError`` where a model cannot learn, or not be measured."""
    path, kinds = entry.path, {(p.part, p.anomalous) for p in found.images}
    if not any(not anomalous for _, anomalous in kinds):
        raise DataError(f"{path} has no normal images that can be used, and a model learns from those alone; add some")
    if ("test", True) in kinds and ("test", False) not in kinds:
        missing, unsplit = (
            ("no row of split test is labelled good", "leave the column split empty")
            if path.is_file()
            else (f"test/{NORMAL} is missing or empty", f"arrange all as {NORMAL}/ and bad/")
        )
        raise DataError(
            f"{path} has a test part without good images ({missing}), so false alarms cannot be counted; move some "
            f"normal images from train there, or {unsplit}: then they are split for you"
        )
    if not any(anomalous for _, anomalous in kinds):
        found.warnings.append(
            "no anomalous images: a model can be trained, and its threshold set on normal images held out from "
            "training, but there is nothing to measure how many defects it finds"
        )


class OwnTargets:
    """The entries of a store's ``targets.toml``, and the catalog's targets beside them.

    ``file`` is the store's, or any other by its path.
    """

    def __init__(self, file: Document | Path) -> None:
        self.file = Document.at(file) if isinstance(file, Path) else file

    def entries(self) -> dict[str, OwnTarget]:
        """All own targets by name; empty where there is no file. Raises ``DataError`` if it is unreadable."""
        table = self._read().unwrap()
        targets = table.pop("targets", {})
        if table or not isinstance(targets, dict):
            raise DataError(f'{self.file}: entries belong under [targets], as NAME = "/path/to/images"')
        return {name: self._entry(name, value) for name, value in targets.items()}

    def _entry(self, name: str, value: Any) -> OwnTarget:
        check_name(name, new=False)
        given = {"path": value} if isinstance(value, str) else value
        where = f"{self.file}: {name}"
        if not isinstance(given, dict) or "path" not in given:
            raise DataError(f'{where} needs a path: {name} = "/path/to/images"')
        for key, item in given.items():
            if key not in _KEYS or not isinstance(item, _KEYS[key]):
                known = ", ".join(f"{k} ({t.__name__})" for k, t in _KEYS.items())
                raise DataError(f"{where} has {key} = {item!r}; known: {known}")
        return make_entry(name, **given, base=self.file.place.root, where=where)

    def add(self, entry: OwnTarget) -> None:
        """Enter a target, keeping everything else in the file. Raises ``DataError`` where the name is taken."""
        values = {"path": str(entry.path), "layout": entry.layout, "kind": entry.kind, "skip_bad": entry.skip_bad}
        line = tomlkit.inline_table()
        line.update({key: value for key, value in values.items() if value})
        with self.file.edited():
            if entry.name in self.entries():
                raise DataError(f"{entry.name} is in {self.file} already; choose another name, or change that line")
            entries = self._read()
            if not entries:
                entries.add(tomlkit.comment("The user's own targets; see `rkd add-target`."))
            entries.setdefault("targets", tomlkit.table())[entry.name] = line
            write_toml(self.file, entries)

    def remove(self, name: str) -> None:
        """Take a target out, and keep everything else in the file. Raises ``DataError`` where there is none."""
        with self.file.edited():
            entries = self._read()
            if name not in entries.get("targets", {}):
                raise DataError(f"{name} is not in {self.file}")
            del entries["targets"][name]
            write_toml(self.file, entries)

    def _read(self) -> tomlkit.TOMLDocument:
        try:
            return read_toml(self.file)
        except ValueError as error:
            raise DataError(f"{self.file} is not readable ({error}); mend that line") from error

    def names(self) -> list[str]:
        """The catalog's targets, then the user's own."""
        return [*catalog.TARGETS, *self.entries()]

    def target(self, name: str) -> Target:
        """A target of the catalog or of the user's own; raises ``UnknownName`` with the list of known ones."""
        if name in catalog.TARGETS:
            return catalog.TARGETS[name]
        entries = self.entries()
        if name not in entries:
            raise UnknownName("target", name, [*catalog.TARGETS, *entries])
        return entries[name].target()

    def dataset_of(self, name: str) -> Dataset:
        """The dataset that a target belongs to."""
        target = self.target(name)
        return self.entries()[name].dataset() if target.own else catalog.dataset(target.dataset)


def targets_in(store: Store) -> OwnTargets:
    """The catalog's targets and the user's own, of a store."""
    return OwnTargets(store.targets_file)


def check_name(name: str, *, new: bool = True) -> None:
    """Raises ``DataError`` for a name that cannot be a target's.

    A name that is not ``new`` may be that of a dataset which the catalog has got since: only targets' results collide.
    """
    if not _NAME.fullmatch(name) or name.endswith("."):
        raise DataError(f"{name!r} cannot name a target: letters, digits, _, - and . (at most 64, starting with one)")
    if name in catalog.TARGETS or (new and name in catalog.DATASETS):
        raise DataError(f"{name} is a dataset of the catalog; choose another name")


def make_entry(
    name: str,
    path: str,
    layout: str | None = None,
    kind: str = "object",
    skip_bad: bool = False,
    *,
    base: Path | None = None,
    where: str = "add-target",
) -> OwnTarget:
    """An entry from plain values; relative paths start at ``base``. Raises ``DataError`` for what is not known.

    With ``base`` it is an entry of a file that is there, otherwise a new one.
    """
    check_name(name, new=base is None)
    if layout is not None and layout not in LAYOUTS:
        raise DataError(f"{where}: layout {layout!r} is not known; choose {', '.join(LAYOUTS)}, or leave it out")
    if kind not in get_args(Kind):
        raise DataError(f"{where}: kind {kind!r} is not known; choose {', '.join(get_args(Kind))}")
    resolved = Path(path).expanduser()
    place = base / resolved if base else resolved.absolute()
    return OwnTarget(name, place, layout, cast(Kind, kind), skip_bad)
