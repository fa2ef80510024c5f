"""Images decoded and resized to a further side length; the first one is made together with the index."""

from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pandas as pd

from rkd_pipeline.data.image_files import decode, full_mask, in_parallel, resized, resized_mask
from rkd_pipeline.data.index import MASKS, PIXELS
from rkd_pipeline.data.prepared_arrays import ArrayFile
from rkd_pipeline.errors import BadFiles, Problem
from rkd_pipeline.progress import bar


def prepare_arrays(index: pd.DataFrame, folder: Path, side: int, out: Path) -> None:
    """Write ``pictures.npy`` and, where the index names masks, ``masks.npy``, in the order of the index.

    Types and shapes as ``index_listing`` writes them, and pixel for pixel what it would have written. Raises
    ``BadFiles`` for files that no longer decode.
    """
    problems: list[Problem] = []
    with_masks = bool((index["mask"] != "").any())

    def read(row: tuple[str, str]) -> tuple[np.ndarray, np.ndarray | None]:
        name, mask = row
        image = resized(decode(folder / name, name).pixels, side)
        return image, resized_mask(full_mask(folder / mask, mask), side) if mask else None

    with ExitStack() as stack:
        images = stack.enter_context(ArrayFile(out / PIXELS, (side, side, 3), np.uint8))
        masks = stack.enter_context(ArrayFile(out / MASKS, (side, side), np.bool_)) if with_masks else None
        progress = stack.enter_context(bar(len(index), f"decode at {side} px", "image", inner=True))
        for result in in_parallel(read, zip(index["image_id"], index["mask"], strict=True)):
            progress.update()
            if isinstance(result, Problem):
                problems.append(result)
                continue
            images.append(result[0])
            if masks is not None:
                masks.append(np.zeros((side, side), bool) if result[1] is None else result[1])
    if problems:
        raise BadFiles(str(folder), problems, len(index), skippable=False)
