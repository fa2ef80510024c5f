"""Demo object: a milled steel plate at any angle on a rubber mat: four drilled holes, a slot, brushed faces."""

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates, shift

from rkd_pipeline.data.synthetic.camera import (
    SIDE,
    Array,
    Rng,
    Scene,
    inside,
    noise,
    positions,
    rotated,
    scratch_distance,
)

# Centres of the holes on the plate, pixels from its centre; the plate is not symmetric, as real ones are not.
HOLES = ((-60.0, -28.0, 12.0), (-60.0, 28.0, 12.0), (62.0, -27.0, 10.0), (62.0, 27.0, 10.0))
_HALF = (86.0, 52.0)


def draw(rng: Rng, defect: str | None) -> Scene:
    """The plate on its table, with a defect where one is named."""
    spoil = rng.spawn(1)[0]
    x, y = positions()
    angle, centre = rng.uniform(-0.18, 0.18), SIDE / 2 + rng.uniform(-8, 8, 2)
    u, v = rotated(x - centre[0], y - centre[1], angle)
    marked = np.zeros((SIDE, SIDE), bool)
    whole = _plate(u, v)
    distance = whole
    if defect == "chip":
        distance = np.maximum(whole, -_notch(spoil, u, v))
        marked |= (distance > 0) & (whole <= 0)

    cover = inside(distance)
    shadow = gaussian_filter(shift(inside(distance, 2.0), (5, 4)), 3)
    table = _mat(rng) * (1 - 0.6 * shadow)[..., None]
    chamfer = np.clip(-distance / 3.5, 0, 1)
    brushed = _brushed(rng, u, v)
    metal = np.array([0.60, 0.61, 0.62]) * rng.uniform(0.9, 1.08) * (1 + 0.05 * brushed)[..., None]
    metal = metal * (1 + 0.12 * noise(rng, 30))[..., None]
    height = np.where(cover > 0.5, 4 * np.sqrt(chamfer) + 0.06 * brushed, 0)
    colour = metal * cover[..., None] + table * (1 - cover[..., None])
    scene = Scene(height, np.clip(colour, 0, 1), 0.16 * cover * (1 + 0.4 * brushed), marked)
    if defect == "scratch":
        _scratch(spoil, scene, u, v, distance)
    elif defect == "swarf":
        _swarf(spoil, scene, u, v)
    elif defect == "plugged":
        _plug(spoil, scene, u, v)
    elif defect == "dent":
        _dent(spoil, scene, u, v)
    return scene


def _plate(u: Array, v: Array) -> Array:
    """Signed distance of the plate: a rounded rectangle, one corner cut, less slot and holes."""
    qx, qy = np.abs(u) - (_HALF[0] - 12), np.abs(v) - (_HALF[1] - 12)
    body = np.hypot(np.maximum(qx, 0), np.maximum(qy, 0)) + np.minimum(np.maximum(qx, qy), 0) - 12
    body = np.maximum(body, (u + v) * np.sqrt(0.5) - 79)
    slot = np.hypot(np.maximum(np.abs(u) - 20, 0), v) - 8
    distance = np.maximum(body, -slot)
    for hx, hy, r in HOLES:
        distance = np.maximum(distance, r - np.hypot(u - hx, v - hy))
    return distance


def _mat(rng: Rng) -> Array:
    """Colour of a mat of pressed rubber granules."""
    granules = np.clip(1 + 0.40 * noise(rng, 1.1), 0.2, 2)
    return (0.26 * rng.uniform(0.9, 1.1) * granules)[..., None] * np.array([0.96, 1.0, 1.04])


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
    return np.hypot(u - cu, v - cv) + 2.0 * noise(rng, 2.0) - rng.uniform(15, 26)


def _scratch(rng: Rng, scene: Scene, u: Array, v: Array, distance: Array) -> None:
    """A scratch across the brush marks: bright bottom, shaded wall."""
    du, dv = u - rng.choice([-1, 1]) * rng.uniform(28, 45), v - rng.uniform(-12, 12)
    off = 0.35 * scratch_distance(rng, du, dv, rng.uniform(0.5, 2.6), rng.uniform(34, 60))
    furrow = np.exp(-((off / 1.1) ** 2)) * (distance < -3)
    scene.height -= 3.2 * furrow
    scene.colour *= 1 - 0.15 * furrow[..., None]
    scene.defect |= (off < 2.0) & (distance < -3)


def _swarf(rng: Rng, scene: Scene, u: Array, v: Array) -> None:
    """A curled chip of metal left on the plate."""
    cu, cv = rng.uniform(-30, 30), rng.choice([-1, 1]) * rng.uniform(18, 28)
    theta = np.linspace(0, rng.uniform(4, 9), 60)
    radius = rng.uniform(5, 9) + 0.9 * theta
    turn = rng.uniform(0, 2 * np.pi)
    px, py = cu + radius * np.cos(theta + turn), cv + radius * np.sin(theta + turn) * 0.8
    off = np.sqrt(((u[..., None] - px) ** 2 + (v[..., None] - py) ** 2).min(-1))
    cover = inside(off - 2.2)
    scene.height += cover * 3 * np.sqrt(np.clip(1 - (off / 3.0) ** 2, 0, 1))
    scene.colour[:] = scene.colour * (1 - cover[..., None]) + np.array([0.55, 0.55, 0.57]) * cover[..., None]
    scene.gloss += 0.25 * cover
    scene.defect |= cover > 0.5


def _plug(rng: Rng, scene: Scene, u: Array, v: Array) -> None:
    """A hole that filler has run into, and over its edge."""
    hx, hy, r = HOLES[rng.integers(len(HOLES))]
    off = np.hypot(u - hx, v - hy) + 1.5 * noise(rng, 3) - r * rng.uniform(1.2, 1.6)
    cover = inside(off, 1.0)
    filler = np.array([0.56, 0.55, 0.51]) * (1 + 0.04 * noise(rng, 1.2))[..., None]
    scene.height[:] = scene.height * (1 - cover) + cover * (4 + np.sqrt(np.clip(-off, 0, None)) + 0.6 * noise(rng, 3))
    scene.colour[:] = scene.colour * (1 - cover[..., None]) + filler * cover[..., None]
    scene.gloss *= 1 - cover
    scene.defect |= cover > 0.5


def _dent(rng: Rng, scene: Scene, u: Array, v: Array) -> None:
    """One or two strokes of a punch."""
    cu, cv = rng.choice([-1, 1]) * rng.uniform(26, 42), rng.uniform(-25, 25)
    for _ in range(rng.integers(1, 3)):
        radius = rng.uniform(4.5, 11)
        r = np.hypot(u - cu - rng.normal(0, 7), v - cv - rng.normal(0, 7)) / radius
        scene.height -= 1.3 * radius * np.clip(1 - r**2, 0, None) ** 1.5
        scene.defect |= r < 1


DEFECTS = ("scratch", "plugged", "dent", "chip", "swarf")
