"""Arrays written row by row to an ``.npy`` file: memory holds one row, whatever the length of the array."""

from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np


class ArrayFile:
    """An ``.npy`` file under construction; rows of one shape and type are appended.

    NumPy pads its header so that the number of rows may still grow in place; it is written again when the file closes.
    """

    def __init__(self, path: Path, row_shape: tuple[int, ...], dtype: type[np.generic]) -> None:
        self.rows = 0
        self._path, self._row_shape, self._dtype = path, row_shape, np.dtype(dtype)
        self._stream: BinaryIO = path.open("wb")
        self._write_header()
        self._data_start = self._stream.tell()

    def append(self, row: np.ndarray) -> None:
        """Add one row; raises ``ValueError`` where shape or type differ."""
        if row.shape != self._row_shape or row.dtype != self._dtype:
            raise ValueError(f"{self._path}: rows are {self._dtype}{self._row_shape}, not {row.dtype}{row.shape}")
        self._stream.write(np.ascontiguousarray(row).data)
        self.rows += 1

    def _write_header(self) -> None:
        header = {
            "descr": np.lib.format.dtype_to_descr(self._dtype),
            "fortran_order": False,
            "shape": (self.rows, *self._row_shape),
        }
        np.lib.format.write_array_header_1_0(self._stream, header)

    def __enter__(self) -> "ArrayFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._stream.seek(0)
                self._write_header()
                if self._stream.tell() != self._data_start:
                    raise ValueError(f"{self._path}: the header of {self.rows} rows does not fit its place")
        finally:
            self._stream.close()
