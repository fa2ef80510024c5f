"""Exported models, this project's torch and anomalib's: how long an image takes, from its file and from its array.

    python benchmarks/inference.py [--with-anomalib] [--teacher wide_resnet50_2] [--recipe rkd-official] [--rounds 7]

Networks are untrained, for their speed does not hang on the weights; those of anomalib have the same architecture. All
engines take turns within a round; a line is the median over rounds of wall seconds, with the range, and of CPU seconds,
per image. Latency is of one image alone, throughput of batches of 16. "torch" is what `rkd predict` runs; files are
decoded by Pillow in all cases, and "array" begins with an image that has the network's size. Ratios are medians over
rounds of wall seconds, within a round: to this project's torch, and of anomalib's engine in the same runtime.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import records
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
PEER = "anomalib "
Score = Callable[[np.ndarray], object]
Cell = tuple[int, str, int]  # threads, source, batch
Measured = dict[Cell, dict[str, list[tuple[float, float]]]]  # engine to wall and CPU seconds of each round


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
                        measured.setdefault((threads, source, batch), {}).setdefault(name, []).append(found)


def table(measured: Measured) -> list[dict[str, object]]:
    """A row for each engine and cell: milliseconds an image; ratios are None where nothing compares."""
    rows: list[dict[str, object]] = []
    for (threads, source, batch), engines in sorted(measured.items()):
        for name, found in engines.items():
            wall, cpu = np.array(found).T * 1000
            peer = None if name.startswith(PEER) else engines.get(PEER + name.split()[0])
            rows.append(
                {
                    "threads": threads,
                    "from": source,
                    "batch": batch,
                    "engine": name,
                    "ms an image": round(float(np.median(wall)), 1),
                    "least": round(float(wall.min()), 1),
                    "most": round(float(wall.max()), 1),
                    "CPU ms": round(float(np.median(cpu)), 1),
                    "times as fast as torch": _ratio(engines["torch"], found),
                    "times as fast as anomalib": _ratio(peer, found),
                }
            )
    return rows


def _ratio(slow: list[tuple[float, float]] | None, fast: list[tuple[float, float]]) -> float | None:
    if slow is None:
        return None
    return round(float(np.median(np.array(slow)[:, 0] / np.array(fast)[:, 0])), 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--with-anomalib", action="store_true", help="needs the extra anomalib")
    parser.add_argument("--teacher", default="wide_resnet50_2")
    parser.add_argument("--recipe", default="rkd-official")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--pixels", type=int, default=700, help="side of the files' images")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--json", type=Path, help="write the table there too")
    given = parser.parse_args()
    key = TrainingKey.parse(f"{given.recipe}@{given.teacher}.random~1e-s0")
    rng, side = np.random.default_rng(0), key.recipe.side
    detector, measured = detector_of(key), Measured()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        files = [folder / f"{number}.png" for number in range(given.images)]
        for file in files:
            coarse = Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8))
            coarse.resize((given.pixels, given.pixels)).save(file)
        calibration = np.stack([resized(read_rgb(file), side) for file in files[:16]])
        models = exported(detector, key, calibration, folder)
        peers = peer_engines(given.teacher, side, folder) if given.with_anomalib else lambda _: {}
        for threads in given.threads:
            torch.set_num_threads(threads)
            opened = {name: ExportedFile(file, threads=threads) for name, file in models.items()}
            engines = {"torch": detector.score, **opened, **peers(threads)}
            measure(engines, side, files, given.rounds, threads, measured)
    rows = table(measured)
    records.write(given.json, "inference", rows)
    print(f"{key}, {given.images} files of {given.pixels} pixels, {given.rounds} rounds, {os.cpu_count()} cores")
    print(tabulate(rows, "keys", tablefmt="github", missingval="–"))


def peer_engines(backbone: str, side: int, folder: Path) -> Callable[[int], dict[str, Score]]:
    """From a number of threads to anomalib's engines."""
    import anomalib_engines

    model = anomalib_engines.untrained(backbone, side)
    files = anomalib_engines.exported(model, folder)

    def of(threads: int) -> dict[str, Score]:
        return {PEER + name: score for name, score in anomalib_engines.engines(model, files, threads).items()}

    return of


if __name__ == "__main__":
    main()
