"""This project's own systems beside anomalib's models of the same methods, through the adapter, in the same run.

Both go through the same stages: backbone and weights, images, split, schedule, scoring and metrics are the same, seed
by seed, one after the other. Printed: cost, quality with intervals, and the paired difference; where its 95% interval
holds 0, the two agree as far as these images can tell. It goes on where an earlier run of the same store ended.

    python benchmarks/native_and_adapter.py demo.weave demo.bracket --store STORE --json FILE
    python benchmarks/native_and_adapter.py head_ct --store STORE --data DATA --teacher resnet18 FILE --methods padim

Needs the extra anomalib.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd

from rkd_pipeline.detectors import system_of
from rkd_pipeline.device import Compute
from rkd_pipeline.models.teacher_files import EMBEDDED, TeacherName, TeacherRegistry
from rkd_pipeline.recipes.distillation_recipes import STFPM
from rkd_pipeline.recipes.lookup import recipe
from rkd_pipeline.recipes.named_recipes import RECIPES
from rkd_pipeline.recipes.score_rules import QUALITY
from rkd_pipeline.recipes.training_key import TrainingKey
from rkd_pipeline.results.ranking import system_names
from rkd_pipeline.results.system_comparison import NAMES, pair_rows, system_rows
from rkd_pipeline.results.tables.sheet import Sheet, with_interval
from rkd_pipeline.stages import anomaly_scores, datasets, evidence, trained_model
from rkd_pipeline.stages.ablation import drawn_share
from rkd_pipeline.stages.benchmark import build_benchmark, read_benchmark
from rkd_pipeline.stages.leaderboard import costs
from rkd_pipeline.store.result_store import Store
from rkd_pipeline.store.stage_versions import TRAINED_MODEL

CPU_SECONDS = "fit_cpu_seconds.json"  # in the store: what its facts do not say


@dataclass(frozen=True)
class STFPMAsAnomalib(STFPM):
    """Our STFPM with what anomalib's has fixed; of batches of two, its sum of half distances is our mean."""

    weight_decay: ClassVar[float] = 1e-3


@dataclass(frozen=True)
class Method:
    """One method, both ways.

    Attributes:
        title: for people.
        native, adapter: recipes.
        epochs: schedule of both; None of what learns in one pass.
        different: what their settings leave different.
    """

    title: str
    native: str
    adapter: str
    epochs: int | None
    different: str


_BORDER = "the blur mirrors borders with the outermost pixel here, without it there"
METHODS = {
    "padim": Method("PaDiM", "padim-brief", "anomalib-padim-brief", None,
                    f"which 100 of 448 features are kept (drawn otherwise by the same seed); {_BORDER}"),
    "patchcore": Method("PatchCore", "patchcore-brief", "anomalib-patchcore-brief", None,
                        "projection and first patch of the coreset are drawn otherwise; maps are enlarged bilinearly "
                        f"here, by the nearest position there; {_BORDER}"),
    "stfpm": Method("STFPM", "stfpm-as-anomalib", "anomalib-stfpm-brief", 6,
                    "initial weights are drawn otherwise; maps are multiplied before they are enlarged here, after "
                    "that there"),
    "reverse-distillation": Method("Reverse distillation", "rkd-brief+loss=kd_flat+side=128",
                                   "anomalib-reverse-distillation-brief", 4,
                                   f"initial weights are drawn otherwise; {_BORDER}"),
}  # fmt: skip


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("targets", nargs="+")
    options.add_argument("--store", type=Path, required=True)
    options.add_argument("--data", type=Path, default=Path("data"))
    options.add_argument("--teacher", nargs=2, metavar=("ARCH", "FILE"), help="without: the embedded one")
    options.add_argument("--methods", default=",".join(METHODS))
    options.add_argument("--seeds", default="0,1,2")
    options.add_argument("--json", type=Path)
    asked = options.parse_args()
    RECIPES["stfpm-as-anomalib"] = STFPMAsAnomalib(
        "stfpm-as-anomalib", "STFPM as anomalib sets it", "Wang et al. 2021", "anomalib 2.7.0", "see METHODS",
        side=128, batch_size=2,
    )  # fmt: skip
    store, methods = Store(asked.store), [METHODS[name] for name in asked.methods.split(",")]
    teacher = _teacher(store, asked.teacher)
    trained_model.list_teachers(store)
    _import_all()
    for target in asked.targets:
        for method in methods:
            for key in _keys(method, teacher, [int(seed) for seed in asked.seeds.split(",")]):
                print(f"{target} {key}", flush=True)
                make(store, asked.data, target, key)
    rows = compared(store, asked.targets, methods, teacher)
    for target in asked.targets:
        print(f"\n**{target}**\n\n{sheet([r for r in rows if r['target'] == target], methods).markdown()}")
    if asked.json:
        asked.json.write_text(json.dumps({"about": _about(), "rows": rows}, indent=1) + "\n", encoding="utf-8")


def _teacher(store: Store, named: tuple[str, str] | None) -> TeacherName:
    if named is None:
        return TeacherName.parse(EMBEDDED)
    from rkd_pipeline.models.weights import register_weights

    arch, file = named
    return TeacherName.parse(str(register_weights(TeacherRegistry(store.teachers_file), Path(file), arch)))


def _import_all() -> None:
    """What would otherwise be imported, slowly, while the first training is timed."""
    import_module("anomalib.models")
    for method in METHODS.values():
        for name in (method.native, method.adapter):
            system_of(recipe(name))


def _keys(method: Method, teacher: TeacherName, seeds: list[int]) -> Iterator[str]:
    """Both sides of every seed; which one comes first changes from seed to seed."""
    for seed in seeds:
        names = (method.native, method.adapter)
        for name in names if seed % 2 == 0 else reversed(names):
            yield str(TrainingKey.compose(name, seed=seed, teacher=teacher, epochs=method.epochs))


def make(store: Store, data: Path, target: str, training: str) -> None:
    """One training with all that is measured of it, as far as it is missing."""
    key = TrainingKey.parse(training)
    datasets.find_source(store, data, target)
    datasets.index_images(store, target)
    datasets.split_images(store, target)
    for side in {key.recipe.side, datasets.FIRST_SIDE}:
        datasets.prepare_images(store, target, side)
    compute, file = Compute.choose("cpu", "fp32"), store.root / CPU_SECONDS
    spent = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    began = time.process_time()
    trained_model.train_model(store, target, training, compute)
    spent.setdefault(f"{target} {training}", time.process_time() - began)
    file.write_text(json.dumps(spent), encoding="utf-8")
    anomaly_scores.score_images(store, target, training, compute)
    anomaly_scores.evaluate(store, target, training)
    evidence.gather_evidence(store, target, training)


def compared(store: Store, targets: list[str], methods: list[Method], teacher: TeacherName) -> list[dict[str, Any]]:
    """Three rows a target and method: native, adapter, and their difference with its verdict."""
    rows = read_benchmark(build_benchmark(store))
    ours = rows[(rows["origin"] == "measured") & rows["target"].isin(targets) & (rows["teacher"] == str(teacher))]
    pairs = list(ours[["target", "training"]].drop_duplicates().itertuples(index=False, name=None))
    shares = drawn_share(store, pairs)
    trained_on = {pair: int(store.require(TRAINED_MODEL, *pair).facts["train_pictures"]) for pair in pairs}
    own_draws = {target: share is not None for target, share in shares.items()}
    systems = system_rows(ours, costs(store, ours), trained_on, own_draws)
    cpu = json.loads((store.root / CPU_SECONDS).read_text(encoding="utf-8"))
    found: list[dict[str, Any]] = []
    for target in targets:
        for method in methods:
            here = ours[(ours["target"] == target) & ours["recipe"].isin((method.native, method.adapter))]
            here = here[here["epochs"].isna() if method.epochs is None else here["epochs"] == method.epochs]
            for side, name in (("native", method.native), ("adapter", method.adapter)):
                trainings = here.loc[here["recipe"] == name, "training"].unique()
                of_system = systems[(systems["target"] == target) & (systems["recipe"] == name)]
                [row] = of_system[of_system["system"].isin(system_names(here))].to_dict("records")
                fit_cpu = sum(cpu[f"{target} {t}"] for t in trainings) / len(trainings)
                found.append({"method": method.title, "side": side, **row, "cpu_seconds": fit_cpu})
            found += _differences(store, here, method, shares)
    return found


def _differences(
    store: Store, here: pd.DataFrame, method: Method, shares: dict[str, float | None]
) -> Iterator[dict[str, Any]]:
    cells: dict[tuple[str, int, int], dict[str, Any]] = {}
    for target, training in here[["target", "training"]].drop_duplicates().itertuples(index=False, name=None):
        key = TrainingKey.parse(training)
        side = "native" if key.recipe.name == method.native else "adapter"
        found = evidence.evidence_of(evidence.gather_evidence(store, target, training))
        cells.setdefault((target, key.seed, key.repeat), {})[side] = found
    pairs = pair_rows(cells, {"native": method.native, "adapter": method.adapter}, shares)
    for target, of_target in pairs.groupby("target"):
        row: dict[str, Any] = {"target": target, "method": method.title, "side": "difference"}
        row |= {"seeds": int(of_target["seeds"].max())}
        for pair in of_target.to_dict("records"):
            value, low, high = (pair[k] for k in ("difference", "ci_low", "ci_high"))
            if pair["first"] == "adapter":
                value, low, high = -value, -high, -low
            quality = pair["quality"]
            row |= {quality: value, f"{quality}_low": low, f"{quality}_high": high}
            row |= {f"{quality}_agrees": bool(value == 0 or low <= 0 <= high)}
        yield row


def sheet(rows: list[dict[str, Any]], methods: list[Method]) -> Sheet:
    """One target's rows for reading."""
    made = Sheet("", ["Method", "", "Seeds", "Fit, CPU s", "Fit, s", "Scoring, ms/image", *NAMES.values(), "Agree"])
    for row in rows:
        difference = row["side"] == "difference"
        numbers = [with_interval(row.get(q), row.get(f"{q}_low"), row.get(f"{q}_high"), sign=difference)
                   for q in QUALITY]  # fmt: skip
        if difference:
            apart = [NAMES[q] for q in QUALITY if not row.get(f"{q}_agrees", True)]
            made.rows.append(["", "native less adapter", str(row["seeds"]), "", "", "", *numbers,
                              f"no: {', '.join(apart)}" if apart else "yes"])  # fmt: skip
            continue
        spent = [f"{row['cpu_seconds']:.1f}", f"{row['training_seconds']:.1f}",
                 f"{1000 * row['scoring_seconds_per_picture']:.1f}"]  # fmt: skip
        note = made.mark(next(m.different for m in methods if m.title == row["method"]))
        name = row["method"] + note if row["side"] == "native" else ""
        made.rows.append([name, f"{row['side']}: `{row['recipe']}`", str(row["seeds"]), *spent, *numbers, ""])
    made.below.append("In percent, mean over seeds [95% interval].")
    return made


def _about() -> dict[str, Any]:
    import anomalib
    import torch

    return {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
        "anomalib": anomalib.__version__,
        "torch": torch.__version__,
        "methods": {name: asdict(method) for name, method in METHODS.items()},
    }


if __name__ == "__main__":
    sys.exit(main())
