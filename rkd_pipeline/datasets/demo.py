"""Demonstration pictures made by formula: a woven fabric with holes, pulled threads and stains.

Written in MVTec AD's layout with pixel-exact masks, so that the demo takes the same way as real data.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

VERSION = 1
SEED = 20221
SIDE = 256
TRAIN, TEST_GOOD, TEST_PER_DEFECT = 40, 12, 6

Drawn = tuple[np.ndarray, np.ndarray]


def generate(folder: Path) -> None:
    """Write ``weave/`` under ``folder``: 40 training pictures, 12 good and 18 defective test pictures, 18 masks."""
    base = folder / "weave"
    for part, count, offset in (("train", TRAIN, 0), ("test", TEST_GOOD, TRAIN)):
        for i in range(count):
            _save(weave(np.random.default_rng([SEED, offset + i])), base / part / "good" / f"{i:03d}.png")
    for number, (name, add) in enumerate(DEFECTS.items()):
        for i in range(TEST_PER_DEFECT):
            rng = np.random.default_rng([SEED, 1000 * (number + 1) + i])
            picture, mask = add(rng, weave(rng))
            _save(picture, base / "test" / name / f"{i:03d}.png")
            _save(mask, base / "ground_truth" / name / f"{i:03d}_mask.png")


def weave(rng: np.random.Generator) -> np.ndarray:
    """A plain weave with varying angle, thread pitch, colour, light and sensor noise: float ``(S, S, 3)`` in [0, 1]."""
    y, x = np.mgrid[:SIDE, :SIDE].astype(float)
    wobble = 1.2 * gaussian_filter(rng.standard_normal((2, SIDE, SIDE)), (0, 12, 12)) * 30
    angle, pitch = rng.uniform(-0.06, 0.06), rng.uniform(11.5, 12.5)
    u = (np.cos(angle) * x + np.sin(angle) * y + wobble[0]) * np.pi / pitch + rng.uniform(0, np.pi)
    v = (np.cos(angle) * y - np.sin(angle) * x + wobble[1]) * np.pi / pitch + rng.uniform(0, np.pi)
    over = (np.floor(u / np.pi) + np.floor(v / np.pi)) % 2  # which thread lies on top of a crossing
    warp = np.abs(np.sin(u)) ** 0.6 * (0.65 + 0.35 * over)
    weft = np.abs(np.sin(v)) ** 0.6 * (1.0 - 0.35 * over)
    light = 1 + rng.uniform(-0.12, 0.12) * (x / SIDE - 0.5) + rng.uniform(-0.12, 0.12) * (y / SIDE - 0.5)
    fibre = gaussian_filter(rng.standard_normal((SIDE, SIDE)), 1.0) * 0.05
    height = np.where(over > 0, warp, weft) * light * rng.uniform(0.92, 1.05) + fibre
    colour = np.array([0.72, 0.62, 0.48]) + rng.uniform(-0.03, 0.03, 3)
    picture = 0.12 + height[..., None] * colour + rng.normal(0, 0.015, (SIDE, SIDE, 3))
    return np.clip(picture, 0, 1)


def _place(rng: np.random.Generator, margin: int) -> Drawn:
    """Distances from a random point: the grids ``dx`` and ``dy``."""
    y, x = np.mgrid[:SIDE, :SIDE].astype(float)
    return x - rng.uniform(margin, SIDE - margin), y - rng.uniform(margin, SIDE - margin)


def hole(rng: np.random.Generator, picture: np.ndarray) -> Drawn:
    """A ragged hole, 8 to 18 pixels across, dark ground showing through."""
    dx, dy = _place(rng, 24)
    ragged = gaussian_filter(rng.standard_normal((SIDE, SIDE)), 3) * 12
    mask = np.hypot(dx, dy) + ragged < rng.uniform(5, 9)
    return np.where(mask[..., None], 0.10 + 0.2 * picture * rng.uniform(0.2, 0.6), picture), mask


def pulled_thread(rng: np.random.Generator, picture: np.ndarray) -> Drawn:
    """A loose thread lying across the fabric: a bent bright line 3 pixels wide."""
    dx, dy = _place(rng, 60)
    angle, bend = rng.uniform(0, np.pi), rng.uniform(-0.012, 0.012)
    along, across = np.cos(angle) * dx + np.sin(angle) * dy, np.cos(angle) * dy - np.sin(angle) * dx
    distance = np.abs(across - bend * along**2)
    mask = (distance < 2.0) & (np.abs(along) < rng.uniform(20, 45))
    thread = np.array([0.85, 0.78, 0.66]) * (1 - 0.18 * distance[..., None])
    return np.where(mask[..., None], thread, picture), mask


def stain(rng: np.random.Generator, picture: np.ndarray) -> Drawn:
    """A soft brown stain, 20 to 36 pixels across; the weave stays visible under it."""
    dx, dy = _place(rng, 30)
    radius, ratio = rng.uniform(10, 18), rng.uniform(0.7, 1.4)
    depth = np.exp(-((np.hypot(dx * ratio, dy / ratio) / radius) ** 4))
    tint = np.array([0.62, 0.48, 0.36])
    return picture * (1 - depth[..., None] * (1 - tint)), depth > 0.5


DEFECTS: dict[str, Callable[[np.random.Generator, np.ndarray], Drawn]] = {
    "hole": hole,
    "pulled_thread": pulled_thread,
    "stain": stain,
}


def _save(pixels: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((np.clip(pixels, 0, 1) * 255).round().astype(np.uint8)).save(path)
