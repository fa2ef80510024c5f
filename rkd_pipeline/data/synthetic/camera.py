"""From a scene to an image: relief, light, lens and sensor. Shared by all demo targets.

Coordinates are pixels, x to the right and y down; heights are in pixels too, so that slopes are angles.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.fft import fftfreq, irfft2, rfft2, rfftfreq
from scipy.ndimage import gaussian_filter

SIDE = 256

Rng = np.random.Generator
Array = np.ndarray[Any, np.dtype[Any]]


@dataclass
class Scene:
    """What lies before the camera.

    Attributes:
        height: ``(S, S)``, towards the camera.
        colour: reflectance ``(S, S, 3)``, 0 to 1.
        gloss: strength of the highlight, ``(S, S)``.
        defect: where the scene differs from a normal one, bool ``(S, S)``.
    """

    height: Array
    colour: Array
    gloss: Array
    defect: Array


def positions() -> tuple[Array, Array]:
    """The grids x and y, each ``(S, S)``."""
    y, x = np.mgrid[:SIDE, :SIDE].astype(np.float32)
    return x, y


def noise(rng: Rng, *sigma: float) -> Array:
    """Gaussian noise ``(S, S)`` of unit deviation, smooth over ``sigma`` pixels (one, or down and across)."""
    down, across = sigma if len(sigma) == 2 else sigma * 2
    # By Fourier transform: the same time for every sigma.
    white = rfft2(rng.standard_normal((SIDE, SIDE), dtype=np.float32))
    fy, fx = fftfreq(SIDE).astype(np.float32)[:, None], rfftfreq(SIDE).astype(np.float32)[None, :]
    smooth = irfft2(white * np.exp(-2 * np.pi**2 * ((down * fy) ** 2 + (across * fx) ** 2)), s=(SIDE, SIDE))
    return smooth / smooth.std()


def clouds(rng: Rng, sigma: float, *, brightness: float, hue: float) -> Array:
    """Unevenness of dye or stain, around 1: ``(S, S, 3)``, of the given deviations, smooth over ``sigma`` pixels.

    Different in every image: it makes a colour by itself mean little, and a network can follow it easily.
    """
    return 1 + brightness * noise(rng, sigma)[..., None] + hue * np.stack([noise(rng, sigma) for _ in range(3)], -1)


def inside(distance: Array, softness: float = 0.7) -> Array:
    """Coverage from 0 to 1 of a shape given by signed distance in pixels (negative inside)."""
    return np.clip(0.5 - distance / (2 * softness), 0, 1)


def photograph(rng: Rng, scene: Scene) -> Array:
    """Light the scene from the upper left, more or less; expose, defocus, add noise: float ``(S, S, 3)`` in [0, 1]."""
    x, y = positions()
    azimuth, elevation = rng.normal(-2.2, 0.15), rng.uniform(0.78, 0.92)
    towards = np.array([np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation), np.sin(elevation)])
    down, across = np.gradient(scene.height)
    length = np.sqrt(1 + down**2 + across**2)
    lambert = np.clip((-across * towards[0] - down * towards[1] + towards[2]) / length, 0, None)
    half = towards + np.array([0, 0, 1])
    half /= np.linalg.norm(half)
    facing = np.clip((-across * half[0] - down * half[1] + half[2]) / length, 0, 1)

    fall_off = rng.normal(0, 0.10, 2)
    light = 1 + fall_off[0] * (x / SIDE - 0.5) * 2 + fall_off[1] * (y / SIDE - 0.5) * 2
    light = light * (1 - 0.12 * (((x / SIDE - 0.5) ** 2 + (y / SIDE - 0.5) ** 2) * 2))
    light = light * rng.uniform(0.78, 1.06)
    balance = 1 + rng.normal(0, 0.02, 3)
    lit = scene.colour * (0.28 + 0.85 * lambert)[..., None] + (scene.gloss * facing**24)[..., None]
    lit = lit * light[..., None] * balance
    focus = rng.uniform(0.45, 0.8)
    lit = gaussian_filter(lit, (focus, focus, 0))
    deviation = np.sqrt(0.005**2 + 0.0002 * np.clip(lit, 0, 1))  # read noise and shot noise
    return np.clip(lit + deviation * rng.standard_normal(lit.shape), 0, 1)


def place(rng: Rng, margin: float) -> tuple[Array, Array]:
    """Distances dx and dy from a random point at least ``margin`` pixels inside the image."""
    x, y = positions()
    return x - rng.uniform(margin, SIDE - margin), y - rng.uniform(margin, SIDE - margin)


def rotated(dx: Array, dy: Array, angle: float) -> tuple[Array, Array]:
    """Coordinates along and across a direction."""
    c, s = np.cos(angle), np.sin(angle)
    return c * dx + s * dy, c * dy - s * dx


def scratch_distance(rng: Rng, dx: Array, dy: Array, angle: float, length: float) -> Array:
    """Distance from a slightly bent, wavering line of ``length`` pixels through the origin of dx, dy."""
    along, across = rotated(dx, dy, angle)
    bend, waver = rng.uniform(-0.006, 0.006), rng.uniform(0, 0.8)
    across = across - bend * along**2 - waver * np.sin(along * rng.uniform(0.1, 0.25) + rng.uniform(0, 6))
    beyond = np.clip(np.abs(along) - length / 2, 0, None)
    return np.hypot(across, beyond)
