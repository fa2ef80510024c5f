"""How fast a training step is, against measures taken in the same run.

1. The rate at which this machine multiplies large bfloat16 (or float32) matrices: the best it could do.
2. A plain loop over the same network: float32, default layout, the teacher recomputed in each step, images
   decoded and resized in each epoch, as the official code does it.
3. Asked for, anomalib's step of its Reverse Distillation: same architecture, batch and images, already decoded.

    RKD_DATA=/path/to/data python benchmarks/training.py [--with-anomalib] [--recipe rkd] [--rounds 3] [--arch resnet18]

Images are Head CT's normals where RKD_DATA is set, the demo's otherwise; teacher weights are random, which costs the
same time. The measures alternate, so that a busy machine slows all of them.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import records
import torch
from tabulate import tabulate
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from rkd_pipeline.data import synthetic
from rkd_pipeline.data.image_files import read_rgb, resized
from rkd_pipeline.detectors.fit import fit
from rkd_pipeline.detectors.reverse_kd import new_student
from rkd_pipeline.device import Compute
from rkd_pipeline.models.teacher import Teacher
from rkd_pipeline.models.teacher_files import TeacherName, TeacherRegistry
from rkd_pipeline.models.weights import load_weights
from rkd_pipeline.recipes.named_recipes import RECIPES
from rkd_pipeline.recipes.recipe import Recipe
from rkd_pipeline.training.losses import l_kd

IMAGES = 64  # two whole batches: no small last batch in the comparison


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--with-anomalib", action="store_true", help="needs the extra anomalib; on the CPU only")
    options.add_argument("--recipe", default="rkd")
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--arch", default="resnet18")
    options.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    options.add_argument("--json", type=Path, help="write the numbers there too")
    chosen = options.parse_args()
    recipe, compute = RECIPES[chosen.recipe], Compute.choose(chosen.device)
    weights = load_weights(TeacherRegistry(Path("none")), TeacherName(chosen.arch, "random"))
    teacher = Teacher(weights).to(compute.device)
    with tempfile.TemporaryDirectory() as folder:
        files = image_files(Path(folder))
        images = np.stack([resized(read_rgb(f), recipe.side) for f in files])
        flops = flops_per_image(recipe, teacher, images)
        measures: dict[str, Callable[[], float]] = {
            "matrix": lambda: matrix_rate(compute),
            "training": lambda: ours(recipe, teacher, images, compute, Path(folder)),
            "plain loop": lambda: plain(recipe, Teacher(weights).to(compute.device), files, compute),
        }
        if chosen.with_anomalib:
            measures["anomalib"] = anomalib_epoch(recipe, chosen.arch, images, compute)
        found: dict[str, list[float]] = {name: [] for name in measures}
        for _ in range(1 + chosen.rounds):  # the first round warms up
            for name, measure in measures.items():
                found[name].append(measure())
    rows = table({name: values[1:] for name, values in found.items()}, flops)
    records.write(chosen.json, "training", rows)
    schedule = f"{recipe.name} with {chosen.arch} at {recipe.side} pixels, batches of {recipe.batch_size}"
    print(f"{compute.label}, {torch.get_num_threads()} threads, {schedule}")
    print(f"one training step: {flops / 1e9:.1f} GFLOP an image, forward and backward, teacher features given")
    print(tabulate(rows, "keys", tablefmt="github", missingval="–"))


def image_files(folder: Path) -> list[Path]:
    data = os.environ.get("RKD_DATA")
    if data:
        return sorted((Path(data) / "head_ct" / "head_ct").glob("1*.png"))[:IMAGES]
    synthetic.generate(folder)
    return sorted(folder.rglob("train/good/*.png"))[:IMAGES]


def flops_per_image(recipe: Recipe, teacher: Teacher, images: np.ndarray) -> float:
    """Of one training step of the student, forward and backward, per image; the teacher's features are given."""
    student = new_student(recipe, teacher, 0).to(next(teacher.parameters()).device)
    features = teacher(torch.from_numpy(images[:2]).to(next(teacher.parameters()).device))
    with FlopCounterMode(display=False) as counter:
        l_kd(features, student(features)).mean().backward()
    return counter.get_total_flops() / 2


def matrix_rate(compute: Compute, side: int = 4096, repeats: int = 4) -> float:
    """FLOP/s of a square matrix product in the precision that training uses."""
    dtype = torch.bfloat16 if compute.bf16 else torch.float32
    a, b = (torch.randn(side, side, device=compute.device, dtype=dtype) for _ in range(2))
    seconds = timed(lambda: [a @ b for _ in range(repeats)], compute)
    return 2 * side**3 * repeats / seconds


def ours(recipe: Recipe, teacher: Teacher, images: np.ndarray, compute: Compute, folder: Path) -> float:
    """Images per second of the library's loop, from its second epoch on."""
    marks: list[float] = []

    def mark(_: object) -> None:
        synchronise(compute)
        marks.append(time.perf_counter())

    fit(
        recipe, teacher, images, None, epochs=3, seed=0, compute=compute,
        checkpoint=folder / "none", identity="benchmark", checkpoint_seconds=1e9, on_epoch=mark,
    )  # fmt: skip
    return len(images) * (len(marks) - 1) / (marks[-1] - marks[0])


def plain(recipe: Recipe, teacher: Teacher, files: list[Path], compute: Compute) -> float:
    """Images per second of one epoch that decodes, resizes, runs the teacher and trains in float32."""
    student: nn.Module = new_student(recipe, teacher, 0).to(compute.device).train()
    optimiser = torch.optim.Adam(student.parameters(), recipe.learning_rate, recipe.betas)

    def epoch() -> None:
        for start in range(0, len(files), recipe.batch_size):
            batch = np.stack([resized(read_rgb(f), recipe.side) for f in files[start : start + recipe.batch_size]])
            features = [f.contiguous() for f in teacher(torch.from_numpy(batch).to(compute.device))]
            loss = l_kd(features, student(features)).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()

    return len(files) / timed(epoch, compute)


def timed(work: Callable[[], object], compute: Compute) -> float:
    synchronise(compute)
    start = time.perf_counter()
    work()
    synchronise(compute)
    return time.perf_counter() - start


def synchronise(compute: Compute) -> None:
    if compute.device.type == "cuda":
        torch.cuda.synchronize()


def anomalib_epoch(recipe: Recipe, arch: str, images: np.ndarray, compute: Compute) -> Callable[[], float]:
    """Images per second of an epoch of anomalib's, in float32."""
    import anomalib_engines

    if compute.device.type != "cpu":
        raise SystemExit("--with-anomalib compares on the CPU: say --device cpu")
    step = anomalib_engines.training_step(arch, recipe.side, recipe.learning_rate, recipe.betas)

    def epoch() -> None:
        for start in range(0, len(images), recipe.batch_size):
            step(images[start : start + recipe.batch_size])

    return lambda: len(images) / timed(epoch, compute)


def table(found: dict[str, list[float]], flops: float) -> list[dict[str, object]]:
    """A row for each measure: its rate, and how training compares with it; ratios are within rounds."""
    rows: list[dict[str, object]] = []
    for name, values in found.items():
        per_second = values if name != "matrix" else [value / flops for value in values]
        ratios = [a / b for a, b in zip(found["training"], per_second, strict=True)]
        rows.append(
            {
                "what": name if name != "matrix" else "matrix product, as if it were training",
                "images a second": round(statistics.median(per_second), 2),
                "GFLOP a second": round(statistics.median(per_second) * flops / 1e9),
                "training is so many times as fast": round(statistics.median(ratios), 2),
                "least": round(min(ratios), 2),
                "most": round(max(ratios), 2),
            }
        )
    return rows


if __name__ == "__main__":
    main()
