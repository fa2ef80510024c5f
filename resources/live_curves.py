"""A training's losses on their way to MLflow while it runs.

The training hands over each epoch and goes on at once: a thread of its own sends them, and nobody waits for it. What
MLflow did not take by the end is sent with the rest, once the training is measured (``mlflow_mirror``).
"""

import logging
import time
from collections.abc import Callable
from dataclasses import asdict
from importlib import import_module
from queue import Empty, SimpleQueue
from threading import Event, Thread
from types import TracebackType
from typing import TYPE_CHECKING

from resources import mlflow_mirror
from resources.epoch_journal import Journal
from resources.mlflow_client import Server, TrackingError, answering, delete_run
from resources.mlflow_mirror import Begun, Point
from resources.mlflow_once import left_by_attempt, lock_name, new_attempt
from rkd_pipeline.recipes.training_key import TrainingKey
from rkd_pipeline.stages.mirror_records import tracking_file
from rkd_pipeline.stages.trained_model import training_parameters
from rkd_pipeline.store.result_store import Store

if TYPE_CHECKING:
    from rkd_pipeline.training.loop import Epoch

_log = logging.getLogger(__name__)
PAUSE = 5.0  # seconds between two requests: short epochs come in batches, and who is away is not asked all the time
_NOT_LIVE = "the curves of %s %s are not sent while it trains, but with the rest afterwards"
LAST_WORDS = 3.0  # seconds for telling MLflow that a training has failed


class LiveCurves:
    """Takes the epochs of one training, as a context around it. Neither delays nor fails it, whatever MLflow does.

    The MLflow run is made at the first epoch, so that a training which is there already makes none; one that was
    killed goes on in the run that it began.
    """

    def __init__(
        self, store: Store, target_name: str, training: str, reach: Callable[[Store], Server], tags: dict[str, str]
    ) -> None:
        self._store, self._reach, self._tags = store, reach, tags
        self._target, self._training = target_name, training
        self._record = tracking_file(store, target_name, training)
        self._journal = Journal.beside(self._record)
        self._queue: SimpleQueue[list[Point]] = SimpleQueue()
        self._closed = Event()
        self._outcome = ""
        self._made = _now()
        self._given_up = False
        self._thread: Thread | None = None
        self._run: tuple[Server, str] | None = None

    def __enter__(self) -> "LiveCurves":
        return self

    def log(self, epoch: "Epoch") -> None:
        """Note an epoch that has just ended, and leave the rest to the thread."""
        now = _now()
        if self._given_up:
            return
        try:
            if self._thread is None:
                self._begin()
            self._journal.note(epoch.epoch, now)
            losses = {name: value for name, value in asdict(epoch).items() if name != "epoch"}
            self._queue.put(mlflow_mirror.loss_points(epoch.epoch, losses, now))
        except Exception:  # hours of training are worth more than its curves
            self._given_up = True
            _log.exception(_NOT_LIVE, self._target, self._training)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """The training is over. What is not sent by now is sent by ``mlflow_run``; a failure is told at once."""
        if self._thread is None:
            return
        if kind is not None:
            self._outcome = "FAILED" if issubclass(kind, Exception) else "KILLED"
        self._closed.set()
        self._queue.put([])  # wakes the thread
        if self._outcome:
            self._thread.join(LAST_WORDS)

    def _begin(self) -> None:
        parameters = training_parameters(TrainingKey.parse(self._training))
        self._begun = mlflow_mirror.begun_training(self._store, self._target, self._training, parameters)
        # Here, since the thread imports MLflow: while this part of SQLAlchemy is half imported, Dagster's queries fail.
        import_module("sqlalchemy.orm")
        self._thread = Thread(target=self._send_all, name=f"curves of {self._begun.name}", daemon=True)
        self._thread.start()
        self._journal.begin(self._begun.mark)

    def _send_all(self) -> None:
        waiting: list[Point] = []
        said = ""
        try:
            while not self._closed.is_set():
                waiting += self._next()
                try:
                    self._send(waiting)
                    waiting = []
                except TrackingError as error:
                    if str(error) != said:
                        said = str(error)
                        _log.warning("MLflow does not take the curves of %s for now: %s", self._begun.name, error)
                self._closed.wait(PAUSE)
            self._tell_outcome()
        except Exception:  # of our own; the training goes on, and `mlflow_run`, which sends by the same code, fails
            _log.exception(_NOT_LIVE, self._target, self._training)

    def _next(self) -> list[Point]:
        """What has come since, waiting for the first."""
        found = self._queue.get()
        try:
            while True:
                found = found + self._queue.get_nowait()
        except Empty:
            return found

    def _send(self, points: list[Point]) -> None:
        """Under the lock of the mirror: once it completes the run, nothing is added any more."""
        with self._store.lock(lock_name(self._record)):
            if self._closed.is_set() or not points:
                return
            server, run_id = self._run = self._run or self._open(self._begun)
            with answering():
                mlflow_mirror.log_losses(server, run_id, points)

    def _open(self, begun: Begun) -> tuple[Server, str]:
        """The run that this training began before it was killed, or a new one."""
        server = self._reach(self._store)
        with answering():
            run = None
            for left in left_by_attempt(server, self._record):
                if run is None and mlflow_mirror.is_of(begun, left):
                    run = left
                else:
                    delete_run(server, left.info.run_id)
            if run is None:
                tags = self._tags | new_attempt(self._record)
                return server, mlflow_mirror.begin_run(server, begun, self._made, tags)
            run_id = str(run.info.run_id)
            server.client.update_run(run_id, status="RUNNING")
            for name, value in self._tags.items():
                server.client.set_tag(run_id, name, value)
            return server, run_id

    def _tell_outcome(self) -> None:
        if not self._outcome or self._run is None:
            return
        server, run_id = self._run
        with self._store.lock(lock_name(self._record)), answering():
            server.client.set_terminated(run_id, self._outcome)


def _now() -> int:
    """In ms since 1970, as MLflow counts."""
    return int(time.time() * 1000)
