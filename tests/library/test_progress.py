"""Progress on a terminal (a pseudo-terminal, read as bytes) and in a log."""

import io
import os
import pty
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from rkd_pipeline import progress
from rkd_pipeline.progress import bar, batches, duration, say, shown_on


class Clock:
    """Stands in for ``time.monotonic``."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(progress.time, "monotonic", made)
    return made


def lines(log: io.StringIO) -> list[str]:
    """Without the time of day, which every line of the log's own begins with."""
    return [re.sub(r"^\d\d:\d\d:\d\d ", "", line) for line in log.getvalue().splitlines()]


def test_a_log_hears_at_once_and_at_the_end() -> None:
    log = io.StringIO()
    with shown_on(log), bar(3, "decode weave", "image"):
        assert lines(log) == ["decode weave"]
    assert lines(log) == ["decode weave"]  # it took less than a second


def test_a_log_is_never_silent_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.05)
    log = io.StringIO()
    with shown_on(log), bar(2, "trainings", "training"), bar(0, "weave rkd-s0", "image") as shown:
        shown.note("epoch 1/3, loss 0.5000")
        deadline = time.monotonic() + 10
        while len(lines(log)) < 4 and time.monotonic() < deadline:
            time.sleep(0.01)
    assert lines(log)[:2] == ["trainings", "[1/2] weave rkd-s0"]
    assert lines(log)[2:4] == ["[1/2] weave rkd-s0: epoch 1/3, loss 0.5000"] * 2


def test_what_a_line_says_of_a_training(clock: Clock) -> None:
    with shown_on(io.StringIO()), bar(300, "weave rkd-s0", "image") as shown:
        shown.skip(100)  # resumed: what an earlier process did is done, and says nothing of the speed
        for _ in range(2):
            clock.now += 10
            shown.update(25)
        shown.note("epoch 2/3, loss 0.1250")
        assert str(shown) == "weave rkd-s0: epoch 2/3, loss 0.1250, 150/300 images, 2.5 images/s, 1:00 left"
        assert shown.facts(brief=True) == "epoch 2/3, loss 0.1250, 2.5/s, 1:00 left"


def test_speed_is_that_of_late(clock: Clock) -> None:
    with shown_on(io.StringIO()), bar(10_000, "x", "image") as shown:
        clock.now += 600
        shown.update(1)  # the first batch waits for features
        for _ in range(120):
            clock.now += 1
            shown.update(5)
        assert shown.speed == pytest.approx(5)


def test_bytes_are_shown_as_megabytes(clock: Clock) -> None:
    with shown_on(io.StringIO()), bar(20_000_000, "download", "B") as shown:
        clock.now += 2
        shown.update(5_000_000)
        assert str(shown) == "download: 5.0/20.0 MB, 2.5 MB/s, 0:06 left"


def test_what_is_mostly_short_says_nothing_where_it_is() -> None:
    log = io.StringIO()
    with shown_on(log):
        assert list(batches(7, 3, "score images")) == [0, 3, 6]
        assert list(batches(0, 3, "score images")) == []
    assert log.getvalue() == ""


def test_work_that_failed_is_not_called_done(clock: Clock) -> None:
    log = io.StringIO()

    def fail() -> None:
        with shown_on(log), bar(1, "decode", "image"):
            clock.now += 60
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        fail()
    assert not [line for line in lines(log) if "done" in line]


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (754, "12:34"), (3723, "1:02:03")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@contextmanager
def terminal(encoding: str = "utf-8") -> Iterator[tuple[io.TextIOWrapper, list[bytes]]]:
    """A stream on a pseudo-terminal, and what arrives at its other end once the block is left."""
    ours, theirs = pty.openpty()
    seen: list[bytes] = []

    def read() -> None:
        try:
            while chunk := os.read(ours, 65536):
                seen.append(chunk)
        except OSError:
            pass  # the other end is closed

    reader = threading.Thread(target=read)
    reader.start()
    with os.fdopen(theirs, "w", encoding=encoding, errors="backslashreplace") as stream:
        yield stream, seen
    reader.join(10)
    os.close(ours)


def drawn(columns: int, monkeypatch: pytest.MonkeyPatch, encoding: str = "utf-8") -> str:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm-256color")
    name = "样品 weave rkd-official@resnet18"
    with (
        terminal(encoding) as (stream, seen),
        shown_on(stream),
        bar(6, "trainings", "training"),
        bar(200, name, "image", inner=True) as shown,
    ):
        shown.update(50)
        shown.note("epoch 1/4, loss 0.5000")
        say("failed: [weave] rkd: no such file")
        time.sleep(0.3)  # rich draws ten times a second
    return b"".join(seen).decode(encoding)


def plain(text: str) -> list[str]:
    return re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text))


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_bars_fit_the_terminal_and_messages_stand_above_them(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    text = drawn(columns, monkeypatch)
    assert "\x1b[" in text
    assert "failed: [weave] rkd: no such file" in plain(text)
    bars = [line for line in plain(text) if "epoch 1/4" in line]
    assert bars
    # A letter of 样品 is two columns wide.
    assert all(len(line) + line.count("样") + line.count("品") <= columns for line in bars)


def test_no_colour_where_none_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert not re.search(r"\x1b\[[0-9;]*3[0-9][0-9;]*m", drawn(80, monkeypatch))


def test_letters_that_the_terminal_lacks_are_spelled_out(monkeypatch: pytest.MonkeyPatch) -> None:
    text = drawn(200, monkeypatch, "ascii")
    assert r"\u6837\u54c1 weave" in text


def test_a_dumb_terminal_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    with terminal() as (stream, seen), shown_on(stream), bar(1, "decode", "image"):
        pass
    assert re.fullmatch(rb"\d\d:\d\d:\d\d decode\r\n", b"".join(seen))
