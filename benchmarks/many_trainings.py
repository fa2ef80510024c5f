"""Trains, scores and measures a list of cells on one machine, several at a time, without Dagster.

For a machine with a GPU that small trainings do not fill, or with no Dagster: the results are those of `rkd run` on the
same store, which goes on from them. What is there already is not made again, so the command can be repeated.

    python benchmarks/many_trainings.py CELLS --store STORE --data DATA --teacher resnet18 FILE [--seconds 500]

CELLS is a text file: a target and a training per line, perhaps followed by `product` or `rotated` for what the ablation
and the claims want besides. A teacher's eight digits may be left out of keys (`rkd@resnet18.-s0`): they are filled in.
"""

import argparse
import multiprocessing
import os
import sys
import time
import traceback
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rkd_pipeline.errors import RkdError
from rkd_pipeline.models.teacher_files import TeacherRegistry
from rkd_pipeline.operations.tables_in_step import BUILT
from rkd_pipeline.recipes.plans import PlannedTraining
from rkd_pipeline.recipes.training_key import TrainingKey
from rkd_pipeline.stages import anomaly_scores, datasets, evidence, trained_model
from rkd_pipeline.store.result_store import Store

if TYPE_CHECKING:
    from rkd_pipeline.device import DeviceChoice, PrecisionChoice


@dataclass(frozen=True)
class Cell:
    """One training of one target, and what is wanted of it besides scores and metrics."""

    target: str
    training: str
    further: tuple[str, ...]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("cells", type=Path)
    options.add_argument("--store", type=Path, required=True)
    options.add_argument("--data", type=Path, required=True)
    options.add_argument("--teacher", nargs=2, action="append", metavar=("ARCH", "FILE"), default=[])
    options.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    options.add_argument("--precision", choices=["auto", "fp32", "tf32", "bf16"], default="fp32")
    options.add_argument("--on-device", type=int, default=2, help="trainings that share a GPU")
    options.add_argument("--processes", type=int, default=os.cpu_count())
    options.add_argument("--seconds", type=float, default=float("inf"), help="begin no training after these")
    options.add_argument("--tables", action="store_true", help="make tables, claims and the report at the end")
    asked = options.parse_args()
    started = time.monotonic()
    store = Store(asked.store)
    prefixes = {}
    for arch, file in asked.teacher:
        from rkd_pipeline.models.weights import register_weights

        prefixes[f"@{arch}."] = f"@{register_weights(TeacherRegistry(store.teachers_file), Path(file), arch)}"
    trained_model.list_teachers(store)
    cells = read_cells(asked.cells, prefixes)
    prepare(store, asked.data, cells)
    print(f"{time.monotonic() - started:6.0f} s  data is prepared; {len(cells)} cells", flush=True)

    context = multiprocessing.get_context("spawn")
    slots = asked.on_device, asked.processes  # of a GPU, and of the CPU
    threads = max(1, (os.cpu_count() or 1) // asked.processes)
    os.environ["OMP_NUM_THREADS"] = str(threads)  # of the processes to come
    arguments = (asked.store, slots, asked.device, asked.precision, threads, started + asked.seconds)
    failed = 0
    with ProcessPoolExecutor(asked.processes, context) as pool:
        waiting = {pool.submit(make, cell, *arguments): cell for cell in cells}
        for done in as_completed(waiting):
            cell, said = waiting[done], done.result()
            failed += said.startswith("FAILED")
            print(f"{time.monotonic() - started:6.0f} s  {cell.target} {cell.training}: {said}", flush=True)
    if asked.tables:
        for build in BUILT:
            build(store)
        print(f"{time.monotonic() - started:6.0f} s  tables are made", flush=True)
    sys.exit(1 if failed else 0)


def read_cells(file: Path, prefixes: dict[str, str]) -> list[Cell]:
    """The cells of a file, each checked. Raises ``BadKey``."""
    cells = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        target, training, *further = line.split()
        for short, name in prefixes.items():
            training = training.replace(f"{short}-", f"{name}-").replace(f"{short}~", f"{name}~")
        cells.append(Cell(target, str(TrainingKey.parse(training)), tuple(further)))
    return cells


def prepare(store: Store, data: Path, cells: list[Cell]) -> None:
    """Everything before training, once."""
    for target in dict.fromkeys(c.target for c in cells):
        datasets.find_source(store, data, target)
        datasets.index_images(store, target)
        datasets.split_images(store, target)
    sides = {(c.target, TrainingKey.parse(c.training).recipe.side) for c in cells}
    for target, side in sorted({*sides, *((c.target, datasets.FIRST_SIDE) for c in cells)}):
        datasets.prepare_images(store, target, side)


def make(
    cell: Cell,
    root: Path,
    slots: tuple[int, int],
    name: "DeviceChoice",
    precision: "PrecisionChoice",
    threads: int,
    deadline: float,
) -> str:
    """One cell, as far as it is missing; returns what to print."""
    import torch

    from rkd_pipeline.device import Compute

    if time.monotonic() > deadline:
        return "not begun, the time is up"
    torch.set_num_threads(threads)
    store = Store(root)
    on_gpu, on_cpu = slots
    cpu = Compute.choose("cpu", "fp32", slots=on_cpu)
    compute = Compute.choose(name, precision, feature_budget_gib=16, slots=on_gpu)
    if compute.device.type == "cpu":
        compute = replace(compute, slots=on_cpu)
    began = time.monotonic()
    try:
        if shared := PlannedTraining(cell.target, cell.training).shared:
            trained_model.train_model(store, shared.target, shared.training, compute)
        model = trained_model.train_model(store, cell.target, cell.training, compute)
        anomaly_scores.score_images(store, cell.target, cell.training, compute)
        metrics = anomaly_scores.evaluate(store, cell.target, cell.training)
        evidence.gather_evidence(store, cell.target, cell.training)
        if "product" in cell.further:
            evidence.score_product_maps(store, cell.target, cell.training, compute)
        if "rotated" in cell.further:
            evidence.score_rotated_images(store, cell.target, cell.training, cpu)
    except (RkdError, RuntimeError) as error:
        return f"FAILED: {error}\n{traceback.format_exc()}"
    best = {rule: value and round(value, 3) for rule, value in metrics.facts["image_auroc"].items()}
    facts = model.facts
    return (
        f"{time.monotonic() - began:.0f} s, {facts['epochs_trained']} epochs in {facts['timed_seconds']:.1f} s, "
        f"{facts['pictures_per_second']:.0f} images/s, image AUROC {best}"
    )


if __name__ == "__main__":
    main()
