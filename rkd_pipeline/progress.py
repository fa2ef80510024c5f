"""Progress bars, on whatever stream people watch.

Dagster captures stdout and stderr of its steps; a command line that wants its bars on the terminal hands over a
stream of its own with ``show_on``. Where nobody watches (no terminal), there are no bars.
"""

import sys
from typing import Never, TextIO

from tqdm import tqdm

_stream: TextIO | None = None


def show_on(stream: TextIO) -> None:
    """Draw all bars from now on on this stream."""
    global _stream
    _stream = stream


def bar(total: int, description: str, unit: str, *, inner: bool = False, delay: float = 0) -> "tqdm[Never]":
    """A bar, after ``delay`` seconds; ``inner`` ones stand under an outer one and vanish when done."""
    return tqdm(
        total=total,
        desc=description,
        unit=unit,
        file=_stream or sys.stderr,
        disable=None,
        position=1 if inner else 0,
        leave=not inner,
        dynamic_ncols=True,
        delay=delay,
    )
