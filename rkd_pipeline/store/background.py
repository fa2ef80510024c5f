"""Something small that is done again and again while something else goes on."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def every(seconds: float, do: Callable[[], None], name: str) -> Iterator[None]:
    """Inside the block, a thread of that name calls ``do`` every so many seconds; it has ended when the block has.

    ``do`` raises nothing: nobody would hear of it, and the thread would be gone.
    """
    over = threading.Event()

    def go_on() -> None:
        while not over.wait(seconds):
            do()

    thread = threading.Thread(target=go_on, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
