"""Which unfinished runs are dead: those whose own process is gone, and no others."""

import errno
import os
from pathlib import Path

import dagster as dg
import pytest

from assets.reporting import user_errors
from resources import last_words
from resources.liveness import PID_TAG, RUN_TAG, STARTED_TAG, fail_dead_runs, process_tags

STARTED = dg.DagsterRunStatus.STARTED


def test_a_run_is_dead_when_its_own_process_is_gone() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        runs = {}
        for name, tags in {
            "mine": {},
            "of a pid that is gone": {PID_TAG: "4194303"},
            "of a pid that is another process now": {STARTED_TAG: "1.00"},
            "retry that has inherited its tags": {PID_TAG: "4194303", RUN_TAG: "the run before"},
        }.items():
            run_id = dg.DagsterRun(job_name="x").run_id
            instance.add_run(dg.DagsterRun("x", run_id, status=STARTED, tags=process_tags(run_id) | tags))
            runs[run_id] = name
        assert {runs[run_id] for run_id in fail_dead_runs(instance)} == {
            "of a pid that is gone",
            "of a pid that is another process now",
        }
        assert fail_dead_runs(instance) == []


def test_last_words_of_a_dead_run_are_its_reason() -> None:
    """Nothing but a file of fixed size is written: the disk may be full."""
    with dg.DagsterInstance.ephemeral() as instance:
        home = Path(instance.root_directory)
        run_id = dg.DagsterRun(job_name="x").run_id
        tags = process_tags(run_id) | {PID_TAG: "4194303"}
        instance.add_run(dg.DagsterRun("x", run_id, status=STARTED, tags=tags))
        last_words.set_aside(home, run_id)
        with pytest.raises(dg.Failure, match="rkd prune"), user_errors():
            _save()
        [file] = (home / "last_words").iterdir()
        assert file.stat().st_size == last_words.SIZE
        assert fail_dead_runs(instance) == [run_id]
        [failure] = instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.RUN_FAILURE).records
        assert "No space left on device" in str(failure.event_log_entry.dagster_event.message)
        assert not file.exists()


def _save() -> None:
    try:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "checkpoint")
    except OSError as error:
        raise RuntimeError("could not save") from error


def test_other_errors_are_not_taken_for_a_full_disk() -> None:
    with pytest.raises(ZeroDivisionError), user_errors():
        raise ZeroDivisionError("no room for doubt")
