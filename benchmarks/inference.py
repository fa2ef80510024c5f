"""Exported models against this project's torch: how long an image takes, from its file and from its prepared array.

    python benchmarks/inference.py [--teacher wide_resnet50_2] [--recipe rkd] [--rounds 7] [--images 64] [--pixels 700]

Networks are untrained, for their speed does not hang on the weights. All engines take turns within a round; a line is
the median over rounds of wall seconds, with the range, and of CPU seconds, per image. Latency is of one image alone,
throughput of batches of 16. "torch" is what `rkd predict` runs; files are decoded by Pillow in all cases.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tabulate import tabulate

from rkd_pipeline.data.image_files import read_rgb, resized
from rkd_pipeline.detectors.deployed_graph import DeployedGraph
from rkd_pipeline.detectors.exported_model import ExportCard
from rkd_pipeline.detectors.graph_formats import SUFFIXES, ExportedFile, in_int8, onnx_model, save_onnx
from rkd_pipeline.detectors.model_card import ModelCard
from rkd_pipeline.detectors.reverse_kd import ReverseKDDetector, new_student
from rkd_pipeline.device import place
from rkd_pipeline.models.teacher import Teacher
from rkd_pipeline.models.teacher_files import TeacherRegistry
from rkd_pipeline.models.weights import load_weights
from rkd_pipeline.recipes.training_key import TrainingKey

LATENCY, THROUGHPUT = 1, 16
Score = Callable[[np.ndarray], object]
Measured = dict[tuple[str, str, int, int], list[tuple[float, float]]]


def detector_of(key: TrainingKey) -> ReverseKDDetector:
    teacher = Teacher(load_weights(TeacherRegistry(Path("no registry")), key.teacher))
    student = new_student(key.recipe, teacher, seed=0).eval()
    cpu = torch.device("cpu")
    return ReverseKDDetector(key.recipe, place(teacher, cpu), place(student, cpu), 1.0)


def exported(detector: ReverseKDDetector, key: TrainingKey, images: np.ndarray, folder: Path) -> dict[str, Path]:
    card = ExportCard(ModelCard("none", str(key), str(key.teacher), "0" * 64, 1.0), None)
    model = onnx_model(DeployedGraph(detector, None))
    files = {}
    for precision, made in (("fp32", model), ("int8", in_int8(model, images))):
        for format_ in ("onnx", "openvino"):
            files[f"{format_} {precision}"] = folder / f"{precision}{SUFFIXES[format_]}"
            save_onnx(made, files[f"{format_} {precision}"], format_, precision, card)
    return files


def timed(work: Callable[[], object], images: int) -> tuple[float, float]:
    """Wall and CPU seconds per image, of this process with all its threads."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return (time.perf_counter() - wall) / images, (time.process_time() - cpu) / images


def one_by_batch(score: Score, images: Sequence[np.ndarray], batch: int) -> None:
    for start in range(0, len(images), batch):
        score(np.stack(images[start : start + batch]))


def measure(
    engines: dict[str, Score], side: int, files: list[Path], rounds: int, threads: int, measured: Measured
) -> None:
    arrays = [resized(read_rgb(file), side) for file in files]
    for turn in range(rounds + 1):  # the first round warms up
        for name, score in engines.items():

            def read(file: Path, name: str = name) -> np.ndarray:
                image = read_rgb(file)
                return resized(image, side) if name == "torch" else np.asarray(image)

            def from_files(batch: int, score: Score = score, read: Callable[[Path], np.ndarray] = read) -> None:
                for start in range(0, len(files), batch):
                    score(np.stack([read(file) for file in files[start : start + batch]]))

            for batch in (LATENCY, THROUGHPUT):
                for source, work in (
                    ("file", lambda b=batch, f=from_files: f(b)),
                    ("array", lambda b=batch, s=score: one_by_batch(s, arrays, b)),
                ):
                    found = timed(work, len(files))
                    if turn:
                        measured.setdefault((name, source, batch, threads), []).append(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default="wide_resnet50_2")
    parser.add_argument("--recipe", default="rkd")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--pixels", type=int, default=700, help="side of the files' images")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    given = parser.parse_args()
    key = TrainingKey.parse(f"{given.recipe}@{given.teacher}.random~1e-s0")
    rng, side = np.random.default_rng(0), key.recipe.side
    detector, measured = detector_of(key), {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        files = [folder / f"{number}.png" for number in range(given.images)]
        for file in files:
            coarse = Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8))
            coarse.resize((given.pixels, given.pixels)).save(file)
        calibration = np.stack([resized(read_rgb(file), side) for file in files[:16]])
        models = exported(detector, key, calibration, folder)
        for threads in given.threads:
            torch.set_num_threads(threads)
            opened = {name: ExportedFile(file, threads=threads) for name, file in models.items()}
            measure({"torch": detector.score, **opened}, side, files, given.rounds, threads, measured)
    rows = []
    for (name, source, batch, threads), found in measured.items():
        wall, cpu = (np.array(column) * 1000 for column in zip(*found, strict=True))
        spread = f"{wall.min():.1f} to {wall.max():.1f}"
        ours = np.median([w for w, _ in measured["torch", source, batch, threads]]) * 1000
        ratio = f"{ours / np.median(wall):.2f}"
        rows.append([threads, source, batch, name, f"{np.median(wall):.1f}", spread, f"{np.median(cpu):.1f}", ratio])
    rows.sort(key=lambda row: row[:3])
    print(f"{key}, {given.images} files of {given.pixels} pixels, {given.rounds} rounds, {os.cpu_count()} cores")
    heads = ["threads", "from", "batch", "engine", "ms an image", "range", "CPU ms", "times as fast as torch"]
    print(tabulate(rows, heads, tablefmt="github", disable_numparse=True))


if __name__ == "__main__":
    main()
