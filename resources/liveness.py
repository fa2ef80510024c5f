"""Runs whose process died without saying so: found by host, pid and process start time, reported, slots freed.

A killed process leaves its run "started" for ever: Dagster's default launcher does not look after it. File locks free
themselves; this puts the event log right.
"""

import os
import socket
from collections.abc import Mapping
from pathlib import Path

import dagster as dg
import psutil

from resources import last_words

HOST_TAG, PID_TAG, STARTED_TAG = "rkd/host", "rkd/pid", "rkd/process_started"
RUN_TAG = "rkd/process_of_run"  # a retry inherits the tags of the run before it, and is not that process
LAUNCHED_BY = {"rkd/launched_by": "ray"}  # of runs that are jobs of a cluster
_FINISHED = (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)
UNFINISHED = [status for status in dg.DagsterRunStatus if status not in _FINISHED]
_AT_WORK = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]


def process_tags(run_id: str) -> dict[str, str]:
    """Tags that say which process works on a run; pids alone are reused."""
    pid = os.getpid()
    return {HOST_TAG: socket.gethostname(), PID_TAG: str(pid), STARTED_TAG: _start_time(pid) or "", RUN_TAG: run_id}


def fail_dead_runs(instance: dg.DagsterInstance) -> list[str]:
    """Report as failed every unfinished run of this host whose process is gone; returns their run ids.

    What such a run could leave as its last words is the reason given.
    """
    mine = dg.RunsFilter(statuses=_AT_WORK, tags={HOST_TAG: socket.gethostname()})
    known = [run for run in instance.get_runs(mine) if run.tags.get(RUN_TAG) == run.run_id]
    dead = [run for run in known if not _alive(run.tags)]
    home = Path(instance.root_directory)
    for run in dead:
        words = last_words.heard(home, run.run_id)
        gone = f"process {run.tags[PID_TAG]} on this host is gone"
        instance.report_run_failed(run, message=f"{gone}; it said: {words}" if words else gone)
        instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
    last_words.forget_ended(instance, home)
    return [run.run_id for run in dead]


def fail_runs_that_never_began(instance: dg.DagsterInstance) -> list[str]:
    """Report as failed every run whose job on the cluster ended before its first event; returns their run ids.

    Dagster looks after runs that have started; one whose process dies before that would hold its place in the queue
    until ``start_timeout_seconds`` are over.
    """
    if not instance.run_launcher.supports_check_run_worker_health:  # no cluster is configured, or none any more
        return []
    launched = dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTING], tags=LAUNCHED_BY)
    found = []
    for run in instance.get_runs(launched):
        try:
            said = instance.run_launcher.check_run_worker_health(run)
        except ConnectionError:  # the cluster is away: the next look asks again
            continue
        if said.status.name == "FAILED":
            instance.report_run_failed(run, message=f"its process ended before it began: {said.msg}")
            found.append(run.run_id)
    return found


def _alive(tags: Mapping[str, str]) -> bool:
    return _start_time(int(tags[PID_TAG])) == tags[STARTED_TAG]


def _start_time(pid: int) -> str | None:
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else f"{process.create_time():.2f}"
    except psutil.NoSuchProcess:
        return None
