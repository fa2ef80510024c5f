"""Demo texture: oiled wood. Year rings and pores run down the image; colour and contrast vary from board to board."""

import numpy as np
from scipy.ndimage import gaussian_filter

from rkd_pipeline.data.synthetic.camera import (
    SIDE,
    Array,
    Rng,
    Scene,
    clouds,
    inside,
    noise,
    place,
    positions,
    rotated,
    scratch_distance,
)


def draw(rng: Rng, defect: str | None) -> Scene:
    """A piece of a board, with a defect where one is named."""
    spoil = rng.spawn(1)[0]
    x, y = positions()
    lean = rng.normal(0, 0.02)
    bent = x + lean * y + 2 * noise(rng, 90, 45)
    pitch = rng.uniform(13.5, 15)
    phase = (bent + 0.08 * pitch * noise(rng, 90, 20)) / pitch + rng.uniform(0, 1)
    ring = (phase - np.floor(phase)) ** 2.2  # early wood is pale, late wood dark, then a sharp step
    tone = gaussian_filter(ring, (1.0, 0.7)) * rng.uniform(0.7, 0.95)
    pores = _pores(rng, tone)
    fibre = noise(rng, 7, 0.6)
    light, dark = np.array([0.76, 0.57, 0.37]), np.array([0.30, 0.18, 0.10])
    board = 1 + 0.02 * rng.normal(0, 1, 3) + 0.04 * rng.normal()
    colour = (light * (1 - tone[..., None]) + dark * tone[..., None]) * board
    stain = clouds(rng, 24, brightness=0.16, hue=0.06)
    colour = colour * stain * (1 + 0.03 * fibre + 0.05 * noise(rng, 40, 10))[..., None] * (1 - 0.30 * pores[..., None])
    height = -0.5 * tone - 0.4 * pores + 0.10 * fibre
    gloss = np.full((SIDE, SIDE), 0.05)
    scene = Scene(height, np.clip(colour, 0, 1), gloss, np.zeros((SIDE, SIDE), bool))
    if defect is not None:
        DEFECTS[defect](spoil, scene)
    return scene


def _pores(rng: Rng, tone: Array) -> Array:
    """Short dark streaks along the grain, more of them in the pale wood."""
    seeds = (rng.random((SIDE, SIDE)) < 0.006 * (1.4 - tone)).astype(np.float32)
    streaks = gaussian_filter(seeds, (4.5, 0.5)) * rng.uniform(13, 20)
    return np.clip(streaks, 0, 1)


def _scratch(rng: Rng, scene: Scene) -> None:
    """A scratch at an angle to the grain: a thin furrow with a raised lip."""
    dx, dy = place(rng, 45)
    distance = 0.5 * scratch_distance(rng, dx, dy, rng.uniform(-0.9, 0.9), rng.uniform(45, 110))
    furrow = np.exp(-((distance / 1.2) ** 2))
    scene.height -= 2.0 * furrow - 1.0 * np.exp(-(((distance - 2.5) / 1.0) ** 2))
    scene.colour *= 1 + 0.10 * furrow[..., None]
    scene.defect |= distance < 2.2


def _dent(rng: Rng, scene: Scene) -> None:
    """A round dent, as from a hammer: fibres crushed, seen mostly by its shading."""
    dx, dy = place(rng, 28)
    along, across = rotated(dx, dy, rng.uniform(0, np.pi))
    radius = rng.uniform(13, 23)
    r = np.hypot(along, across * rng.uniform(1.0, 1.3)) / radius
    scene.height -= 4.0 * np.clip(1 - r**4, 0, None) ** 1.5 * radius / 11
    scene.defect |= r < 1


def _plug(rng: Rng, scene: Scene) -> None:
    """One or two spots mended with putty: the board's own colour, without grain and pores."""
    for _ in range(rng.integers(1, 3)):
        dx, dy = place(rng, 20)
        distance = np.hypot(dx, dy) + 0.8 * noise(rng, 3) - rng.uniform(6, 27)
        cover = inside(distance, 1.0)
        near = np.hypot(dx, dy) < 34
        putty = np.median(scene.colour[near], axis=0) * rng.uniform(0.85, 1.1) * (1 + 0.04 * noise(rng, 1.0))[..., None]
        scene.height[:] = scene.height * (1 - cover)
        scene.colour[:] = scene.colour * (1 - cover[..., None]) + putty * cover[..., None]
        scene.defect |= cover > 0.5


def _blister(rng: Rng, scene: Scene) -> None:
    """Blistered varnish: a cluster of glossy bubbles."""
    dx, dy = place(rng, 40)
    for _ in range(rng.integers(4, 9)):
        ox, oy = rng.normal(0, 11, 2)
        radius = rng.uniform(5.5, 10)
        r = np.hypot(dx - ox, dy - oy) / radius
        dome = np.sqrt(np.clip(1 - r**2, 0, 1))
        scene.height += dome * radius * 0.4
        scene.gloss += 0.05 * (r < 1)
        scene.defect |= r < 1


DEFECTS = {"scratch": _scratch, "dent": _dent, "plug": _plug, "blister": _blister}
