"""``rkd run`` on a cluster, without one: what it says while it follows its order."""

import signal
import time
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace
from unittest.mock import Mock, create_autospec

import dagster as dg
import pytest

from assets.following import ORDER_TAG
from rkd_pipeline.cli import cluster_run
from rkd_pipeline.cli.cluster_run import _at_work
from rkd_pipeline.errors import RkdError, StoreError
from rkd_pipeline.operations import work_orders
from rkd_pipeline.operations.work_orders import WorkOrder
from rkd_pipeline.recipes.plans import PlannedTraining
from rkd_pipeline.signals import Interrupted
from rkd_pipeline.store.result_store import Store


def test_it_goes_on_following_while_the_database_is_restarted() -> None:
    instance = create_autospec(dg.DagsterInstance, instance=True)
    instance.get_runs.side_effect = ConnectionRefusedError("server closed the connection unexpectedly")
    order = WorkOrder("run-x", 1, "x", [])
    said = _at_work(instance, order)
    assert said == "Dagster's database gives no answer (ConnectionRefusedError)"


def test_it_goes_on_following_while_the_store_is_away(monkeypatch: pytest.MonkeyPatch, store: Store) -> None:
    instance = create_autospec(dg.DagsterInstance, instance=True)
    order = WorkOrder("run-x", 1, "x", [])
    away = StoreError("s3://results/rkd gives no answer")
    answers = [away, away, replace(order, failures={"few a": "it failed"})]
    monkeypatch.setattr(cluster_run, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(work_orders, "latest", Mock(side_effect=answers))
    assert cluster_run._follow(store, instance, order) == {"few a": "it failed"}
    monkeypatch.setattr(cluster_run, "_SILENT_STORE", 0.0)
    monkeypatch.setattr(work_orders, "latest", Mock(side_effect=away))
    with pytest.raises(StoreError):
        cluster_run._follow(store, instance, order)


@pytest.fixture
def instance() -> dg.DagsterInstance:
    return dg.DagsterInstance.ephemeral()


@pytest.fixture
def ordered(store: Store, instance: dg.DagsterInstance) -> WorkOrder:
    """An order with two runs: one at work, one about to start."""
    cells = [PlannedTraining("few", f"rkd@resnet18.random-s{seed}r0") for seed in (0, 1)]
    order = work_orders.place(store, "run-x", "two trainings", cells)
    for status in (dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.STARTING):
        instance.create_run_for_job(nothing, status=status, tags={ORDER_TAG: order.identity})
    return order


@dg.job
def nothing() -> None:
    """What runs of these tests are of."""


def test_a_cancelled_order_has_ended_and_each_of_its_runs_is_told(
    store: Store, instance: dg.DagsterInstance, ordered: WorkOrder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_run, "LOOK_SECONDS", 0.0)
    runs = {run.run_id: run.status.name for run in instance.get_runs()}
    told: list[str] = []

    def cancel_run(run_id: str) -> None:
        told.append(run_id)
        if runs[run_id] == "STARTED":
            raise ConnectionError("the job server is away")

    coordinator = Mock(cancel_run=cancel_run)
    monkeypatch.setattr(type(instance), "run_coordinator", property(lambda self: coordinator))
    running = cluster_run.cancel(store, instance, ordered)
    assert set(told) == set(runs)
    assert running == [f"{run_id[:8]} (ConnectionError)" for run_id, status in runs.items() if status == "STARTED"]
    ended = work_orders.latest(store, ordered.name)
    assert ended is not None
    assert ended.failures == {f"few {cell.training}": "cancelled" for cell in ordered.cells}


def test_an_order_that_has_ended_meanwhile_is_not_ended_again(store: Store, ordered: WorkOrder) -> None:
    work_orders.end(store, ordered, {"few a": "it failed"})
    work_orders.end(store, ordered, {"few a": "cancelled"})
    ended = work_orders.latest(store, ordered.name)
    assert ended is not None
    assert ended.failures == {"few a": "it failed"}


@pytest.mark.parametrize(("number", "asked"), [(signal.SIGINT, True), (signal.SIGTERM, False)])
def test_only_ctrl_c_is_asked_what_it_means(
    store: Store, ordered: WorkOrder, monkeypatch: pytest.MonkeyPatch, number: int, asked: bool
) -> None:
    """Whoever sends SIGTERM, a shutdown for example, does not answer."""
    question, cancelled = Mock(return_value=False), Mock()
    monkeypatch.setattr(cluster_run, "_require_daemon", lambda instance: None)
    monkeypatch.setattr(cluster_run, "_follow", Mock(side_effect=Interrupted(number)))
    monkeypatch.setattr(cluster_run, "_cancelled", question)
    monkeypatch.setattr(cluster_run, "cancel", cancelled)
    with pytest.raises(Interrupted):
        cluster_run.carry_out(store, Mock(), ordered.cells, [])
    assert question.called == asked
    assert not cancelled.called


@pytest.mark.parametrize(
    ("beats", "refused"),
    [([], False), ([-50.0], False), ([-1.0, -1.0], False), ([-1.0, -1.0, 0.0], True)],
    ids=["never", "long ago", "just killed", "alive"],
)
def test_one_daemon_at_a_time(beats: list[float], refused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """``beats``: when one was last heard of, in seconds from now, at each look; the last goes on to be true."""
    monkeypatch.setattr(cluster_run, "_BEAT_SECONDS", 2.0)
    monkeypatch.setattr(time, "sleep", lambda seconds: monkeypatch.setattr(clock, "now", clock.now + seconds))
    clock = SimpleNamespace(now=1e6)
    monkeypatch.setattr(time, "time", lambda: clock.now)
    left = list(beats)

    def heard() -> dict[str, object]:
        at = left.pop(0) if len(left) > 1 else left[0] if left else None
        return {} if at is None else {"scheduler": SimpleNamespace(timestamp=1e6 + at)}

    instance = Mock(get_daemon_heartbeats=heard)
    with pytest.raises(RkdError, match="another machine runs `rkd ui`") if refused else nullcontext():
        cluster_run.require_no_other_daemon(instance)
