"""Tables 1, 2 and 4 of the paper, and the same table for any dataset of targets with masks.

Localisation, category by category. Two quantities are printed as a pair, as in the paper (AUROC / PRO), and a third
stands beside: AUPRO, the one that is comparable with other work.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from rkd_pipeline.recipes.lookup import own_score
from rkd_pipeline.results.comparison import of_papers_systems
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
from rkd_pipeline.results.tables.sheet import (
    NOT_MEASURED,
    NOT_PUBLISHED,
    SHORT_SCHEDULE,
    Sheet,
    in_epochs,
    percent,
    with_interval,
)


@dataclass(frozen=True)
class Measure:
    """A number in a cell: which metric of which score."""

    metric: str
    score_rule: str = "map"


@dataclass(frozen=True)
class System:
    """A column: its heading, its name in published rows and the recipe that measures it (None: not ours to train).

    ``pair`` is printed as one cell, ``beside`` in a column of its own; None where the system has no such number.
    """

    heading: str
    published_as: str | None
    recipe: str | None
    pair: tuple[Measure, Measure | None]
    beside: Measure | None

    @property
    def measures(self) -> Iterator[Measure]:
        """Every number that the system has."""
        yield from (m for m in (*self.pair, self.beside) if m is not None)


@dataclass(frozen=True)
class Row:
    """A category: target, the paper's heading, and whether all seeds test on the publisher's own images."""

    target: str
    title: str
    official_split: bool = True


@dataclass(frozen=True)
class Block:
    """Rows that are averaged together; ``average`` is the target under which the paper's average is published."""

    title: str
    rows: tuple[Row, ...]
    average: str | None = None


@dataclass(frozen=True)
class CategoryTable:
    """What stands where in a table of categories; ``notes`` are printed below it."""

    name: str
    title: str
    blocks: tuple[Block, ...]
    systems: tuple[System, ...]
    pair_heading: str
    beside_heading: str
    notes: tuple[str, ...] = ()


AUROC, AUPRO = Measure("pixel_auroc"), Measure("aupro_30")
MKD = System("MKD", "MKD", "mkd", (AUROC, None), None)
RKD = System("RKD", "RKD", "rkd-official", (AUROC, Measure("pro_rd4ad")), AUPRO)
OURS, OURS_MKD, OURS_MKD_ES = (
    System(heading, published, recipe, (AUROC, Measure("pro_youden")), AUPRO)
    for heading, published, recipe in (
        ("Ours", "Ours", "rkd"),
        ("Ours+L_MKD", "Ours+L_MKD", "rkd-mkd"),
        ("Ours+L_MKD+ES", None, "rkd-mkd-es"),
    )
)
TEXTURES = ("carpet", "grid", "leather", "tile", "wood")
OBJECTS = (
    "bottle",
    "cable",
    "capsule",
    "hazelnut",
    "metal_nut",
    "pill",
    "screw",
    "toothbrush",
    "transistor",
    "zipper",
)
_PRO = (
    "AUROC is over all pixels of the test set. PRO is not one quantity: RKD's is the per-image variant of its official "
    "code (pro_rd4ad), that of the other columns is the mean region overlap at Youden's threshold, which is chosen on "
    "the test labels (pro_youden, an oracle). Neither is the AUPRO beside it, the area up to a false-positive rate "
    "of 30% by MVTec AD's definition (aupro_30); compare AUPRO with other work, and PRO only with the paper's numbers."
)
_MKD_NOTE = (
    "MKD's published AUROC is over defective images only, a different set of pixels; the measured one is over all, "
    "without the code's morphological opening."
)


def _block(title: str, categories: Sequence[str], average: str) -> Block:
    rows = tuple(Row(f"mvtec_ad.{name}", name.replace("_", " ").capitalize()) for name in categories)
    return Block(title, rows, f"mvtec_ad.{average}")


def _paper_table(name: str, title: str, block: Block, systems: tuple[System, ...], *notes: str) -> CategoryTable:
    return CategoryTable(name, title, (block,), systems, "AUROC / PRO", "AUPRO", (_PRO, *notes))


_TEXTURE_BLOCK = _block("Textures", TEXTURES, "average_textures")
_OBJECT_BLOCK = _block("Objects", OBJECTS, "average_objects")
TABLE_1 = _paper_table("table_1", "Table 1: textures of MVTec AD", _TEXTURE_BLOCK, (MKD, RKD, OURS), _MKD_NOTE)
TABLE_2 = _paper_table("table_2", "Table 2: objects of MVTec AD", _OBJECT_BLOCK, (MKD, RKD, OURS), _MKD_NOTE)
TABLE_4 = _paper_table(
    "table_4",
    "Table 4: textures of MVTec AD, with L_MKD",
    _TEXTURE_BLOCK,
    (RKD, OURS, OURS_MKD, OURS_MKD_ES),
    "The paper leaves open whether its Ours+L_MKD was validated with early stopping: both are measured.",
)
CATEGORY_TABLES = {t.name: t for t in (TABLE_1, TABLE_2, TABLE_4)}
CELL_COLUMNS = {
    "block": "textures, objects, ...",
    "target": "category, or empty in rows of averages",
    "title": "the paper's heading of the row",
    "system": "the paper's column",
    "recipe": "training configuration of the column",
    "metric": "pixel_auroc, pro_youden, pro_rd4ad, aupro_30, ...",
    "score_rule": "image score; map for pixel metrics",
    "teacher": "whose features were distilled; empty where nothing was measured",
    "epochs": "schedule; empty where nothing was measured",
    "short_schedule": "fewer epochs than the recipe asks for",
    "published": "the paper's number; in rows of averages the average as printed",
    "compared": "published number that the difference is to; for averages over the categories that are measured",
    "measured": "mean over seeds; for averages over the categories that are measured",
    "ci_low": "lower bound, 95%",
    "ci_high": "upper bound, 95%",
    "interval_method": f"{INTERVAL_METHODS}; independent_categories for averages",
    "difference": "measured minus compared; bounds follow by subtracting compared from ci_low and ci_high",
    "seeds": "number of seeds",
    "seed_sd": "standard deviation over seeds; empty for one, and for averages",
    "over": "averages: the categories that are measured, separated by commas; empty for a category itself",
    "best": "its interval lies above all other measured values of row and metric",
    "note": "what to know before comparing",
}
_TYPES = {"epochs": "Int64", "seeds": "Int64", "over": "string", "short_schedule": "boolean", "best": "boolean"}
_TYPES |= dict.fromkeys(("published", "compared", "measured", "ci_low", "ci_high", "difference", "seed_sd"), "Float64")


def dataset_table(dataset: str, title: str, benchmark: pd.DataFrame, own_repeats: Sequence[str] = ()) -> CategoryTable:
    """The table of a dataset that the paper does not have: a block per kind of target, a column per recipe measured.

    Args:
        dataset: its name.
        title: for people.
        benchmark: the tidy table; targets and recipes are those with a pixel AUROC in it.
        own_repeats: targets without an official split.
    """
    ours = of_papers_systems(benchmark)  # further systems stand in the table of systems
    ours = ours[(ours["dataset"] == dataset) & (ours["metric"] == AUROC.metric)]
    targets = ours[["kind", "target", "category"]].drop_duplicates().sort_values(["kind", "target"], ascending=[0, 1])
    blocks = tuple(
        Block(f"{kind}s".capitalize(), tuple(Row(r.target, r.category, r.target not in own_repeats)
                                            for r in group.itertuples()))
        for kind, group in targets.groupby("kind", sort=False)
    )  # fmt: skip
    recipes = sorted(ours["recipe"].unique())
    systems = tuple(System(r, None, r, (Measure("image_auroc", own_score(r)), AUROC), AUPRO) for r in recipes)
    note = (
        "Image AUROC of the system's own score (the map's maximum; Multiresolution KD: its loss), AUROC over all "
        "pixels of the test set, AUPRO up to an FPR of 30%."
    )
    return CategoryTable(f"table_{dataset}", title, blocks, systems, "image / pixel AUROC", "AUPRO", (note,))


def category_cells(table: CategoryTable, benchmark: pd.DataFrame, train_pictures: TrainImages) -> pd.DataFrame:
    """Every number of a table, one row per category (and average), system, metric and measured configuration.

    Args:
        table: what stands where.
        benchmark: the tidy table.
        train_pictures: number of training images per (target, training) of targets without an official split.

    Returns:
        Columns as in ``CELL_COLUMNS``.
    """
    cells = []
    for block in table.blocks:
        of_block = [cell for row in block.rows for cell in _row_cells(table, block, row, benchmark, train_pictures)]
        cells += of_block
        if len(block.rows) > 1:
            cells += _average_cells(table, block, _frame(of_block), benchmark)
    frame = _frame(cells)
    return frame.assign(difference=frame["measured"] - frame["compared"], best=_best(frame))


def _frame(cells: list[dict[str, object]]) -> pd.DataFrame:
    return pd.DataFrame(cells, columns=list(CELL_COLUMNS)).astype(_TYPES)


def _row_cells(
    table: CategoryTable, block: Block, row: Row, benchmark: pd.DataFrame, train_pictures: TrainImages
) -> Iterator[dict[str, object]]:
    of_target = benchmark[benchmark["target"] == row.target]
    recipes = [s.recipe for s in table.systems if s.recipe]
    metrics = {m.metric for s in table.systems for m in s.measures}
    measured = of_target[(of_target["origin"] == "measured") & of_target["metric"].isin(metrics)]
    measured = measured[measured["recipe"].isin(recipes) & measured["value"].notna()]
    remarks, printed = remarks_on(measured), _printed(of_target)
    for teacher, epochs in configurations(measured):
        chosen = of_configuration(measured, teacher, epochs)
        for system in table.systems:
            of_system = chosen[chosen["recipe"] == system.recipe]
            for measure in system.measures:
                values = of_system[
                    (of_system["metric"] == measure.metric) & (of_system["score_rule"] == measure.score_rule)
                ]
                published = _published(printed, system, measure)
                notes = [n for n in (stopping_note(system.recipe, epochs), remarks) if n and not values.empty]
                yield {
                    **_place(block, system, measure, teacher, epochs),
                    "target": row.target,
                    "title": row.title,
                    "published": published,
                    "compared": published,
                    **over_seeds(values, train_pictures, own_repeats=not row.official_split),
                    "note": "; ".join(notes),
                }


def _place(
    block: Block, system: System, measure: Measure, teacher: str | None, epochs: int | None
) -> dict[str, object]:
    return {
        "block": block.title,
        "system": system.heading,
        "recipe": system.recipe,
        "metric": measure.metric,
        "score_rule": measure.score_rule,
        "teacher": teacher,
        "epochs": epochs,
    }


def _printed(rows: pd.DataFrame) -> pd.DataFrame:
    """What the paper's tables print; Tables 1 and 4 print the same numbers for RKD and Ours, held once."""
    paper = (rows["origin"] == "published") & rows["source"].str.startswith(f"{PAPER} Table")
    return rows.loc[paper, ["system", "metric", "value"]]


def _published(printed: pd.DataFrame, system: System, measure: Measure) -> float | None:
    """The paper's own number, among those that it prints of a target."""
    if printed.empty:
        return None
    found = printed[(printed["system"] == system.published_as) & (printed["metric"] == measure.metric)]
    return None if found.empty else float(found["value"].item())


def _average_cells(
    table: CategoryTable, block: Block, cells: pd.DataFrame, benchmark: pd.DataFrame
) -> Iterator[dict[str, object]]:
    """Averages over the categories that are measured. Their images differ, so their errors are independent."""
    of_average = benchmark[benchmark["target"] == block.average] if block.average else benchmark.iloc[:0]
    printed = _printed(of_average)
    for teacher, epochs in configurations(cells[cells["measured"].notna()]):
        for system in table.systems:
            for measure in system.measures:
                found = cells[(cells["system"] == system.heading) & (cells["metric"] == measure.metric)]
                found = of_configuration(found[found["measured"].notna()], teacher, epochs)
                average: dict[str, object] = {"over": ", ".join(found["title"])}
                if len(found):
                    mean = float(found["measured"].mean())
                    halves = ((found["measured"] - found[k]).astype(float) for k in ("ci_low", "ci_high"))
                    low, high = (float(np.sqrt((half**2).sum(skipna=False))) / len(found) for half in halves)
                    average |= {"measured": mean, "ci_low": mean - low, "ci_high": mean + high}
                    average |= {"interval_method": "independent_categories", "seeds": int(found["seeds"].min())}
                    average |= {"short_schedule": bool(found["short_schedule"].any())}
                    average |= {"compared": found["published"].astype(float).mean(skipna=False)}
                yield {
                    **_place(block, system, measure, teacher, epochs),
                    "title": "Average",
                    "published": _published(printed, system, measure),
                    **average,
                    "note": "",
                }


def _schedules(cells: pd.DataFrame) -> dict[str, int]:
    """Per system the length of its trainings, where that is one for each system and not the same for all; else empty.

    Such a table has a row per teacher, and schedules in its headings: a row per schedule would be nearly empty.
    """
    measured = cells[cells["measured"].notna()]
    lengths = {system: set(found["epochs"]) for system, found in measured.groupby("system", sort=False)}
    if cells["published"].notna().any() or any(len(found) > 1 for found in lengths.values()):
        return {}
    one_each = {system: int(found.pop()) for system, found in lengths.items()}
    return one_each if len(set(one_each.values())) > 1 else {}


def _row_keys(cells: pd.DataFrame) -> list[str]:
    """What tells the measured rows of a category apart."""
    return ["teacher"] if _schedules(cells) else ["teacher", "epochs"]


def _best(cells: pd.DataFrame) -> pd.Series:
    """Per row and metric: the highest value, where its interval excludes all others."""
    best = pd.Series(False, index=cells.index)
    measured = cells[cells["measured"].notna()]
    for _, group in measured.groupby(["block", "title", "metric", *_row_keys(cells)], dropna=False):
        if len(group) < 2 or group["over"].nunique(dropna=False) > 1:
            continue  # nothing to compare, or averages over different categories
        first = group["measured"].astype(float).idxmax()
        low = group["ci_low"].astype(float)[first]
        best[first] = bool(low > group["measured"].drop(first).astype(float).max())
    return best


def category_sheet(table: CategoryTable, cells: pd.DataFrame) -> Sheet:
    """A table for reading: percent; published above measured above their difference; averages below each block."""
    sheet = Sheet(table.title, ["Category", "Row", *_headings(table, _schedules(cells))])
    keys = _row_keys(cells)
    for block in table.blocks:
        of_block = cells[cells["block"] == block.title]
        for row in block.rows:
            _add_rows(sheet, table, of_block[of_block["target"] == row.target], row.title, keys)
        averages = of_block[of_block["target"].isna()]
        if len(averages):
            _add_rows(sheet, table, averages, f"Average of {block.title.lower()}", keys)
            _add_common(sheet, table, block, of_block[of_block["target"].notna()], averages)
    sheet.below += table.notes
    sheet.below.append(
        "In percent. Measured: mean over seeds [95% interval] (seeds). Difference: measured minus published, with the "
        "published number, of which no interval is known, taken as exact. Bold: the interval lies above every other "
        "value measured in the same row. Averages are over the categories that are measured, as many as the row says; "
        "their interval takes the categories' errors as independent, their difference is to the same categories."
    )
    if cells["short_schedule"].fillna(False).any():
        sheet.below.append(SHORT_SCHEDULE)
    return sheet


def _headings(table: CategoryTable, schedules: Mapping[str, int]) -> Iterator[str]:
    for system in table.systems:
        length = schedules.get(system.heading)
        heading = system.heading if length is None else f"{system.heading}, {in_epochs(length)}"
        yield f"{heading}: {table.pair_heading}"
        if system.beside:
            yield f"{heading}: {table.beside_heading}"


Numbers = Mapping[tuple[str, str], Mapping[str, object]]


def _add_rows(sheet: Sheet, table: CategoryTable, cells: pd.DataFrame, title: str, keys: list[str]) -> None:
    """The rows of one category, or of an average; measured ones for each value of ``keys``."""
    first = {(c["system"], c["metric"]): c for c in cells.to_dict("records")}
    heading = f"**{title}**"
    if cells["published"].notna().any():
        sheet.rows.append([heading, "published", *_line(table, first, lambda c: percent(c["published"]))])
        heading = ""
    measured = cells[cells["teacher"].notna()]
    if measured.empty:
        columns = len(sheet.headings) - 2
        sheet.rows.append([heading, "measured", *[NOT_MEASURED] * columns])
    for (teacher, *epochs), group in measured.groupby(keys, sort=False):
        known_last = group.sort_values("measured", na_position="first", kind="stable")  # of schedules in one row
        numbers: Numbers = {(c["system"], c["metric"]): c for c in known_last.to_dict("records")}
        label = ", ".join([teacher, *map(in_epochs, epochs)])
        sheet.rows.append([heading, label, *_measured_line(sheet, table, numbers)])
        heading = ""
        if group["difference"].notna().any():
            sheet.rows.append(["", "difference", *_line(table, numbers, _difference)])


def _line(table: CategoryTable, numbers: Numbers, show: Callable[[Any], str]) -> Iterator[str]:
    """Cells of a row: pairs joined by a slash, a dash for what a system does not have."""

    def shown(system: System, measure: Measure | None) -> str:
        return NOT_PUBLISHED if measure is None else show(numbers[system.heading, measure.metric])

    for system in table.systems:
        pair = [shown(system, m) for m in system.pair]
        yield pair[0] if set(pair) <= {NOT_PUBLISHED, NOT_MEASURED} else " / ".join(pair)
        if system.beside:
            yield shown(system, system.beside)


def _measured_line(sheet: Sheet, table: CategoryTable, numbers: Numbers) -> Iterator[str]:
    def show(cell: Mapping[str, object]) -> str:
        shown = with_interval(cell["measured"], cell["ci_low"], cell["ci_high"])
        return f"**{shown}**" if cell["best"] else shown

    columns = iter(_line(table, numbers, show))
    for system in table.systems:
        first = numbers[system.heading, system.pair[0].metric]
        pair = next(columns)
        if pair != NOT_MEASURED:
            pair += f" ({_count(first)}){sheet.mark(str(first['note']))}"
        yield pair
        if system.beside:
            yield next(columns)


def _count(cell: Mapping[str, object]) -> str:
    """How many seeds, or for an average how many categories, a number is from."""
    if pd.isna(cell["over"]):
        return str(cell["seeds"])
    number = len([title for title in str(cell["over"]).split(", ") if title])
    return "1 category" if number == 1 else f"{number} categories"


def _difference(cell: Mapping[str, Any]) -> str:
    if pd.isna(cell["difference"]):
        return NOT_PUBLISHED
    low, high = (None if pd.isna(cell[k]) else float(cell[k]) - float(cell["compared"]) for k in ("ci_low", "ci_high"))
    return with_interval(cell["difference"], low, high, sign=True)


def _add_common(sheet: Sheet, table: CategoryTable, block: Block, cells: pd.DataFrame, averages: pd.DataFrame) -> None:
    """Where the paper's averages are over different categories: say so, and give them over the common ones."""
    of_metric = cells[cells["published"].notna()].drop_duplicates(["target", "system", "metric"])
    per_system = {s: set(g["target"]) for s, g in of_metric.groupby("system", sort=False)}
    common = set.intersection(*per_system.values()) if per_system else set()
    if not common or all(len(found) == len(common) for found in per_system.values()):
        return
    numbers: dict[tuple[str, str], dict[str, object]] = {
        (c["system"], c["metric"]): dict(c) | {"published": None} for c in averages.to_dict("records")
    }
    for (system, metric), group in of_metric[of_metric["target"].isin(common)].groupby(["system", "metric"]):
        numbers[system, metric]["published"] = float(group["published"].astype(float).mean())
    line = list(_line(table, numbers, lambda c: percent(c["published"])))
    at = max(i for i, row in enumerate(sheet.rows) if row[1] == "published")
    sheet.rows.insert(at + 1, ["", f"published, the same {len(common)}", *line])
    fewer = ", ".join(s for s, found in per_system.items() if len(found) < len(block.rows))
    absent = ", ".join(row.title for row in block.rows if row.target not in common)
    sheet.below.append(
        f"The paper's averages are not over the same categories: {fewer} has {len(common)} of {len(block.rows)} "
        f'(without {absent}). Compare the row "published, the same {len(common)}" instead.'
    )
