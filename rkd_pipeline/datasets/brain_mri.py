"""Brain MRI Images for Brain Tumor Detection (Chakrabarty, Kaggle): two folders, ``no`` and ``yes``."""

from pathlib import Path

from rkd_pipeline.datasets.pictures import Picture
from rkd_pipeline.errors import DataError


def pictures(folder: Path, category: str) -> list[Picture]:
    """All pictures, normal first. Raises ``DataError`` when a class folder is missing.

    Kaggle's archive holds the two folders twice; only those directly under ``folder`` are read.
    """
    listed = []
    for name, anomalous in (("no", False), ("yes", True)):
        if not (folder / name).is_dir():
            raise DataError(f"{folder / name} is not a folder; expected {category}/no/* and {category}/yes/*")
        files = sorted(p for p in (folder / name).iterdir() if p.is_file() and not p.name.startswith("."))
        listed += [Picture(f"{name}/{p.name}", anomalous, "tumour" if anomalous else "good") for p in files]
    return listed
