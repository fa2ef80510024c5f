"""The paper's tables as views of the benchmark: published values beside measured ones, missing shown as missing."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from rkd_pipeline.metrics.intervals import nadeau_bengio
from rkd_pipeline.published import PAPER
from rkd_pipeline.recipes import RECIPES

NOT_MEASURED = "not measured"
NOT_PUBLISHED = "–"


@dataclass(frozen=True)
class Column:
    """A column of Table 3: the paper's heading, and which recipe and score fill it (None: no system of ours)."""

    system: str
    recipe: str | None
    score_rule: str | None


TABLE_3_COLUMNS = (
    Column("MKD", None, None),
    Column("Ours", "rkd", "map_max"),
    Column("Ours+ES", "rkd-es", "map_max"),
    Column("Ours+L_KD AS", "rkd", "l_kd"),
    Column("Ours+L_MKD", "rkd-mkd", "map_max"),
    Column("Ours+L_MKD AS", "rkd-mkd", "l_mkd"),
)
TABLE_3_ROWS = {"retinal_oct": "Retinal-OCT", "brain_mri": "Brain MRI", "head_ct": "Head CT"}
CELL_COLUMNS = {
    "dataset": "target",
    "system": "the paper's column",
    "recipe": "training configuration of the column",
    "score_rule": "image score of the column",
    "teacher": "whose features were distilled; empty where nothing was measured",
    "epochs": "schedule; empty where nothing was measured",
    "short_schedule": "fewer epochs than the recipe asks for",
    "published": "image AUROC in the paper",
    "measured": "mean image AUROC over seeds",
    "ci_low": "lower bound, 95%",
    "ci_high": "upper bound, 95%",
    "interval_method": "nadeau_bengio over seeds; for one seed the interval over its test pictures",
    "seeds": "number of seeds (each on its own repeat of the split)",
    "note": "what to know before comparing",
}


def table_3(benchmark: pd.DataFrame, train_pictures: dict[tuple[str, str], int]) -> pd.DataFrame:
    """Table 3 (image AUROC on the medical datasets), one row per cell and measured configuration.

    Args:
        benchmark: the tidy table.
        train_pictures: number of training pictures per (target, training), for the correction of intervals.

    Returns:
        Columns as in ``CELL_COLUMNS``. A configuration is one teacher and schedule: they are never averaged together.
    """
    auroc = benchmark[benchmark["metric"] == "image_auroc"]
    measured = auroc[(auroc["origin"] == "measured") & auroc["target"].isin(TABLE_3_ROWS)]
    configurations = measured[["teacher", "epochs"]].drop_duplicates().sort_values(["teacher", "epochs"])
    cells = []
    for dataset in TABLE_3_ROWS:
        of_dataset = measured[measured["target"] == dataset]
        present = configurations.merge(of_dataset[["teacher", "epochs"]].drop_duplicates())
        for teacher, epochs in present.itertuples(index=False) if len(present) else [(None, None)]:
            chosen = of_dataset[(of_dataset["teacher"] == teacher) & (of_dataset["epochs"] == epochs)]
            for column in TABLE_3_COLUMNS:
                values = chosen[(chosen["recipe"] == column.recipe) & (chosen["score_rule"] == column.score_rule)]
                cells.append(
                    {
                        "dataset": dataset,
                        "system": column.system,
                        "recipe": column.recipe,
                        "score_rule": column.score_rule,
                        "teacher": teacher,
                        "epochs": epochs,
                        "published": _published(auroc, dataset, column.system),
                        **_aggregate(values, train_pictures),
                        "note": _note(column, epochs),
                    }
                )
    types = {"epochs": "Int64", "seeds": "Int64", "short_schedule": "boolean"}
    return pd.DataFrame(cells, columns=list(CELL_COLUMNS)).astype(types)


def _published(auroc: pd.DataFrame, dataset: str, system: str) -> float | None:
    paper = (auroc["origin"] == "published") & auroc["source"].str.startswith(f"{PAPER} Table 3")
    found = auroc.loc[paper & (auroc["target"] == dataset) & (auroc["system"] == system), "value"]
    return None if found.empty else float(found.iloc[0])


def _aggregate(values: pd.DataFrame, train_pictures: dict[tuple[str, str], int]) -> dict[str, object]:
    """Mean over seeds with its interval; a single seed keeps the interval over its own test pictures."""
    if values.empty:
        return {"measured": None, "seeds": 0}
    first = values.iloc[0]
    result: dict[str, object] = {
        "measured": float(values["value"].mean()),
        "seeds": len(values),
        "short_schedule": bool(first["short_schedule"]),
    }
    # Only the normal test pictures are drawn anew in each repeat; the anomalous ones are the same in all.
    trained_on = float(np.mean([train_pictures[(r.target, r.training)] for r in values.itertuples()]))
    interval = nadeau_bengio(values["value"].astype(float).tolist(), float(first["n_normal"]) / trained_on)
    if interval is not None:
        return result | {"ci_low": interval.low, "ci_high": interval.high, "interval_method": interval.method}
    return result | {k: first[k] for k in ("ci_low", "ci_high", "interval_method")}


def _note(column: Column, epochs: int | None) -> str:
    if column.recipe is None or epochs is None:
        return ""
    stopping = RECIPES[column.recipe].early_stopping
    if stopping is not None and epochs <= stopping.patience:
        return (
            f"{epochs} epochs are too few for early stopping to act (patience {stopping.patience}): "
            "this is training on 75% of the normals, best of those epochs kept"
        )
    return ""


def table_3_markdown(cells: pd.DataFrame) -> str:
    """Table 3 for reading: percent, the paper's row above the measured ones, notes below."""
    lines = ["| Dataset | Row | " + " | ".join(c.system for c in TABLE_3_COLUMNS) + " |"]
    lines.append("|" + "---|" * (len(TABLE_3_COLUMNS) + 2))
    notes: list[str] = []
    for dataset, title in TABLE_3_ROWS.items():
        of_dataset = cells[cells["dataset"] == dataset]
        published = of_dataset.drop_duplicates("system").set_index("system")["published"]
        shown = [NOT_PUBLISHED if pd.isna(published[c.system]) else f"{100 * published[c.system]:.1f}"
                 for c in TABLE_3_COLUMNS]  # fmt: skip
        lines.append(f"| **{title}** | published | " + " | ".join(shown) + " |")
        measured = of_dataset[of_dataset["teacher"].notna()]
        if measured.empty:
            lines.append("| | measured | " + " | ".join([NOT_MEASURED] * len(TABLE_3_COLUMNS)) + " |")
        for (teacher, epochs), group in measured.groupby(["teacher", "epochs"], sort=False):
            by_system = {row["system"]: row for row in group.to_dict("records")}
            body = [_cell(by_system[c.system], notes) for c in TABLE_3_COLUMNS]
            lines.append(f"| | {teacher}, {epochs} epochs | " + " | ".join(body) + " |")
    foot = [
        "Image AUROC in percent. Measured: mean over seeds [95% interval] (number of seeds), each seed on its own "
        "repeat of the split. The interval (Nadeau and Bengio) corrects for what the repeats share; the anomalous "
        "test pictures are the same in all of them. The published numbers are of one split, without interval: with "
        "ten normal test pictures, one split has a standard error of 3 to 6 points."
    ]
    if cells["short_schedule"].fillna(False).any():
        foot.append("Schedules shorter than the recipes' 200 epochs are not the paper's experiment.")
    foot += [f"{_mark(i)} {note}." for i, note in enumerate(notes)]
    return "\n".join(lines) + "\n\n" + "\n\n".join(foot) + "\n"


def _cell(row: dict[str, object], notes: list[str]) -> str:
    if pd.isna(row["measured"]):
        return NOT_MEASURED
    mark = ""
    if note := str(row["note"]):
        if note not in notes:
            notes.append(note)
        mark = " " + _mark(notes.index(note))
    low, high = (f"{100 * float(row[k]):.1f}" if pd.notna(row[k]) else "?" for k in ("ci_low", "ci_high"))  # type: ignore[arg-type]
    return f"{100 * float(row['measured']):.1f} [{low}, {high}] ({row['seeds']}){mark}"  # type: ignore[arg-type]


def _mark(number: int) -> str:
    return "†‡§¶"[number % 4] * (1 + number // 4)
