"""New pictures scored by a champion: score, decision, and an overlay to look at."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from rkd_pipeline.champion import Reign, open_scorer
from rkd_pipeline.datasets.pictures import read_rgb
from rkd_pipeline.errors import DataError
from rkd_pipeline.files import write_atomically
from rkd_pipeline.gate import deciding_rule

TABLE = "predictions.csv"
COLUMNS = ("picture", "score", "threshold", "anomalous", "overlay", "problem")
_BATCH = 16


@dataclass(frozen=True)
class Predictions:
    """What became of the pictures: a table with ``COLUMNS``, and how many could not be scored."""

    table: pd.DataFrame
    unreadable: int


def predict(reign: Reign, pictures: Sequence[Path], output: Path | None) -> Predictions:
    """Score picture files with a champion; into ``output`` go ``predictions.csv`` and an overlay per picture.

    A file that is no usable picture gets its reason in column ``problem``; the others are scored all the same.
    """
    scorer = open_scorer(reign)
    names = _overlay_names(pictures)
    rows: list[dict[str, object]] = []
    for start in range(0, len(pictures), _BATCH):
        batch = pictures[start : start + _BATCH]
        problems = {path: _problem(path) for path in batch}
        good = [path for path in batch if not problems[path]]
        scores, maps = scorer.score(good) if good else (pd.DataFrame(), np.empty(0))
        for path in batch:
            row: dict[str, object] = {"picture": str(path), "threshold": reign.threshold, "problem": problems[path]}
            if path in good:
                at = good.index(path)
                score = float(scores["score"].iloc[at])
                row |= {"score": score, "anomalous": bool(score > reign.threshold)}
                if output is not None:
                    row["overlay"] = str(_write_overlay(output / names[path], path, maps[at], score, reign))
            rows.append(row)
    table = pd.DataFrame(rows, columns=list(COLUMNS)).astype({"anomalous": "boolean"})
    if output is not None:
        write_atomically(output / TABLE, table.to_csv(index=False).encode())
    return Predictions(table, int((table["problem"] != "").sum()))


def _problem(path: Path) -> str:
    try:
        read_rgb(path)
    except DataError as error:
        return str(error)
    return ""


def _overlay_names(pictures: Sequence[Path]) -> dict[Path, str]:
    """A file name per picture; equal names from different folders get a number."""
    names: dict[Path, str] = {}
    for path in pictures:
        stem, count = path.name.replace(".", "_"), 1
        while (name := f"{stem}{'' if count == 1 else f'-{count}'}_map.png") in names.values():
            count += 1
        names.setdefault(path, name)
    return names


def _write_overlay(file: Path, picture: Path, anomaly_map: np.ndarray, score: float, reign: Reign) -> Path:
    from rkd_pipeline.figures.overlay import overlay

    title = f"{picture.name}: {{}}, score {score:.3f}, threshold {reign.threshold:.3f}"
    title = title.format("anomalous" if score > reign.threshold else "normal")
    of_map = reign.threshold if deciding_rule(reign.training) == "map_max" else None
    write_atomically(file, overlay(read_rgb(picture), anomaly_map, of_map, title))
    return file
