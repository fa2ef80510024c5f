"""Teachers where it counts: random, embedded, ImageNet ResNet-18, on Brain MRI, Head CT and MVTec AD screw.

    RKD_DATA=/path/to/data python benchmarks/teachers.py --imagenet FILE [--rkd-epochs 20] [--also FILE ...]

Prints every method's AUROC with its interval, and each teacher's difference to the random one, pair by pair.

``nearest``: PatchCore's score without its coreset (Roth et al. 2022): blocks 2 and 3, averaged over 3 by 3 places, the
distance of every place to the nearest of ``BANK`` training places drawn at random. An image's score is the maximum of
the map, as PatchCore and PaDiM have it: that is the score that counts, whatever it shows. The mean of the highest
1% of the map's pixels and of all of them stand beside it.

``rkd``: the recipe's loss, student and optimiser on a short schedule, in smaller images and batches than the recipe's
(``--rkd-side``, ``--rkd-batch``), so that few epochs are enough steps; scored by the map's maximum and by l_kd.

Brain MRI and Head CT: repeats of the split, Nadeau and Bengio's interval, for differences too. Screw has one test set,
and trains on every fourth training image: bootstrap over test images. Its good test images are darker than all
others, which decides the image AUROC of weak features; so its pixel AUROC is measured too.
"""

import argparse
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from rkd_pipeline.data.catalog import TARGETS
from rkd_pipeline.data.index import MASKS, PIXELS, index_listing
from rkd_pipeline.data.layouts.layout_of import list_images
from rkd_pipeline.data.split import part_of, split
from rkd_pipeline.detectors.baselines import nearest_features, teacher_patches
from rkd_pipeline.detectors.fit import fit
from rkd_pipeline.detectors.reverse_kd import new_student, score
from rkd_pipeline.device import Compute, place
from rkd_pipeline.metrics.image_auroc import image_auroc
from rkd_pipeline.metrics.intervals import Interval, nadeau_bengio
from rkd_pipeline.metrics.pixel_intervals import draws, image_counts, resampled
from rkd_pipeline.metrics.regions import anomalous_pixels
from rkd_pipeline.models.teacher import Teacher
from rkd_pipeline.models.teacher_files import TeacherName, TeacherRegistry
from rkd_pipeline.models.weights import load_weights, register_weights
from rkd_pipeline.recipes.lookup import recipe
from rkd_pipeline.recipes.recipe import ReverseKD
from rkd_pipeline.store.files import write_atomically

DATASETS = {"brain_mri": "brain_mri", "head_ct": "head_ct", "screw": "mvtec_ad.screw"}
SIDE, BANK, REPLICATES = 224, 1000, 500
BASE = "random"


@dataclass(frozen=True)
class Data:
    """Images, labels, masks of screw, and (training rows, test rows) per repeat."""

    images: np.ndarray
    anomalous: np.ndarray
    masks: np.ndarray | None
    splits: list[tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Found:
    """AUROC of one method and teacher: one value per repeat, or per replicate of the bootstrap of the only test set."""

    mean: float
    values: list[float]
    bootstrap: bool
    test_to_train: float

    def interval(self) -> Interval:
        """Of the AUROC itself."""
        return _interval(np.array(self.values), self)

    def minus(self, other: "Found") -> tuple[float, Interval]:
        """The difference, its interval from differences within repeats or replicates."""
        return self.mean - other.mean, _interval(np.subtract(self.values, other.values), self, lowest=-1.0)


def _interval(values: np.ndarray, of: Found, lowest: float = 0.0) -> Interval:
    """Of values between ``lowest`` and 1."""
    if of.bootstrap:
        low, high = np.quantile(values, (0.025, 0.975))
        return Interval(float(low), float(high), "bootstrap over images")
    # Nadeau and Bengio's interval is made for [0, 1], and clipped to it.
    width = 1 - lowest
    inner = nadeau_bengio(((values - lowest) / width).tolist(), of.test_to_train)
    if inner is None:
        raise SystemExit("two repeats are the least for an interval over splits; raise --repeats or --rkd-repeats")
    return Interval(lowest + width * inner.low, lowest + width * inner.high, inner.method)


def load(name: str, root: Path, side: int, repeats: int) -> Data:
    target = TARGETS[DATASETS[name]]
    folder = root / target.dataset
    with tempfile.TemporaryDirectory() as made:
        index = index_listing(target, folder, list_images(target, folder), side, Path(made)).table
        images = np.load(Path(made) / PIXELS)
        masks = np.load(Path(made) / MASKS) if (Path(made) / MASKS).exists() else None
    anomalous = index["anomalous"].to_numpy()
    if target.official_split:
        parts = [(np.flatnonzero(index["part"] == "train")[::4], np.flatnonzero(index["part"] == "test"))]
        return Data(images, anomalous, masks, parts)
    rows, ids = split(target, index), index["image_id"].tolist()
    at = {name: i for i, name in enumerate(ids)}

    def places(repeat: int, *parts: str) -> np.ndarray:
        return np.array([at[n] for n in part_of(rows, target, repeat, *parts)])

    parts = [(places(r, "train", "validation"), places(r, "test")) for r in range(repeats)]
    return Data(images, anomalous, masks, parts)


# Image scores by name, and maps, of a repeat's test images.
Scored = tuple[dict[str, np.ndarray], np.ndarray]


def nearest(teacher: Teacher, data: Data) -> Iterator[Scored]:
    patches = teacher_patches(teacher, data.images)
    channels = (teacher.arch.channels[1], teacher.arch.channels[2])
    for train_rows, test_rows in data.splits:
        maps = nearest_features(patches[train_rows], patches[test_rows], SIDE, channels=channels, bank=BANK)
        pixels = maps.reshape(len(maps), -1)
        top = -np.partition(-pixels, pixels.shape[1] // 100, axis=1)[:, : pixels.shape[1] // 100]
        images = {"maximum": pixels.max(1), "mean of the highest 1%": top.mean(1), "mean": pixels.mean(1)}
        yield {f"nearest, {rule}": values for rule, values in images.items()}, maps


def reverse_distillation(teacher: Teacher, data: Data, chosen: ReverseKD) -> Iterator[Scored]:
    compute = Compute.choose("cpu")
    for seed, (train_rows, test_rows) in enumerate(data.splits):
        with tempfile.TemporaryDirectory() as folder:
            trained = fit(
                chosen,
                teacher,
                data.images[train_rows],
                None,
                epochs=chosen.epochs,
                seed=seed,
                compute=compute,
                checkpoint=Path(folder) / "checkpoint",
                identity=str(seed),
                checkpoint_seconds=float("inf"),
            )
        student = new_student(chosen, teacher, seed)
        student.load_state_dict(trained.state)
        scores = score(teacher, place(student, compute.device), data.images[test_rows], chosen, trained.lambda_)
        rules = {"maximum": "map_max", "l_kd": "l_kd"}
        yield {f"rkd, {rule}": scores.images[key] for rule, key in rules.items()}, scores.maps


def measured(data: Data, method_of: Callable[[Teacher, Data], Iterator[Scored]], teacher: Teacher) -> dict[str, Found]:
    """AUROC by score; of a dataset with masks, the maps' pixel AUROC too."""
    scored = list(method_of(teacher, data))
    labels = [data.anomalous[test] for _, test in data.splits]
    if len(data.splits) > 1:
        share = float((~labels[0]).sum()) / len(data.splits[0][0])
        by_repeat = {m: [image_auroc(y, s[m]) for y, (s, _) in zip(labels, scored, strict=True)] for m in scored[0][0]}
        return {m: Found(float(np.mean(v)), v, False, share) for m, v in by_repeat.items()}
    (images, maps), drawn = scored[0], draws(labels[0], REPLICATES)
    found = {}
    for method, values in images.items():
        of_draws = [image_auroc(np.repeat(labels[0], n), np.repeat(values, n)) for n in drawn.astype(int)]
        found[method] = Found(image_auroc(labels[0], values), of_draws, True, 0)
    if data.masks is not None:
        counts = image_counts(maps, anomalous_pixels(maps, data.masks[data.splits[0][1]]))
        exactly = resampled(counts, np.ones((1, len(maps))))["pixel_auroc"][0]
        family = next(iter(images)).split(",")[0]
        found[f"{family}, pixels"] = Found(float(exactly), resampled(counts, drawn)["pixel_auroc"].tolist(), True, 0)
    return found


def kept(file: Path | None, key: str, measure: Callable[[], dict[str, Found]]) -> dict[str, Found]:
    """What ``measure`` finds, or found in an earlier run that kept it under the same key in the same file."""
    known = json.loads(file.read_text()) if file and file.exists() else {}
    if key not in known:
        known[key] = {method: asdict(found) for method, found in measure().items()}
        if file:
            write_atomically(file, json.dumps(known).encode())
    return {method: Found(**found) for method, found in known[key].items()}


def teachers(imagenet: Path, also: list[Path]) -> dict[str, Teacher]:
    with tempfile.TemporaryDirectory() as folder:
        registry = TeacherRegistry(Path(folder) / "teachers.toml")
        names = {BASE: TeacherName("resnet18", "random"), "embedded": TeacherName.parse("embedded")}
        names |= {file.stem: register_weights(registry, file, "resnet18") for file in also}
        names["ImageNet"] = register_weights(registry, imagenet, "resnet18")
        return {
            title: place(Teacher(load_weights(registry, name)), torch.device("cpu")) for title, name in names.items()
        }


def show(name: str, repeats: int, by_teacher: dict[str, dict[str, Found]]) -> None:
    for method in by_teacher[BASE]:
        base = by_teacher[BASE][method]
        for title, methods in by_teacher.items():
            value, interval = methods[method].mean, methods[method].interval()
            row = f"| {name} | {method} | {title} | {value:.3f} [{interval.low:.3f}, {interval.high:.3f}] |"
            if title == BASE:
                print(f"{row} | {repeats} |", flush=True)
                continue
            difference, of_it = methods[method].minus(base)
            print(f"{row} {difference:+.3f} [{of_it.low:+.3f}, {of_it.high:+.3f}] | {repeats} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--imagenet", type=Path, required=True, help="a ResNet-18 with ImageNet weights")
    parser.add_argument("--also", type=Path, action="append", default=[], help="a further ResNet-18, again and again")
    parser.add_argument("--repeats", type=int, default=10, help="of the split, for nearest; default %(default)s")
    parser.add_argument("--rkd-repeats", type=int, default=3, help="of the split, for rkd; default %(default)s")
    parser.add_argument("--rkd-epochs", type=int, default=0, help="0, the default: nearest neighbours only")
    parser.add_argument("--rkd-side", type=int, default=128, help="pixels; default %(default)s")
    parser.add_argument("--rkd-batch", type=int, default=8, help="images per step; default %(default)s")
    parser.add_argument("--only", default=",".join(DATASETS), help="comma-separated datasets; default %(default)s")
    parser.add_argument("--keep", type=Path, help="a JSON file: what it holds already is not measured again")
    options = parser.parse_args()
    root, compared = Path(os.environ["RKD_DATA"]), teachers(options.imagenet, options.also)
    rkd = recipe("rkd")
    assert isinstance(rkd, ReverseKD)
    short = replace(rkd, side=options.rkd_side, batch_size=options.rkd_batch, epochs=options.rkd_epochs)
    print("| dataset | method | teacher | AUROC | less random | repeats |\n|---|---|---|---|---|---|", flush=True)
    for name in options.only.split(","):
        if options.rkd_epochs:
            data = load(name, root, options.rkd_side, options.rkd_repeats)
            how = f"rkd, {options.rkd_epochs} epochs, {options.rkd_side} pixels, batches of {options.rkd_batch}"
        else:
            data, how = load(name, root, SIDE, options.repeats), f"nearest, {BANK} places, {SIDE} pixels"
        found = {}
        for title, teacher in compared.items():
            method = partial(reverse_distillation, chosen=short) if options.rkd_epochs else nearest
            key = f"{name}, {len(data.splits)} repeats, {how}, teacher {teacher.sha256}"
            found[title] = kept(options.keep, key, partial(measured, data, method, teacher))
        show(name, len(data.splits), found)


if __name__ == "__main__":
    main()
