"""Further processes that carry out trainings of one command, where several share a device.

The command keeps the list of its trainings. It takes one after the other itself, and hands one at a time to each
helper: a line of JSON on its standard input, and a marked line of JSON back. All else that a helper prints is printed
by the command.
"""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any

from rkd_pipeline.errors import RkdError
from rkd_pipeline.progress import say
from rkd_pipeline.recipes.plans import PlannedTraining

Note = Callable[[PlannedTraining, str | None], None]
_COMMAND = (sys.executable, "-m", "rkd_pipeline.cli", "work")
_MARK = "\x1e"  # a record separator: no line of people's text begins with one
_PATIENCE = 20.0  # seconds for a helper to end by itself


class Waiting:
    """Trainings that nobody has taken yet; several threads take from it.

    Attributes:
        others: those somebody else is at.
    """

    def __init__(self, cells: Sequence[PlannedTraining], unprepared: Collection[str] = ()) -> None:
        """``unprepared`` are targets whose trainings are held back until ``prepared`` is told of them."""
        self._cells, self._unprepared, self.others = list(cells), set(unprepared), list[PlannedTraining]()
        self._changed = threading.Condition()

    def prepared(self, target: str) -> None:
        """The trainings of a target can begin."""
        with self._changed:
            self._unprepared.discard(target)
            self._changed.notify_all()

    def drop(self, target: str) -> None:
        """The trainings of a target will never be able to begin."""
        with self._changed:
            self._cells = [cell for cell in self._cells if cell.target != target]
            self._changed.notify_all()

    def __iter__(self) -> Iterator[PlannedTraining]:
        """Take one after the other, until none is left; the first that can begin, and wait where none can yet."""
        while (cell := self._taken()) is not None:
            yield cell

    def _taken(self) -> PlannedTraining | None:
        with self._changed:
            while self._cells:
                if cell := next((c for c in self._cells if c.target not in self._unprepared), None):
                    self._cells.remove(cell)
                    return cell
                self._changed.wait()
            return None


@contextmanager
def helpers(
    count: int,
    waiting: Waiting,
    further: Sequence[str],
    note: Note,
    slots: int,
    command: Sequence[str] = _COMMAND,
) -> Iterator[None]:
    """So many processes beside this one take trainings from ``waiting`` until none is left; they end with the block.

    Args:
        count: how many; with 0 nothing happens.
        waiting: what this process takes from in the block, too.
        further: jobs to run on every training once it is done.
        note: is told of each training, in a thread of its own, and what went wrong with it or None.
        slots: trainings that share the device, in all.
        command: what a helper runs.
    """
    environment = os.environ | {"RKD_TRAININGS_PER_DEVICE": str(slots)}
    over = threading.Event()
    # In this process's group: what ends the command from a terminal ends them, too.
    processes, threads = list["subprocess.Popen[str]"](), []
    try:
        for _ in range(count):
            process = subprocess.Popen(
                command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                text=True, encoding="utf-8", errors="backslashreplace",
            )  # fmt: skip
            processes.append(process)
            arguments = (process, waiting, further, note, over)
            threads.append(threading.Thread(target=_serve, args=arguments, daemon=True))
            threads[-1].start()
        yield
        for thread in threads:
            thread.join()
    except BaseException:
        over.set()
        for process in processes:
            process.terminate()
        raise
    finally:
        _end(processes)


def _serve(
    process: "subprocess.Popen[str]",
    waiting: Waiting,
    further: Sequence[str],
    note: Note,
    over: threading.Event,
) -> None:
    assert process.stdin is not None
    for cell in waiting:
        answer = _asked(process, {"target": cell.target, "training": cell.training, "further": list(further)}, over)
        if over.is_set():
            return
        if answer is None:  # the process is gone, and what it was at is known to have failed
            note(cell, f"its process ended with status {process.wait()}, by itself or killed; its last lines are above")
            return
        if answer["busy"]:
            waiting.others.append(cell)
        else:
            note(cell, answer["error"])
    process.stdin.close()


def _asked(process: "subprocess.Popen[str]", order: dict[str, Any], over: threading.Event) -> dict[str, Any] | None:
    """A helper's answer; None where it is gone. What it prints meanwhile is printed here."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(f"{json.dumps(order)}\n")
        process.stdin.flush()
    except OSError:
        return None
    for line in process.stdout:
        if line.startswith(_MARK):
            answer: dict[str, Any] = json.loads(line[len(_MARK) :])
            return answer
        if line.strip() and not over.is_set():
            say(f"helper {process.pid}: {line.rstrip()}")
    return None


def _end(processes: "Sequence[subprocess.Popen[str]]") -> None:
    """All are gone afterwards: by the end of their input, or killed where that takes too long."""
    try:
        for process in processes:
            process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        pass
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()


class Orders:
    """What a helper is handed, read in a thread.

    Where its input ends while it works, the command is gone, however it went; then the helper ends itself.
    """

    def __init__(self) -> None:
        self._handed: SimpleQueue[dict[str, Any] | None] = SimpleQueue()
        self._idle = False
        threading.Thread(target=self._read, name="orders", daemon=True).start()

    def __iter__(self) -> Iterator[tuple[PlannedTraining, list[str]]]:
        """Each training and the jobs to run on it, until the input ends."""
        while True:
            self._idle = True
            order = self._handed.get()
            self._idle = False
            if order is None:
                return
            try:
                yield PlannedTraining(order["target"], order["training"]), order["further"]
            except KeyError as error:
                raise RkdError(f"rkd work is started by `rkd run`, not by people: no {error} in {order}") from error

    def answer(self, *, busy: bool = False, error: str | None = None) -> None:
        """Say what came of the last one: somebody else is at it, or what went wrong, or neither."""
        self._idle = True  # before the command knows, and may end the input
        print(f"\n{_MARK}{json.dumps({'busy': busy, 'error': error})}", flush=True)

    def _read(self) -> None:
        with os.fdopen(os.dup(0), encoding="utf-8") as lines:  # not sys.stdin, which the main thread closes
            for line in lines:
                self._handed.put(json.loads(line))
        if not self._idle:
            os.kill(os.getpid(), signal.SIGTERM)
        self._handed.put(None)
