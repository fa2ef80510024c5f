"""Demonstration images made by formula, in MVTec AD's layout with pixel-exact masks: they go the way of real data.

Two textures (``weave``, ``grain``) and two objects (``bracket``, ``print``), one module each: ``draw`` makes a scene,
normal or with one of its ``DEFECTS``, and says where it differs from a normal one; ``camera.py`` takes the image.
Pose, light, exposure, focus, colour and sensor noise vary, so that neither a fixed place nor a colour tells a defect.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, cast

import numpy as np
from PIL import Image

from rkd_pipeline.data.image_files import in_parallel
from rkd_pipeline.data.synthetic import bracket, grain, printed, weave
from rkd_pipeline.data.synthetic.camera import SIDE, Array, Rng, Scene, photograph

VERSION = 9
SEED = 20221
# A quarter of 76 is 19: the fewest held-out normals that an honest threshold needs (metrics/threshold.py).
TRAIN, TEST_GOOD, TEST_DEFECTIVE = 76, 16, 24

__all__ = ["SEED", "SIDE", "TARGETS", "VERSION", "generate", "image", "save"]


class DemoTarget(Protocol):
    """What each target's module offers."""

    DEFECTS: Sequence[str]

    def draw(self, rng: Rng, defect: str | None) -> Scene:
        """A scene; its ``defect`` mask is empty where no defect is named."""


TARGETS = {name: cast(DemoTarget, module) for name, module in (
    ("weave", weave), ("grain", grain), ("bracket", bracket), ("print", printed)
)}  # fmt: skip


def image(target: str, seed: int, number: int, defect: str | None = None) -> tuple[Array, Array]:
    """Image ``number`` of a target: float ``(S, S, 3)`` in [0, 1], and the mask of its defect, bool ``(S, S)``."""
    rng = np.random.default_rng([seed, list(TARGETS).index(target), number])
    scene = TARGETS[target].draw(rng, defect)
    return photograph(rng, scene), scene.defect


def generate(folder: Path, seed: int = SEED, targets: Sequence[str] = tuple(TARGETS)) -> None:
    """Write targets under ``folder``: each 76 training, 16 good and 24 defective test images, and 24 masks."""

    def write(job: tuple[str, int, str | None]) -> None:
        target, number, defect = job
        base, name = folder / target, f"{number:03d}"
        pixels, mask = image(target, seed, number, defect)
        part = "test" if number < TEST_DEFECTIVE + TEST_GOOD else "train"
        save(pixels, base / part / (defect or "good") / f"{name}.png")
        if defect is not None:
            save(mask, base / "ground_truth" / defect / f"{name}_mask.png")

    for _ in in_parallel(write, [(target, *numbered) for target in targets for numbered in contents(target)]):
        pass


def contents(target: str) -> list[tuple[int, str | None]]:
    """Number and defect of every image of a target; training images first, then good ones, then each defect.

    Numbers begin with the test: a longer training set leaves its images as they are.
    """
    kinds = list(TARGETS[target].DEFECTS)
    defects = [(i, kinds[i * len(kinds) // TEST_DEFECTIVE]) for i in range(TEST_DEFECTIVE)]
    tested = TEST_DEFECTIVE + TEST_GOOD
    good = [*range(tested, tested + TRAIN), *range(TEST_DEFECTIVE, tested)]
    return [*((n, None) for n in good), *defects]


def save(pixels: Array, path: Path) -> None:
    """Write an image, or a mask, with values in [0, 1] as an 8-bit file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # A PNG of sensor noise hardly becomes smaller at zlib's usual level, and takes two or three times as long.
    Image.fromarray((np.clip(pixels, 0, 1) * 255).round().astype(np.uint8)).save(path, compress_level=1)
