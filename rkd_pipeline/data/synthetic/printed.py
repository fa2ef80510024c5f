"""Demo object: a printed card. A rosette, a ring of dots, bars at the edges; two inks, never quite in register."""

import numpy as np

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

_DOTS, _RING, _DOT = 14, 74.0, 9.0
_BARS = 9


def draw(rng: Rng, defect: str | None) -> Scene:
    """The card, slightly rotated and shifted, with a defect where one is named."""
    spoil = rng.spawn(1)[0]
    x, y = positions()
    angle, centre, zoom = rng.normal(0, 0.02), SIDE / 2 + rng.normal(0, 2, 2), rng.uniform(0.98, 1.02)
    u, v = rotated((x - centre[0]) / zoom, (y - centre[1]) / zoom, angle)
    blue = _rosette(u, v)
    register = rng.normal(0, 0.5, 2)
    red, marked = _dots_and_bars(spoil, u - register[0], v - register[1], defect)

    if defect == "blot":
        drop = _blot(spoil, u, v)
        blue, marked = np.maximum(blue, drop), marked | (drop > 0.5)
    elif defect == "scraped":
        off = 0.25 * scratch_distance(spoil, *_point(spoil, u, v), spoil.uniform(0, np.pi), spoil.uniform(40, 80))
        scraped = inside(off - 1.6) * (0.75 + 0.25 * np.tanh(2 * noise(spoil, 1.2)))
        blue, red, marked = blue * (1 - scraped), red * (1 - scraped), marked | (off < 2.0)

    density = 1 + 0.04 * noise(rng, 1.0) + 0.05 * noise(rng, 40)
    paper = np.array([0.86, 0.83, 0.76]) * rng.uniform(0.93, 1.04) * (1 + 0.01 * noise(rng, 0.8))[..., None]
    paper = paper * (1 + 0.03 * noise(rng, 10))[..., None]
    inks = np.array([[0.82, 0.62, 0.28], [0.20, 0.62, 0.66]]) * rng.uniform(0.85, 1.1, (2, 1))  # light they take away
    cover = np.stack([blue, red], -1) * np.clip(density, 0, 1.4)[..., None]
    colour = paper * np.prod(1 - np.clip(cover[..., None] * inks, 0, 0.97), axis=2)
    height = 0.06 * noise(rng, 1.5)
    return Scene(height, np.clip(colour, 0, 1), np.full((SIDE, SIDE), 0.02), marked)


def _rosette(u: Array, v: Array) -> Array:
    """A guilloche of interlaced closed curves: coverage of the first ink."""
    r, theta = np.hypot(u, v), np.arctan2(v, u)
    cover = np.zeros_like(r)
    for turn in range(6):
        radius = 36 + 20 * np.sin(5 * theta + turn * np.pi / 3)
        slope = 100 * np.cos(5 * theta + turn * np.pi / 3) / np.maximum(r, 8)
        cover = np.maximum(cover, inside(np.abs(r - radius) / np.sqrt(1 + slope**2) - 1.0))
    return np.maximum(cover, np.maximum(inside(np.abs(r - 90) - 1.3), inside(np.abs(r - 60) - 0.9)))


def _dots_and_bars(rng: Rng, u: Array, v: Array, defect: str | None) -> tuple[Array, Array]:
    """Coverage of the second ink, and what of it is defective: an element missing or out of place."""
    elements = [(_RING * np.cos(a), _RING * np.sin(a), _DOT, _DOT) for a in 2 * np.pi * np.arange(_DOTS) / _DOTS]
    steps = (np.arange(_BARS) - (_BARS - 1) / 2) * 22
    elements += [(s, side * 109.0, 6.0, 10.0) for s in steps for side in (-1, 1)]
    marked = np.zeros(u.shape, bool)
    if defect in ("missing", "displaced"):
        number = rng.integers(len(elements))
        lost = elements.pop(number)
        marked |= _element(u, v, lost) > 0.5
        if defect == "displaced":
            way, far = rng.uniform(0, 2 * np.pi), rng.uniform(9, 13)
            moved = (lost[0] + far * np.cos(way), lost[1] + far * np.sin(way), *lost[2:])
            elements.append(moved)
            marked |= _element(u, v, moved) > 0.5
    cover = np.zeros_like(u)
    for element in elements:
        cover = np.maximum(cover, _element(u, v, element))
    return cover, marked


def _element(u: Array, v: Array, element: tuple[float, float, float, float]) -> Array:
    """Coverage of one dot or bar."""
    cu, cv, a, b = element
    if a == b:
        return inside(np.hypot(u - cu, v - cv) - a)
    return inside(np.maximum(np.abs(u - cu) - a, np.abs(v - cv) - b))


def _point(rng: Rng, u: Array, v: Array) -> tuple[Array, Array]:
    """Coordinates around a random point of the printed area."""
    r, a = rng.uniform(15, 85), rng.uniform(0, 2 * np.pi)
    return u - r * np.cos(a), v - r * np.sin(a)


def _blot(rng: Rng, u: Array, v: Array) -> Array:
    """A drop of ink with one or two splashes: coverage of the first ink."""
    du, dv = _point(rng, u, v)
    size = rng.uniform(5.5, 16)
    cover = inside(np.hypot(du, dv) + 1.0 * noise(rng, 3) - size)
    for _ in range(rng.integers(1, 3)):
        far, way = size * rng.uniform(1.6, 2.6), rng.uniform(0, 2 * np.pi)
        cover = np.maximum(
            cover, inside(np.hypot(du - far * np.cos(way), dv - far * np.sin(way)) - rng.uniform(1.5, 2.5))
        )
    return 0.9 * cover


DEFECTS = ("missing", "displaced", "blot", "scraped")
