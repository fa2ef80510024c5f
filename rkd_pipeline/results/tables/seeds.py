"""From the benchmark's rows of one configuration, one per seed, to one number with its interval."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from scipy.stats import t

from rkd_pipeline.metrics.intervals import FEW_IMAGES, Interval, nadeau_bengio
from rkd_pipeline.recipes.lookup import recipe as recipe_of

TrainImages = Mapping[tuple[str, str], int]
INTERVAL_METHODS = (
    "nadeau_bengio_and_pictures over seeds where each has its own repeat of the split: Nadeau and Bengio's, at least "
    "as wide as test images alone make it; nadeau_bengio, too narrow for a few repeats that agree, where the numbers "
    "have no interval over images; pictures_and_seeds where all test on the publisher's images; seeds_only where "
    "the numbers have no interval over images; for one seed the interval over its test images"
)


def over_seeds(values: pd.DataFrame, train_pictures: TrainImages, *, own_repeats: bool) -> dict[str, object]:
    """Mean over seeds with its interval; a single seed keeps the interval over its own test images.

    Args:
        values: benchmark rows of one target, metric and configuration, one per seed; may be empty.
        train_pictures: number of training images per (target, training), for the correction of intervals.
        own_repeats: repeats of the split differ in their test images; seeds on the same repeat are averaged first.
            Otherwise all test on the same images.

    Returns:
        measured, seeds and seed_sd (standard deviation over seeds, None for fewer than two), and, unless empty,
        short_schedule, ci_low, ci_high, interval_method.
    """
    if values.empty:
        return {"measured": None, "seeds": 0, "seed_sd": None}
    first, numbers = values.iloc[0], values["value"].astype(float)
    per_repeat = numbers.groupby(values["repeat"]).mean() if own_repeats else numbers
    result: dict[str, object] = {
        "measured": float(per_repeat.mean()),
        "seeds": len(values),
        "seed_sd": float(numbers.std()) if len(values) > 1 else None,
        "short_schedule": bool(first["short_schedule"]),
    }
    if len(values) == 1:
        return result | {k: first[k] for k in ("ci_low", "ci_high", "interval_method")}
    interval: Interval | None
    if own_repeats and len(per_repeat) > 1:
        # Only the normal test images are drawn anew in each repeat; the anomalous ones are the same in all.
        trained_on = float(np.mean([train_pictures[(r.target, r.training)] for r in values.itertuples()]))
        interval = _own_images(values, per_repeat, float(first["n_normal"]) / trained_on)
    else:
        interval = _same_images(values)
    assert interval is not None  # there are two seeds
    return result | {"ci_low": interval.low, "ci_high": interval.high, "interval_method": interval.method}


def _own_images(values: pd.DataFrame, per_repeat: pd.Series, test_to_train: float) -> Interval:
    """Repeats with test images of their own: Nadeau and Bengio's interval, not narrower than images make it.

    Two to five repeats may agree by chance, and near 1 they do: then their spread says nothing (docs/metrics.md). A
    repeat's interval over images says more, averaged out by the same factor.
    """
    spread = nadeau_bengio(per_repeat.tolist(), test_to_train)
    assert spread is not None  # there are two repeats
    mean, factor = float(per_repeat.mean()), float(np.sqrt(1 / len(per_repeat) + test_to_train))
    low, high = (factor * half for half in _halves(values))
    if np.isnan(low + high):
        return spread
    bounds = min(spread.low, max(0.0, mean - low)), max(spread.high, min(1.0, mean + high))
    return Interval(*bounds, "nadeau_bengio_and_pictures")


def _halves(values: pd.DataFrame) -> tuple[float, float]:
    """How far the intervals over images reach below and above their values, on average; NaN where one has none."""
    numbers = values["value"].astype(float)
    low, high = (float((numbers - values[k].astype(float)).abs().mean(skipna=False)) for k in ("ci_low", "ci_high"))
    return low, high


def _same_images(values: pd.DataFrame, level: float = 0.95) -> Interval:
    """Seeds that test on the same images: their mean keeps the whole error of the images; the seeds' averages out.

    The half-width is the root of the sum of squares of the seeds' mean half-width over images and Student's t over
    seeds.
    """
    numbers = values["value"].astype(float)
    mean, half = float(numbers.mean()), float(t.ppf((1 + level) / 2, len(numbers) - 1) * numbers.sem())
    low, high = _halves(values)
    if np.isnan(low + high):
        return Interval(max(0.0, mean - half), min(1.0, mean + half), "seeds_only")
    return Interval(max(0.0, mean - np.hypot(low, half)), min(1.0, mean + np.hypot(high, half)), "pictures_and_seeds")


def configurations(measured: pd.DataFrame) -> list[tuple[str | None, int | None]]:
    """The (teacher, epochs) that rows were trained with, sorted; one of None where there are no rows.

    A configuration is one teacher and schedule; tables never average two of them together.
    """
    found = measured[["teacher", "epochs"]].drop_duplicates().sort_values(["teacher", "epochs"])
    return list(found.itertuples(index=False, name=None)) or [(None, None)]


def of_configuration(rows: pd.DataFrame, teacher: str | None, epochs: int | None) -> pd.DataFrame:
    """Those of ``rows`` that were trained with that teacher and schedule; no epochs are a schedule, too."""
    schedule = rows["epochs"].isna() if pd.isna(epochs) else rows["epochs"].eq(epochs)
    return rows[rows["teacher"].eq(teacher).fillna(False) & schedule.fillna(False)]


def remarks_on(measured: pd.DataFrame) -> str:
    """What must be said about measured rows: what stands in their source behind the place, and on small classes."""
    of_source = sorted({note for s in measured["source"].dropna() if (note := s.partition("; ")[2])})
    return "; ".join(filter(None, (*of_source, few_images_note(measured), few_pixels_note(measured))))


def few_images_note(measured: pd.DataFrame) -> str:
    """What an interval of an image AUROC cannot promise with few images of a class; empty where there are enough.

    A few images that behave otherwise leave no trace where the sample holds none of them: by simulation the 95%
    interval then holds the truth in 88 to 93% of cases (docs/metrics.md).
    """
    rows = measured[(measured["metric"] == "image_auroc") & measured["value"].notna()]
    fewest = rows[["n_normal", "n_anomalous"]].astype(float).min(axis=None)
    if rows.empty or not fewest < FEW_IMAGES:
        return ""
    return (
        f"{fewest:.0f} test images of a class: if a few of that kind behave otherwise and the test holds none of them, "
        "the 95% interval of the image AUROC holds the truth in 88 to 93% of cases"
    )


def few_pixels_note(measured: pd.DataFrame) -> str:
    """What an interval of a pixel AUROC cannot promise with few images of both classes; empty where there are enough.

    By simulation 91% of the intervals hold the truth with ten images of each, 93.5% with twenty of one (metrics.md).
    """
    rows = measured[(measured["metric"] == "pixel_auroc") & measured["value"].notna()]
    most = rows[["n_normal", "n_anomalous"]].astype(float).max(axis=1).min()
    if rows.empty or not most < FEW_IMAGES:
        return ""
    return (
        f"fewer than {FEW_IMAGES} test images of either class: the 95% interval of the pixel AUROC holds the truth in "
        "91% of cases only"
    )


def stopping_note(recipe: str | None, epochs: int | None) -> str:
    """What to know about early stopping at a short schedule; empty where there is nothing to say."""
    if recipe is None or epochs is None or pd.isna(epochs):
        return ""
    stopping = recipe_of(recipe).early_stopping
    if stopping is not None and epochs <= stopping.patience:
        return (
            f"{epochs} epochs are too few for early stopping to act (patience {stopping.patience}): "
            "this is training on 75% of the normals, best of those epochs kept"
        )
    return ""
