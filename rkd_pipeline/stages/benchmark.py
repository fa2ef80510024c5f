"""From all metrics to the tidy benchmark table and the paper's tables."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rkd_pipeline.data.user_targets import targets_in
from rkd_pipeline.recipes.training_key import TrainingKey
from rkd_pipeline.results.published import published_rows
from rkd_pipeline.results.schema import COLUMN_TYPES, COLUMNS
from rkd_pipeline.results.tables.categories import (
    CATEGORY_TABLES,
    CategoryTable,
    category_cells,
    category_sheet,
    dataset_table,
)
from rkd_pipeline.results.tables.sheet import Sheet
from rkd_pipeline.results.tables.table_3 import TABLE_3_ROWS, table_3, table_3_sheet
from rkd_pipeline.stages.anomaly_scores import example_rows, mask_note, read_metrics, read_scores
from rkd_pipeline.stages.datasets import data_note, open_prepared
from rkd_pipeline.stages.mirror_records import mlflow_run_id
from rkd_pipeline.stages.trained_model import stale_reason
from rkd_pipeline.store.result_store import Ref, Result, Store
from rkd_pipeline.store.stage_versions import (
    ANOMALY_SCORES,
    BENCHMARK,
    IMAGES,
    METRICS,
    TABLE_3,
    TABLE_DEMO,
    TRAINED_MODEL,
    Stage,
)
from rkd_pipeline.training.conditions import computed_on, remark

# The columns that a training's metrics have, as the benchmark has them.
_OF_METRICS = {
    name: COLUMN_TYPES[name]
    for name in (
        *("metric", "score_rule", "protocol", "value", "ci_low", "ci_high", "interval_method"),
        *("n_normal", "n_anomalous", "n_without_mask"),
    )
}


def measured_results(store: Store) -> tuple[list[Result], dict[str, str]]:
    """All ``metrics`` results that are up to date, and the others with the reason why they do not count."""
    good, stale = [], {}
    with store.one_look():
        for target_name, training in store.keys(METRICS):
            result = store.find(Ref(METRICS.name, target_name, training))
            if result is None:
                continue
            if reason := stale_reason(store, result):
                stale[f"{target_name} {training}"] = reason
            else:
                good.append(result)
    return good, stale


def build_benchmark(store: Store) -> Result:
    """``benchmark``: the one tidy table of everything measured and published."""
    good, stale = measured_results(store)
    runs = {tuple(r.provenance.key): mlflow_run_id(store, *r.provenance.key) for r in good}

    def write(folder: Path) -> dict[str, Any]:
        frames = ([_measured_rows(store, good, runs)] if good else []) + [published_rows()]
        table = pd.concat([f.astype(COLUMN_TYPES) for f in frames], ignore_index=True)
        table.to_parquet(folder / "benchmark.parquet", index=False)
        return {"measured_trainings": len(good), "rows": len(table), "left_out": stale}

    parameters = {"mlflow_runs": [runs[tuple(r.provenance.key)] for r in good], "left_out": stale}
    return store.produce(BENCHMARK, [], write, parameters=parameters, inputs=good)


def _measured_rows(store: Store, good: Sequence[Result], runs: Mapping[tuple[str, ...], str | None]) -> pd.DataFrame:
    """Every number of these ``metrics`` results. Put together column by column: there may be thousands of them."""
    table, lengths = _numbers(store, good)
    parts = np.split(table["n_without_mask"].to_numpy(), np.cumsum(lengths)[:-1])
    about = pd.DataFrame([_about(store, *pair) for pair in zip(good, parts, strict=True)])
    of_training = np.repeat(np.arange(len(good)), lengths)
    rows = pd.concat([table, about.iloc[of_training].reset_index(drop=True)], axis=1)
    of_masks = rows["of_masks"].where(rows["score_rule"] == "map", "")
    rows["source"] = [
        "; ".join(filter(None, parts)) for parts in zip(rows["place"], rows["note"], of_masks, strict=True)
    ]
    rows["mlflow_run_id"] = [runs[pair] for pair in zip(rows["target"], rows["training"], strict=True)]
    return rows.assign(origin="measured", verified=None).reindex(columns=list(COLUMNS))


def _numbers(store: Store, good: Sequence[Result]) -> tuple[pd.DataFrame, list[int]]:
    """The metrics tables of these results, one after the other, and how many rows each has.

    A file is read only where the benchmark in the store was not made from the same: it has those numbers already.
    """
    before, rows_of = _numbers_before(store)
    tables, at = [before], len(before)
    order, lengths = [], []
    for result in good:
        rows = rows_of.get((str(Ref(METRICS.name, *result.provenance.key)), result.data_version))
        if rows is None:
            tables.append(read_metrics(result).reindex(columns=list(_OF_METRICS)).astype(_OF_METRICS))
            rows, at = np.arange(at, at + len(tables[-1])), at + len(tables[-1])
        order.append(rows)
        lengths.append(len(rows))
    return pd.concat(tables, ignore_index=True).iloc[np.concatenate(order)].reset_index(drop=True), lengths


def _numbers_before(store: Store) -> tuple[pd.DataFrame, dict[tuple[str, str], np.ndarray]]:
    """Numbers in the stored benchmark, and which of its rows came from which metrics, by name and data version."""
    stored = store.find(Ref(BENCHMARK.name))
    if (
        stored is None
        or stored.provenance.stage_version != BENCHMARK.version
        or store.place.damage(stored.record, stored.provenance.files)
    ):
        return pd.DataFrame(columns=list(_OF_METRICS)).astype(_OF_METRICS), {}
    rows = read_benchmark(stored)
    rows = rows[rows["origin"] == "measured"].reset_index(drop=True)
    made_from = stored.provenance.inputs
    rows_of = {}
    for pair, positions in rows.groupby(["target", "training"], sort=False).indices.items():
        name = str(Ref(METRICS.name, *pair))
        rows_of[name, made_from[name]] = positions
    return rows[list(_OF_METRICS)], rows_of


def _about(store: Store, metrics: Result, without_mask: np.ndarray) -> dict[str, Any]:
    """What stands in every row of one training."""
    target_name, training = metrics.provenance.key
    described, key = targets_in(store).target(target_name), TrainingKey.parse(training)
    facts_of = (store.require(stage, target_name, training).facts for stage in (TRAINED_MODEL, ANOMALY_SCORES))
    return {
        "target": described.name,
        "dataset": described.dataset,
        "category": described.category,
        "kind": described.kind,
        "system": key.recipe.title,
        "recipe": key.recipe.name,
        "teacher": str(key.teacher),
        "training": training,
        "epochs": key.epochs,
        "short_schedule": key.short_schedule,
        "seed": key.seed,
        "repeat": key.repeat,
        "computed_on": computed_on(*facts_of),
        "place": f"{METRICS.name}/{target_name}/{training}",
        "note": data_note(described, store.require(IMAGES, target_name)),
        "of_masks": mask_note(pd.DataFrame({"n_without_mask": pd.array(without_mask, "Int64")})),
    }


def read_benchmark(benchmark: Result) -> pd.DataFrame:
    """The tidy table of a ``benchmark`` result."""
    return pd.read_parquet(benchmark.folder / "benchmark.parquet")


def build_table_3(store: Store) -> Result:
    """``table_3``: as parquet, CSV and markdown, with a strip of example maps per medical target."""
    benchmark = store.require(BENCHMARK)

    def write(folder: Path) -> dict[str, Any]:
        rows = read_benchmark(benchmark)
        trained_on = _train_images(store, rows, TABLE_3_ROWS)
        cells = table_3(rows, trained_on)
        facts = _write_table(folder, TABLE_3.name, cells, with_conditions(table_3_sheet(cells), cells, rows))
        for target_name in TABLE_3_ROWS:
            pairs = [pair for pair in trained_on if pair[0] == target_name]
            if pairs:
                (folder / f"maps_{target_name}.png").write_bytes(_strip(store, *pairs[0]))
        return facts

    return store.produce(TABLE_3, [], write, inputs=[benchmark])


def category_table(stage: Stage, benchmark: pd.DataFrame) -> CategoryTable:
    """What stands where in the table of a stage: one of the paper's, or the demo's in the same layout."""
    if stage == TABLE_DEMO:
        return dataset_table("demo", "Generated demonstration images", benchmark)
    return CATEGORY_TABLES[stage.name]


def build_category_table(store: Store, stage: Stage) -> Result:
    """``table_1``, ``table_2``, ``table_4`` or ``table_demo``: as parquet, CSV and markdown."""
    benchmark = store.require(BENCHMARK)

    def write(folder: Path) -> dict[str, Any]:
        rows = read_benchmark(benchmark)
        table = category_table(stage, rows)
        targets = [row.target for block in table.blocks for row in block.rows]
        cells = category_cells(table, rows, _train_images(store, rows, targets))
        return _write_table(folder, stage.name, cells, with_conditions(category_sheet(table, cells), cells, rows))

    return store.produce(stage, [], write, inputs=[benchmark])


def table_sheet(store: Store, stage: Stage) -> Sheet:
    """A built table for reading; raises ``StoreError`` where it is missing or stale."""
    cells, rows = read_cells(store.require(stage)), read_benchmark(store.require(BENCHMARK))
    sheet = table_3_sheet(cells) if stage == TABLE_3 else category_sheet(category_table(stage, rows), cells)
    return with_conditions(sheet, cells, rows)


def with_conditions(sheet: Sheet, cells: pd.DataFrame, rows: pd.DataFrame) -> Sheet:
    """Below the table: on what its measured numbers were computed."""
    shown = cells.loc[cells["measured"].notna(), ["dataset" if "dataset" in cells else "target", "recipe"]]
    asked = set(shown.itertuples(index=False, name=None))
    ours = rows.loc[rows["origin"] == "measured", ["target", "recipe", "computed_on"]].drop_duplicates()
    here = [pair in asked for pair in ours[["target", "recipe"]].itertuples(index=False, name=None)]
    sheet.below += filter(None, [remark(ours.loc[here, "computed_on"].unique())])
    return sheet


def read_cells(table: Result) -> pd.DataFrame:
    """The cells of a built table."""
    return pd.read_parquet(table.folder / f"{table.provenance.stage}.parquet")


def missing_cells(cells: pd.DataFrame) -> pd.DataFrame:
    """Cells that the paper fills, that a recipe could fill, and that are not measured; averages apart."""
    ours = cells[cells["recipe"].notna() & cells["published"].notna() & cells["measured"].isna()]
    if "target" in ours:
        ours = ours[ours["target"].notna()]
    return ours.drop_duplicates(["dataset" if "dataset" in ours else "target", "recipe", "score_rule"])


def _write_table(folder: Path, name: str, cells: pd.DataFrame, sheet: Sheet) -> dict[str, Any]:
    cells.to_parquet(folder / f"{name}.parquet", index=False)
    cells.to_csv(folder / f"{name}.csv", index=False)
    (folder / f"{name}.md").write_text(sheet.markdown(), encoding="utf-8")
    return {"cells": len(cells), "measured_cells": int(cells["measured"].notna().sum())}


def _train_images(store: Store, rows: pd.DataFrame, targets: Iterable[str]) -> dict[tuple[str, str], int]:
    ours = rows[(rows["origin"] == "measured") & rows["target"].isin(list(targets))]
    trainings = ours[["target", "training"]].drop_duplicates().itertuples(index=False, name=None)
    return {pair: int(store.require(TRAINED_MODEL, *pair).facts["train_pictures"]) for pair in trainings}


def _strip(store: Store, target_name: str, training: str) -> bytes:
    """Example maps of a training: two normal and four anomalous test images."""
    from rkd_pipeline.results.figures import map_strip

    scores, maps = read_scores(store.require(ANOMALY_SCORES, target_name, training))
    _, arrays = open_prepared(store, target_name, TrainingKey.parse(training).recipe.side)
    shown, captions = example_rows(scores, TrainingKey.parse(training).recipe.own_score)
    images = arrays.images(list(scores["image_id"].iloc[shown]))[:]
    shown_maps = None if maps is None else np.asarray(maps[shown])
    return map_strip(images, shown_maps, captions, f"{target_name}, {training}")
