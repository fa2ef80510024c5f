"""Has a number moved? A test over fresh trainings on the same images, corrected for many targets and many looks.

Noise is what trainings differ by that have the same target, configuration and repeat: they test on the same images,
so only the seed and the run are new. Its variance is pooled over repeats, within the reference and within the new
round; a move is the mean over repeats of the difference of means, with Student's t. Within one look, Holm's method
corrects over all series; look ``n`` spends ``ALPHA / (n (n + 1))``, which sums to ``ALPHA`` however often one looks.
So with nothing moving, the chance of ever raising an alarm, over all series and all looks, is at most ``ALPHA``.

The reference are the trainings of all earlier rounds that were not themselves found moved: a regression that stays is
reported again, until ``rkd rebenchmark --new-reference`` accepts the new level.

Numbers on other data tell nothing of code or noise: trainings are compared with trainings on the same images, labels,
masks and split alone. The first round on other data is not comparable, and is what later rounds are compared with.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import t

from rkd_pipeline.recipes.score_rules import is_quality
from rkd_pipeline.statistics.multiple_testing import holm, look_level

FIXED, NEW = "fixed", "new"
DATA = ["data", "images"]  # columns that say what data a number is of
SERIES = ["target", "recipe", "teacher", "epochs", "metric", "score_rule"]
# Half of the last digit that tables print: seeds that agree better than that do not make a smaller move real.
RESOLUTION = 0.0005
BETTER, WORSE, WITHIN_NOISE = "better", "worse", "within noise"
OTHER_DATA = "not comparable: earlier rounds are of other data (images, labels, masks or split)"

VALUE_COLUMNS = {
    "round": "number of the re-benchmark; 0: what was measured before the first one",
    "finished": "when the round was recorded, UTC",
    "code": "package version, and versions of training and metrics",
    "data": "data version of the split",
    "images": "hash of pixels, labels and masks; older records have none, and count by their split",
    "target": "partition key",
    "recipe": "training configuration",
    "teacher": "whose features were distilled",
    "epochs": "schedule; 0 of a system that learns in one pass",
    "training": "key of the training",
    "seed": "of initialisation and order",
    "repeat": "of the split",
    "draw": "fixed: a repeat that every round tests on; new: another draw of the test set, never compared",
    "metric": "as in the benchmark",
    "score_rule": "as in the benchmark",
    "value": "fraction from 0 to 1",
    "ci_low": "lower bound over test images, 95%",
    "ci_high": "upper bound over test images, 95%",
}
MOVE_COLUMNS = {
    "round": "number of the re-benchmark",
    "target": "partition key",
    "recipe": "training configuration",
    "teacher": "whose features were distilled",
    "epochs": "schedule",
    "metric": "metric",
    "score_rule": "image score, or map",
    "before": "mean over repeats of the reference",
    "now": "mean over repeats of this round",
    "move": "now minus before",
    "ci_low": "lower bound of the move, 95%, not corrected",
    "ci_high": "upper bound of the move, 95%, not corrected",
    "trainings_before": "in the reference",
    "trainings_now": "in this round",
    "p": "Student's t, two-sided",
    "p_holm": "after Holm's correction over the series of this look",
    "level": "what this look may spend",
    "visible": "the smallest move that this look could have told from noise",
    "moved": "beyond noise",
    "verdict": "in words",
}


def comparable(verdict: str) -> bool:
    """Whether a verdict is of a test, not the reason why there was none."""
    return verdict in (BETTER, WORSE, WITHIN_NOISE)


def moves(values: pd.DataFrame, references: dict[int, str] | None = None) -> pd.DataFrame:
    """Every series in every round compared with its reference; columns as in ``MOVE_COLUMNS``.

    Args:
        values: rows as in ``VALUE_COLUMNS``.
        references: rounds whose level was accepted as a new reference, to the reason why. Earlier rounds no longer
            count, and looks are counted from there.
    """
    found = _by_series(values)
    rounds = sorted(n for n in values["round"].unique() if n > 0)
    accepted = sorted(references or {})
    rows: list[dict[str, object]] = []
    for number in rounds:
        start = max((a for a in accepted if a < number), default=0)
        look = sum(start < n <= number for n in rounds)
        level = look_level(look)
        compared = [_compare(key, of_round, number, start) for key, of_round in found.items() if number in of_round]
        _test(compared, level)
        for row in compared:
            if row["moved"]:
                found[tuple(row[name] for name in SERIES)][number].moved = True
        rows += compared
    return pd.DataFrame(rows, columns=list(MOVE_COLUMNS))


_Test = tuple[str, str, int]  # split, images and repeat: values of one test are of the same images


@dataclass
class _Trainings:
    """What a round measured of a series: values by the test that they took, and whether it was found moved."""

    values: dict[_Test, list[float]]
    moved: bool = False


def _by_series(values: pd.DataFrame) -> dict[tuple[object, ...], dict[int, _Trainings]]:
    found: dict[tuple[object, ...], dict[int, _Trainings]] = {}
    rows = values[(values["draw"] == FIXED) & values["value"].notna()].sort_values(SERIES)
    wanted = [*SERIES, "round", *DATA, "repeat", "value"]
    for *key, number, data, images, repeat, value in rows[wanted].itertuples(index=False, name=None):
        if is_quality(key[SERIES.index("recipe")], *key[-2:]):
            trainings = found.setdefault(tuple(key), {}).setdefault(number, _Trainings({}))
            trainings.values.setdefault((data, images, repeat), []).append(value)
    return found


def _compare(key: tuple[object, ...], of_round: dict[int, _Trainings], number: int, start: int) -> dict[str, Any]:
    """One round of a series against its reference: everything but the correction for other series and looks."""
    reference: dict[_Test, list[float]] = {}
    for n, trainings in of_round.items():
        # The round whose level was accepted is what is compared with, however it was found then.
        if n == start or (start < n < number and not trainings.moved):
            for test, values in trainings.values.items():
                reference.setdefault(test, []).extend(values)
    now = of_round[number].values
    shared = sorted(reference.keys() & now.keys())
    old, new = ([np.array(x[test]) for test in shared] for x in (reference, now))
    row: dict[str, Any] = dict.fromkeys(MOVE_COLUMNS, np.nan) | dict(zip(SERIES, key, strict=True))
    row |= {"round": number, "now": float(np.mean([np.mean(x) for x in now.values()])), "error": np.nan, "freedom": 0}
    row |= {"trainings_before": sum(map(len, reference.values())), "trainings_now": sum(map(len, now.values()))}
    if not shared:
        other_data = bool(reference) and {test[:2] for test in reference}.isdisjoint(test[:2] for test in now)
        return row | ({"other_data": True, "trainings_before": 0} if other_data else {})
    before, after = (float(np.mean([x.mean() for x in values])) for values in (old, new))
    freedom = sum(len(x) - 1 for x in (*old, *new))
    row |= {"before": before, "now": after, "move": after - before, "freedom": freedom}
    row |= {"trainings_before": sum(map(len, old)), "trainings_now": sum(map(len, new))}
    if freedom:
        squares = sum(float(((x - x.mean()) ** 2).sum()) for x in (*old, *new))
        spread = sum(1 / len(a) + 1 / len(b) for a, b in zip(old, new, strict=True))
        error = max(np.sqrt(squares / freedom), RESOLUTION) * np.sqrt(spread) / len(shared)
        half = t.ppf(0.975, freedom) * error
        row |= {"error": error, "ci_low": row["move"] - half, "ci_high": row["move"] + half}
        row["p"] = float(2 * t.sf(abs(row["move"]) / error, freedom))
    return row


def _test(rows: list[dict[str, Any]], level: float) -> None:
    """Holm over the series of one look, at the level that the look may spend; fills in what follows from it."""
    tested = [row for row in rows if not np.isnan(row["p"])]
    for row, adjusted in zip(tested, holm(np.array([row["p"] for row in tested])), strict=True):
        row["p_holm"] = float(adjusted)
        row["visible"] = float(t.isf(level / len(tested) / 2, row["freedom"]) * row["error"])
    for row in rows:
        row["level"], row["moved"] = level, bool(row["p_holm"] < level)
        row["verdict"] = _verdict(row)


def _verdict(row: dict[str, Any]) -> str:
    if row.get("other_data"):
        return OTHER_DATA
    if row["trainings_before"] == 0:
        return "first of its kind: nothing to compare with"
    if pd.isna(row["move"]):
        return "no repeat in common with earlier rounds"
    if pd.isna(row["p"]):
        return (
            "cannot be told: one training before and one now show no noise; let more rounds pass, or train more seeds"
        )
    if not row["moved"]:
        return WITHIN_NOISE
    return BETTER if row["move"] > 0 else WORSE
