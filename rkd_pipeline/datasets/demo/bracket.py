"""Demo object: a milled steel plate in any pose on granite: four drilled holes, a slot, brushed faces."""

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates, shift

from rkd_pipeline.datasets.demo.camera import (
    SIDE,
    Array,
    Rng,
    Scene,
    inside,
    noise,
    positions,
    scratch_distance,
    turned,
)

# Centres of the holes on the plate, pixels from its centre; the plate is not symmetric, as real ones are not.
HOLES = ((-52.0, -24.0, 9.0), (-52.0, 24.0, 9.0), (54.0, -22.0, 7.0), (54.0, 22.0, 7.0))
_HALF = (74.0, 44.0)


def draw(rng: Rng, defect: str | None) -> Scene:
    """The plate on its table, with a defect where one is named."""
    spoil = rng.spawn(1)[0]
    x, y = positions()
    angle, centre = rng.uniform(-np.pi, np.pi), SIDE / 2 + rng.uniform(-14, 14, 2)
    u, v = turned(x - centre[0], y - centre[1], angle)
    holes, marked = list(HOLES), np.zeros((SIDE, SIDE), bool)
    if defect == "missing_hole":
        hx, hy, r = holes.pop(spoil.integers(len(holes)))
        marked |= np.hypot(u - hx, v - hy) < r
    elif defect == "displaced_hole":
        number = spoil.integers(len(holes))
        (hx, hy, r), off = holes[number], spoil.uniform(0, 2 * np.pi)
        moved = (hx + 8 * np.cos(off), hy + 8 * np.sin(off), r)
        holes[number] = moved
        marked |= (np.hypot(u - hx, v - hy) < r) | (np.hypot(u - moved[0], v - moved[1]) < r)
    whole = _plate(u, v, holes)
    distance = whole
    if defect == "chip":
        distance = np.maximum(whole, -_notch(spoil, u, v))
        marked |= (distance > 0) & (whole <= 0)

    cover = inside(distance)
    shadow = gaussian_filter(shift(inside(distance, 2.0), (5, 4)), 3)
    table = _granite(rng) * (1 - 0.6 * shadow)[..., None]
    chamfer = np.clip(-distance / 3.5, 0, 1)
    brushed = _brushed(rng, u, v)
    metal = np.array([0.60, 0.61, 0.62]) * rng.uniform(0.9, 1.08) * (1 + 0.11 * brushed)[..., None]
    metal = metal * (1 + 0.10 * noise(rng, 30))[..., None]
    height = np.where(cover > 0.5, 4 * np.sqrt(chamfer) + 0.10 * brushed, 0)
    colour = metal * cover[..., None] + table * (1 - cover[..., None])
    scene = Scene(height, np.clip(colour, 0, 1), 0.16 * cover * (1 + 0.4 * brushed), marked)
    if defect == "scratch":
        _scratch(spoil, scene, u, v, distance)
    elif defect == "swarf":
        _swarf(spoil, scene, u, v)
    return scene


def _plate(u: Array, v: Array, holes: list[tuple[float, float, float]]) -> Array:
    """Signed distance of the plate: a rounded rectangle, one corner cut, less slot and holes."""
    qx, qy = np.abs(u) - (_HALF[0] - 12), np.abs(v) - (_HALF[1] - 12)
    body = np.hypot(np.maximum(qx, 0), np.maximum(qy, 0)) + np.minimum(np.maximum(qx, qy), 0) - 12
    body = np.maximum(body, (u + v) * np.sqrt(0.5) - 68)
    slot = np.hypot(np.maximum(np.abs(u) - 20, 0), v) - 8
    distance = np.maximum(body, -slot)
    for hx, hy, r in holes:
        distance = np.maximum(distance, r - np.hypot(u - hx, v - hy))
    return distance


def _granite(rng: Rng) -> Array:
    """Colour of polished granite: grey, with black and pale crystals of all sizes."""
    tone = np.full((SIDE, SIDE), 0.30)
    for size, share, shade in ((2.6, 0.9, 0.10), (2.0, 0.9, 0.52), (1.2, 1.1, 0.09), (1.0, 1.1, 0.62)):
        crystals = inside(share * 1.0 - noise(rng, size), 0.25)
        tone = tone * (1 - crystals) + shade * (1 + 0.15 * noise(rng, 1.0)) * crystals
    return np.clip(tone[..., None] * np.array([1.0, 0.98, 0.97]) * rng.uniform(0.9, 1.1), 0.02, 1)


def _brushed(rng: Rng, u: Array, v: Array) -> Array:
    """Brush marks along u, of unit deviation."""
    marks = noise(rng, 0.7, 18)
    rows, columns = v + SIDE / 2, u + SIDE / 2
    return map_coordinates(marks, [rows, columns], order=1, mode="wrap")


def _notch(rng: Rng, u: Array, v: Array) -> Array:
    """Signed distance of a bite out of the outer edge."""
    side = rng.integers(3)
    at = rng.uniform(-0.6, 0.6)
    cu, cv = ((at * _HALF[0], -_HALF[1]), (at * _HALF[0] * 0.5 - 15, _HALF[1]), (-_HALF[0], at * _HALF[1]))[side]
    return np.hypot(u - cu, v - cv) + 1.5 * noise(rng, 2.5) - rng.uniform(7, 11)


def _scratch(rng: Rng, scene: Scene, u: Array, v: Array, distance: Array) -> None:
    """A scratch across the brush marks: bright bottom, shaded wall."""
    du, dv = u - rng.choice([-1, 1]) * rng.uniform(28, 45), v - rng.uniform(-12, 12)
    off = scratch_distance(rng, du, dv, rng.uniform(0.5, 2.6), rng.uniform(24, 46))
    furrow = np.exp(-((off / 1.1) ** 2)) * (distance < -3)
    scene.height -= 1.5 * furrow
    scene.colour *= 1 - 0.15 * furrow[..., None]
    scene.defect |= (off < 2.0) & (distance < -3)


def _swarf(rng: Rng, scene: Scene, u: Array, v: Array) -> None:
    """A curled chip of metal left on the plate."""
    cu, cv = rng.uniform(-30, 30), rng.choice([-1, 1]) * rng.uniform(18, 28)
    theta = np.linspace(0, rng.uniform(4, 9), 60)
    radius = rng.uniform(3, 5) + 0.7 * theta
    turn = rng.uniform(0, 2 * np.pi)
    px, py = cu + radius * np.cos(theta + turn), cv + radius * np.sin(theta + turn) * 0.8
    off = np.sqrt(((u[..., None] - px) ** 2 + (v[..., None] - py) ** 2).min(-1))
    cover = inside(off - 1.5)
    scene.height += cover * 3 * np.sqrt(np.clip(1 - (off / 2.2) ** 2, 0, 1))
    scene.colour[:] = scene.colour * (1 - cover[..., None]) + np.array([0.50, 0.50, 0.52]) * cover[..., None]
    scene.gloss += 0.25 * cover
    scene.defect |= cover > 0.5


DEFECTS = ("scratch", "missing_hole", "displaced_hole", "chip", "swarf")
