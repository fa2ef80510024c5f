"""``rkd run`` on a cluster, without one: what it says while it follows its order."""

from dataclasses import replace
from unittest.mock import Mock, create_autospec

import dagster as dg
import pytest

from rkd_pipeline.cli import cluster_run
from rkd_pipeline.cli.cluster_run import _at_work
from rkd_pipeline.errors import StoreError
from rkd_pipeline.operations import work_orders
from rkd_pipeline.operations.work_orders import WorkOrder
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
