"""Rows of an array on disk, read when they are asked for: a dataset of any size takes the memory of a batch."""

from typing import Any, TypeAlias

import numpy as np


class Rows:
    """Some rows of an array, in an order of their own.

    >>> array = np.arange(12).reshape(4, 3)
    >>> rows = Rows(array, [3, 0])
    >>> len(rows), rows.shape, rows[1].tolist(), rows[:1].tolist()
    (2, (2, 3), [0, 1, 2], [[9, 10, 11]])

    Args:
        array: ``(M, ...)``, memory-mapped where it is large.
        rows: which of them, ``(N,)``.
    """

    def __init__(self, array: np.ndarray, rows: list[int]) -> None:
        self._array, self._rows = array, np.asarray(rows, np.intp)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def shape(self) -> tuple[int, ...]:
        """``(N, ...)``."""
        return (len(self), *self._array.shape[1:])

    def __getitem__(self, chosen: int | slice | np.ndarray) -> np.ndarray:
        """A copy in memory of the rows chosen."""
        return np.asarray(self._array[self._rows[chosen]])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """All of them in memory."""
        return np.asarray(self[:], dtype)


Images: TypeAlias = np.ndarray | Rows  # uint8 (N, S, S, 3)
