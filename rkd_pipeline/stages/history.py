"""The history of re-benchmarks: every target's numbers over time, what moved, and whether that is more than noise."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import t

from rkd_pipeline.recipes.score_rules import is_quality
from rkd_pipeline.results.tables.sheet import NOT_MEASURED, NOT_PUBLISHED, Sheet, in_epochs, percent, with_interval
from rkd_pipeline.stages import rounds
from rkd_pipeline.statistics.multiple_testing import ALPHA, look_level
from rkd_pipeline.statistics.regressions import (
    DATA,
    FIXED,
    MOVE_COLUMNS,
    NEW,
    RESOLUTION,
    SERIES,
    comparable,
    moves,
)
from rkd_pipeline.store.files import canonical_json, text_sha256
from rkd_pipeline.store.result_store import Result, Store
from rkd_pipeline.store.stage_versions import HISTORY

VALUES, POINTS, MOVES, TEXT, FIGURE = "values.parquet", "history.parquet", "moves.parquet", "history.md", "history.png"
SHOWN = "image_auroc"
POINT_COLUMNS = {
    "round": "number of the re-benchmark; 0: what was measured before the first one",
    "finished": "when its last training was measured, UTC",
    **{name: text for name, text in MOVE_COLUMNS.items() if name in SERIES},
    "data": "hash of images, labels, masks and split; a number on other data is not comparable",
    "value": "mean over the trainings on the fixed repeats",
    "ci_low": "lower bound, 95%",
    "ci_high": "upper bound, 95%",
    "interval_method": "over_seeds: of the mean, on the same images in every round; over_pictures: one training",
    "trainings": "on the fixed repeats",
    "new_draw": "mean on another draw of the test set; compared with nothing",
    "moved": "beyond noise, see moves",
    "code": "versions that it was measured with",
}
NOTHING_YET = "No re-benchmark yet: docs/how-to/operate.md says how to schedule one, or run `rkd rebenchmark`."


def build_history(store: Store) -> Result:
    """``history``: all numbers of all rounds, points over time, moves, both as markdown, and the figure."""
    found, accepted = rounds.records(store), rounds.references(store)
    content = {"records": [text_sha256(canonical_json(r)) for r in found], "references": sorted(accepted)}

    def write(folder: Path) -> dict[str, Any]:
        values = rounds.values_of(found)
        moved = moves(values, accepted)
        over_time = points(values, moved)
        values.to_parquet(folder / VALUES, index=False)
        for frame, file in ((over_time, POINTS), (moved, MOVES)):
            frame.to_parquet(folder / file, index=False)
            frame.to_csv((folder / file).with_suffix(".csv"), index=False)
        sheets = sheets_of(over_time, moved)
        text = "\n".join(f"### {sheet.title}\n\n{sheet.markdown()}" for sheet in sheets) or NOTHING_YET
        (folder / TEXT).write_text(text, encoding="utf-8")
        (folder / FIGURE).write_bytes(_figure(over_time))
        last = moved[moved["round"] == moved["round"].max()]
        counts = last["verdict"].where(last["verdict"].map(comparable).astype(bool), "not comparable")
        return {"rounds": len(found), "last_look": {str(k): int(n) for k, n in counts.value_counts().items()}}

    return store.produce(HISTORY, [], write, parameters=content)


def read_points(result: Result) -> pd.DataFrame:
    """Points over time; columns as in ``POINT_COLUMNS``."""
    return pd.read_parquet(result.folder / POINTS)


def read_moves(result: Result) -> pd.DataFrame:
    """Moves of every look; columns as in ``MOVE_COLUMNS``."""
    return pd.read_parquet(result.folder / MOVES)


def points(values: pd.DataFrame, moved: pd.DataFrame) -> pd.DataFrame:
    """One row per round, data and series of the tested metrics.

    The interval is over seeds, with the deviation pooled over all rounds and repeats of the series; a series that has
    one training per round and repeat everywhere has that over images.
    """
    rows = []
    flagged = {
        (*key, n) for *key, n in moved.loc[moved["moved"], [*SERIES, "round"]].itertuples(index=False, name=None)
    }
    for key, series in values[values["value"].notna()].groupby(SERIES, sort=True):
        if not is_quality(key[SERIES.index("recipe")], *key[-2:]):
            continue
        fixed = series[series["draw"] == FIXED]
        deviation, freedom = _pooled(fixed)
        for (number, *data), of_round in series.groupby(["round", *DATA]):
            own = of_round[of_round["draw"] == FIXED]
            row = dict(zip(SERIES, key, strict=True)) | {"round": number, "finished": of_round["finished"].max()}
            row |= {"data": text_sha256(" ".join(data))[:8]}
            row |= {"trainings": len(own), "value": own["value"].mean(), "code": of_round["code"].iloc[-1]}
            row |= {"new_draw": of_round.loc[of_round["draw"] == NEW, "value"].mean()}
            row |= _interval(own, deviation, freedom) | {"moved": (*key, number) in flagged}
            rows.append(row)
    table = pd.DataFrame(rows, columns=list(POINT_COLUMNS))
    return table.astype(dict.fromkeys(("value", "ci_low", "ci_high", "new_draw"), float) | {"moved": bool})


def _pooled(fixed: pd.DataFrame) -> tuple[float, int]:
    groups = [g["value"].to_numpy(float) for _, g in fixed.groupby(["round", *DATA, "repeat"])]
    freedom = sum(len(x) - 1 for x in groups)
    squares = sum(float(((x - x.mean()) ** 2).sum()) for x in groups)
    return (max(float(np.sqrt(squares / freedom)), RESOLUTION) if freedom else float("nan")), freedom


def _interval(own: pd.DataFrame, deviation: float, freedom: int) -> dict[str, object]:
    if own.empty:
        return {"ci_low": np.nan, "ci_high": np.nan, "interval_method": ""}
    if not freedom:
        return {"ci_low": own["ci_low"].mean(), "ci_high": own["ci_high"].mean(), "interval_method": "over_pictures"}
    mean, half = own["value"].mean(), t.ppf(0.975, freedom) * deviation / np.sqrt(len(own))
    return {"ci_low": max(0.0, mean - half), "ci_high": min(1.0, mean + half), "interval_method": "over_seeds"}


def sheets_of(over_time: pd.DataFrame, moved: pd.DataFrame) -> list[Sheet]:
    """What moved in the last look, and everything over time; empty before the first re-benchmark."""
    if moved.empty:
        return []
    return [_moves_sheet(moved), _points_sheet(over_time)]


def _moves_sheet(moved: pd.DataFrame) -> Sheet:
    last = moved[moved["round"] == moved["round"].max()]
    headings = [
        "Target",
        "Configuration",
        "Metric",
        "Before",
        "Now",
        "Move [95%]",
        "p after Holm",
        "Visible",
        "Verdict",
    ]
    sheet = Sheet(f"What moved in re-benchmark {last['round'].iloc[0]}", headings)
    for row in last.to_dict("records"):
        trained = f"{row['trainings_before']} and {row['trainings_now']} trainings"
        verdict = f"**{row['verdict']}**" if row["moved"] else row["verdict"]
        sheet.rows.append(
            [
                row["target"],
                _configuration(row),
                f"{row['metric']}, {trained}",
                percent(row["before"]),
                percent(row["now"]),
                NOT_PUBLISHED if pd.isna(row["move"]) else _signed(row),
                NOT_PUBLISHED if pd.isna(row["p_holm"]) else f"{row['p_holm']:.4f}",
                NOT_PUBLISHED if pd.isna(row["visible"]) else percent(row["visible"]),
                verdict,
            ]
        )
    level = float(last["level"].iloc[0])
    look = next(n for n in range(1, 10_000) if look_level(n) <= level)
    sheet.below.append(
        "Percent. Noise is what trainings on the same images differ by: seeds and runs, pooled over repeats; "
        f"Student's t. Holm's correction over the {last['p'].notna().sum()} series of this look, which is number "
        f"{look} and may spend {level:.4f}: looks without end spend {ALPHA:.0%} together. Visible: the smallest move "
        "that this look could have told from noise. The reference leaves out rounds that were themselves found moved."
    )
    return sheet


def _points_sheet(over_time: pd.DataFrame) -> Sheet:
    headings = ["Target", "Configuration", "Metric", "Re-benchmark", "When", "Fixed repeats [95%]", "Trainings"]
    sheet = Sheet("Over time", [*headings, "New draw of the test set"])
    ordered = over_time.sort_values([*SERIES, "round"])
    before = ordered.groupby(SERIES)["data"].shift()
    for row, data_before in zip(ordered.to_dict("records"), before, strict=True):
        value = with_interval(row["value"], row["ci_low"], row["ci_high"])
        remark = "" if pd.isna(data_before) or data_before == row["data"] else " (other data than before)"
        sheet.rows.append(
            [
                row["target"],
                _configuration(row),
                row["metric"],
                str(row["round"]),
                str(row["finished"])[:16].replace("T", " "),
                (f"**{value}** moved" if row["moved"] else value) + remark,
                str(row["trainings"]),
                percent(row["new_draw"], NOT_MEASURED),
            ]
        )
    sheet.below.append(
        "Percent. Every round tests on the same repeats, so the intervals are over seeds; where no repeat has two "
        "trainings they are over test images. A new draw tests on other images and is compared with nothing."
    )
    return sheet


def _configuration(row: dict[str, Any]) -> str:
    return f"{row['recipe']}, {row['teacher']}, {in_epochs(row['epochs'] or None)}"


def _signed(row: dict[str, Any]) -> str:
    return with_interval(row["move"], row["ci_low"], row["ci_high"], sign=True)


def _figure(over_time: pd.DataFrame) -> bytes:
    from rkd_pipeline.results.figures import Point, history_figure, message

    rows = over_time[over_time["metric"] == SHOWN]
    if rows.empty:
        return message("No re-benchmark yet")
    panels: dict[str, dict[str, list[Point]]] = {}
    for row in rows.sort_values([*SERIES, "round"]).to_dict("records"):
        point = Point(row["round"], row["value"], row["ci_low"], row["ci_high"], row["new_draw"], row["moved"])
        panels.setdefault(row["target"], {}).setdefault(_configuration(row), []).append(point)
    return history_figure(panels, "image AUROC")
