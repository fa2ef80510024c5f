"""Splits: which image trains, validates, tests, or is set aside, for every repeat.

The paper's rule for data without an official split: 10 normal images and all anomalous ones test, the rest trains.
Repeats are disjoint tens of a seeded permutation of the distinct normal images; when those are used up, further
repeats are tens of another permutation.

Of the other normal images two parts can be held out, each for one purpose: ``validation`` (25%) stops a training or
normalises its scores, ``calibration`` sets thresholds. Images that chose the epoch look more normal to the model than
new ones do, so a threshold from them promises too few false alarms. A recipe trains on the parts that it does not use.

The user's own images, where nobody has split them: the distinct normal images stand in the order of a seeded hash
of their pixels, and each of five repeats tests another fifth of them; five more follow in another order. Names and
folders play no part, so renaming files changes nothing, and adding some changes little.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd

from rkd_pipeline.data.catalog import Target
from rkd_pipeline.errors import DataError

_SHOTS_DRAW = 8  # tells the draw of shots from what else is drawn by the seed

TEST_NORMALS = 10
VALIDATION_SHARE = CALIBRATION_SHARE = 0.25
FEWEST_TO_CALIBRATE = 19  # with fewer no threshold can promise a false-positive rate of 5% (metrics/threshold.py)
LARGEST_HELD_OUT_SHARE = 2 / 3  # of both parts together: about a third of the normals is left to train on
OFFICIAL_REPEATS = 10
REPEATS = 25  # where a rule draws them: enough for an interval over repeats
OWN_FOLDS = 5
FEWEST_TRAINING_NORMALS = 4
TRAINING_PARTS = ("train", "validation", "calibration")  # a recipe trains on those that it does not hold out
PARTS = (*TRAINING_PARTS, "test", "set_aside")
COLUMNS = {
    "repeat": "number of the repeat, from 0",
    "image_id": "path relative to the dataset's folder",
    "part": "train, validation and calibration (normal, held out where a recipe asks), test, or set_aside (copy of a "
    "test image)",
}


def calibration_size(normals: int) -> int:
    """Images of the calibration part, of that many distinct normal images to train on; 0 where they are too few.

    A quarter, or as many as a threshold needs, where a third is left to train on beside both held-out parts.

    >>> calibration_size(88), calibration_size(46), calibration_size(45)
    (22, 19, 0)
    """
    wanted = max(FEWEST_TO_CALIBRATE, round(CALIBRATION_SHARE * normals))
    return wanted if wanted <= (LARGEST_HELD_OUT_SHARE - VALIDATION_SHARE) * normals else 0


def fewest_for_calibration() -> int:
    """The least number of normal images, beside those that test, of which a calibration part can be drawn."""
    return next(n for n in range(FEWEST_TO_CALIBRATE, 1000) if calibration_size(n))


def split(target: Target, index: pd.DataFrame) -> pd.DataFrame:
    """All repeats of a target's split: columns as in ``COLUMNS``, one row per repeat and image.

    Images with the same pixels never stand on both sides: of a drawn group of normals one image tests and its
    copies are set aside; the others of a group train, or validate, together. Anomalous images all test, copies
    included, as in the paper. Where the publisher splits, test is his in every repeat and only the validation part
    is drawn; training images with the pixels of a test image are set aside. The user's own images without any
    anomalous one all train, but for those that a given split tests. Raises ``DataError`` where there are too few
    images to split.
    """
    only_normal = target.own and not index["anomalous"].any()
    if target.official_split or only_normal or (target.own and index["part"].ne("").all()):
        repeats = _official(target, index)
    else:
        repeats = _folds(target, index) if target.own else _paper_rule(target, index)
    rows = pd.concat(repeats, keys=range(len(repeats)), names=["repeat"]).reset_index("repeat")
    return rows[list(COLUMNS)].sort_values(["repeat", "image_id"], ignore_index=True)


def _groups(index: pd.DataFrame, which: pd.Series) -> list[list[str]]:
    """Image ids of the selected rows, grouped by equal pixels; groups and their members in a fixed order."""
    grouped = index[which].groupby("pixel_sha256")["image_id"].apply(lambda ids: sorted(ids))
    return sorted(grouped)


def _paper_rule(target: Target, index: pd.DataFrame) -> list[pd.DataFrame]:
    groups = _groups(index, ~index["anomalous"])
    disjoint = len(groups) // TEST_NORMALS
    if disjoint == 0:
        raise DataError(f"{target.name} has {len(groups)} distinct normal images; {TEST_NORMALS} are needed to test")
    repeats = []
    for repeat in range(REPEATS):
        permutation, place = divmod(repeat, disjoint)
        order = np.random.default_rng(permutation).permutation(len(groups)).tolist()
        drawn = set(order[place * TEST_NORMALS : (place + 1) * TEST_NORMALS])
        repeats.append(_repeat(index, groups, drawn, repeat))
    return repeats


def _folds(target: Target, index: pd.DataFrame) -> list[pd.DataFrame]:
    """The user's own images: every fifth of the normals, in the order of their pixels' hash, tests in one repeat."""
    pixels = index.set_index("image_id")["pixel_sha256"]
    groups = _groups(index, ~index["anomalous"])
    if len(groups) < OWN_FOLDS:
        raise DataError(
            f"{target.name} has {len(groups)} distinct normal images; {OWN_FOLDS} are the least that can be split "
            "into training, validation and test"
        )

    def place(group: list[str], order: int) -> str:
        return hashlib.sha256(f"{order} {pixels[group[0]]}".encode()).hexdigest()

    repeats = []
    for repeat in range(REPEATS):
        order, fold = divmod(repeat, OWN_FOLDS)
        ordered = sorted(groups, key=lambda g: place(g, order))
        drawn = {n for n in range(len(ordered)) if n * OWN_FOLDS // len(ordered) == fold}
        repeats.append(_repeat(index, ordered, drawn, repeat))
    return repeats


def _repeat(index: pd.DataFrame, groups: list[list[str]], drawn: set[int], repeat: int) -> pd.DataFrame:
    """One repeat: one image of every drawn group of normals tests, with all anomalous ones; the rest trains."""
    part = dict.fromkeys(index.loc[index["anomalous"], "image_id"], "test")
    for number in drawn:
        part |= {groups[number][0]: "test"} | dict.fromkeys(groups[number][1:], "set_aside")
    rest = [g for number, g in enumerate(groups) if number not in drawn]
    return _table(part | _train_and_validation(rest, repeat))


def _official(target: Target, index: pd.DataFrame) -> list[pd.DataFrame]:
    in_test = index["part"] == "test"
    seen = index["pixel_sha256"].isin(index.loc[in_test, "pixel_sha256"])
    fixed = dict.fromkeys(index.loc[in_test, "image_id"], "test")
    fixed |= dict.fromkeys(index.loc[~in_test & seen, "image_id"], "set_aside")
    groups = _groups(index, ~in_test & ~seen)
    if len(groups) < FEWEST_TRAINING_NORMALS:
        raise DataError(
            f"{target.name} has {len(groups)} distinct normal training images that are not in its test part; "
            f"{FEWEST_TRAINING_NORMALS} are the least for training and validation"
        )
    return [_table(fixed | _train_and_validation(groups, repeat)) for repeat in range(OFFICIAL_REPEATS)]


def _train_and_validation(groups: list[list[str]], repeat: int) -> dict[str, str]:
    """Whole groups go to validation, in seeded order, until it holds its share of the images; then to calibration.

    Copies set no threshold: a group counts once for the calibration part, which promises a rate over distinct images.
    """
    wanted = round(VALIDATION_SHARE * sum(map(len, groups)))
    to_calibrate = calibration_size(len(groups))
    part: dict[str, str] = {}
    for number in np.random.default_rng([1, repeat]).permutation(len(groups)):
        if len(part) < wanted:
            where = "validation"
        elif to_calibrate:
            where, to_calibrate = "calibration", to_calibrate - 1
        else:
            where = "train"
        part |= dict.fromkeys(groups[number], where)
    return part


def _table(part: dict[str, str]) -> pd.DataFrame:
    return pd.DataFrame({"image_id": list(part), "part": list(part.values())})


def verify(target: Target, index: pd.DataFrame, rows: pd.DataFrame) -> dict[str, int]:
    """Check a split against its index; returns what was checked, with numbers. Raises ``DataError`` on any defect.

    Checked in every repeat: each image in exactly one part, no equal pixels on two sides, anomalous images only
    in test, both classes in test (where there are anomalous images), and held-out parts of the right sizes.
    """
    defects = []
    pixels = dict(zip(index["image_id"], index["pixel_sha256"], strict=True))
    anomalous = set(index.loc[index["anomalous"], "image_id"])
    largest_group = max(Counter(pixels.values()).values())
    for repeat, group in rows.groupby("repeat"):
        where = f"{target.name}, repeat {repeat}"
        if sorted(group["image_id"]) != sorted(index["image_id"]):
            defects.append(f"{where}: the split does not hold every image exactly once")
            continue
        part = dict(zip(group["image_id"], group["part"], strict=True))
        defects += [f"{where}: {what}" for what in _defects(part, pixels, anomalous, largest_group)]
    if defects:
        raise DataError("\n".join(defects))
    first = rows[rows["repeat"] == 0]["part"].value_counts()
    return {"repeats": int(rows["repeat"].nunique())} | {p: int(first.get(p, 0)) for p in PARTS}


def _defects(
    part: Mapping[str, str], pixels: Mapping[str, str], anomalous: set[str], largest_group: int
) -> Iterator[str]:
    """What is wrong with one repeat: the part of every image, its pixels' hash, and which images are anomalous."""
    sides: dict[str, dict[str, list[str]]] = {}
    for name, where in part.items():
        if where != "set_aside":
            sides.setdefault(pixels[name], {}).setdefault(where, []).append(name)
    for parts in sides.values():
        if len(parts) > 1:
            ids = ", ".join(sorted(name for names in parts.values() for name in names))
            yield f"the same pixels on both sides: {ids}; keep the one whose label is right"
    if any(part[name] != "test" for name in anomalous):
        yield "an anomalous image outside the test part"
    tested = {name in anomalous for name, where in part.items() if where == "test"}
    if anomalous and len(tested) != 2:
        yield "the test part has one class only"
    trainable = [(pixels[name], where) for name, where in part.items() if where in TRAINING_PARTS]
    distinct = len({of for of, _ in trainable})
    calibrating = len({of for of, where in trainable if where == "calibration"})
    if calibrating != calibration_size(distinct):
        yield (
            f"calibration has {calibrating} of {distinct} distinct normal training images, not "
            f"{calibration_size(distinct)}"
        )
    validating = sum(where == "validation" for _, where in trainable)
    if not math.isclose(validating, VALIDATION_SHARE * len(trainable), abs_tol=largest_group):
        yield f"validation has {validating} of {len(trainable)} normal training images"


def part_of(rows: pd.DataFrame, target: Target, repeat: int, *parts: str) -> list[str]:
    """Ids of the images in ``parts`` of one repeat, sorted; raises ``DataError`` for a repeat that does not exist."""
    available = int(rows["repeat"].max()) + 1
    if repeat >= available:
        raise DataError(
            f"{target.name} has {available} repeats (0 to {available - 1}), not {repeat}; name one in the key, for "
            f"example -s{repeat}r{repeat % available}"
        )
    chosen = rows[(rows["repeat"] == repeat) & rows["part"].isin(parts)]
    return sorted(chosen["image_id"])


def few_of(ids: list[str], shots: int | None, seed: int) -> list[str]:
    """``shots`` of the images, drawn by ``seed``, in their order; all where ``shots`` is None.

    Of two numbers of shots the larger one's images hold the smaller one's. Raises ``DataError`` where there are fewer.
    """
    if shots is None:
        return ids
    if shots > len(ids):
        raise DataError(f"{shots} training images are asked for, and there are {len(ids)}; ask for fewer shots")
    chosen = np.random.default_rng([_SHOTS_DRAW, seed]).permutation(len(ids))[:shots]
    return [ids[i] for i in sorted(chosen)]


def redraws_test(rows: pd.DataFrame) -> bool:
    """Whether repeats of a split test on different images.

    Seen in the split itself: where somebody has given the test part, be it the publisher or the owner of the images,
    all repeats test on the same ones.
    """
    tested = rows[rows["part"] == "test"].groupby("repeat")["image_id"].agg(frozenset)
    return bool(tested.nunique() > 1)
