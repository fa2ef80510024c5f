"""``rkd run`` on a cluster, without one: what it says while it follows its order."""

from unittest.mock import create_autospec

import dagster as dg

from rkd_pipeline.cli.cluster_run import _at_work
from rkd_pipeline.operations.work_orders import WorkOrder


def test_it_goes_on_following_while_the_database_is_restarted() -> None:
    instance = create_autospec(dg.DagsterInstance, instance=True)
    instance.get_runs.side_effect = ConnectionRefusedError("server closed the connection unexpectedly")
    order = WorkOrder("run-x", 1, "x", [])
    said = _at_work(instance, order)
    assert said == "Dagster's database gives no answer (ConnectionRefusedError)"
