"""Processes that carry out trainings beside a command: here a program of a few lines in their place."""

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest

from rkd_pipeline.cli import helpers as module
from rkd_pipeline.cli.helpers import Waiting, helpers
from rkd_pipeline.recipes.plans import PlannedTraining

# Answers by the name of the training; what it is handed, and its environment, it prints.
# Whoever started the tests may have SIGTERM ignored, and that is inherited.
HELPER = """
import json, os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_DFL)
for line in sys.stdin:
    order = json.loads(line)
    name = order["training"]
    print("at", name, order["further"], os.environ["RKD_TRAININGS_PER_DEVICE"], flush=True)
    if name == "kills":
        os._exit(9)
    if name == "hangs":
        time.sleep(600)
    answer = {"busy": name == "busy", "error": "it broke" if name == "breaks" else None}
    print("\\x1e" + json.dumps(answer), flush=True)
"""


def cells(*names: str) -> list[PlannedTraining]:
    return [PlannedTraining("few", name) for name in names]


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(module, "say", lines.append)
    return lines


def test_each_training_is_done_once_and_what_helpers_print_is_printed(said: list[str]) -> None:
    waiting, noted = Waiting(cells(*map(str, range(20)))), dict[str, str | None]()
    with helpers(2, waiting, ["more"], lambda cell, error: noted.update({cell.training: error}), 3, run()):
        own = [cell.training for cell in islice(waiting, 2)]
    assert len(own) == 2
    assert set(noted) | set(own) == {str(n) for n in range(20)}
    assert not set(noted) & set(own)
    assert set(noted.values()) == {None}
    assert len(said) == len(noted)
    assert all(line.endswith("['more'] 3") and line.startswith("helper ") for line in said)


def test_failures_and_what_others_are_at_are_told_apart(said: list[str]) -> None:
    waiting, noted = Waiting(cells("fine", "breaks", "busy", "kills", "left")), dict[str, str | None]()
    with helpers(1, waiting, [], lambda cell, error: noted.update({cell.training: error}), 2, run()):
        pass
    assert noted.pop("kills", "").startswith("its process ended with status 9")
    assert noted == {"fine": None, "breaks": "it broke"}
    assert [c.training for c in waiting.others] == ["busy"]
    assert [c.training for c in waiting] == ["left"]  # for those that are still there


def test_helpers_end_when_the_command_is_interrupted(said: list[str]) -> None:
    waiting, before = Waiting(cells("hangs", "never")), children()

    def interrupted() -> None:
        with helpers(1, waiting, [], lambda *_: None, 2, run()):
            until(lambda: said)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert children() == before
    assert len(said) == 1


def test_a_helper_begins_with_what_is_prepared_and_waits_for_the_rest(said: list[str]) -> None:
    first, second, third = (PlannedTraining(target, target) for target in ("first", "second", "third"))
    waiting, noted = Waiting([first, second, third], {"first", "second", "third"}), list[str]()
    with helpers(1, waiting, [], lambda cell, _: noted.append(cell.target), 2, run()):
        waiting.prepared("second")
        until(lambda: noted)
        assert noted == ["second"]
        waiting.drop("first")
        waiting.prepared("third")
    assert noted == ["second", "third"]
    assert list(waiting) == []


def test_who_waits_for_a_target_that_is_dropped_goes_on_without_it() -> None:
    waiting, taken = Waiting(cells("a"), {"few"}), list[PlannedTraining]()
    thread = threading.Thread(target=lambda: taken.extend(waiting))
    thread.start()
    waiting.drop("few")
    thread.join(60)
    assert not thread.is_alive()
    assert taken == []


def test_without_helpers_nothing_is_started() -> None:
    waiting = Waiting(cells("a", "b"))
    with helpers(0, waiting, [], lambda *_: None, 1, ["there-is-no-such-program"]):
        assert [c.training for c in waiting] == ["a", "b"]


ENDS = """
import signal, sys, time
from rkd_pipeline.cli.helpers import Orders
signal.signal(signal.SIGTERM, signal.SIG_DFL)
orders = Orders()
for cell, further in orders:
    print(cell, further, flush=True)
    if cell.training == "long":
        time.sleep(600)
    orders.answer(error=cell.training)
print("over")
"""


def test_a_helper_ends_with_its_command_however_that_ends() -> None:
    """At rest by itself; in the middle of a training by SIGTERM."""
    at_rest, at_work = (
        subprocess.Popen([sys.executable, "-c", ENDS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    )
    for process, name in ((at_rest, "short"), (at_work, "long")):
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps({"target": "few", "training": name, "further": ["x"]}) + "\n")
        process.stdin.flush()
        assert process.stdout.readline() == f"PlannedTraining(target='few', training='{name}') ['x']\n"
        if name == "short":
            assert process.stdout.readline() == "\n"
            assert process.stdout.readline() == '\x1e{"busy": false, "error": "short"}\n'
        process.stdin.close()
    assert at_rest.wait() == 0
    assert at_work.wait() == -signal.SIGTERM


def run() -> list[str]:
    return [sys.executable, "-c", HELPER]


def children() -> set[int]:
    own = Path(f"/proc/self/task/{threading.get_native_id()}/children")
    return {int(pid) for pid in own.read_text().split()} if own.exists() else set()


def until(true: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)
