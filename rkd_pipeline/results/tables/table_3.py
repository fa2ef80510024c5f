"""Table 3 of the paper: image AUROC on the medical datasets."""

from dataclasses import dataclass

import pandas as pd

from rkd_pipeline.results.published import PAPER
from rkd_pipeline.results.tables.seeds import (
    INTERVAL_METHODS,
    TrainImages,
    configurations,
    of_configuration,
    over_seeds,
    remarks_on,
    stopping_note,
)
from rkd_pipeline.results.tables.sheet import NOT_MEASURED, SHORT_SCHEDULE, Sheet, in_epochs, percent, with_interval


@dataclass(frozen=True)
class Column:
    """A column of Table 3: the paper's heading, and which recipe and score fill it."""

    system: str
    recipe: str
    score_rule: str


TABLE_3_COLUMNS = (
    Column("MKD", "mkd-medical", "loss"),
    Column("Ours", "rkd", "map_max"),
    Column("Ours+ES", "rkd-es", "map_max"),
    Column("Ours+L_KD AS", "rkd", "l_kd"),
    Column("Ours+L_MKD", "rkd-mkd", "map_max"),
    Column("Ours+L_MKD AS", "rkd-mkd", "l_mkd"),
)
# The paper trained on half of Retinal OCT, those whose numbers it copies on all.
TABLE_3_ROWS = {
    "retinal_oct.half": "Retinal-OCT, half",
    "retinal_oct": "Retinal-OCT, all",
    "brain_mri": "Brain MRI",
    "head_ct": "Head CT",
}
OWN_REPEATS = ("brain_mri", "head_ct")  # Retinal-OCT's publisher separates test from training
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
    "interval_method": INTERVAL_METHODS,
    "seeds": "number of seeds (each on its own repeat of the split)",
    "seed_sd": "standard deviation over seeds; empty for one",
    "note": "what to know before comparing",
}


def table_3(benchmark: pd.DataFrame, train_pictures: TrainImages) -> pd.DataFrame:
    """Table 3 (image AUROC on the medical datasets), one row per cell and measured configuration.

    Args:
        benchmark: the tidy table.
        train_pictures: number of training images per (target, training), for the correction of intervals.

    Returns:
        Columns as in ``CELL_COLUMNS``. A configuration is one teacher and schedule: they are never averaged together.
    """
    auroc = benchmark[benchmark["metric"] == "image_auroc"]
    measured = auroc[(auroc["origin"] == "measured") & auroc["target"].isin(TABLE_3_ROWS)]
    measured = measured[measured["recipe"].isin([column.recipe for column in TABLE_3_COLUMNS])]
    cells = []
    for dataset in TABLE_3_ROWS:
        of_dataset = measured[measured["target"] == dataset]
        for teacher, epochs in configurations(of_dataset):
            chosen = of_configuration(of_dataset, teacher, epochs)
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
                        **over_seeds(values, train_pictures, own_repeats=dataset in OWN_REPEATS),
                        "note": "; ".join(filter(None, (stopping_note(column.recipe, epochs), remarks_on(values)))),
                    }
                )
    types = {"epochs": "Int64", "seeds": "Int64", "seed_sd": "Float64", "short_schedule": "boolean"}
    return pd.DataFrame(cells, columns=list(CELL_COLUMNS)).astype(types)


def _published(auroc: pd.DataFrame, dataset: str, system: str) -> float | None:
    paper = (auroc["origin"] == "published") & auroc["source"].str.startswith(f"{PAPER} Table 3")
    found = auroc.loc[paper & (auroc["target"] == dataset) & (auroc["system"] == system), "value"]
    return None if found.empty else float(found.iloc[0])


def table_3_sheet(cells: pd.DataFrame) -> Sheet:
    """Table 3 for reading: percent, the paper's row above the measured ones, notes below."""
    sheet = Sheet(
        "Table 3: image AUROC on the medical datasets", ["Dataset", "Row", *(c.system for c in TABLE_3_COLUMNS)]
    )
    for dataset, title in TABLE_3_ROWS.items():
        of_dataset = cells[cells["dataset"] == dataset]
        published = of_dataset.drop_duplicates("system").set_index("system")["published"]
        sheet.rows.append([f"**{title}**", "published", *(percent(published[c.system]) for c in TABLE_3_COLUMNS)])
        measured = of_dataset[of_dataset["teacher"].notna()]
        if measured.empty:
            sheet.rows.append(["", "measured", *[NOT_MEASURED] * len(TABLE_3_COLUMNS)])
        for (teacher, epochs), group in measured.groupby(["teacher", "epochs"], sort=False):
            by_system = {row["system"]: row for row in group.to_dict("records")}
            body = [_cell(by_system[c.system], sheet) for c in TABLE_3_COLUMNS]
            sheet.rows.append(["", f"{teacher}, {in_epochs(epochs)}", *body])
    sheet.below.append(
        "Image AUROC in percent. Measured: mean over seeds [95% interval] (number of seeds), each seed on its own "
        "repeat of the split. The interval (Nadeau and Bengio) corrects for what the repeats share; the anomalous "
        "test images are the same in all of them. The published numbers are of one split, without interval: with "
        "ten normal test images, one split has a standard error of 3 to 6 points."
    )
    if cells["short_schedule"].fillna(False).any():
        sheet.below.append(SHORT_SCHEDULE)
    return sheet


def _cell(row: dict[str, object], sheet: Sheet) -> str:
    if pd.isna(row["measured"]):
        return NOT_MEASURED
    shown = with_interval(row["measured"], row["ci_low"], row["ci_high"])
    return f"{shown} ({row['seeds']}){sheet.mark(str(row['note']))}"
