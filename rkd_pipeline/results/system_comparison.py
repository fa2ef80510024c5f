"""All systems side by side: quality with intervals, cost, and which differences are larger than noise.

A system is a recipe with one teacher and schedule, as on the leaderboard. Where that one ranks systems over targets,
here each target stands by itself, and two systems are compared on the same test images, seed by seed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from scipy.stats import norm

from rkd_pipeline.recipes.lookup import own_score, recipe
from rkd_pipeline.recipes.recipe import deviations_of
from rkd_pipeline.recipes.score_rules import OWN, QUALITY
from rkd_pipeline.results.ranking import COSTS, SYSTEM, system_names
from rkd_pipeline.results.tables.seeds import TrainImages, over_seeds, remarks_on
from rkd_pipeline.results.tables.sheet import NOT_PUBLISHED, SHORT_SCHEDULE, Sheet, percent, with_interval
from rkd_pipeline.statistics.contrasts import Blocks, Part, complete, on_one_target, units_of
from rkd_pipeline.statistics.multiple_testing import holm

LEVEL = 0.05
NAMES = {"image_auroc": "Image AUROC", "pixel_auroc": "Pixel AUROC", "aupro_30": "AUPRO"}
PAIR_COLUMNS = {
    "target": "partition key",
    "quality": "image_auroc (of each system's own score), pixel_auroc or aupro_30",
    "first": "system with the higher number",
    "second": "system with the lower number",
    "difference": "first less second, mean over seeds; fraction from 0 to 1",
    "ci_low": "lower bound, 95%",
    "ci_high": "upper bound, 95%",
    "method": "of the interval, as in the ablation",
    "seeds": "that both were trained with",
    "image_sd": "standard deviation of one seed's difference over draws of the test images",
    "seed_sd": "standard deviation of the difference over seeds (and splits, where a seed has its own); empty for one",
    "p": "that belongs to the interval, two-sided; empty without interval",
    "p_holm": "after Holm's correction over the pairs of this target and quality",
    "differ": "p_holm is below 5%",
}
NOISE_COLUMNS = {
    "target": "partition key",
    "quality": "as in the pairs",
    "systems": "that were compared",
    "pairs": "of them",
    "image_sd": "median over pairs",
    "seed_sd": "median over pairs; empty where there is one seed",
    "own_draws": "a seed has its own split: its noise is in seed_sd",
    "larger_than_images": "pairs whose difference is larger than 1.96 image_sd",
    "beyond_noise": "pairs whose interval, with all noise in it, leaves out 0",
    "differ": "pairs that differ after Holm's correction",
}


@dataclass(frozen=True)
class Comparison:
    """What was measured of all systems.

    Attributes:
        systems: a row per target and system; columns target, system, ``SYSTEM``, score, for each quality its value with
            ``_low`` and ``_high``, seeds, short_schedule, the costs, device, deviation, note.
        pairs: columns as in ``PAIR_COLUMNS``.
        noise: columns as in ``NOISE_COLUMNS``.
    """

    systems: pd.DataFrame
    pairs: pd.DataFrame
    noise: pd.DataFrame


def system_rows(
    measured: pd.DataFrame, costs: pd.DataFrame, train_pictures: TrainImages, own_draws: Mapping[str, bool]
) -> pd.DataFrame:
    """Each system on each target, best image AUROC first; columns as in ``Comparison.systems``.

    Args:
        measured: rows of the benchmark.
        costs: one row per target and training, with the columns of ``COSTS`` and ``device``.
        train_pictures: number of training images per (target, training).
        own_draws: target to whether its repeats test on images of their own.
    """
    measured = measured.assign(system=system_names(measured))
    rows = []
    for (target, system), found in measured.groupby(["target", "system"], sort=True):
        first = found.iloc[0]
        row = {"target": target, "system": system, **first[SYSTEM].to_dict(), "score": own_score(first["recipe"])}
        for quality, (metric, rule) in QUALITY.items():
            asked = row["score"] if rule == OWN else rule
            values = found[(found["metric"] == metric) & (found["score_rule"] == asked) & found["value"].notna()]
            one = over_seeds(values, train_pictures, own_repeats=own_draws[str(target)])
            row |= {
                quality: one["measured"],
                f"{quality}_low": one.get("ci_low"),
                f"{quality}_high": one.get("ci_high"),
            }
        row |= {"seeds": found["training"].nunique(), "short_schedule": bool(found["short_schedule"].any())}
        spent = costs[(costs["target"] == target) & costs["training"].isin(found["training"])]
        row |= {name: spent[name].astype(float).mean() for name in COSTS}
        row |= {"device": "; ".join(sorted(set(spent["device"])))}
        row |= {"deviation": deviations_of(recipe(first["recipe"]), first["teacher"]), "note": remarks_on(found)}
        rows.append(row)
    numbers = [name + end for name in QUALITY for end in ("", "_low", "_high")]
    table = pd.DataFrame(rows, columns=[*_SYSTEM_COLUMNS]).astype(dict.fromkeys([*numbers, *COSTS], float))
    order = table.sort_values(["target", "image_auroc", "system"], ascending=[True, False, True], na_position="last")
    return order.astype({"epochs": "Int64"}).reset_index(drop=True)


_SYSTEM_COLUMNS = (
    "target", "system", *SYSTEM, "score", *(name + end for name in QUALITY for end in ("", "_low", "_high")), "seeds",
    "short_schedule", *COSTS, "device", "deviation", "note",
)  # fmt: skip


def pair_rows(cells: Blocks, recipes: Mapping[str, str], test_to_train: Mapping[str, float | None]) -> pd.DataFrame:
    """Every two systems on every target and quality that both have; columns as in ``PAIR_COLUMNS``.

    Args:
        cells: target, seed and repeat to system to evidence.
        recipes: system to its recipe.
        test_to_train: per target, test images drawn anew over training images; None where all test on the same.
    """
    rows: list[dict[str, object]] = []
    for target in sorted({target for target, _, _ in cells}):
        here = {cell: models for cell, models in cells.items() if cell[0] == target}
        names = sorted({name for models in here.values() for name in models})
        for quality, (metric, rule) in QUALITY.items():
            quantities = {n: (metric, own_score(recipes[n]) if rule == OWN else rule) for n in names}
            of_target = [
                _pair(here, (one, other), quantities, test_to_train[target]) for one, other in combinations(names, 2)
            ]
            compared = [row | {"target": target, "quality": quality} for row in of_target if row]
            rows += _corrected(compared)
    table = pd.DataFrame(rows, columns=list(PAIR_COLUMNS))
    numbers = dict.fromkeys(("difference", "ci_low", "ci_high", "image_sd", "seed_sd", "p", "p_holm"), float)
    return table.astype(numbers | {"seeds": int, "differ": bool})


def _pair(
    cells: Blocks,
    pair: tuple[str, str],
    quantities: Mapping[str, tuple[str, str]],
    test_to_train: float | None,
) -> dict[str, object] | None:
    parts = [Part(weight, name, quantities[name]) for weight, name in zip((1, -1), pair, strict=True)]
    if not complete(parts, cells):
        return None
    [units] = units_of(parts, cells).values()
    found = on_one_target(units, test_to_train)
    first, second, low, high = *pair, found.low, found.high
    if found.value < 0:
        first, second, low, high = second, first, -found.high, -found.low
    value = abs(found.value)
    values = [u.value for u in units]
    return {
        "first": first,
        "second": second,
        "difference": value,
        "ci_low": low,
        "ci_high": high,
        "method": found.method,
        "seeds": len(units),
        "image_sd": float(np.mean([np.std(u.replicates) for u in units if u.replicates is not None])),
        "seed_sd": float(np.std(values, ddof=1)) if len(values) > 1 else np.nan,
        # The p of which the interval is the 95% one, by its own width towards 0.
        "p": float(2 * norm.sf(1.96 * value / (value - low))) if np.isfinite(low) and value > low else np.nan,
    }


def _corrected(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    p = np.array([row["p"] for row in rows], float)
    known = np.isfinite(p)
    after = np.full(len(p), np.nan)
    after[known] = holm(p[known])
    return [row | {"p_holm": value, "differ": bool(value < LEVEL)} for row, value in zip(rows, after, strict=True)]


def noise_rows(pairs: pd.DataFrame, own_draws: Mapping[str, bool]) -> pd.DataFrame:
    """Which differences are larger than noise, counted; columns as in ``NOISE_COLUMNS``."""
    rows = []
    for (target, quality), found in pairs.groupby(["target", "quality"], sort=False):
        rows.append(
            {
                "target": target,
                "quality": quality,
                "systems": len(set(found["first"]) | set(found["second"])),
                "pairs": len(found),
                "image_sd": found["image_sd"].median(),
                "seed_sd": found["seed_sd"].median(),
                "own_draws": own_draws[str(target)],
                "larger_than_images": int((found["difference"] > 1.96 * found["image_sd"]).sum()),
                "beyond_noise": int((found["ci_low"] > 0).sum()),
                "differ": int(found["differ"].sum()),
            }
        )
    return pd.DataFrame(rows, columns=list(NOISE_COLUMNS))


def systems_sheet(systems: pd.DataFrame, target: str) -> Sheet:
    """One target's systems for reading, best image AUROC first."""
    headings = ["System", *NAMES.values(), "Seeds", "Training, s", "Scoring, ms/image", "Memory, GiB", "Numbers, M"]
    sheet = Sheet(target, [*headings, "Device"])
    rows = systems[systems["target"] == target]
    for row in rows.to_dict("records"):
        quality = [
            NOT_PUBLISHED if pd.isna(row[q]) else with_interval(row[q], row[f"{q}_low"], row[f"{q}_high"])
            for q in NAMES
        ]
        cost = [
            _number(row["training_seconds"], 1, 1),
            _number(row["scoring_seconds_per_picture"], 1000, 1),
            _number(row["peak_memory_bytes"], 2**-30, 2),
            _number(row["parameters"], 1e-6, 2),
        ]
        sheet.rows.append(
            [row["system"] + sheet.mark(row["deviation"]), *quality, str(row["seeds"]), *cost, row["device"]]
        )
    sheet.below.append(
        "In percent, mean over seeds [95% interval]; image AUROC of each system's own score; a dash where a system has "
        "no such number: some make no maps. Training: of one, with the teacher's features; a system without epochs in "
        "its one pass. Numbers: what training left, in millions."
    )
    sheet.below += [f"{note[:1].upper()}{note[1:]}." for note in dict.fromkeys(rows["note"]) if note]
    if rows["short_schedule"].any():
        sheet.below.append(SHORT_SCHEDULE)
    return sheet


def noise_sheet(noise: pd.DataFrame) -> Sheet:
    """Which differences are larger than noise, for reading."""
    headings = ["Target", "Number", "Systems", "Pairs", "Noise of images", "Noise of seeds"]
    headings += ["Pairs beyond images alone", "Pairs beyond all noise", "After Holm"]
    sheet = Sheet("Which differences are larger than noise?", headings)
    for row in noise.to_dict("records"):
        seeds = percent(row["seed_sd"]) + (" (and splits)" if row["own_draws"] and not pd.isna(row["seed_sd"]) else "")
        counts = [f"{row[k]} ({row[k] / row['pairs']:.0%})" for k in ("larger_than_images", "beyond_noise", "differ")]
        sheet.rows.append(
            [row["target"], NAMES[row["quality"]], str(row["systems"]), str(row["pairs"]), percent(row["image_sd"]),
             seeds, *counts]
        )  # fmt: skip
    sheet.below.append(
        "Noise: standard deviation of the difference of two systems, in points, median over pairs: of one seed over "
        "draws of the test images (the same draws for both), and over seeds. Beyond images alone: the difference is "
        "larger than 1.96 of the first. Beyond all noise: the 95% interval with images, seeds and splits in it leaves "
        "out 0. After Holm: the same, corrected for the number of pairs."
    )
    return sheet


def beyond_noise(pairs: pd.DataFrame, systems: Sequence[str]) -> np.ndarray:
    """Differences of one target and quality as a matrix ``(n, n)``: row less column; NaN where noise may be all."""
    at = {name: i for i, name in enumerate(systems)}
    matrix = np.full((len(systems), len(systems)), np.nan)
    for row in pairs[pairs["differ"]].to_dict("records"):
        i, j = at[row["first"]], at[row["second"]]
        matrix[i, j], matrix[j, i] = row["difference"], -row["difference"]
    return matrix


def _number(value: float, factor: float, digits: int) -> str:
    return NOT_PUBLISHED if pd.isna(value) else f"{factor * value:.{digits}f}"
