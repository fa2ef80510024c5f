"""Progress of long work: bars on a terminal, plain lines everywhere else.

Dagster captures stdout and stderr of its steps; a command line that wants its progress on the terminal hands over a
stream of its own with ``shown_on``. Where nobody watches live (a log, a pipe), a line is printed when work begins, at
least every 30 seconds while it goes on, and when it is done: a log that stays empty looks like a program that hangs.
"""

import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

LINE_SECONDS = 30.0  # the longest silence
_WINDOW_SECONDS = 30.0  # speed is that of the last half minute: the first batches of a training are slow
_stream: TextIO | None = None


@contextmanager
def shown_on(stream: TextIO) -> Iterator[None]:
    """Inside the block, all progress is shown on this stream, not on stderr."""
    global _stream
    before, _stream = _stream, stream
    try:
        yield
    finally:
        _stream = before


def say(text: str) -> None:
    """Print a line on the stream that progress is shown on, above the bars where there are any."""
    _shown.say(text)


def is_terminal(stream: TextIO) -> bool:
    """Somebody watches, on a terminal that can move its cursor."""
    from os import environ

    return stream.isatty() and environ.get("TERM") not in ("dumb", "unknown")


def encodable(text: str, stream: TextIO) -> str:
    """The text, with letters that the stream lacks spelled out before anybody measures how wide it is."""
    encoding = stream.encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


class Bar:
    """How far one piece of work is.

    Attributes:
        total: units of work in all; 0 where nobody knows.
        n: units done.
        description: what is being done.
        unit: what is counted; ``B`` are bytes.
    """

    def __init__(self, total: int, description: str, unit: str, on_change: "Callable[[Bar], None]") -> None:
        self.total, self.n, self.description, self.unit, self._note = total, 0, description, unit, ""
        self._on_change, self._began = on_change, time.monotonic()
        self._seen = deque([(self._began, 0)])

    def update(self, n: int = 1) -> None:
        """So many more units are done."""
        self.n += n
        now = time.monotonic()
        if now - self._seen[-1][0] >= 1:
            self._seen.append((now, self.n))
            while now - self._seen[1][0] > _WINDOW_SECONDS:
                self._seen.popleft()
        self._on_change(self)

    def skip(self, n: int) -> None:
        """So many units were done before, by an earlier process: they say nothing of the speed."""
        self.n += n
        self._seen = deque([(time.monotonic(), self.n)])
        self._on_change(self)

    def note(self, text: str) -> None:
        """Say something beside the numbers, such as the loss."""
        self._note = text
        self._on_change(self)

    @property
    def seconds(self) -> float:
        """Since the work began."""
        return time.monotonic() - self._began

    @property
    def speed(self) -> float | None:
        """Units per second of late; None where nothing can be said yet."""
        at, n = self._seen[0]
        elapsed = time.monotonic() - at
        return (self.n - n) / elapsed if elapsed > 0 and self.n > n else None

    def count(self) -> str:
        """``3/7``, or ``1.5/20.0 MB`` for bytes."""
        if self.unit == "B":
            return f"{self.n / 1e6:.1f}" + (f"/{self.total / 1e6:.1f} MB" if self.total else " MB")
        return f"{self.n}/{self.total}" if self.total else str(self.n)

    def facts(self, *, brief: bool = False) -> str:
        """Everything but the description: note, count, speed, time left; ``brief`` for beside a bar."""
        count = f"{self.count()}{self._units}" if self.total or self.n else ""
        parts = [self._note, "" if brief and self._note else count, self._pace(brief)]
        return ", ".join(filter(None, parts)) or f"for {duration(self.seconds)}"

    @property
    def _units(self) -> str:
        return "" if self.unit == "B" else f" {self.unit}{'es' if self.unit.endswith('s') else 's'}"

    def _pace(self, brief: bool) -> str:
        speed = self.speed
        if not speed or self.n == self.total:
            return ""
        amount = f"{speed / 1e6:.1f} MB" if self.unit == "B" else f"{speed:.3g}"
        per_second = f"{amount}/s" if brief else f"{amount}{self._units}/s"
        if speed < 0.05 and self.unit != "B":  # whole trainings: their time left says more
            per_second = ""
        left = f"{duration((self.total - self.n) / speed)} left" if self.total else ""
        return ", ".join(filter(None, [per_second, left]))

    def __str__(self) -> str:
        return f"{self.description}: {self.facts()}"


def duration(seconds: float) -> str:
    """``0:07``, ``12:30`` or ``1:02:03``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


@contextmanager
def bar(total: int, description: str, unit: str, *, inner: bool = False, delay: float = 0) -> Iterator[Bar]:
    """Show the work in the block: ``total`` units, 0 where nobody knows how many.

    Args:
        total: units of work in all.
        description: what is being done.
        unit: what is counted, in the singular; ``B`` for bytes.
        inner: part of other work that is shown; vanishes when done.
        delay: seconds before it is shown at all, for work that is mostly short.
    """
    made = Bar(total, description, unit, lambda changed: _shown.changed(changed))
    _shown.begin(made, inner=inner, delay=delay)
    finished = False
    try:
        yield made
        finished = True
    finally:
        _shown.end(made, finished=finished)


def batches(total: int, size: int, description: str, unit: str = "image") -> Iterator[int]:
    """Where each batch of a long loop begins: 0, ``size``, twice ``size`` ... below ``total``; shown after a second."""
    with bar(total, description, unit, inner=True, delay=1) as shown:
        for start in range(0, total, size):
            yield start
            shown.update(min(size, total - start))


class _Shown:
    """All work under way, the outermost first, on one stream."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._bars: list[Bar] = []
        self._how: _Bars | _Lines | None = None

    def begin(self, made: Bar, *, inner: bool, delay: float) -> None:
        with self._lock:
            if self._how is None:
                stream = _stream or sys.stderr
                self._how = _Bars(stream) if is_terminal(stream) else _Lines(self._bars)
            self._bars.append(made)
            self._how.begin(made, inner, delay)

    def changed(self, bar: Bar) -> None:
        if how := self._how:
            how.changed(bar)

    def end(self, bar: Bar, *, finished: bool) -> None:
        with self._lock:
            if self._how is None or bar not in self._bars:
                return
            self._how.end(bar, finished)
            self._bars.remove(bar)
            if not self._bars:
                how, self._how = self._how, None
                how.close()

    def say(self, text: str) -> None:
        how = self._how
        if how is None:
            print(text, file=_stream or sys.stderr, flush=True)
        else:
            how.say(text)


class _Bars:
    """On a terminal: rich's bars, one below the other."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._progress = stream, _rich_progress(stream)
        self._tasks: dict[int, tuple[TaskID, bool, float]] = {}
        self._progress.start()

    def begin(self, bar: Bar, inner: bool, delay: float) -> None:
        description = encodable(bar.description, self._stream)
        task = self._progress.add_task(description, total=bar.total or None, visible=not delay, shown=bar)
        self._tasks[id(bar)] = (task, inner, delay)

    def changed(self, bar: Bar) -> None:
        task, _, delay = self._tasks[id(bar)]
        self._progress.update(task, completed=bar.n, visible=bar.seconds >= delay)

    def end(self, bar: Bar, finished: bool) -> None:
        task, inner, _ = self._tasks.pop(id(bar))
        if inner:
            self._progress.remove_task(task)

    def say(self, text: str) -> None:
        console = self._progress.console
        console.print(encodable(text, self._stream), markup=False, highlight=False, emoji=False, soft_wrap=True)

    def close(self) -> None:
        self._progress.stop()


def _rich_progress(stream: TextIO) -> "Progress":
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
    from rich.table import Column
    from rich.text import Text

    class Facts(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(encodable(task.fields["shown"].facts(brief=True), stream))

    def cut(ratio: int) -> Column:
        return Column(no_wrap=True, overflow="ellipsis", ratio=ratio)

    return Progress(
        TextColumn("{task.description}", markup=False, table_column=cut(3)),
        BarColumn(bar_width=None, table_column=Column(ratio=1)),
        Facts(cut(5)),
        console=Console(file=stream, force_terminal=True),
        expand=True,
        # Dagster captures what a step prints; taking stdout and stderr away from it would empty its logs.
        redirect_stdout=False,
        redirect_stderr=False,
    )


class _Lines:
    """In a log or a pipe: a line at the beginning, at the end, and from a thread whenever 30 seconds were silent."""

    def __init__(self, bars: list[Bar]) -> None:
        self._bars, self._printed, self._last = bars, set[int](), time.monotonic()
        self._over = threading.Event()
        threading.Thread(target=self._go_on, name="progress", daemon=True).start()

    def begin(self, bar: Bar, inner: bool, delay: float) -> None:
        if not delay:
            self._line(bar.description)
            self._printed.add(id(bar))

    def changed(self, bar: Bar) -> None:
        pass  # the thread looks by itself

    def end(self, bar: Bar, finished: bool) -> None:
        if finished and id(bar) in self._printed and bar.seconds >= 1:
            self._line(f"{bar.description}: done in {duration(bar.seconds)}")
        self._printed.discard(id(bar))

    def say(self, text: str) -> None:
        self._last = time.monotonic()
        print(text, file=_stream or sys.stderr, flush=True)

    def close(self) -> None:
        self._over.set()

    def _line(self, text: str) -> None:
        around = "".join(f"[{min(bar.n + 1, bar.total)}/{bar.total}] " for bar in self._bars[:-1] if bar.total)
        self.say(f"{time.strftime('%H:%M:%S')} {around}{text}")

    def _go_on(self) -> None:
        while not self._over.wait(max(0.0, self._last + LINE_SECONDS - time.monotonic())):
            innermost = list(self._bars[-1:])
            if innermost and time.monotonic() - self._last >= LINE_SECONDS:
                self._printed.add(id(innermost[0]))
                self._line(str(innermost[0]))


_shown = _Shown()
