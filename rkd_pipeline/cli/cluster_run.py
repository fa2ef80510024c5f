"""``rkd run`` where runs are launched elsewhere: it places an order and follows it; the daemon carries it out."""

import signal
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rkd_pipeline.errors import RkdError, StoreError
from rkd_pipeline.operations import work_orders
from rkd_pipeline.operations.status import states_of
from rkd_pipeline.progress import bar, say
from rkd_pipeline.recipes.plans import PlannedTraining
from rkd_pipeline.signals import Interrupted
from rkd_pipeline.store.files import text_sha256

if TYPE_CHECKING:
    import dagster as dg

    from rkd_pipeline.operations.work_orders import WorkOrder
    from rkd_pipeline.store.result_store import Store

LOOK_SECONDS = 5.0
_SILENT_DAEMON = 120.0  # seconds; its heartbeats come every thirty
_BEAT_SECONDS = 45.0  # within which a daemon that lives gives another
_SILENT_STORE = 600.0
_LOOKS_FOR_LATE_RUNS = 4


def launches_elsewhere(instance: "dg.DagsterInstance") -> bool:
    """Whether the instance's runs are jobs of a cluster, not processes of this machine."""
    import dagster as dg

    return not isinstance(instance.run_launcher, dg.DefaultRunLauncher)


def carry_out(
    store: "Store", instance: "dg.DagsterInstance", cells: Sequence[PlannedTraining], further: Sequence[str]
) -> dict[str, str]:
    """Order what is missing of a plan, and wait for its end; returns why what failed has failed.

    The same cells are the same order: who gives the command again follows the order that is open. On Ctrl-C it asks
    whether to leave the order to the cluster or to cancel it; without a terminal it is left.
    Raises ``RkdError`` where no daemon is there to carry it out.
    """
    _require_daemon(instance)
    missing = [cell for cell, state in states_of(store, cells).items() if further or state != "done"]
    if not missing:
        return {}
    what = sorted(f"{cell.target} {cell.training}" for cell in cells)
    name = f"run-{text_sha256(' '.join([*what, *further]))[:12]}"
    order = work_orders.place(store, name, f"rkd run, {len(missing)} trainings", missing, further=further)
    say(f"order {order.identity}: {len(order.cells)} trainings for the cluster")
    try:
        return _follow(store, instance, order)
    except Interrupted as stopped:
        if stopped.signal == signal.SIGINT and _cancelled():
            running = cancel(store, instance, order)
            say(f"order {order.identity} is cancelled; what was done is kept")
            if running:
                say(f"{len(running)} runs did not take it: {', '.join(running)}; end them in the UI")
        else:
            say(f"order {order.identity} goes on without this command; given again, it follows it")
        raise


def cancel(store: "Store", instance: "dg.DagsterInstance", order: "WorkOrder") -> list[str]:
    """End an order: nothing of it is begun any more, and its runs are told to end; returns ids of those that were not.

    The daemon may be about to start some at this moment, so it is looked for them for a while.
    """
    import dagster as dg

    from assets.following import ORDER_TAG
    from resources.liveness import UNFINISHED

    open_cells = [cell for cell, state in states_of(store, order.cells).items() if state != "done"]
    work_orders.end(store, order, {f"{cell.target} {cell.training}": "cancelled" for cell in open_cells})
    to_end = [status for status in UNFINISHED if status != dg.DagsterRunStatus.CANCELING]
    mine = dg.RunsFilter(statuses=to_end, tags={ORDER_TAG: order.identity})
    running: list[str] = []
    for look in range(_LOOKS_FOR_LATE_RUNS):
        time.sleep(LOOK_SECONDS if look else 0)
        running = []
        for run in instance.get_runs(mine):
            try:
                instance.run_coordinator.cancel_run(run.run_id)
            except Exception as error:  # of whatever kind the cluster's job server raises: the others are told too
                running.append(f"{run.run_id[:8]} ({type(error).__name__})")
    return running


def _follow(store: "Store", instance: "dg.DagsterInstance", order: "WorkOrder") -> dict[str, str]:
    done: set[PlannedTraining] = set()
    answered = time.monotonic()
    with bar(len(order.cells), "trainings", "training") as shown:
        while True:
            try:
                now = work_orders.latest(store, order.name)
                for cell, state in states_of(store, set(order.cells) - done).items():
                    if state == "done":
                        done.add(cell)
                        shown.update()
            except StoreError as error:  # a bucket's server that is restarted: the order goes on without this command
                if time.monotonic() - answered > _SILENT_STORE:
                    raise
                shown.note(f"the store gives no answer ({error})")
            else:
                answered = time.monotonic()
                if now is None or now.attempt != order.attempt or now.failures is not None:
                    return dict(now.failures or {}) if now else {}
                shown.note(_at_work(instance, order))
            time.sleep(LOOK_SECONDS)


def _at_work(instance: "dg.DagsterInstance", order: "WorkOrder") -> str:
    import dagster as dg

    from assets.following import ORDER_TAG
    from resources.liveness import UNFINISHED

    try:
        runs = instance.get_runs(dg.RunsFilter(statuses=UNFINISHED, tags={ORDER_TAG: order.identity}))
    except Exception as error:  # of whatever kind a database raises that is restarted: the order goes on without it
        return f"Dagster's database gives no answer ({type(error).__name__})"
    started = sum(run.status == dg.DagsterRunStatus.STARTED for run in runs)
    return f"{started} runs at work, {len(runs) - started} waiting"


def require_no_other_daemon(instance: "dg.DagsterInstance") -> None:
    """Two would both carry out what is ordered. One that has just been killed may seem alive: its next word is awaited.

    Raises ``RkdError`` where it comes.
    """
    before = _last_heard_of(instance)
    if time.time() - before > _BEAT_SECONDS:
        return
    say(f"a daemon was heard of {time.time() - before:.0f} s ago; seeing whether it is still there")
    while time.time() - before <= _BEAT_SECONDS:
        if _last_heard_of(instance) > before:
            raise RkdError(
                "another machine runs `rkd ui` on this cluster, and its daemon carries out what is ordered: open its "
                "pages, or stop it before you start another"
            )
        time.sleep(1)


def _last_heard_of(instance: "dg.DagsterInstance") -> float:
    """When a daemon last gave a sign of life; 0 where none ever did."""
    return max((beat.timestamp for beat in instance.get_daemon_heartbeats().values()), default=0.0)


def _require_daemon(instance: "dg.DagsterInstance") -> None:
    newest = _last_heard_of(instance)
    if time.time() - newest > _SILENT_DAEMON:
        heard = f"was last heard of {time.time() - newest:.0f} s ago" if newest else "was never heard of"
        raise RkdError(f"Dagster's daemon {heard}, and carries out what is ordered; start `rkd ui` on one machine")


def _cancelled() -> bool:
    if not sys.stdin.isatty():
        return False
    try:
        return input("\nleave the trainings to the cluster [Enter], or cancel them [c]? ").strip().lower() == "c"
    except (EOFError, KeyboardInterrupt):
        return False
