"""Images by formula: nine families, each a distribution of classes; a class is one formula, its parameters fixed.

A family takes a random generator, draws the parameters of a class, and returns the class: a function that draws one
image, float ``(side, side, 3)`` in [0, 1], from another generator. What the class fixes is what a network must
recognise (frequencies, affine maps, outlines, size laws); pose, light, colour jitter and background vary per image.

Sources of the ideas: CPPN (Stanley 2007), IFS fractals (Kataoka et al. 2020; parameters by singular values, Anderson
and Farrell 2022), radial contours (Kataoka et al. 2022, Takashima et al. 2023), noise by spectrum and dead leaves
(Baradad et al. 2021). Written anew here.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree

Rng = np.random.Generator
Array = np.ndarray[Any, np.dtype[Any]]
Draw = Callable[[Rng, int], Array]
Family = Callable[[Rng], Draw]


def grid(rng: Rng, side: int, zoom: float = 0.35, turn: float = np.pi) -> tuple[Array, Array]:
    """Coordinates in about [-1, 1] under a random pose: rotation, zoom, shift, slight shear."""
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j].astype(np.float32)
    angle, scale = rng.uniform(-turn, turn), np.exp(rng.uniform(-zoom, zoom))
    c, s = np.cos(angle) * scale, np.sin(angle) * scale
    shear, shift = rng.uniform(-0.15, 0.15), rng.uniform(-0.4, 0.4, 2)
    return (c * x - s * y + shear * y + shift[0]).astype(np.float32), (s * x + c * y + shift[1]).astype(np.float32)


def smooth_noise(rng: Rng, side: int, scale: float) -> Array:
    """Gaussian noise of unit deviation, smooth over ``scale`` pixels."""
    noise = gaussian_filter(rng.standard_normal((side, side)).astype(np.float32), scale, mode="wrap")
    return noise / (noise.std() + 1e-6)


def palette(rng: Rng) -> Array:
    """Four colours ``(4, 3)``; for a third of all classes shades of grey."""
    colours = rng.uniform(0, 1, (4, 3))
    if rng.random() < 0.33:
        colours[:] = colours.mean(1, keepdims=True)
    # Stretched, so that no class is all of one brightness.
    low, high = colours.min(), colours.max()
    return (colours - low) / (high - low + 1e-6)


def coloured(values: Array, colours: Array, rng: Rng) -> Array:
    """Values in [0, 1] through a palette, its colours jittered per image."""
    grey = np.ptp(colours, axis=1).max() < 1e-6
    jittered = np.clip(colours + rng.normal(0, 0.06, (len(colours), 1 if grey else 3)), 0, 1)
    where = np.clip(values, 0, 1) * (len(jittered) - 1)
    channels = [np.interp(where, np.arange(len(jittered)), jittered[:, c]) for c in range(3)]
    return np.stack(channels, -1).astype(np.float32)


def unit(values: Array) -> Array:
    """Values stretched to [0, 1] between their 1st and 99th percentile."""
    low, high = np.percentile(values, (1, 99))
    return np.clip((values - low) / (high - low + 1e-6), 0, 1)


def background(rng: Rng, side: int) -> Array:
    """What lies behind an object, without meaning: plain, a gradient, clouds or fine noise."""
    colour, kind = rng.uniform(0, 1, 3), rng.integers(4)
    if rng.random() < 0.4:
        colour[:] = rng.choice([0.0, colour.mean(), 1.0], p=[0.4, 0.4, 0.2])
    flat = np.broadcast_to(colour.astype(np.float32), (side, side, 3)).copy()
    if kind == 1:
        x, _ = grid(rng, side)
        flat += 0.25 * x[..., None]
    elif kind == 2:
        flat += 0.12 * smooth_noise(rng, side, rng.uniform(2, 14))[..., None]
    elif kind == 3:
        flat += rng.uniform(0.02, 0.12) * rng.standard_normal((side, side, 1)).astype(np.float32)
    return np.clip(flat, 0, 1)


# ---- compositional pattern networks


_ACTIVATIONS: tuple[Callable[[Array], Array], ...] = (
    np.sin,
    np.tanh,
    lambda z: np.exp(-(z**2)),
    np.abs,
    lambda z: np.cos(3 * z),
    lambda z: np.maximum(z, 0),
    lambda z: np.sign(z) * np.sqrt(np.abs(z)),
)


def pattern_network(rng: Rng) -> Draw:
    """A random small network from coordinates to colour, its neurons of mixed activations."""
    depth, width = rng.integers(2, 5), 14
    frequency = np.exp(rng.uniform(np.log(1.0), np.log(7.0)))
    sizes = [4, *[width] * depth, 3]
    weights = [rng.normal(0, 1.3, (a, b)) / np.sqrt(a) for a, b in pairwise(sizes)]
    weights[0] *= frequency
    biases = [rng.normal(0, 0.7, b) for b in sizes[1:]]
    chosen = [rng.integers(len(_ACTIVATIONS), size=width) for _ in range(depth)]
    grey, out = rng.random() < 0.3, rng.integers(3)

    def draw(rng: Rng, side: int) -> Array:
        x, y = grid(rng, side)
        bias = np.ones_like(x)
        h = np.stack([x, y, np.hypot(x, y), bias], -1).reshape(-1, 4)
        for number, (w, b) in enumerate(zip(weights, biases, strict=True)):
            h = h @ (w * (1 + rng.normal(0, 0.04, w.shape))).astype(np.float32) + b.astype(np.float32)
            if number < depth:
                columns = [_ACTIVATIONS[a](h[:, i]) for i, a in enumerate(chosen[number])]
                h = np.stack(columns, -1)
        h = h.mean(1, keepdims=True).repeat(3, 1) if grey else h
        colours = (1 / (1 + np.exp(-2 * h)), 0.5 + 0.5 * np.sin(2 * h), np.abs(np.tanh(h)))[out]
        return colours.reshape(side, side, 3).astype(np.float32)

    return draw


# ---- fractals


def fractal(rng: Rng) -> Draw:
    """An iterated function system of 2 to 5 affine maps, its points' density as brightness."""
    count = rng.integers(2, 6)
    maps = []
    for _ in range(count):
        turns, singular = rng.uniform(-np.pi, np.pi, 2), np.array([rng.uniform(0.35, 0.85), rng.uniform(0.15, 0.75)])
        first, second = (np.array([[np.cos(t), -np.sin(t)], [np.sin(t), np.cos(t)]]) for t in turns)
        maps.append((first @ np.diag(singular * rng.choice([-1, 1], 2)) @ second, rng.uniform(-1, 1, 2)))
    chances = np.array([abs(np.linalg.det(m)) + 0.05 for m, _ in maps])
    chances /= chances.sum()
    colours, spread = palette(rng), rng.choice([0.0, 0.6, 1.0])

    def draw(rng: Rng, side: int) -> Array:
        matrices = np.stack([m for m, _ in maps]) + rng.normal(0, 0.03, (count, 2, 2))
        shifts = np.stack([t for _, t in maps]) + rng.normal(0, 0.03, (count, 2))
        points, seen = rng.uniform(-1, 1, (1500, 2)), []
        for step in range(28):
            which = rng.choice(count, len(points), p=chances)
            points = np.einsum("nij,nj->ni", matrices[which], points) + shifts[which]
            points = np.clip(points, -50, 50)
            if step >= 8:
                seen.append(points)
        cloud = np.concatenate(seen)
        low, high = np.percentile(cloud, (1, 99), axis=0)
        cloud = (cloud - (low + high) / 2) / (max(high - low) / 2 + 1e-6)
        angle, size = rng.uniform(-np.pi, np.pi), rng.uniform(0.6, 1.0)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        cloud = cloud @ turn.T * size + rng.uniform(-0.3, 0.3, 2)
        density = np.histogram2d(cloud[:, 1], cloud[:, 0], bins=side, range=[[-1, 1], [-1, 1]])[0]
        density = gaussian_filter(density, 0.4 + spread)
        level = unit(np.log1p(density))
        cover = np.clip(level * 3, 0, 1)[..., None]
        return background(rng, side) * (1 - cover) + coloured(level, colours, rng) * cover

    return draw


# ---- outlines


def _outline(frequencies: Array, amplitudes: Array, phases: Array, points: int = 120) -> Array:
    theta = np.linspace(0, 2 * np.pi, points, endpoint=False)
    radius = 1 + (amplitudes[:, None] * np.sin(frequencies[:, None] * theta + phases[:, None])).sum(0)
    return np.stack([radius * np.cos(theta), radius * np.sin(theta)], -1)


def contours(rng: Rng) -> Draw:
    """Nested closed curves whose radius is a sum of sines; lines, filled, or both."""
    waves = rng.integers(1, 4)
    frequencies, amplitudes = rng.integers(2, 16, waves), rng.uniform(0.08, 0.35, waves)
    phases = rng.uniform(0, 2 * np.pi, waves)
    orbits, fill, thick = rng.integers(1, 9), rng.random() < 0.5, rng.integers(1, 5)
    twist, ratio = rng.uniform(-0.25, 0.25), rng.uniform(0.55, 1.0)
    colours, many = palette(rng), rng.random() < 0.5

    def draw(rng: Rng, side: int) -> Array:
        scale = 2  # drawn at twice the size, so that edges are smooth
        canvas = Image.fromarray((background(rng, side) * 255).astype(np.uint8)).resize((side * scale,) * 2)
        pen = ImageDraw.Draw(canvas)
        for _ in range(rng.integers(2, 6) if many else 1):
            size = side * scale * (rng.uniform(0.08, 0.2) if many else rng.uniform(0.22, 0.42))
            centre = rng.uniform(0.15, 0.85, 2) if many else rng.uniform(0.4, 0.6, 2)
            shades = (coloured(np.linspace(0, 1, orbits), colours, rng) * 255).astype(int)
            shape = _outline(frequencies, amplitudes * rng.uniform(0.9, 1.1, waves), phases)
            start = rng.uniform(-np.pi, np.pi)
            for k in range(orbits):
                angle = start + twist * k
                turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
                curve = (shape * [1, ratio]) @ turn.T * size * (1 - k / (orbits + 1)) + centre * side * scale
                corners = [tuple(p) for p in curve]
                shade = tuple(shades[k])
                if fill:
                    pen.polygon(corners, fill=shade)
                pen.line([*corners, corners[0]], fill=tuple(shades[-1 - k]), width=int(thick))
        return np.asarray(canvas.resize((side, side), Image.Resampling.BILINEAR), np.float32) / 255

    return draw


def phantom(rng: Rng) -> Draw:
    """Soft nested ellipses of different brightness, as in a section through a body."""
    count = rng.integers(2, 9)
    places = np.stack([rng.uniform(-0.45, 0.45, count), rng.uniform(-0.45, 0.45, count)], -1)
    axes, turns = rng.uniform(0.08, 0.45, (count, 2)), rng.uniform(-np.pi, np.pi, count)
    steps, soft = rng.uniform(-0.5, 0.6, count), np.exp(rng.uniform(np.log(10), np.log(60), count))
    shell, texture, scale = rng.uniform(0.3, 1.0), rng.uniform(0, 0.12), rng.uniform(0.6, 4)
    colours = palette(rng) if rng.random() < 0.4 else np.linspace(0, 1, 4)[:, None].repeat(3, 1)

    def draw(rng: Rng, side: int) -> Array:
        x, y = grid(rng, side)
        x, y = 0.8 * x, 0.8 * y
        value = np.zeros_like(x)
        body = 1 / (1 + np.exp(np.clip(35 * (np.hypot(x / 0.85, y) - 0.9), -30, 30)))
        rim = np.exp(-((np.hypot(x / 0.85, y) - 0.9) ** 2) * 300)
        for (px, py), (a, b), turn, step, edge in zip(places, axes, turns, steps, soft, strict=True):
            dx, dy = x - px - rng.normal(0, 0.03), y - py - rng.normal(0, 0.03)
            u, v = np.cos(turn) * dx + np.sin(turn) * dy, np.cos(turn) * dy - np.sin(turn) * dx
            distance = np.hypot(u / a, v / b) - 1
            value += step * rng.uniform(0.8, 1.2) / (1 + np.exp(np.clip(edge * distance * min(a, b), -30, 30)))
        value = body * (0.35 + value + texture * smooth_noise(rng, side, scale)) + shell * rim
        return coloured(np.clip(value, 0, 1), colours, rng)

    return draw


# ---- textures


def spectrum(rng: Rng) -> Draw:
    """Noise with a spectrum of a few lobes and a power law, through a nonlinearity and a palette."""
    lobes = rng.integers(0, 4)
    frequency, direction = np.exp(rng.uniform(np.log(3), np.log(40), lobes)), rng.uniform(0, np.pi, lobes)
    width, angular = rng.uniform(0.08, 0.5, lobes), rng.uniform(0.1, 1.5, lobes)
    power, shape, colours = rng.uniform(0.8, 2.6), rng.integers(5), palette(rng)
    weight, twist = rng.uniform(0.3, 3, lobes), rng.uniform(1, 5)

    def draw(rng: Rng, side: int) -> Array:
        fy, fx = np.meshgrid(np.fft.fftfreq(side) * side, np.fft.rfftfreq(side) * side, indexing="ij")
        radius, angle = np.hypot(fx, fy) + 1e-6, np.arctan2(fy, fx)
        turn, zoom = rng.uniform(-np.pi, np.pi), np.exp(rng.uniform(-0.25, 0.25))
        gain = 0.02 * (radius / 8 + 0.2) ** -power if lobes else (radius / 8 + 0.2) ** -power
        for f, d, w, a, g in zip(frequency, direction, width, angular, weight, strict=True):
            off = np.angle(np.exp(2j * (angle - d - turn))) / 2
            gain = gain + g * np.exp(-0.5 * (np.log(radius / (f * zoom)) / w) ** 2 - 0.5 * (off / a) ** 2)
        noise = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((side, side))) * gain, s=(side, side))
        noise = (noise - noise.mean()) / (noise.std() + 1e-9)
        value = (
            noise * 0.22 + 0.5,
            np.abs(noise) * 0.45,
            0.5 + 0.5 * np.tanh(6 * noise),
            0.5 + 0.5 * np.sin(twist * noise),
            1 - np.clip(np.abs(noise) * 2, 0, 1),
        )[shape]
        return coloured(value.astype(np.float32), colours, rng)

    return draw


def cells(rng: Rng) -> Draw:
    """Cells around scattered points: distances to the nearest and second nearest, or one shade per cell."""
    density, kind, stretch = int(np.exp(rng.uniform(np.log(12), np.log(350)))), rng.integers(4), rng.uniform(1, 3)
    regular, colours, order = rng.uniform(0, 1), palette(rng), rng.choice([1.0, 2.0, np.inf])
    sharp = rng.uniform(1, 6)

    def draw(rng: Rng, side: int) -> Array:
        x, y = grid(rng, side)
        n = int(np.sqrt(density)) + 1
        lattice = np.stack(np.meshgrid(np.linspace(-2, 2, 2 * n), np.linspace(-2, 2, 2 * n)), -1).reshape(-1, 2)
        points = lattice + rng.uniform(-1, 1, lattice.shape) * (1.05 - regular) * 2 / n
        places = np.stack([x, y * stretch / 2], -1).reshape(-1, 2)
        distance, nearest = cKDTree(points).query(places, k=2, p=order)
        distance = distance.reshape(side, side, 2) * n / 2
        border = distance[..., 1] - distance[..., 0]
        shade = rng.random(len(points))[nearest[:, 0]].reshape(side, side)
        value = (
            distance[..., 0],
            np.clip(border * sharp, 0, 1),
            np.where(border < 0.25 / sharp, 0.0, 0.3 + 0.7 * shade),
            np.exp(-sharp * distance[..., 0] ** 2) * (0.6 + 0.4 * shade),
        )[kind]
        return coloured(value, colours, rng)

    return draw


def lattice(rng: Rng) -> Draw:
    """A motif repeated on a skewed, wavy lattice: stripes, checks, dots, bricks, weave, rings."""
    pitch, ratio = np.exp(rng.uniform(np.log(3), np.log(22))), np.exp(rng.uniform(-0.7, 0.7))
    kind, skew, wave = rng.integers(6), rng.uniform(-0.5, 0.5), rng.uniform(0, 0.25)
    sharp, fill, colours = rng.uniform(1, 8), rng.uniform(0.25, 0.75), palette(rng)

    def draw(rng: Rng, side: int) -> Array:
        x, y = grid(rng, side, zoom=0.25)
        u = (x + skew * y) * pitch / 2 + wave * smooth_noise(rng, side, 10)
        v = y * pitch * ratio / 2 + wave * smooth_noise(rng, side, 10)
        row = np.floor(v)
        if kind == 3:
            u = u + 0.5 * (row % 2)
        a, b = u - np.floor(u) - 0.5, v - row - 0.5
        su, sv = np.sin(2 * np.pi * u), np.sin(2 * np.pi * v)
        over = (np.floor(u) + row) % 2
        value = (
            0.5 + 0.5 * np.tanh(sharp * (su + 2 * fill - 1)),
            0.5 + 0.5 * np.tanh(sharp * su * sv),
            1 / (1 + np.exp(np.clip(8 * sharp * (np.hypot(a, b) - 0.45 * fill), -30, 30))),
            np.clip(sharp * 2 * (0.5 - np.maximum(np.abs(a), np.abs(b))), 0, 1),
            np.where(over > 0, np.abs(np.cos(np.pi * a)) ** sharp, 0.7 * np.abs(np.cos(np.pi * b)) ** sharp),
            0.5 + 0.5 * np.sin(sharp * 4 * np.hypot(a, b)),
        )[kind]
        grain = rng.uniform(0, 0.06) * rng.standard_normal(value.shape)
        return coloured(value + grain, colours, rng)

    return draw


def leaves(rng: Rng) -> Draw:
    """Shapes of one kind lying over each other, their sizes by a power law."""
    corners, law = rng.integers(3, 9), rng.uniform(1.2, 3.2)
    smallest, spread, stretch = rng.uniform(0.015, 0.06), rng.uniform(3, 12), rng.uniform(0.3, 1.0)
    kind, colours = rng.integers(3), palette(rng)

    def draw(rng: Rng, side: int) -> Array:
        scale = 2
        canvas = Image.fromarray((background(rng, side) * 255).astype(np.uint8)).resize((side * scale,) * 2)
        pen, aligned = ImageDraw.Draw(canvas), rng.uniform(-np.pi, np.pi)
        count = int(np.clip(1.2 / (smallest * spread**0.5) ** 2 / stretch, 20, 400))
        sizes = smallest * (1 - rng.random(count) * (1 - spread ** (1 - law))) ** (1 / (1 - law))
        shades = (coloured(rng.random(count), colours, rng) * 255).astype(int)
        theta = np.linspace(0, 2 * np.pi, 24 if kind == 0 else corners, endpoint=False)
        for size, shade, centre in zip(np.sort(sizes)[::-1], shades, rng.random((count, 2)), strict=True):
            angle = aligned + (rng.normal(0, 0.1) if kind == 1 else rng.uniform(-np.pi, np.pi))
            x, y = np.cos(theta), stretch * np.sin(theta)
            shape = np.stack([np.cos(angle) * x - np.sin(angle) * y, np.sin(angle) * x + np.cos(angle) * y], -1)
            pen.polygon([tuple(p) for p in (shape * size + centre) * side * scale], fill=tuple(shade))
        return np.asarray(canvas.resize((side, side), Image.Resampling.BILINEAR), np.float32) / 255

    return draw


# A class's family is its number modulo this length; pattern networks, the most varied, stand three times.
FAMILIES: tuple[Family, ...] = (
    pattern_network,
    spectrum,
    contours,
    fractal,
    pattern_network,
    cells,
    lattice,
    phantom,
    leaves,
    pattern_network,
)


def formula(number: int, seed: int) -> Draw:
    """Class ``number`` of the collection that ``seed`` stands for."""
    return FAMILIES[number % len(FAMILIES)](np.random.default_rng([seed, number]))
