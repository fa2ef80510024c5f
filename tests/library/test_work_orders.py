"""Work orders: placed once, kept until they have ended, placed anew afterwards."""

from rkd_pipeline.operations import work_orders
from rkd_pipeline.recipes.plans import PlannedTraining, cross, training_keys
from rkd_pipeline.store.result_store import Store

CELLS = cross(["head_ct"], ["rkd", "rkd-es"], [0])


def test_an_order_is_one_order_however_often_it_is_placed(store: Store) -> None:
    first = work_orders.place(store, "plan-x", "plan x", CELLS, further=["a_job"], tags={"why": "a test"})
    assert work_orders.place(store, "plan-x", "another title", CELLS[:1]) == first
    assert work_orders.open_orders(Store(store.root)) == [first]  # as another process reads it
    assert (first.identity, first.cells, first.further, first.tags) == ("plan-x-1", CELLS, ["a_job"], {"why": "a test"})


def test_an_order_that_has_ended_says_what_failed_and_can_be_placed_again(store: Store) -> None:
    first = work_orders.place(store, "plan-x", "plan x", CELLS)
    work_orders.place(store, "plan-x-1", "another whose name begins the same", CELLS)
    work_orders.end(store, first, {"head_ct rkd-s0": "no power"})
    ended = work_orders.latest(store, "plan-x")
    assert ended is not None
    assert (ended.attempt, ended.failures, ended.is_open) == (1, {"head_ct rkd-s0": "no power"}, False)
    assert work_orders.place(store, "plan-x", "plan x", CELLS).identity == "plan-x-2"
    assert work_orders.latest(store, "never") is None


def test_a_plan_needs_the_trainings_that_its_recipes_share() -> None:
    """mkd-brief-discrepancy differs from mkd-brief in how it localises alone; nothing else does from rkd."""
    [other] = cross(["demo.weave"], ["mkd-brief-discrepancy"], [3])
    assert other.shared == PlannedTraining("demo.weave", "mkd-brief-s3")
    [own] = cross(["demo.weave"], ["rkd"], [3])
    assert own.shared is None
    assert training_keys([other, own]) == ["mkd-brief-s3", "mkd-brief-discrepancy-s3", "rkd-s3"]
