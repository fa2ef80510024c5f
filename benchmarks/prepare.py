"""Preparing images against a bare decoding loop, and against decoding in every epoch as the official code does.

    RKD_DATA=/path/to/data python benchmarks/prepare.py [target]

A bare loop decodes every file with PIL in the same number of threads and does nothing else. The official code decodes,
converts and resizes each training image in every epoch, in the process that trains. Each is timed three times, in
turn; the best of each counts.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from rkd_pipeline.data.catalog import TARGETS
from rkd_pipeline.data.index import index_listing
from rkd_pipeline.data.layouts.layout_of import list_images

SIDE, EPOCHS = 224, 200


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    target = TARGETS[sys.argv[1] if len(sys.argv) > 1 else "mvtec_ad.screw"]
    folder = Path(os.environ["RKD_DATA"]) / target.dataset
    listing = list_images(target, folder)
    images = [folder / p.path for p in listing.images]
    files = images + [folder / p.mask for p in listing.images if p.mask]
    train = [folder / p.path for p in listing.images if p.part == "train"] or images

    def load(path: Path) -> None:
        with Image.open(path) as image:
            image.load()

    def bare() -> None:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(load, files))

    def official_epoch() -> None:
        for path in train:
            with Image.open(path) as image:
                np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR))

    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary)

        def prepare() -> None:
            index_listing(target, folder, listing, SIDE, out)

        def mapped_epoch() -> None:
            array = np.load(out / "pictures.npy", mmap_mode="r")
            for start in range(0, len(train), 32):
                np.ascontiguousarray(array[start : start + 32])

        prepare()  # files into the page cache
        works = {"bare": bare, "prepare": prepare, "official epoch": official_epoch, "mapped epoch": mapped_epoch}
        seconds = {name: [] for name in works}
        for _ in range(3):
            for name, work in works.items():
                seconds[name].append(timed(work))
    best = {name: min(times) for name, times in seconds.items()}
    print(f"{target.name}: {len(images)} images, {len(files)} files, {os.cpu_count()} threads, best of 3")
    for name, value in best.items():
        print(f"  {name:15s} {value:8.3f} s")
    print(f"  prepare / bare decoding: {best['prepare'] / best['bare']:.2f}")
    here, official = best["prepare"] + EPOCHS * best["mapped epoch"], EPOCHS * best["official epoch"]
    print(f"  reading in {EPOCHS} epochs: {here:.1f} s, official code {official:.1f} s ({official / here:.0f} times)")


if __name__ == "__main__":
    main()
