"""Ctrl-C and SIGTERM end a command, also while Dagster runs a job in this process.

For the time of a job Dagster puts handlers of its own in place: a signal then ends the job alone, and one that comes
between two steps is forgotten. Python also writes the number of every signal to a file descriptor
(``signal.set_wakeup_fd``), whoever handles it: that is how the end of a job tells whether there was one.
"""

import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM)
_ear: socket.socket | None = None


class Interrupted(KeyboardInterrupt):
    """A signal asked this process to end.

    Attributes:
        signal: which one.
    """

    def __init__(self, number: int) -> None:
        self.signal = signal.Signals(number)
        super().__init__(self.signal.name)

    @property
    def exit_status(self) -> int:
        """What a shell reports of a process that ended so: 130 after SIGINT, 143 after SIGTERM."""
        return 128 + self.signal


@contextmanager
def signals_heeded() -> Iterator[None]:
    """Inside the block, SIGINT and SIGTERM raise ``Interrupted``, at once or at the end of ``signals_heeded_after``.

    Only a process's main thread can handle signals; in others this does nothing.
    """
    global _ear
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ear, mouth = socket.socketpair()
    ear.setblocking(False)
    mouth.setblocking(False)
    before = {number: signal.signal(number, _raise) for number in SIGNALS}
    wakeup_before = signal.set_wakeup_fd(mouth.fileno(), warn_on_full_buffer=False)
    _ear = ear
    try:
        yield
    finally:
        _ear = None
        signal.set_wakeup_fd(wakeup_before)
        for number, handler in before.items():
            signal.signal(number, handler)
        ear.close()
        mouth.close()


@contextmanager
def signals_heeded_after() -> Iterator[None]:
    """Around work that has handlers of its own: a signal that came in it raises ``Interrupted`` after it."""
    try:
        yield
    finally:
        if (number := _heard()) is not None:
            raise Interrupted(number)


def _raise(number: int, _: FrameType | None) -> NoReturn:
    raise Interrupted(number)


def _heard() -> int | None:
    """The first signal of ours since the last question, or None."""
    try:
        numbers = _ear.recv(4096) if _ear is not None else b""
    except BlockingIOError:
        return None
    return next((number for number in numbers if number in SIGNALS), None)
