"""Which unfinished runs are dead: those whose own process is gone, and no others."""

import dagster as dg

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
