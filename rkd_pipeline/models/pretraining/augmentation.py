"""Variation in the training images: pose, light, colour, focus and noise, and pairs mixed by a mask.

All on float tensors ``(N, 3, H, W)`` in [0, 1]; every random number comes from the generator given.
"""

import torch
from torch import Generator, Tensor
from torch.nn import functional as F


def uniform(low: float, high: float, shape: tuple[int, ...], rng: Generator) -> Tensor:
    """Uniform random numbers."""
    return torch.empty(shape).uniform_(low, high, generator=rng)


def posed(images: Tensor, side: int, rng: Generator) -> Tensor:
    """A random part of each image, turned, mirrored and slightly stretched, ``side`` pixels wide.

    For 2 of 5 images it is cut out pixel by pixel, quarter turns apart: interpolation would take away the finest
    detail, and a teacher that has never seen any does not look for it.
    """
    n = len(images)
    # A small part of the image where few pixels show it: shrunk, fine textures would alias.
    largest = min(1.05, 1.6 * side / images.shape[-1])
    size, stretch = uniform(0.43 * largest, largest, (n,), rng), torch.exp(uniform(-0.2, 0.2, (n,), rng))
    angle = uniform(-torch.pi, torch.pi, (n,), rng)
    mirror = torch.where(uniform(0, 1, (n,), rng) < 0.5, -1.0, 1.0)
    exact = uniform(0, 1, (n,), rng) < 0.4
    whole, quarter = side / images.shape[-1], torch.pi / 2
    size, stretch = torch.where(exact, whole, size), torch.where(exact, 1.0, stretch)
    angle = torch.where(exact, (angle / quarter).round() * quarter, angle)
    room = (1 - size).clamp(min=0)
    across, down = uniform(-1, 1, (n,), rng) * room, uniform(-1, 1, (n,), rng) * room
    pixel = 2 / images.shape[-1]
    across, down = (torch.where(exact, ((t + room) / pixel).round() * pixel - room, t) for t in (across, down))
    c, s = torch.cos(angle) * size, torch.sin(angle) * size
    rows = torch.stack([c * stretch * mirror, -s / stretch, across, s * stretch * mirror, c / stretch, down], 1)
    places = F.affine_grid(rows.view(n, 2, 3), [n, 3, side, side], align_corners=False)
    return F.grid_sample(images, places, mode="bilinear", padding_mode="reflection", align_corners=False)


def photographed(images: Tensor, rng: Generator) -> Tensor:
    """Colour, contrast, brightness, focus and noise changed, each for some images."""
    n = len(images)
    chance = uniform(0, 1, (5, n, 1, 1, 1), rng)
    grey = images.mean(1, keepdim=True).expand_as(images)
    mixer = torch.eye(3) + uniform(-0.35, 0.35, (n, 3, 3), rng)
    x = torch.where(chance[0] < 0.4, torch.einsum("nij,njhw->nihw", mixer, images), images)
    x = torch.where(chance[1] < 0.35, grey, x)
    x = torch.where(chance[2] < 0.1, 1 - x, x)
    mean = x.mean((1, 2, 3), keepdim=True)
    x = (x - mean) * torch.exp(uniform(-0.5, 0.4, (n, 1, 1, 1), rng)) + mean + uniform(-0.2, 0.2, (n, 1, 1, 1), rng)
    soft = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), 3, 1)
    x = torch.where(chance[3] < 0.15, soft, torch.where(chance[3] < 0.35, 2 * x - soft, x))
    noise = torch.empty_like(x).normal_(generator=rng) * uniform(0, 0.05, (n, 1, 1, 1), rng)
    return torch.where(chance[4] < 0.3, x + noise, x).clamp(0, 1)


def masks(n: int, side: int, rng: Generator) -> Tensor:
    """How much of each pixel comes from the first of a pair: ``(n, 1, side, side)``.

    All of it in 28 of 100; blobs (level sets of smooth noise) in 35, a rectangle in 30, an even mixture in 7.
    """
    coarse = int(torch.randint(3, 8, (1,), generator=rng))
    noise = F.interpolate(torch.randn(n, 1, coarse, coarse, generator=rng), size=side, mode="bicubic")
    blobs = (noise > uniform(-0.6, 0.6, (n, 1, 1, 1), rng)).float()
    at = torch.linspace(0, 1, side)
    centre, half = uniform(0, 1, (2, n, 1), rng), uniform(0.15, 0.45, (2, n, 1), rng)
    inside = ((at - centre).abs() < half).float()
    boxes = 1 - inside[0].view(n, 1, side, 1) * inside[1].view(n, 1, 1, side)
    even = uniform(0.3, 0.7, (n, 1, 1, 1), rng).expand(n, 1, side, side)
    kind = uniform(0, 1, (n, 1, 1, 1), rng)
    mixed = torch.where(kind < 0.35, blobs, torch.where(kind < 0.65, boxes, even))
    return torch.where(kind < 0.72, mixed, torch.ones_like(mixed))
