"""The layout of MVTec AD: ``<category>/{train/good, test/<defect>, ground_truth/<defect>/*_mask.png}``."""

from pathlib import Path

from rkd_pipeline.datasets.pictures import Picture
from rkd_pipeline.errors import DataError

_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"}


def pictures(folder: Path, category: str) -> list[Picture]:
    """All pictures of a category, training first. Raises ``DataError`` when a folder or a defect's mask is missing."""
    base = folder / category
    listed = []
    for part in ("train", "test"):
        if not (base / part).is_dir():
            raise DataError(f"{base / part} is not a folder; expected {category}/{part}/good/*")
        for path in sorted(p for p in (base / part).glob("*/*") if p.suffix.lower() in _SUFFIXES):
            defect = path.parent.name
            mask = None if defect == "good" else base / "ground_truth" / defect / f"{path.stem}_mask.png"
            if mask is not None and not mask.is_file():
                raise DataError(f"{path} shows a defect but has no mask; expected {mask}")
            listed.append(
                Picture(
                    path.relative_to(folder).as_posix(),
                    anomalous=defect != "good",
                    defect=defect,
                    part=part,
                    mask=mask.relative_to(folder).as_posix() if mask else None,
                )
            )
    return listed
