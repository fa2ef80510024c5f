"""Anomaly maps as blocks of pixels: the two passes over all pixels that exact ranks need, in NumPy and in torch.

A score becomes an integer key of the same order: the bits of a positive float, read as an integer, grow with it; those
of a negative one are flipped. Keys are sorted into bins by their high bits. A bin may be divided again by the next
bits (``Division``), and pixels outside the divided bins are left out from there on. No pass keeps more than a block.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from rkd_pipeline.metrics.arrays import Array, is_tensor, score_dtype, to_numpy

if TYPE_CHECKING:
    import torch

BLOCK = 1 << 18  # pixels: a block and its bins stay in a core's cache
DEVICE_BLOCK = 1 << 24  # pixels: a GPU wants more at once


@dataclass(frozen=True)
class Grid:
    """Bins of equal numbers of keys: bin of a key is ``(key >> shift) - base``; higher bins hold higher scores.

    Attributes:
        shift: low bits that the bins ignore; 0 where a bin holds one score only.
        base: number of the lowest bin, before it is counted from 0.
        bins: how many there are.
        signed: scores of 0 or below occur, whose bits need more care.
    """

    shift: int
    base: int
    bins: int
    signed: bool

    @classmethod
    def spanning(cls, low: float, high: float, dtype: np.dtype, bits: int) -> "Grid":
        """About ``2^bits`` bins, at least a quarter of that unless keys run out, from score ``low`` to ``high``."""
        signed = low <= 0
        first, last = (int(k) for k in keys_of(np.array([low, high], dtype), signed))
        shift = max(0, (last - first).bit_length() - bits)
        return cls(shift, first >> shift, (last >> shift) - (first >> shift) + 1, signed)


@dataclass(frozen=True)
class Division:
    """Some bins of the step before, each divided into ``2^bits``.

    Attributes:
        place: int32, for every bin of the step before: its place among the divided ones, or -1.
        bits: how many further bits of the key tell the new bins apart.
        shift: low bits that remain ignored.
        bins: how many new bins there are.
    """

    place: np.ndarray
    bits: int
    shift: int
    bins: int


Steps = tuple[Grid, *tuple[Division, ...]]


class Pixels(Protocol):
    """The pixels of some maps."""

    n: int
    dtype: np.dtype

    def extremes(self) -> tuple[float, float]:
        """Lowest and highest score; raises ``ValueError`` that says where for a NaN or an infinity."""

    def counts(self, steps: Steps) -> np.ndarray:
        """Number of pixels in every bin of the last step, int64."""

    def sorted_within(self, steps: Steps, marked: np.ndarray, n: int) -> np.ndarray:
        """The keys of the ``n`` pixels in bins of the last step that are ``marked``, in ascending order."""


def pixels_of(maps: Array, images: np.ndarray | None = None) -> Pixels:
    """Pixels of maps ``(N, H, W)``, or of those ``images`` (int64 indices) alone.

    A tensor on a GPU is worked on there; one on the CPU shares its memory with NumPy.
    """
    if is_tensor(maps) and maps.device.type != "cpu":
        return TensorPixels(maps, images)
    return ArrayPixels(to_numpy(maps), images)


def keys_of(scores: np.ndarray, signed: bool) -> np.ndarray:
    """Integers in the order of the scores, as wide as they; ``signed`` where one may be 0 or below."""
    integer = np.int32 if scores.itemsize == 4 else np.int64
    if not signed:
        return scores.view(integer)
    keys = (scores + 0.0).view(integer)  # + 0.0 makes a positive zero of a negative one: the two are equal
    negative = np.right_shift(keys, integer(8 * keys.itemsize - 1))  # all bits set, or none
    return keys ^ (negative & np.iinfo(integer).max)


def bins_of(scores: np.ndarray, steps: Steps) -> np.ndarray:
    """The bin of every score in the last step; all of them lie in bins that were divided."""
    return _located(keys_of(scores, steps[0].signed), steps)[1]


def _located(keys: np.ndarray, steps: Steps) -> tuple[np.ndarray, np.ndarray]:
    """Those keys that lie in divided bins, and their bins in the last step (intp)."""
    grid, *divisions = steps
    bins = np.right_shift(keys, keys.dtype.type(grid.shift), dtype=np.intp)
    bins -= grid.base
    for division in divisions:
        place = division.place.take(bins, mode="wrap")  # wrap: a bin is in range, and this checks fastest
        inside = place >= 0
        keys, place = keys.compress(inside), place.compress(inside)
        bins = place.astype(np.intp) << division.bits
        bins |= (keys >> keys.dtype.type(division.shift)) & keys.dtype.type((1 << division.bits) - 1)
    return keys, bins


class ArrayPixels:
    """Pixels of a NumPy array, memory-mapped or not."""

    def __init__(self, maps: np.ndarray, images: np.ndarray | None = None) -> None:
        self._maps, self._images = maps, images
        self._count = len(maps) if images is None else len(images)
        self._area = maps[0].size if len(maps) else 0
        self.dtype, self.n = score_dtype(maps), self._count * self._area

    def blocks(self) -> Iterator[np.ndarray]:
        """The pixels, some 2^18 at a time, as ``dtype``."""
        together = max(1, BLOCK // max(1, self._area))
        for first in range(0, self._count, together):
            chosen = slice(first, first + together)
            part = self._maps[chosen] if self._images is None else self._maps[self._images[chosen]]
            flat = np.ascontiguousarray(part, self.dtype).reshape(-1)
            for start in range(0, len(flat), BLOCK):
                yield flat[start : start + BLOCK]

    def extremes(self) -> tuple[float, float]:
        """See ``Pixels``."""
        low, high = np.inf, -np.inf
        for block in self.blocks():
            low, high = min(low, block.min()), max(high, block.max())
            if not (np.isfinite(block.min()) and np.isfinite(block.max())):
                raise ValueError(_where_not_finite(self._maps, self._images))
        return float(low), float(high)

    def counts(self, steps: Steps) -> np.ndarray:
        """See ``Pixels``."""
        counts = np.zeros(steps[-1].bins, np.int64)
        for block in self.blocks():
            np.add.at(counts, bins_of(block, steps), 1)
        return counts

    def sorted_within(self, steps: Steps, marked: np.ndarray, n: int) -> np.ndarray:
        """See ``Pixels``."""
        found, at = np.empty(n, f"i{self.dtype.itemsize}"), 0
        for block in self.blocks():
            keys, bins = _located(keys_of(block, steps[0].signed), steps)
            kept = keys.compress(marked.take(bins, mode="wrap"))
            found[at : at + len(kept)] = kept
            at += len(kept)
        found.sort()
        return found


class TensorPixels:
    """Pixels of a torch tensor, on whatever device it is."""

    def __init__(self, maps: "torch.Tensor", images: np.ndarray | None = None) -> None:
        import torch

        self._torch = torch
        self._maps, self._images = maps.detach(), images
        self._count = len(maps) if images is None else len(images)
        self._area = maps[0].numel() if len(maps) else 0
        self.dtype, self.n = score_dtype(maps), self._count * self._area
        self._float = torch.float32 if self.dtype.itemsize == 4 else torch.float64

    def blocks(self) -> Iterator["torch.Tensor"]:
        """The pixels, some 2^24 at a time, as floats of ``dtype``'s width."""
        together = max(1, DEVICE_BLOCK // max(1, self._area))
        for first in range(0, self._count, together):
            chosen = slice(first, first + together)
            index = chosen if self._images is None else self._torch.from_numpy(self._images[chosen])
            yield self._maps[index].to(self._float).reshape(-1)

    def extremes(self) -> tuple[float, float]:
        """See ``Pixels``."""
        low, high = np.inf, -np.inf
        for block in self.blocks():
            least, most = block.min().item(), block.max().item()
            if not (np.isfinite(least) and np.isfinite(most)):
                raise ValueError(_where_not_finite(self._maps, self._images))
            low, high = min(low, least), max(high, most)
        return low, high

    def _located(self, scores: "torch.Tensor", steps: Steps) -> tuple["torch.Tensor", "torch.Tensor"]:
        torch = self._torch
        grid, *divisions = steps
        integer = torch.int32 if self.dtype.itemsize == 4 else torch.int64
        keys = (scores + 0.0).view(integer)
        if grid.signed:
            keys = keys ^ ((keys >> 8 * self.dtype.itemsize - 1) & torch.iinfo(integer).max)
        bins = (keys >> grid.shift).long() - grid.base
        for division in divisions:
            place = torch.from_numpy(division.place).to(bins.device)[bins]
            inside = place >= 0
            keys, place = keys[inside], place[inside]
            bins = (place.long() << division.bits) | ((keys >> division.shift) & ((1 << division.bits) - 1))
        return keys, bins

    def counts(self, steps: Steps) -> np.ndarray:
        """See ``Pixels``."""
        total = self._torch.zeros(steps[-1].bins, dtype=self._torch.int64, device=self._maps.device)
        for block in self.blocks():
            total += self._torch.bincount(self._located(block, steps)[1], minlength=steps[-1].bins)
        return total.cpu().numpy()

    def sorted_within(self, steps: Steps, marked: np.ndarray, n: int) -> np.ndarray:
        """See ``Pixels``."""
        flags = self._torch.from_numpy(marked).to(self._maps.device)
        found = []
        for block in self.blocks():
            keys, bins = self._located(block, steps)
            found.append(keys[flags[bins]])
        return self._torch.sort(self._torch.cat(found)).values.cpu().numpy()


def _where_not_finite(maps: Array, images: np.ndarray | None) -> str:
    """Say where the first NaN or infinity is."""
    for i in range(len(maps)) if images is None else images.tolist():
        image = to_numpy(maps[i])
        bad = np.argwhere(~np.isfinite(image))
        if len(bad):
            row, column = bad[0]
            return f"map {i} is {image[row, column]} at row {row}, column {column} ({len(bad)} such pixels in it)"
    raise AssertionError("called without a NaN or an infinity")
