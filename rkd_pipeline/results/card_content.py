"""What a target's images are like, in numbers: the facts of a dataset card (drawn by ``figures/card_figures.py``)."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from rkd_pipeline.data.catalog import Dataset, Target
from rkd_pipeline.data.near_duplicates import near_pairs
from rkd_pipeline.data.split import TRAINING_PARTS
from rkd_pipeline.metrics.image_auroc import image_auroc, image_auroc_interval

TRIVIAL = {
    "mean intensity": "mean",
    "contrast": "contrast",
    "file size": "bytes",
    "image size": "pixels",
}
TRIVIAL_COLUMNS = ("statistic", "auroc", "ci_low", "ci_high", "normal", "anomalous", "flagged")
TRIVIAL_RANGE = (0.3, 0.7)
_SHOWN = 20


@dataclass
class Card:
    """The facts of a target.

    Attributes:
        counts: one row per kind (good and each defect), one column per part of the split's first repeat.
        trivial: one row per trivial statistic: its image AUROC on the test images of all repeats, with interval.
        pairs: copies and near-copies; columns as ``near_pairs``, and the part of each image.
        shifts: trivial statistics that tell the test classes apart, in words.
        leaks: pairs of which one image trains and the other tests, in words.
        conflicts: the same pixels labelled both normal and anomalous, in words.
        markdown: all of it, for reading.
    """

    counts: pd.DataFrame
    trivial: pd.DataFrame
    pairs: pd.DataFrame
    shifts: list[str] = field(default_factory=list)
    leaks: list[str] = field(default_factory=list)
    conflicts: list[str] = field(default_factory=list)
    markdown: str = ""


def describe(
    target: Target,
    dataset: Dataset,
    index: pd.DataFrame,
    rows: pd.DataFrame,
    images: np.ndarray,
    facts: dict[str, Any],
) -> Card:
    """The card of a target.

    Args:
        target, dataset: what is described.
        index: columns as the index has them; N rows.
        rows: its split; the first repeat is described.
        images: uint8 ``(N, S, S, 3)`` in the order of the index.
        facts: of the ``images`` result (variant, skipped, warnings, modes, sizes).
    """
    part = rows[rows["repeat"] == 0].set_index("image_id")["part"]
    table = index.assign(split=index["image_id"].map(part), pixels=index["width"] * index["height"])
    counts = pd.crosstab(table["defect"], table["split"])
    counts = counts.reindex(sorted(counts.index, key=lambda d: (d != "good", d)))
    pairs = near_pairs(index, images)
    info = table.set_index("image_id")
    for side in ("first", "second"):
        pairs[f"{side}_part"] = info.loc[pairs[side], "split"].to_numpy()
        pairs[f"{side}_anomalous"] = info.loc[pairs[side], "anomalous"].to_numpy()
    ever_tested = rows.loc[rows["part"] == "test", "image_id"]
    trivial = trivial_aurocs(table[table["image_id"].isin(ever_tested)])
    card = Card(counts, trivial, pairs, _shifts(trivial), _leaks(pairs), _conflicts(pairs))
    card.markdown = _markdown(target, dataset, table, card, facts, int(rows["repeat"].max()) + 1)
    return card


def trivial_aurocs(test: pd.DataFrame) -> pd.DataFrame:
    """The image AUROC that each trivial statistic alone reaches.

    Args:
        test: test images; columns anomalous, pixel_sha256, mean, contrast, bytes, pixels.

    Returns:
        Columns statistic, auroc, ci_low, ci_high, normal, anomalous (medians of the statistic), flagged; no row where
        a class is missing.
    """
    anomalous = test["anomalous"].to_numpy(bool)
    if anomalous.all() or not anomalous.any():
        return pd.DataFrame(columns=TRIVIAL_COLUMNS)
    found = []
    for name, column in TRIVIAL.items():
        values = test[column].to_numpy(np.float64)
        auroc = image_auroc(anomalous, values)
        interval = image_auroc_interval(anomalous, values, clusters=test["pixel_sha256"].to_numpy())
        found.append(
            {
                "statistic": name,
                "auroc": auroc,
                "ci_low": interval.low,
                "ci_high": interval.high,
                "normal": float(np.median(values[~anomalous])),
                "anomalous": float(np.median(values[anomalous])),
                "flagged": not TRIVIAL_RANGE[0] <= auroc <= TRIVIAL_RANGE[1],
            }
        )
    return pd.DataFrame(found)


def _shifts(trivial: pd.DataFrame) -> list[str]:
    return [
        f"{r.statistic} alone reaches an image AUROC of {max(r.auroc, 1 - r.auroc):.2f}: it is "
        f"{'higher' if r.auroc > 0.5 else 'lower'} in anomalous test images"
        for r in trivial[trivial["flagged"]].itertuples()
    ]


def between_training_and_test(pairs: pd.DataFrame) -> "pd.Series[bool]":
    """Which pairs have one image of a training part and one that tests."""
    parts = pairs[["first_part", "second_part"]]
    return parts.isin(TRAINING_PARTS).any(axis=1) & (parts == "test").any(axis=1)


def _leaks(pairs: pd.DataFrame) -> list[str]:
    across = between_training_and_test(pairs)
    return [f"{p.first} and {p.second} (likeness {p.likeness:.2f})" for p in pairs[across].itertuples()]


def _conflicts(pairs: pd.DataFrame) -> list[str]:
    which = pairs[pairs["identical"] & (pairs["first_anomalous"] != pairs["second_anomalous"])]
    return [f"{p.first} and {p.second}" for p in which.itertuples()]


def _markdown(
    target: Target, dataset: Dataset, table: pd.DataFrame, card: Card, facts: dict[str, Any], repeats: int
) -> str:
    lines = [f"# {target.name}", "", f"{dataset.title}. {len(table)} images, kind: {target.kind}.", ""]
    about = {
        "Licence": dataset.licence,
        "Cite": dataset.citation,
        "Source": dataset.source,
        "Note": dataset.note,
        "Layout": facts["variant"] or "as published",
        "Files": facts.get("origin", ""),
        "Sizes": f"{_range(facts['width'])} x {_range(facts['height'])} pixels",
        "Modes": ", ".join(f"{mode} {count}" for mode, count in facts["modes"].items()),
        "Masks": _masks(table),
        "Split": f"{repeats} repeats; the counts are of the first",
    }
    lines += [f"- **{name}**: {text}" for name, text in about.items() if text]
    lines += ["", "## Counts", "", card.counts.to_markdown(), ""]
    lines += ["## What trivial statistics reach on the test images", ""]
    lines += [card.trivial.to_markdown(index=False, floatfmt=".3g"), ""] if len(card.trivial) else []
    lines += [
        "Nothing: both classes would have to be among the test images."
        if card.trivial.empty
        else f"On the test images of all repeats together. Outside {TRIVIAL_RANGE[0]} to {TRIVIAL_RANGE[1]} one is "
        "flagged: the image AUROC of a model may then owe to it, or suffer from it, rather than to defects."
    ]
    lines += _section("Flagged", card.shifts, "Nothing is flagged.")
    lines += _section("Warnings", facts["warnings"], "")
    lines += _section("Left out, because they cannot be used", facts["skipped"], "")
    lines += _section("The same pixels, labelled normal and anomalous", card.conflicts, "")
    exact = int(card.pairs["identical"].sum())
    lines += ["", "## Copies", "", f"{exact} pairs with the same pixels, {len(card.pairs) - exact} nearly alike."]
    lines += _section("Between training and test", card.leaks, "None between training and test.", level="###")
    return "\n".join(lines) + "\n"


def _masks(table: pd.DataFrame) -> str:
    """How many images have a mask, and how many defects have none that shows them."""
    if not (table["mask"] != "").any():
        return "none"
    without = int((table["anomalous"] & ~(table["mask_area"] > 0)).sum())
    lacking = f"; {without} anomalous images have none that shows a defect: not in pixel metrics" if without else ""
    return f"{int((table['mask'] != '').sum())} images have one{lacking}"


def _range(bounds: list[int]) -> str:
    return str(bounds[0]) if bounds[0] == bounds[1] else f"{bounds[0]} to {bounds[1]}"


def _section(title: str, found: list[str], otherwise: str, level: str = "##") -> list[str]:
    if not found:
        return ["", otherwise] if otherwise else []
    rest = [f"- and {len(found) - _SHOWN} more"] if len(found) > _SHOWN else []
    return ["", f"{level} {title}", "", *(f"- {text}" for text in found[:_SHOWN]), *rest]
