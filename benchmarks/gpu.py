"""How well training keeps a device busy, and how long the whole of MVTec AD takes on it.

    PYTHONPATH=. python benchmarks/gpu.py [--epochs 200] [--at-once 1,2,4,8] [--precision auto]
    PYTHONPATH=. python benchmarks/gpu.py --epochs 1 --images 8 --categories 1 --arch resnet18 --side 64

It needs nothing but torch, pandas, scikit-learn (with numpy and scipy) and pyarrow: ResNets come from bare_resnet.py
where there is no torchvision. Images are synthetic, in the numbers of MVTec AD's categories; weights of the teacher are
random, which costs the same time. So its AUROC and AUPRO say that scoring and measuring ran, and nothing of a method.

Four parts, in one run on one machine:
1. the rate of large matrix products in the precision of training: the best that the device could do;
2. one training (recipe rkd-official): images per second from its second epoch on, and its share of that rate;
3. several trainings at once, each a process of its own that shares the device: images per second of all together;
4. MVTec AD, category by category, one after the other: features, training, scoring, and every metric.
"""

import argparse
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode

if not find_spec("torchvision"):
    from bare_resnet import stand_in

    stand_in()

from rkd_pipeline import progress
from rkd_pipeline.data.catalog import TARGETS
from rkd_pipeline.detectors import system_of
from rkd_pipeline.detectors.fit import fit
from rkd_pipeline.device import Compute, cores, place
from rkd_pipeline.metrics.evaluation import measure
from rkd_pipeline.models.architectures import architecture, untrained
from rkd_pipeline.models.reverse_distillation import ReverseDistillation
from rkd_pipeline.models.teacher_files import TeacherName, TeacherRegistry
from rkd_pipeline.models.weights import load_weights
from rkd_pipeline.recipes.named_recipes import RECIPES
from rkd_pipeline.recipes.recipe import ReverseKD
from rkd_pipeline.training.losses import training_loss

TIMED_EPOCHS = 5  # at most, of parts 2 and 3, after one that warms up
DEFECT = 32  # a defect's side is this part of the image's: one in so many
LONG = 600.0  # seconds that trainings wait for each other before they give up


@dataclass(frozen=True)
class Work:
    """What is trained, and where."""

    recipe: ReverseKD
    arch: str
    compute: Compute


@dataclass(frozen=True)
class Flops:
    """Floating-point operations of one image, counted by torch."""

    step: float
    student: float
    teacher: float


def main(given: Sequence[str] | None = None) -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--epochs", type=int, default=200)
    options.add_argument("--categories", type=int, default=15, help="the first so many of MVTec AD's")
    options.add_argument(
        "--images", type=int, help="at most so many for training and as many for testing; all if not given"
    )
    options.add_argument("--arch", default="wide_resnet50_2")
    options.add_argument("--side", type=int, default=256, help="of the images, in pixels")
    options.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    options.add_argument("--precision", choices=["auto", "fp32", "tf32", "bf16"], default="auto")
    options.add_argument(
        "--at-once", help="trainings that share the device; 1,2,4,8 on a GPU and none on a CPU if not given"
    )
    asked = options.parse_args(given)
    compute = Compute.choose(asked.device, asked.precision)
    recipe = RECIPES["rkd-official"]
    assert isinstance(recipe, ReverseKD)
    work = Work(replace(recipe, side=asked.side), asked.arch, compute)
    on_gpu = compute.device.type == "cuda"
    at_once = [int(n) for n in (asked.at_once or ("1,2,4,8" if on_gpu else "")).split(",") if n]
    print(f"{compute.label}, torch {torch.__version__}, {cores()} cores, {torch.get_num_threads()} threads")
    print(f"rkd-official, {asked.arch} at {asked.side} pixels, batches of {recipe.batch_size}, features kept\n")
    with open(os.devnull, "w") as nowhere, progress.shown_on(nowhere):
        counted = flops(work)
        matrix = matrix_rate(compute)
        rate = one_training(work, min(asked.images or 320, 320), asked.epochs)
        print_rates(counted, matrix, rate)
        if at_once:
            several(work, min(asked.images or 320, 320), asked.epochs, at_once, rate)
        whole(work, asked.categories, asked.images, asked.epochs, counted, matrix)


def flops(work: Work) -> Flops:
    """Counted on tensors without values: of a step of the student (forward and backward), and of both forward."""
    arch, side = architecture(work.arch), work.recipe.side
    with torch.device("meta"):
        student, network = ReverseDistillation(arch, work.recipe.oce_width), untrained(arch).eval()
        features = [torch.empty(2, c, side // d, side // d) for c, d in zip(arch.channels, (4, 8, 16), strict=True)]
        images = torch.empty(2, 3, side, side)
    loss = training_loss(work.recipe.loss, 0.0, work.recipe.val_reduction)

    def teacher() -> None:
        x = network.maxpool(network.relu(network.bn1(network.conv1(images))))
        network.layer3(network.layer2(network.layer1(x)))

    step = of_two(lambda: loss(features, student(features)).mean().backward())
    with torch.no_grad():
        return Flops(step, of_two(lambda: student(features)), of_two(teacher))


def of_two(call: Callable[[], Any]) -> float:
    """Operations of one image, of a call with two."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops() / 2


def matrix_rate(compute: Compute) -> float:
    """FLOP/s of a square matrix product in the precision of training; the best of five."""
    side = 8192 if compute.device.type == "cuda" else 1024
    a, b = (torch.randn(side, side, device=compute.device) for _ in range(2))
    if compute.bf16:
        a, b = a.bfloat16(), b.bfloat16()
    best = float("inf")
    with compute.products():
        for _ in range(6):
            synchronise(compute)
            start = time.perf_counter()
            for _ in range(4):
                a @ b
            synchronise(compute)
            best = min(best, time.perf_counter() - start)
    return 4 * 2 * side**3 / best


def synchronise(compute: Compute) -> None:
    if compute.device.type == "cuda":
        torch.cuda.synchronize(compute.device)


def new_teacher(work: Work) -> Any:
    weights = load_weights(TeacherRegistry(Path("none")), TeacherName(work.arch, "random"))
    return place(system_of(work.recipe).teacher(weights, work.recipe), work.compute.device)


def images_of(count: int, side: int, seed: int) -> np.ndarray:
    """Smooth noise, uint8 ``(count, side, side, 3)``."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 16, 16, generator=generator)
    fine = [torch.nn.functional.interpolate(c[None], side, mode="bilinear")[0] for c in coarse]
    return (torch.stack(fine) * 255).byte().permute(0, 2, 3, 1).contiguous().numpy()


def trained(work: Work, teacher: Any, images: np.ndarray, epochs: int, on_epoch: Callable[[Any], None]) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        return fit(
            work.recipe, teacher, images, None, epochs=epochs, seed=0, compute=work.compute,
            checkpoint=Path(folder) / "checkpoint", identity="benchmark", checkpoint_seconds=1e9, on_epoch=on_epoch,
        )  # fmt: skip


def one_training(work: Work, count: int, epochs: int) -> float:
    """Images per second from the second epoch on."""
    marks: list[float] = []
    timed = min(epochs, TIMED_EPOCHS)
    images = images_of(count, work.recipe.side, 0)
    trained(work, new_teacher(work), images, 1 + timed, lambda _: marks.append(time.perf_counter()))
    return count * timed / (marks[-1] - marks[0])


def print_rates(counted: Flops, matrix: float, rate: float) -> None:
    print(f"a step of the student  {counted.step / 1e9:8.2f} GFLOP an image, forward and backward")
    print(f"the teacher            {counted.teacher / 1e9:8.2f} GFLOP an image, forward; once per image")
    print(f"matrix products        {matrix / 1e9:8.0f} GFLOP/s")
    print(f"one training           {rate:8.1f} images/s = {rate * counted.step / 1e9:.0f} GFLOP/s")
    print(f"share of the rate      {rate * counted.step / matrix:8.2f}\n", flush=True)


def several(work: Work, count: int, epochs: int, at_once: Sequence[int], alone: float) -> None:
    """Images per second of trainings that share the device, and what that is to one in this process."""
    print(f"{'at once':>8} {'images/s':>9} {'of one':>7}")
    for number in at_once:
        rate = together(work, count, epochs, number)
        print(f"{number:>8} {rate:>9.1f} {rate / alone:>7.2f}", flush=True)
    print()


def together(work: Work, count: int, epochs: int, number: int) -> float:
    """Of all: their images from the moment that all have warmed up until the last is done."""
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(number), context.Queue()
    threads = max(1, cores() // number)
    processes = [
        context.Process(target=one_of_several, args=(work, count, epochs, threads, barrier, results))
        for _ in range(number)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        raise SystemExit(f"of {number} trainings at once one failed; its error is above. Perhaps memory was short")
    spans = [results.get() for _ in processes]
    return (
        number * count * min(epochs, TIMED_EPOCHS) / (max(end for _, end in spans) - min(start for start, _ in spans))
    )


def one_of_several(work: Work, count: int, epochs: int, threads: int, barrier: Any, results: Any) -> None:
    torch.set_num_threads(threads)
    marks: list[float] = []

    def mark(_: object) -> None:
        if not marks:
            barrier.wait(LONG)
        marks.append(time.monotonic())  # one clock for all processes of a machine

    with open(os.devnull, "w") as nowhere, progress.shown_on(nowhere):
        images = images_of(count, work.recipe.side, 0)
        trained(work, new_teacher(work), images, 1 + min(epochs, TIMED_EPOCHS), mark)
    results.put((marks[0], marks[-1]))


def whole(work: Work, categories: int, at_most: int | None, epochs: int, counted: Flops, matrix: float) -> None:
    """Part 4: a line per category, then the arithmetic."""
    named = [t for t in TARGETS.values() if t.dataset == "mvtec_ad"][:categories]
    most = at_most or 10**9
    print(f"{'category':<22} {'train':>5} {'test':>5} {'train s':>8} {'score s':>8} {'measure s':>9} {'images/s':>9}")
    spent, trained_on, looked_at = 0.0, 0, 0
    for target in named:
        assert target.test is not None
        normal, anomalous = (min(n, max(1, most // 2)) for n in target.test)
        train = min(target.counts[0] - target.test[0], most)
        seconds = category(work, train, normal, anomalous, epochs)
        spent, trained_on = spent + sum(seconds), trained_on + train * epochs
        looked_at += train + normal + anomalous
        print(
            f"{target.name:<22} {train:>5} {normal + anomalous:>5} {seconds[0]:>8.1f} {seconds[1]:>8.1f} "
            f"{seconds[2]:>9.1f} {train * epochs / seconds[0]:>9.1f}",
            flush=True,
        )
    done = trained_on * counted.step + looked_at * counted.teacher
    print(f"\n{len(named)} categories, {epochs} epochs: {spent:.1f} s, one after the other")
    print(f"{trained_on} images trained on x {counted.step / 1e9:.2f} GFLOP + {looked_at} through the teacher once")
    print(f"  = {done:.3g} FLOP, of which the device did {done / spent / 1e9:.0f} GFLOP/s, evaluation included:")
    print(f"  {done / spent / matrix:.2f} of the rate of matrix products")
    print(f"MVTec AD whole, 200 epochs, {work.arch} at {work.recipe.side} pixels, by this count:")
    steps, teacher = 200 * 3629 * counted.step, 3629 * counted.teacher
    print(f"  3629 x (200 x {counted.step / 1e9:.2f} + {counted.teacher / 1e9:.2f}) GFLOP = {steps + teacher:.3g} FLOP")
    print(f"  {steps + 200 * teacher:.3g} FLOP with the teacher in each step, where features are not kept")


def category(work: Work, train: int, normal: int, anomalous: int, epochs: int) -> tuple[float, float, float]:
    """Seconds of training (features included), of scoring, and of every metric."""
    images = images_of(train, work.recipe.side, 0)
    test = images_of(normal + anomalous, work.recipe.side, 1)
    masks = np.zeros(test.shape[:3], bool)
    edge = max(2, work.recipe.side // DEFECT)
    masks[normal:, edge : 3 * edge, edge : 3 * edge] = True
    test[masks] = 255 - test[masks]
    teacher, marks = new_teacher(work), [time.perf_counter()]
    result = trained(work, teacher, images, epochs, lambda _: None)
    marks.append(time.perf_counter())
    detector = system_of(work.recipe).detector(work.recipe, teacher, result.state, result.lambda_, work.compute.device)
    scores = detector.score(test)
    marks.append(time.perf_counter())
    table = pd.DataFrame({"part": "test", "anomalous": np.arange(len(test)) >= normal, **scores.images})
    found = measure(table, scores.maps, masks, work.recipe)
    marks.append(time.perf_counter())
    assert found["value"].notna().any()
    first, second, third = np.diff(marks)
    return float(first), float(second), float(third)


if __name__ == "__main__":
    main()
