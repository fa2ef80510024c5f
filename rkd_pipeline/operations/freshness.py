"""What has changed under the results: files of a dataset, versions of the code, and what ``benchmark`` was made from.

Only asks; nothing is made again here.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from rkd_pipeline.data.user_targets import targets_in
from rkd_pipeline.operations.status import training_states
from rkd_pipeline.recipes.plans import PlannedTraining
from rkd_pipeline.recipes.training_key import TrainingKey
from rkd_pipeline.stages.benchmark import measured_results
from rkd_pipeline.stages.datasets import FIRST_SIDE, changed_source
from rkd_pipeline.stages.trained_model import training_parameters
from rkd_pipeline.store.files import canonical_json, text_sha256
from rkd_pipeline.store.result_store import Ref, Result, Store
from rkd_pipeline.store.stage_versions import (
    ANOMALY_SCORES,
    BENCHMARK,
    DATASET_CARD,
    DATASET_SOURCE,
    IMAGES,
    METRICS,
    PREPARED_IMAGES,
    SPLIT,
    TRAINED_MODEL,
)

STALE = "stale: "
DATA_STAGES = (DATASET_SOURCE, IMAGES, SPLIT, PREPARED_IMAGES, DATASET_CARD)
GRID_STAGES = (TRAINED_MODEL, ANOMALY_SCORES, METRICS)


@dataclass(frozen=True)
class Change:
    """Why something is to be made again.

    Attributes:
        why: for people.
        key: the same for as long as nobody has followed the change and nothing else has changed; never the same for
            another change, also where that one leads back to what was there before.
    """

    why: str
    key: str


def changed_targets(store: Store) -> dict[str, Change]:
    """Targets whose files, or the code that reads them, are not what the data in the store was made from."""
    found = {}
    for (target,) in store.keys(DATASET_SOURCE):
        if target not in targets_in(store).names():  # removed since: nothing can be made of it
            continue
        made = _made_of_data(store, target)
        files = changed_source(store, target)
        reasons = [reason for result in made if (reason := store.why_stale(result))]
        if files is not None or reasons:
            why = reasons[0] if files is None else "its files are others now"
            found[target] = Change(why, _key(made, [files, [stage.version for stage in DATA_STAGES]]))
    return found


def _made_of_data(store: Store, target: str) -> list[Result]:
    sides = {PREPARED_IMAGES.name: (f"{FIRST_SIDE}px",)}
    refs = [Ref(stage.name, target, *sides.get(stage.name, ())) for stage in DATA_STAGES]
    return [result for ref in refs if (result := store.find(ref)) is not None]


def stale_trainings(store: Store) -> dict[PlannedTraining, Change]:
    """Measured trainings that no longer count."""
    states, found = training_states(store), {}
    for row in states[states["state"].str.startswith(STALE)].itertuples():
        metrics = store.find(Ref(METRICS.name, row.target, row.training))
        if metrics is None or row.target not in targets_in(store).names():
            continue
        data = [store.find(Ref(stage.name, row.target)) for stage in (IMAGES, SPLIT)]
        wanted = [
            [result.data_version if result else None for result in data],
            [stage.version for stage in GRID_STAGES],
            training_parameters(TrainingKey.parse(row.training)),
        ]
        found[PlannedTraining(row.target, row.training)] = Change(
            row.state.removeprefix(STALE), _key([metrics], wanted)
        )
    return found


def is_trained(store: Store, cell: PlannedTraining) -> bool:
    """Whether a training's model is there and up to date, scored or not."""
    model = store.find(Ref(TRAINED_MODEL.name, cell.target, cell.training))
    return model is not None and store.why_stale(model) is None


def _key(made: Iterable[Result], wanted: list[Any]) -> str:
    """From what there is, told apart by the time at which it was made, to what is wanted instead."""
    there = [[result.data_version, result.provenance.environment["finished"]] for result in made]
    return text_sha256(canonical_json([there, wanted]))[:16]


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
