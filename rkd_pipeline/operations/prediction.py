"""New images scored by a trained model: score, decision, and an overlay to look at. One bad file spoils no other."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import pandas as pd
from PIL import Image

from rkd_pipeline.data.image_files import read_rgb
from rkd_pipeline.errors import DataError, of_the_system
from rkd_pipeline.names import file_stem, shown
from rkd_pipeline.operations.gate import deciding_rule
from rkd_pipeline.store.files import write_atomically

if TYPE_CHECKING:
    from rkd_pipeline.detectors.exported_model import ExportedModel
    from rkd_pipeline.detectors.graph_formats import ExportedFile

    Scorer: TypeAlias = ExportedModel | ExportedFile

TABLE, OVERLAY = "predictions.csv", "_map.png"
COLUMNS = ("picture", "score", "threshold", "anomalous", "overlay", "problem")
_BATCH = 16
_STEM = 150  # bytes of an overlay's name: 255 are the most, and a temporary name and a number need room too
_TITLE = 60  # characters of a name in a title


@dataclass(frozen=True)
class Predictions:
    """What became of the images: a table with ``COLUMNS``, and how many have a problem."""

    table: pd.DataFrame
    problems: int


@dataclass(frozen=True)
class _Ready:
    """An image that could be read: as the model sees it, as an overlay shows it, and its own width and height."""

    pixels: np.ndarray
    ground: Image.Image
    size: tuple[int, int]


def predict(
    scorer: "Scorer", images: Sequence[Path], output: Path | None, threshold: float | None = None
) -> Predictions:
    """Score image files; into ``output`` go ``predictions.csv`` and an overlay per image.

    ``threshold`` is above which a score is called anomalous; None: the model's own, and where it has none, nothing is
    decided. A system that makes no maps has no overlays. What is wrong with a file, or with its overlay, stands in
    column ``problem``; the others are scored all the same. Raises ``DataError`` where ``output`` cannot be a folder.
    """
    threshold = scorer.card.threshold if threshold is None else threshold
    if output is not None:
        _make_folder(output)
    names = _overlay_names(images)
    rows: list[dict[str, object]] = []
    for start in range(0, len(images), _BATCH):
        batch = images[start : start + _BATCH]
        read = {path: _read(scorer, path) for path in batch}
        ready = {path: found for path, found in read.items() if isinstance(found, _Ready)}
        scored = _score(scorer, ready)
        for path in batch:
            found = read[path]
            row: dict[str, object] = {"picture": shown(str(path)), "threshold": threshold, "problem": ""}
            if isinstance(found, str):
                row["problem"] = found
            else:
                score, anomaly_map = scored[path]
                called = None if threshold is None else score > threshold
                row |= {"score": score, "anomalous": called}
                if output is not None and anomaly_map is not None:
                    file, title = output / names[path], _title(path, found, score, threshold)
                    of_map = threshold if deciding_rule(scorer.card.model.training) == "map_max" else None
                    if reason := _draw(file, found.ground, anomaly_map, of_map, title):
                        row["problem"] = f"{row['picture']}: scored, but its overlay could not be drawn ({reason})"
                    else:
                        row["overlay"] = shown(str(file))
            rows.append(row)
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    table = table.astype({"anomalous": "boolean", "score": "float64", "threshold": "float64"})
    if output is not None:
        write_atomically(output / TABLE, table.to_csv(index=False).encode())
    return Predictions(table, int((table["problem"] != "").sum()))


def _make_folder(output: Path) -> None:
    try:
        output.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise DataError(f"--output {output} is a file, or lies in one; name a folder, or a new one") from None
    if not os.access(output, os.W_OK | os.X_OK):
        raise DataError(f"--output {output} may not be written by this user; name another folder")


def _read(scorer: "Scorer", path: Path) -> _Ready | str:
    """The image, read once, or what is wrong with it."""
    from rkd_pipeline.results.figures.overlay import ground

    try:
        image = read_rgb(path)
    except DataError as error:
        return str(error)
    return _Ready(scorer.prepare(image), ground(image), image.size)


def _score(scorer: "Scorer", ready: dict[Path, _Ready]) -> dict[Path, tuple[float, np.ndarray | None]]:
    if not ready:
        return {}
    scores, maps = scorer.score_prepared([found.pixels for found in ready.values()])
    each = [None] * len(ready) if maps is None else maps
    return dict(zip(ready, zip(map(float, scores["score"]), each, strict=True), strict=True))


def _overlay_names(images: Sequence[Path]) -> dict[Path, str]:
    """A file name per image; equal names from different folders get a number."""
    names: dict[Path, str] = {}
    taken: set[str] = set()
    for path in images:
        stem, count = file_stem(path.name, _STEM), 1
        while (name := f"{stem}{'' if count == 1 else f'-{count}'}{OVERLAY}").casefold() in taken:
            count += 1
        if path not in names:
            names[path] = name
            taken.add(name.casefold())
    return names


def _title(path: Path, image: _Ready, score: float, threshold: float | None) -> str:
    from rkd_pipeline.results.figures.overlay import is_strip

    told = f"score {score:.3f}, no threshold"
    if threshold is not None:
        told = f"{'anomalous' if score > threshold else 'normal'}, score {score:.3f}, threshold {threshold:.3f}"
    width, height = image.size
    stretched = f"\n(stretched: the image has {width} x {height} pixels)" if is_strip(image.size) else ""
    return f"{shown(path.name, _TITLE)}: {told}{stretched}"


def _draw(file: Path, ground: Image.Image, anomaly_map: np.ndarray, threshold: float | None, title: str) -> str:
    """Write an overlay; returns what went wrong. A full disk or a folder that may not be written ends all, though."""
    from rkd_pipeline.results.figures.overlay import overlay

    try:
        write_atomically(file, overlay(ground, anomaly_map, threshold, title))
    except Exception as error:  # matplotlib's and Pillow's are of a dozen kinds; the score stands without the overlay
        if of_the_system(error):
            raise
        return shown(str(error), 200) or type(error).__name__
    return ""
