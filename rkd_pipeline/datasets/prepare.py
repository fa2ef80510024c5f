"""Pictures decoded and resized once, kept as uint8 arrays that are memory-mapped afterwards."""

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from rkd_pipeline.datasets.pictures import in_parallel, read_rgb, resized


def prepare_pictures(index: pd.DataFrame, folder: Path, side: int) -> np.ndarray:
    """uint8 ``(N, side, side, 3)`` in the order of the index. Raises ``DataError`` for a file that does not decode."""
    return np.stack(in_parallel(lambda name: resized(read_rgb(folder / name), side), index["image_id"]))


def prepare_masks(index: pd.DataFrame, folder: Path, side: int) -> np.ndarray:
    """bool ``(N, side, side)`` in the order of the index: bilinear, then above 0.5; all False where there is none."""

    def mask(name: str) -> np.ndarray:
        if not name:
            return np.zeros((side, side), bool)
        full = np.asarray(read_rgb(folder / name).convert("L")) > 0
        return resized(Image.fromarray(full.astype(np.float32)), side) > 0.5

    return np.stack(in_parallel(mask, index["mask"]))
