"""Has a number moved? A test over fresh trainings on the same pictures, corrected for many targets and many looks.

Noise is what trainings differ by that have the same target, configuration and repeat: they test on the same pictures,
so only the seed and the run are new. Its variance is pooled over repeats, within the reference and within the new
round; a move is the mean over repeats of the difference of means, with Student's t. Within one look, Holm's method
corrects over all series; look ``n`` spends ``ALPHA / (n (n + 1))``, which sums to ``ALPHA`` however often one looks.
So with nothing moving, the chance of ever raising an alarm, over all series and all looks, is at most ``ALPHA``.

The reference are the trainings of all earlier rounds that were not themselves found moved: a regression that stays is
reported again, until ``rkd rebenchmark --new-reference`` accepts the new level.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import t

from rkd_pipeline.leaderboard import QUALITY, holm

ALPHA = 0.05
FIXED, NEW = "fixed", "new"
SERIES = ["target", "recipe", "teacher", "epochs", "metric", "score_rule"]
# Half of the last digit that tables print: seeds that agree better than that do not make a smaller move real.
RESOLUTION = 0.0005

VALUE_COLUMNS = {
    "round": "number of the re-benchmark; 0: what was measured before the first one",
    "finished": "when the round was recorded, UTC",
    "code": "package version, and versions of training and metrics",
    "data": "data version of the split",
    "target": "partition key",
    "recipe": "training configuration",
    "teacher": "whose features were distilled",
    "epochs": "schedule",
    "training": "key of the training",
    "seed": "of initialisation and order",
    "repeat": "of the split",
    "draw": "fixed: a repeat that every round tests on; new: another draw of the test set, never compared",
    "metric": "as in the benchmark",
    "score_rule": "as in the benchmark",
    "value": "fraction from 0 to 1",
    "ci_low": "lower bound over test pictures, 95%",
    "ci_high": "upper bound over test pictures, 95%",
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


@dataclass(frozen=True)
class _Difference:
    before: float
    now: float
    error: float
    freedom: int
    n_before: int
    n_now: int

    @property
    def move(self) -> float:
        return self.now - self.before


def look_level(look: int) -> float:
    """What the ``look``-th look, from 1, may spend.

    >>> round(look_level(1), 4), round(sum(look_level(n) for n in range(1, 10_000)), 3)
    (0.025, 0.05)
    """
    return ALPHA / (look * (look + 1))


def moves(values: pd.DataFrame, references: dict[int, str] | None = None) -> pd.DataFrame:
    """Every series in every round compared with its reference; columns as in ``MOVE_COLUMNS``.

    Args:
        values: rows as in ``VALUE_COLUMNS``.
        references: rounds whose level was accepted as a new reference, to the reason why. Earlier rounds no longer
            count, and looks are counted from there.
    """
    compared = values[(values["draw"] == FIXED) & values["value"].notna()]
    compared = pd.concat([compared[(compared["metric"] == m) & (compared["score_rule"] == r)] for m, r in _tested()])
    rounds = sorted(n for n in values["round"].unique() if n > 0)
    accepted = sorted(references or {})
    flagged: set[tuple[object, ...]] = set()
    found = []
    for number in rounds:
        start = max((a for a in accepted if a < number), default=0)
        flagged = {key for key in flagged if key[-1] != start}  # an accepted level is what is compared with
        look = sum(start < n <= number for n in rounds)
        rows = _look(compared[compared["round"].between(start, number)], number, look, flagged)
        flagged |= {(*key, number) for key in rows.loc[rows["moved"], SERIES].itertuples(index=False, name=None)}
        found.append(rows)
    table = pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=list(MOVE_COLUMNS))
    return table[list(MOVE_COLUMNS)]


def _tested() -> list[tuple[str, str]]:
    return list(QUALITY.values())


def _look(values: pd.DataFrame, number: int, look: int, flagged: set[tuple[object, ...]]) -> pd.DataFrame:
    """One round against what came before it."""
    rows, errors = [], []
    for key, series in values.groupby(SERIES, sort=True):
        now = series[series["round"] == number]
        if now.empty:
            continue
        earlier = series["round"] < number
        unmoved = ~series["round"].map(lambda n, key=key: (*key, n) in flagged)
        difference = _difference(series[earlier & unmoved], now)
        row = dict(zip(SERIES, key, strict=True)) | {"round": number, "now": float(now["value"].mean()), "p": np.nan}
        row |= {"before": np.nan, "move": np.nan, "ci_low": np.nan, "ci_high": np.nan}
        row |= {"trainings_before": int((earlier & unmoved).sum()), "trainings_now": len(now)}
        if difference is not None:
            row |= {"before": difference.before, "now": difference.now, "move": difference.move}
            row |= {"trainings_before": difference.n_before, "trainings_now": difference.n_now}
            if difference.freedom:
                half = t.ppf(0.975, difference.freedom) * difference.error
                row |= {"ci_low": difference.move - half, "ci_high": difference.move + half}
                row["p"] = float(2 * t.sf(abs(difference.move) / difference.error, difference.freedom))
        rows.append(row)
        errors.append(difference)
    table = pd.DataFrame(rows)
    if table.empty:
        return pd.DataFrame(columns=list(MOVE_COLUMNS)).astype({"moved": bool})
    level = look_level(look)
    tested = table["p"].notna()
    table["p_holm"] = np.nan
    table.loc[tested, "p_holm"] = holm(table.loc[tested, "p"].to_numpy())
    table["level"] = level
    table["moved"] = (table["p_holm"] < level).fillna(False)
    table["visible"] = [
        t.isf(level / max(1, int(tested.sum())) / 2, d.freedom) * d.error if d and d.freedom else np.nan for d in errors
    ]
    table["verdict"] = [_verdict(row) for row in table.to_dict("records")]
    return table


def _difference(before: pd.DataFrame, now: pd.DataFrame) -> _Difference | None:
    """Mean over the repeats that both have; None where they share none."""
    shared = sorted(set(before["repeat"]) & set(now["repeat"]))
    if not shared:
        return None
    old, new = ([g[g["repeat"] == r]["value"].to_numpy(float) for r in shared] for g in (before, now))
    freedom = sum(len(x) - 1 for x in (*old, *new))
    squares = sum(float(((x - x.mean()) ** 2).sum()) for x in (*old, *new))
    deviation = max(np.sqrt(squares / freedom), RESOLUTION) if freedom else np.nan
    spread = sum(1 / len(a) + 1 / len(b) for a, b in zip(old, new, strict=True))
    return _Difference(
        before=float(np.mean([x.mean() for x in old])),
        now=float(np.mean([x.mean() for x in new])),
        error=float(deviation * np.sqrt(spread) / len(shared)),
        freedom=freedom,
        n_before=sum(map(len, old)),
        n_now=sum(map(len, new)),
    )


def _verdict(row: dict[str, object]) -> str:
    if row["trainings_before"] == 0:
        return "first of its kind: nothing to compare with"
    if pd.isna(row["move"]):
        return "no repeat in common with earlier rounds"
    if pd.isna(row["p"]):
        return (
            "cannot be told: one training before and one now show no noise; let more rounds pass, or train more seeds"
        )
    if not row["moved"]:
        return "within noise"
    return "better" if float(row["move"]) > 0 else "worse"  # type: ignore[arg-type]
