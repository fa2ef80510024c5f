"""What has changed under the results: files of a dataset, versions of the code, and what ``benchmark`` was made from.

Only asks; nothing is made again here.
"""

from rkd_pipeline.flow import BENCHMARK, DATASET_SOURCE
from rkd_pipeline.plan import Cell
from rkd_pipeline.stages.data import changed_source
from rkd_pipeline.stages.tables import measured_results
from rkd_pipeline.status import training_states
from rkd_pipeline.store import Ref, Store

STALE = "stale: "


def changed_targets(store: Store) -> dict[str, str]:
    """Targets in the store whose files are not what they were, to the fingerprint of what is there now."""
    found = {(target, changed_source(store, target)) for (target,) in store.keys(DATASET_SOURCE)}
    return {target: now for target, now in sorted(found, key=str) if now is not None}


def stale_trainings(store: Store) -> dict[Cell, str]:
    """Measured trainings that no longer count, to the reason why."""
    states = training_states(store)
    stale = states[states["state"].str.startswith(STALE)]
    return {Cell(r.target, r.training): r.state.removeprefix(STALE) for r in stale.itertuples()}


def benchmark_behind(store: Store) -> dict[str, str]:
    """How ``benchmark`` differs from the store: ``target training`` to what is wrong; empty where it is in step."""
    benchmark = store.find(Ref(BENCHMARK.name))
    good, _ = measured_results(store)
    now = {str(Ref(r.provenance.stage, *r.provenance.key)): r.data_version for r in good}
    if benchmark is None:
        return {"benchmark": "is missing"}
    if benchmark.provenance.stage_version != BENCHMARK.version:
        return {"benchmark": f"was made by version {benchmark.provenance.stage_version}, now {BENCHMARK.version}"}
    then = benchmark.provenance.inputs
    behind = dict.fromkeys(now.keys() - then.keys(), "measured, not in it")
    behind |= dict.fromkeys(then.keys() - now.keys(), "in it, and no longer counts")
    behind |= {name: "measured again since" for name in now.keys() & then.keys() if now[name] != then[name]}
    return dict(sorted(behind.items()))
