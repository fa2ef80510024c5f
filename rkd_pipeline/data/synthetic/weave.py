"""Demo texture: tweed, a plain weave of flecked yarn. Defects are in the threads, not in their colour."""

import numpy as np
from scipy.ndimage import gaussian_filter

from rkd_pipeline.data.synthetic.camera import SIDE, Array, Rng, Scene, clouds, inside, noise, place, positions, rotated

_PITCH = 11.0


def draw(rng: Rng, defect: str | None) -> Scene:
    """A weave with varying angle, pitch, tension, yarn colours and fibres; with a defect where one is named."""
    spoil = rng.spawn(1)[0]  # a defect draws from its own generator: the scene around it stays the normal one
    x, y = positions()
    angle, pitch = rng.normal(0, 0.03), _PITCH * rng.uniform(0.96, 1.04)
    along, across = rotated(x - SIDE / 2, y - SIDE / 2, angle)
    u = (along + 1.2 * noise(rng, 40)) / pitch + rng.uniform(0, 2)
    v = (across + 1.2 * noise(rng, 40)) / pitch + rng.uniform(0, 2)
    column, row = np.floor(u).astype(int), np.floor(v).astype(int)
    over = (column + row) % 2 == 0  # the warp lies on top at these crossings

    misses = np.zeros_like(over)
    if defect == "float":
        over, misses = _float(spoil, column, row, over)
    warp = _thread(u - column - 0.5, v - row - 0.5, over)
    weft = _thread(v - row - 0.5, u - column - 0.5, ~over)
    yarns = rng.normal(0, 0.06, (2, 128)).clip(-0.15, 0.15)
    shade = np.where(over, yarns[0][column % 128], yarns[1][row % 128])
    fibre = np.where(over, noise(rng, 3.5, 0.6), noise(rng, 0.6, 3.5))
    flecks = np.where(over, noise(rng, 2.6, 1.3), noise(rng, 1.3, 2.6))
    loose = gaussian_filter(misses.astype(np.float32), 3)
    height = np.maximum(warp, weft) * 4.5 + 0.08 * fibre + 4 * loose
    dye = clouds(rng, 22, brightness=0.17, hue=0.09)
    base = dye * np.where(over[..., None], (0.60, 0.57, 0.51), (0.40, 0.45, 0.53)) * rng.uniform(0.9, 1.1)
    colour = base * (1 + shade + 0.07 * fibre)[..., None] * (0.25 + 0.75 * np.maximum(warp, weft))[..., None]
    pale, dark = inside(2.9 - flecks, 0.2)[..., None], inside(2.9 + flecks, 0.2)[..., None]
    colour = colour * (1 - 0.8 * dark) * (1 - pale) + np.array([0.80, 0.77, 0.70]) * pale * (0.4 + 0.6 * colour)
    scene = Scene(height, np.clip(colour, 0, 1), np.full_like(height, 0.03), misses)
    if defect in _ADDED:
        _ADDED[defect](spoil, scene)
    return scene


def _thread(across: Array, along: Array, on_top: Array) -> Array:
    """Height of a thread from 0 to 1: round across, arched along where it lies on top."""
    profile = np.sqrt(np.clip(1 - (across / 0.47) ** 2, 0, 1))
    arch = np.where(on_top, 0.72 + 0.28 * np.cos(np.pi * along), 0.30)
    return profile * arch


def _float(rng: Rng, column: Array, row: Array, over: Array) -> tuple[Array, Array]:
    """A mispick: three threads side by side stay on top (or below) over several crossings."""
    x, y = rng.integers(48, SIDE - 48, 2)
    across, along = (column, row) if rng.random() < 0.5 else (row, column)
    wrong = (np.abs(along - along[y, x]) <= 1) & (np.abs(across - across[y, x]) <= rng.integers(1, 4))
    changed = wrong & (over != over[y, x])
    return np.where(wrong, over[y, x], over), changed


def _hole(rng: Rng, scene: Scene) -> None:
    """A ragged hole; the dark ground below shows, as it does between threads."""
    dx, dy = place(rng, 28)
    distance = np.hypot(dx, dy) + 2.2 * noise(rng, 2.5) - rng.uniform(8, 19)
    cover = inside(distance, 1.0)
    scene.height -= 4 * cover
    scene.colour[:] = (
        scene.colour * (1 - cover[..., None]) + (0.25 + 0.03 * noise(rng, 1.5))[..., None] * cover[..., None]
    )
    scene.defect |= cover > 0.5


def _snag(rng: Rng, scene: Scene) -> None:
    """A pulled thread lying loose on the cloth as a loop."""
    dx, dy = place(rng, 50)
    along, across = rotated(dx, dy, rng.uniform(0, np.pi))
    size = rng.uniform(14, 24)
    loop = np.abs(np.hypot(along, across * rng.uniform(1.3, 2.0)) - size)
    cover = inside(loop - 3.6, 0.8)
    profile = np.sqrt(np.clip(1 - (loop / 4.4) ** 2, 0, 1))
    scene.height[:] = np.where(cover > 0, np.maximum(scene.height, 2.5 + 3.0 * profile), scene.height)
    yarn = np.array([0.47, 0.46, 0.44]) * (1 + 0.20 * noise(rng, 1.0))[..., None]
    scene.colour[:] = scene.colour * (1 - cover[..., None]) + yarn * cover[..., None]
    scene.defect |= cover > 0.5


def _knot(rng: Rng, scene: Scene) -> None:
    """A knot: a small tight lump of yarn."""
    dx, dy = place(rng, 20)
    along, across = rotated(dx, dy, rng.uniform(0, np.pi))
    radius = rng.uniform(6.6, 16.0)
    distance = np.hypot(along, across * rng.uniform(1.0, 1.4)) - radius
    cover = inside(distance, 0.8)
    dome = np.sqrt(np.clip(1 - (distance / radius + 1) ** 2, 0, 1))
    scene.height[:] = np.where(cover > 0, 3.0 + 5.0 * dome, scene.height)
    yarn = np.array([0.50, 0.51, 0.52]) * (1 + 0.18 * np.sin(along * 1.6 + across * 0.6))[..., None]
    scene.colour[:] = scene.colour * (1 - cover[..., None]) + yarn * cover[..., None]
    scene.defect |= cover > 0.5


_ADDED = {"hole": _hole, "snag": _snag, "knot": _knot}
DEFECTS = ("float", *_ADDED)
