"""The training images, drawn once; the same for every number of processes."""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy as np

from rkd_pipeline import progress
from rkd_pipeline.models.pretraining.formulas import formula

Array = np.ndarray[Any, np.dtype[np.uint8]]


def draw_class(number: int, seed: int, count: int, side: int) -> Array:
    """``count`` images of one class, uint8 ``(count, side, side, 3)``."""
    draw = formula(number, seed)
    drawn = [draw(np.random.default_rng([seed, number, i]), side) for i in range(count)]
    return (np.clip(np.stack(drawn), 0, 1) * 255).round().astype(np.uint8)


def draw_collection(classes: int, per_class: int, side: int, seed: int, processes: int) -> Array:
    """All images, class after class: uint8 ``(classes * per_class, side, side, 3)``."""
    images = np.empty((classes, per_class, side, side, 3), np.uint8)
    jobs = [range(classes), [seed] * classes, [per_class] * classes, [side] * classes]
    # Forking a process that has run torch can hang; a spawned one cannot.
    with (
        ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool,
        progress.bar(classes, "images by formula", "class") as bar,
    ):
        for number, drawn in enumerate(pool.map(draw_class, *jobs)):
            images[number] = drawn
            bar.update()
    return images.reshape(-1, side, side, 3)
