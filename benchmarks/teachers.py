"""Three teachers where it counts: random, embedded, ImageNet ResNet-18, on Brain MRI, Head CT and MVTec AD screw.

    RKD_DATA=/path/to/data python benchmarks/teachers.py --imagenet FILE [--rkd-epochs 6]

Prints a row per dataset, teacher and method. ``nearest``: mean over all places of the distance to the nearest training
place (rkd_pipeline/baselines.py); the mean, not the maximum, because it serves the ImageNet teacher best. ``rkd``: the
recipe, on a short schedule, by l_kd and by the map's maximum. Medical: repeats of the split, Nadeau and Bengio's
interval. Screw has one test set, and trains on every fourth training picture: DeLong's interval.
"""

import argparse
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from rkd_pipeline.baselines import nearest_features, teacher_patches
from rkd_pipeline.catalog import TARGETS, Target
from rkd_pipeline.compute import Compute, place
from rkd_pipeline.datasets.index import PICTURES, index_pictures
from rkd_pipeline.datasets.registry import list_pictures
from rkd_pipeline.datasets.split import part_of, split
from rkd_pipeline.metrics.image_auroc import image_auroc, image_auroc_interval
from rkd_pipeline.metrics.intervals import Interval, nadeau_bengio
from rkd_pipeline.models.teacher import Teacher
from rkd_pipeline.models.weights import load_weights, register_weights
from rkd_pipeline.recipes import recipe
from rkd_pipeline.systems.reverse_kd import new_student, score
from rkd_pipeline.teachers import TeacherName, TeacherRegistry
from rkd_pipeline.training import train

SIDE = 224


@dataclass
class Data:
    """Pictures, labels, and (training rows, test rows) per repeat."""

    name: str
    pictures: np.ndarray
    anomalous: np.ndarray
    splits: list[tuple[list[int], list[int]]]


def medical(target: Target, root: Path, repeats: int) -> Data:
    index, pictures = load(target, root)
    rows = split(target, index)
    at = {name: i for i, name in enumerate(index["image_id"])}
    parts = [
        (
            [at[n] for n in part_of(rows, target, r, "train", "validation")],
            [at[n] for n in part_of(rows, target, r, "test")],
        )
        for r in range(repeats)
    ]
    return Data(target.name, pictures, index["anomalous"].to_numpy(), parts)


def screw(root: Path) -> Data:
    index, pictures = load(TARGETS["mvtec_ad.screw"], root)
    train_rows = np.flatnonzero(index["part"] == "train")[::4].tolist()
    test_rows = np.flatnonzero(index["part"] == "test").tolist()
    return Data("screw", pictures, index["anomalous"].to_numpy(), [(train_rows, test_rows)])


def load(target: Target, root: Path) -> tuple[pd.DataFrame, np.ndarray]:
    """Index and pictures of a target, in the same order."""
    folder = root / target.dataset
    with tempfile.TemporaryDirectory() as made:
        index = index_pictures(target, folder, list_pictures(target, folder), SIDE, Path(made)).table
        return index, np.load(Path(made) / PICTURES)


def nearest(teacher: Teacher, data: Data) -> Iterator[dict[str, np.ndarray]]:
    # Every second place each way: a quarter of the distances, the same ranking to the third digit.
    patches = teacher_patches(teacher, data.pictures)[:, ::2, ::2].contiguous()
    channels = (teacher.arch.channels[1], teacher.arch.channels[2])
    for train_rows, test_rows in data.splits:
        maps = nearest_features(patches[train_rows], patches[test_rows], SIDE, channels=channels, bank=1500)
        yield {"nearest, mean": maps.mean((1, 2)), "nearest, max": maps.max((1, 2))}


def reverse_distillation(teacher: Teacher, data: Data, epochs: int) -> Iterator[dict[str, np.ndarray]]:
    compute, chosen = Compute.choose("cpu"), recipe("rkd")
    for seed, (train_rows, test_rows) in enumerate(data.splits):
        with tempfile.TemporaryDirectory() as folder:
            trained = train(
                chosen,
                teacher,
                data.pictures[train_rows],
                None,
                epochs=epochs,
                seed=seed,
                compute=compute,
                checkpoint=Path(folder) / "checkpoint",
                identity=f"{data.name} {seed}",
                checkpoint_seconds=float("inf"),
            )
        student = new_student(chosen, teacher, seed)
        student.load_state_dict(trained.state)
        scores = score(teacher, place(student, compute.device), data.pictures[test_rows], chosen, trained.lambda_)
        yield {f"rkd, {epochs} epochs, {rule}": scores.images[rule] for rule in ("l_kd", "map_max")}


def summary(data: Data, scored: list[dict[str, np.ndarray]]) -> Iterator[tuple[str, float, Interval | None]]:
    """Method, mean AUROC over repeats, interval."""
    for method in scored[0]:
        labels = [data.anomalous[test] for _, test in data.splits]
        values = [image_auroc(y, s[method]) for y, s in zip(labels, scored, strict=True)]
        if len(values) == 1:
            yield method, values[0], image_auroc_interval(labels[0], scored[0][method])
        else:
            share = float((~labels[0]).sum()) / len(data.splits[0][0])
            yield method, float(np.mean(values)), nadeau_bengio(values, share)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--imagenet", type=Path, required=True, help="a ResNet-18 with ImageNet weights")
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--rkd-repeats", type=int, default=3)
    parser.add_argument("--rkd-epochs", type=int, default=0, help="0: nearest neighbours only")
    parser.add_argument("--only", default="", help="comma-separated datasets")
    options = parser.parse_args()
    root = Path(os.environ["RKD_DATA"])
    torch.set_num_threads(2)

    with tempfile.TemporaryDirectory() as folder:
        registry = TeacherRegistry(Path(folder) / "teachers.toml")
        names = {
            "random": TeacherName("resnet18", "random"),
            "embedded": TeacherName.parse("embedded"),
            "ImageNet": register_weights(registry, options.imagenet, "resnet18"),
        }
        teachers = {name: Teacher(load_weights(registry, known)) for name, known in names.items()}
    wanted = [n for n in options.only.split(",") if n] or ["brain_mri", "head_ct", "screw"]
    for name in wanted:
        data = screw(root) if name == "screw" else medical(TARGETS[name], root, options.repeats)
        for title, teacher in teachers.items():
            if options.rkd_epochs:
                few = Data(data.name, data.pictures, data.anomalous, data.splits[: options.rkd_repeats])
                found, repeats = (
                    list(reverse_distillation(place(teacher, torch.device("cpu")), few, options.rkd_epochs)),
                    few,
                )
            else:
                found, repeats = list(nearest(teacher, data)), data
            for method, value, interval in summary(repeats, found):
                bounds = f"[{interval.low:.3f}, {interval.high:.3f}] {interval.method}" if interval else "no interval"
                print(f"| {name} | {title} | {method} | {value:.3f} | {bounds} | {len(repeats.splits)} |", flush=True)


if __name__ == "__main__":
    main()
