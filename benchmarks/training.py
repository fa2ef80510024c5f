"""How fast a training step is, against two measures taken in the same run.

1. The rate at which this machine multiplies large bfloat16 (or float32) matrices: the best it could do.
2. A plain loop over the same network: float32, default layout, the teacher recomputed in each step, images
   decoded and resized in each epoch, as the official code does it.

    RKD_DATA=/path/to/data python benchmarks/training.py [--rounds 3] [--arch resnet18] [--device cpu]

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
import torch
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
from rkd_pipeline.training.losses import l_kd

RECIPE = RECIPES["rkd"]
IMAGES = 64  # two whole batches: no small last batch in the comparison


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--arch", default="resnet18")
    options.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    chosen = options.parse_args()
    compute = Compute.choose(chosen.device)
    weights = load_weights(TeacherRegistry(Path("none")), TeacherName(chosen.arch, "random"))
    teacher = Teacher(weights).to(compute.device)
    with tempfile.TemporaryDirectory() as folder:
        files = image_files(Path(folder))
        images = np.stack([resized(read_rgb(f), RECIPE.side) for f in files])
        flops = flops_per_image(teacher, images)
        measures: dict[str, Callable[[], float]] = {
            "matrix": lambda: matrix_rate(compute),
            "ours": lambda: ours(teacher, images, compute, Path(folder)),
            "plain": lambda: plain(Teacher(weights).to(compute.device), files, compute),
        }
        found: dict[str, list[float]] = {name: [] for name in measures}
        for _ in range(1 + chosen.rounds):  # the first round warms up
            for name, measure in measures.items():
                found[name].append(measure())
    report({name: values[1:] for name, values in found.items()}, flops, compute, chosen.arch)


def image_files(folder: Path) -> list[Path]:
    data = os.environ.get("RKD_DATA")
    if data:
        return sorted((Path(data) / "head_ct" / "head_ct").glob("1*.png"))[:IMAGES]
    synthetic.generate(folder)
    return sorted(folder.rglob("train/good/*.png"))[:IMAGES]


def flops_per_image(teacher: Teacher, images: np.ndarray) -> float:
    """Of one training step of the student, forward and backward, per image; the teacher's features are given."""
    student = new_student(RECIPE, teacher, 0).to(next(teacher.parameters()).device)
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


def ours(teacher: Teacher, images: np.ndarray, compute: Compute, folder: Path) -> float:
    """Images per second of the library's loop, from its second epoch on."""
    marks: list[float] = []

    def mark(_: object) -> None:
        synchronise(compute)
        marks.append(time.perf_counter())

    fit(
        RECIPE, teacher, images, None, epochs=3, seed=0, compute=compute,
        checkpoint=folder / "none", identity="benchmark", checkpoint_seconds=1e9, on_epoch=mark,
    )  # fmt: skip
    return len(images) * (len(marks) - 1) / (marks[-1] - marks[0])


def plain(teacher: Teacher, files: list[Path], compute: Compute) -> float:
    """Images per second of one epoch that decodes, resizes, runs the teacher and trains in float32."""
    student: nn.Module = new_student(RECIPE, teacher, 0).to(compute.device).train()
    optimiser = torch.optim.Adam(student.parameters(), RECIPE.learning_rate, RECIPE.betas)

    def epoch() -> None:
        for start in range(0, len(files), RECIPE.batch_size):
            batch = np.stack([resized(read_rgb(f), RECIPE.side) for f in files[start : start + RECIPE.batch_size]])
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


def report(found: dict[str, list[float]], flops: float, compute: Compute, arch: str) -> None:
    rate, ours_rate, plain_rate = (statistics.median(found[name]) for name in ("matrix", "ours", "plain"))
    shares = [o * flops / m for o, m in zip(found["ours"], found["matrix"], strict=True)]
    ratios = [o / p for o, p in zip(found["ours"], found["plain"], strict=True)]
    print(f"{compute.label}, {torch.get_num_threads()} threads, {arch} at {RECIPE.side}, batch {RECIPE.batch_size}")
    print(f"one training step: {flops / 1e9:.1f} GFLOP an image, forward and backward, teacher features given")
    print(f"matrix product     {rate / 1e9:8.0f} GFLOP/s")
    print(f"training           {ours_rate:8.1f} images/s = {ours_rate * flops / 1e9:.0f} GFLOP/s")
    print(f"plain loop         {plain_rate:8.1f} images/s")
    print(f"share of the matrix rate  {statistics.median(shares):.2f}  ({min(shares):.2f} to {max(shares):.2f})")
    print(f"times the plain loop      {statistics.median(ratios):.2f}  ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
