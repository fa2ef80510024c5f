"""Re-benchmarks: a plan trained again and again with fresh seeds over fixed repeats, and the record of every round.

    rebenchmarks/0001/plan.json     what the round trains, written when it begins: a round that was killed goes on
    rebenchmarks/0001/record.json   what it measured, written once when it ends, never changed
    rebenchmarks/0001/told.json     that the hook has heard of it
    rebenchmarks/references.json    rounds whose level was accepted

Seeds of a round are new to the store; repeats are those of the plan, so that every round tests on the same images.
Where asked, a round also trains on a repeat that no round has used: another draw of the test set, which is recorded as
such and never compared.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

import pandas as pd

from rkd_pipeline import __version__
from rkd_pipeline.data.index import MASKS
from rkd_pipeline.data.split import redraws_test
from rkd_pipeline.errors import RkdError, StoreError
from rkd_pipeline.operations import work_orders
from rkd_pipeline.operations.status import states_of
from rkd_pipeline.recipes.plans import PLANS, PlannedTraining, named
from rkd_pipeline.recipes.training_key import TrainingKey
from rkd_pipeline.stages.anomaly_scores import read_metrics
from rkd_pipeline.stages.benchmark import measured_results
from rkd_pipeline.stages.datasets import read_index, read_verified_split
from rkd_pipeline.stages.rounds import (
    PLAN,
    RECORD,
    TOLD,
    documents,
    read_json,
    records,
    references,
    references_file,
    round_file,
    values_of,
)
from rkd_pipeline.statistics.regressions import FIXED, NEW, WORSE, moves
from rkd_pipeline.store.document import Document
from rkd_pipeline.store.files import canonical_json, text_sha256
from rkd_pipeline.store.result_store import Ref, Result, Store
from rkd_pipeline.store.stage_versions import IMAGES, METRICS, SPLIT, TRAINED_MODEL

MEASURED = "measured"  # the plan of everything that the store holds
SEEDS_PER_ROUND = 1000
Tell = Callable[[str, str, dict[str, Any]], bool]


@dataclass(frozen=True)
class Round:
    """A re-benchmark that has begun.

    Attributes:
        number: from 1.
        plan: name of the plan.
        asked: who asked for it and when; the same asking gives the same round.
        begun: when, UTC.
        cells: what to train.
        draws: training key to ``fixed`` or ``new``, per target, as ``target training``.
        baseline: measured trainings of the plan that no earlier round has recorded, as ``target training``.
    """

    number: int
    plan: str
    asked: str
    begun: str
    cells: list[PlannedTraining]
    draws: dict[str, str]
    baseline: list[PlannedTraining] = field(default_factory=list)


def plan_names() -> list[str]:
    """What can be re-benchmarked: the named plans, and ``measured``: every configuration that the store holds."""
    return sorted([*PLANS, MEASURED])


def planned(store: Store, plan: str) -> list[PlannedTraining]:
    """The cells whose configurations and repeats a round trains again. Raises ``RkdError`` where there are none."""
    if plan != MEASURED:
        return named(plan)
    ours = [PlannedTraining(*result.provenance.key) for result in measured_results(store)[0]]
    again = {(cell.target, cell.training) for known in rounds(store) for cell in known.cells}
    cells = [cell for cell in ours if (cell.target, cell.training) not in again]
    if not cells:
        raise RkdError(f"{store.address} holds no finished training to repeat; train something first, with `rkd run`")
    return cells


def rounds(store: Store) -> list[Round]:
    """All rounds that have begun, in order."""
    return [_read_round(p) for p in documents(store, PLAN)]


def open_rounds(store: Store) -> list[Round]:
    """Rounds without a record."""
    return [r for r in rounds(store) if not round_file(store, r.number, RECORD).exists()]


def begin(store: Store, plan: str, asked: str, *, seeds: int, new_draws: int = 0) -> Round:
    """Begin a round, or return the one that was begun by the same asking.

    Args:
        store: where it is recorded.
        plan: one of ``plan_names()``.
        asked: identity of the asking, such as the schedule's tick.
        seeds: fresh trainings per configuration and repeat.
        new_draws: trainings per configuration on repeats that no round has used.
    """
    with store.lock("rebenchmarks"):
        known = rounds(store)
        if same := [r for r in known if r.asked == asked]:
            return same[0]
        wanted = planned(store, plan)
        number = known[-1].number + 1 if known else 1
        first_seed = _first_unused_seed(store, number)
        draws = _fresh_trainings(wanted, first_seed, seeds) | _new_draws(store, wanted, known, first_seed, new_draws)
        recorded = {(c.target, c.training) for r in known for c in [*r.cells, *r.baseline]}
        baseline = _done(store, [c for c in wanted if (c.target, c.training) not in recorded])
        cells = [PlannedTraining(*name.split(" ")) for name in draws]
        begun = Round(number, plan, asked, _now(), cells, draws, baseline)
        round_file(store, number, PLAN).write_json(asdict(begun))
        return begun


def _fresh_trainings(wanted: Sequence[PlannedTraining], first_seed: int, seeds: int) -> dict[str, str]:
    """Every configuration and repeat of the plan once per fresh seed; a seed stands for one repeat throughout."""
    repeats = sorted({TrainingKey.parse(c.training).repeat for c in wanted})
    fresh = {}
    for n in range(seeds):
        for cell in wanted:
            key = TrainingKey.parse(cell.training)
            seed = first_seed + n * len(repeats) + repeats.index(key.repeat)
            fresh[f"{cell.target} {_again(key, seed, key.repeat)}"] = FIXED
    return fresh


def _new_draws(
    store: Store, wanted: Sequence[PlannedTraining], known: Sequence[Round], first_seed: int, count: int
) -> dict[str, str]:
    """Trainings on the next repeats of targets whose test set can be drawn anew; fewer where the split has no more."""
    drawn = {}
    for target in dict.fromkeys(c.target for c in wanted) if count else ():
        split = store.find(Ref(SPLIT.name, target))
        if split is None or not redraws_test(rows := read_verified_split(split)):
            continue
        cells = [c for r in known for c in r.cells if c.target == target] + [c for c in wanted if c.target == target]
        used = {TrainingKey.parse(c.training).repeat for c in cells}
        free = [r for r in range(int(rows["repeat"].nunique())) if r not in used][:count]
        configurations = {str(_again(TrainingKey.parse(c.training), 0, 0)) for c in wanted if c.target == target}
        for configuration in sorted(configurations):
            for n, repeat in enumerate(free):
                seed = first_seed + SEEDS_PER_ROUND // 2 + n
                drawn[f"{target} {_again(TrainingKey.parse(configuration), seed, repeat)}"] = NEW
    return drawn


def _again(key: TrainingKey, seed: int, repeat: int) -> TrainingKey:
    return TrainingKey(key.recipe, key.teacher, key.epochs, seed, repeat)


def _first_unused_seed(store: Store, number: int) -> int:
    used = {TrainingKey.parse(training).seed for _, training in store.keys(TRAINED_MODEL)}
    block = number
    while any(SEEDS_PER_ROUND * block <= seed < SEEDS_PER_ROUND * (block + 1) for seed in used):
        block += 1
    return SEEDS_PER_ROUND * block


def unfinished(store: Store, begun: Round) -> list[PlannedTraining]:
    """What a round has still to train, or to train again because it is out of date."""
    done = set(_done(store, begun.cells))
    return [cell for cell in begun.cells if cell not in done]


def _done(store: Store, cells: Sequence[PlannedTraining]) -> list[PlannedTraining]:
    return [cell for cell, state in states_of(store, cells).items() if state == "done"]


def close(store: Store, begun: Round, failures: Mapping[str, str]) -> dict[str, Any]:
    """Record what a round measured: once, whole, and never changed.

    Args:
        store: of the round.
        begun: the round.
        failures: ``target training`` to why it failed; every other cell must be done.
    """
    with store.lock("rebenchmarks"):
        file = round_file(store, begun.number, RECORD)
        if file.exists():
            return read_json(file)
        missing = [c for c in unfinished(store, begun) if f"{c.target} {c.training}" not in failures]
        if missing:
            raise StoreError(f"round {begun.number} still trains {missing[0].target} {missing[0].training}")
        record = {
            "round": begun.number,
            "plan": begun.plan,
            "asked": begun.asked,
            "begun": begun.begun,
            "finished": _now(),
            "failures": dict(failures),
            "values": [
                row
                for cell in _done(store, begun.cells)
                for row in _values(store, cell, begun.number, begun.draws[f"{cell.target} {cell.training}"])
            ]
            + [row for cell in _done(store, begun.baseline) for row in _values(store, cell, 0, FIXED)],
        }
        file.write_json(record)
        return record


def _values(store: Store, cell: PlannedTraining, number: int, draw: str) -> list[dict[str, Any]]:
    metrics, model = (store.require(stage, cell.target, cell.training) for stage in (METRICS, TRAINED_MODEL))
    key = TrainingKey.parse(cell.training)
    code = (
        f"{__version__}, trained_model {model.provenance.stage_version}, metrics {metrics.provenance.stage_version}, "
        f"torch {model.provenance.environment['versions']['torch']}"
    )
    shared = {
        "round": number,
        "finished": metrics.provenance.environment["finished"],
        "code": code,
        "data": store.require(SPLIT, cell.target).data_version,
        "images": _images_version(store.require(IMAGES, cell.target)),
        "target": cell.target,
        "recipe": key.recipe.name,
        "teacher": str(key.teacher),
        "epochs": key.epochs,
        "training": cell.training,
        "seed": key.seed,
        "repeat": key.repeat,
        "draw": draw,
    }
    table = read_metrics(metrics)
    numbers = table[["metric", "score_rule", "value", "ci_low", "ci_high"]].astype(object)
    return [shared | row for row in numbers.where(numbers.notna(), None).to_dict("records")]


def _images_version(images: Result) -> str:
    """Hash of what numbers depend on beside the split: pixels, labels and masks; the same for the same, however stored.

    A split with a given test part names images only: their pixels may change under it.
    """
    rows = read_index(images)[["image_id", "pixel_sha256", "anomalous"]].sort_values("image_id")
    masks = images.provenance.files.get(MASKS, {}).get("sha256")
    return text_sha256(canonical_json([rows.to_numpy().tolist(), masks]))[:16]


def accept(store: Store, why: str) -> int:
    """Take the last round as the new reference; returns its number. Raises ``RkdError`` where there is none."""
    known = records(store)
    if not known:
        raise RkdError("there is no re-benchmark yet whose level could be accepted")
    number = int(known[-1]["round"])
    with store.lock("rebenchmarks"):
        accepted = {str(n): w for n, w in references(store).items()} | {str(number): why}
        references_file(store).write_json(accepted)
    return number


def record_and_tell(store: Store, begun: Round, failures: Mapping[str, str], tell: Tell) -> None:
    """End a round: record what it measured, once, and tell of what moved and what failed.

    Whoever carried the round out calls this: the daemon's sensor, or the command. Arguments are those of ``close``, and
    ``tell`` of ``tell_untold``.
    """
    close(store, begun, failures)
    tell_untold(store, tell)


def tell_untold(store: Store, tell: Tell) -> None:
    """Tell of every round on record that nobody has heard of; what ``tell`` does not take is told again later.

    Args:
        store: of the rounds.
        tell: takes an event (``regression``, ``failure`` or ``move``), a text for people, and facts; returns whether it
            was delivered. Never called for a round in which nothing moved and nothing failed.
    """
    with store.lock("telling of rebenchmarks"):  # of two processes the second finds it told
        waiting = untold(store)
        if not waiting:
            return
        found = {record["round"]: record for record in records(store)}
        moved = moves(values_of(list(found.values())), references(store))
        for number in waiting:
            _tell_of(store, found[number], moved[(moved["round"] == number) & moved["moved"]], tell)


def _tell_of(store: Store, record: Mapping[str, Any], moved: pd.DataFrame, tell: Tell) -> None:
    number, failures = record["round"], record["failures"]
    lines = [_line(row) for row in moved.to_dict("records")]
    lines += [f"{name} failed: {why}" for name, why in failures.items()]
    event = "regression" if (moved["verdict"] == WORSE).any() else "failure" if failures else "move"
    facts = {
        "round": number,
        "plan": record["plan"],
        "moves": moved[["target", "recipe", "metric", "before", "now", "move", "p_holm"]].to_dict("records"),
        "failures": failures,
    }
    if not lines or tell(event, f"re-benchmark {number}: " + "; ".join(lines), facts):
        told(store, number, {"event": event if lines else "nothing to tell"})


def _line(row: Mapping[str, Any]) -> str:
    return (
        f"{row['target']} {row['recipe']}: {row['metric']} {row['verdict']} by {100 * abs(row['move']):.1f} points "
        f"({100 * row['before']:.1f} to {100 * row['now']:.1f}, p {row['p_holm']:.2g})"
    )


def order_name(begun: Round) -> str:
    """Name of the work order that carries a round out in the background."""
    return f"rebenchmark-{begun.number:04d}"


def failures_of(store: Store, begun: Round) -> dict[str, str] | None:
    """Why each unfinished training of a round failed; None while they may still come.

    A round that was ordered is over when its order is; one that ``rkd rebenchmark`` carries out, when the command says
    so.
    """
    missing = unfinished(store, begun)
    if not missing:
        return {}
    order = work_orders.latest(store, order_name(begun))
    if order is None or order.failures is None:
        return None
    names = [f"{cell.target} {cell.training}" for cell in missing]
    return {name: order.failures.get(name, "it was trained, and is out of date again") for name in names}


def untold(store: Store) -> list[int]:
    """Rounds on record that no hook has heard of."""
    return [r["round"] for r in records(store) if not round_file(store, r["round"], TOLD).exists()]


def told(store: Store, number: int, what: Mapping[str, Any]) -> None:
    """Remember what the hook was told of a round."""
    round_file(store, number, TOLD).write_json(dict(what))


def _read_round(file: Document) -> Round:
    given = read_json(file)
    cells = {name: [PlannedTraining(**cell) for cell in given[name]] for name in ("cells", "baseline")}
    return Round(**(given | cells))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
