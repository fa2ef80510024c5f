"""``rkd run`` on a cluster, without one: what it says while it follows its order."""

from rkd_pipeline.cli.cluster_run import _at_work
from rkd_pipeline.operations.work_orders import WorkOrder


def test_it_goes_on_following_while_the_database_is_restarted() -> None:
    class Away:
        def get_runs(self, filters: object) -> list[object]:
            raise ConnectionRefusedError("server closed the connection unexpectedly")

    order = WorkOrder("run-x", 1, "x", [])
    said = _at_work(Away(), order)  # type: ignore[arg-type]
    assert said == "Dagster's database gives no answer (ConnectionRefusedError)"
