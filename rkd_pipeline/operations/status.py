"""What a store holds, training by training, for people."""

import gc
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache, partial

import pandas as pd

from rkd_pipeline.data.user_targets import targets_in
from rkd_pipeline.errors import NewerResult
from rkd_pipeline.recipes.plans import PlannedTraining
from rkd_pipeline.recipes.training_key import TrainingKey
from rkd_pipeline.stages.mirror_records import mlflow_run_id
from rkd_pipeline.stages.trained_model import begun_trainings, stale_reason
from rkd_pipeline.store.result_store import Ref, Store
from rkd_pipeline.store.stage_versions import IMAGES, METRICS, TRAINED_MODEL

_BESIDE = ("map_max", "l_kd", "l_mkd", "loss")


def training_states(store: Store) -> pd.DataFrame:
    """One row per training that the store knows: target, training, state (with the reason, if stale), MLflow.

    A training with a result of a newer version of this package is ``not readable: ...``.
    """
    rows = []
    with store.one_look(), _no_search_for_cycles():
        finished = {key[:2] for key in store.keys(METRICS)} | {key[:2] for key in store.keys(TRAINED_MODEL)}
        begun = cache(partial(begun_trainings, store))
        for target_name, training in sorted(finished | begun()):
            try:
                state = _state(store, target_name, training, begun)
                mirrored = "mirrored" if mlflow_run_id(store, target_name, training) else "not yet"
            except NewerResult as newer:  # everything else stops here; what people look with first lists it
                state, mirrored = f"not readable: {newer}", "not known"
            rows.append({"target": target_name, "training": training, "state": state, "mlflow": mirrored})
    return pd.DataFrame(rows, columns=["target", "training", "state", "mlflow"])


@contextmanager
def _no_search_for_cycles() -> Iterator[None]:
    """For a while, Python frees only what nobody names any more: provenance holds no cycles.

    The more objects there are, the longer each search takes: with thousands of results a quarter of the time.
    """
    searched = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if searched:
            gc.enable()


def states_of(store: Store, cells: Iterable[PlannedTraining]) -> dict[PlannedTraining, str]:
    """The state of each planned training, as ``training_state`` says it.

    By one look at the store: where it lies in a bucket, what is missing of thousands costs no request of its own.
    """
    with store.one_look():
        begun = cache(partial(begun_trainings, store))
        return {cell: _state(store, cell.target, cell.training, begun) for cell in cells}


def training_state(store: Store, target_name: str, training: str) -> str:
    """``done``, ``stale: ...``, ``trained, not evaluated``, ``interrupted ...`` or ``missing``.

    Raises ``NewerResult`` where a newer version of this package has made a part of it.
    """
    return _state(store, target_name, training, partial(begun_trainings, store, target_name))


def _state(store: Store, target_name: str, training: str, begun: Callable[[], set[tuple[str, str]]]) -> str:
    metrics = store.find(Ref(METRICS.name, target_name, training))
    if metrics is not None:
        reason = stale_reason(store, metrics)
        return f"stale: {reason}" if reason else "done"
    if store.find(Ref(TRAINED_MODEL.name, target_name, training)) is not None:
        return "trained, not evaluated"
    return "interrupted; the next run resumes it" if (target_name, training) in begun() else "missing"


def image_auroc_summary(store: Store, cells: list[PlannedTraining]) -> pd.DataFrame:
    """Image AUROC per training, of its system's own score with its interval and of others; pixel AUROC if there is one.

    A training that is not done has its state instead of numbers.
    """
    from rkd_pipeline.stages.anomaly_scores import read_metrics
    from rkd_pipeline.stages.datasets import data_note

    rows = []
    states = states_of(store, cells)
    for cell in cells:
        target_name, training = cell.target, cell.training
        row: dict[str, object] = {"target": target_name, "training": training}
        metrics = store.find(Ref(METRICS.name, target_name, training))
        state = states[cell]
        if metrics is not None and state == "done":
            table = read_metrics(metrics)
            auroc = table[table["metric"] == "image_auroc"].set_index("score_rule")
            row["score"] = own = TrainingKey.parse(training).recipe.own_score
            first = auroc.loc[own]
            if pd.isna(first["value"]):
                row["value [95%]"] = first["protocol"]
            else:
                row["value [95%]"] = f"{first['value']:.3f} [{first['ci_low']:.3f}, {first['ci_high']:.3f}]"
                others = [rule for rule in _BESIDE if rule in auroc.index and rule != own]
                row |= {rule: f"{auroc.loc[rule, 'value']:.3f}" for rule in others}
            pixel = table.loc[table["metric"] == "pixel_auroc", "value"]
            row["note"] = data_note(targets_in(store).target(target_name), store.require(IMAGES, target_name))
            row["pixel"] = "no masks" if pixel.empty else "none" if pixel.isna().all() else f"{pixel.iloc[0]:.3f}"
        rows.append(row | {"state": state})
    table = pd.DataFrame(rows).fillna("")
    return table.drop(columns="note") if "note" in table and (table["note"] == "").all() else table
