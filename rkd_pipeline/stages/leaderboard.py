"""The leaderboard: everything measured, ranked, tested, and with what it cost."""

from pathlib import Path
from typing import Any

import pandas as pd

from rkd_pipeline.results.ranking import (
    COSTS,
    Leaderboard,
    diagram_title,
    leaderboard,
    leaderboard_sheet,
    pairs_sheet,
    shown_ranks,
)
from rkd_pipeline.stages.benchmark import read_benchmark
from rkd_pipeline.store.result_store import Result, Store
from rkd_pipeline.store.stage_versions import ANOMALY_SCORES, BENCHMARK, LEADERBOARD, TRAINED_MODEL

FILE, PAIRS, DIAGRAM, TEXT = "leaderboard.parquet", "pairs.parquet", "ranks.png", "leaderboard.md"


def build_leaderboard(store: Store) -> Result:
    """``leaderboard``: systems and pairs as parquet and CSV, both as markdown, and the diagram of ranks."""
    from rkd_pipeline.results.figures import message, rank_diagram

    benchmark = store.require(BENCHMARK)
    rows = read_benchmark(benchmark)
    spent = costs(store, rows)

    def write(folder: Path) -> dict[str, Any]:
        board = leaderboard(rows, spent)
        for frame, file in ((board.systems, FILE), (board.pairs, PAIRS)):
            frame.to_parquet(folder / file, index=False)
            frame.to_csv((folder / file).with_suffix(".csv"), index=False)
        sheets = [leaderboard_sheet(board)] + ([pairs_sheet(board)] if len(board.pairs) else [])
        (folder / TEXT).write_text("\n".join(sheet.markdown() for sheet in sheets), encoding="utf-8")
        ranks = shown_ranks(board.systems)
        diagram = rank_diagram(ranks, board.groups, diagram_title(board)) if ranks else message(board.verdict)
        (folder / DIAGRAM).write_bytes(diagram)
        return {"groups": board.groups, "targets": board.targets, "verdict": board.verdict}

    # Costs are facts beside results, not results: without them here, a change of them would go unnoticed.
    return store.produce(LEADERBOARD, [], write, parameters={"costs": spent.to_dict("records")}, inputs=[benchmark])


def read_leaderboard(result: Result) -> Leaderboard:
    """A built leaderboard."""
    systems, pairs = (pd.read_parquet(result.folder / file) for file in (FILE, PAIRS))
    return Leaderboard(systems, pairs, **result.facts)


def costs(store: Store, benchmark: pd.DataFrame) -> pd.DataFrame:
    """What every measured training cost; empty where it was trained before costs were recorded."""
    ours = benchmark[benchmark["origin"] == "measured"]
    rows = []
    for target_name, training in ours[["target", "training"]].drop_duplicates().itertuples(index=False):
        model = store.require(TRAINED_MODEL, target_name, training).facts
        scored = store.require(ANOMALY_SCORES, target_name, training).facts
        rate = model.get("pictures_per_second") or None  # 0: resumed after its last epoch, nothing was timed
        passes = model.get("epochs_trained") or 1  # without epochs a system goes through the images once
        rows.append(
            {
                "target": target_name,
                "training": training,
                # Of all epochs at the measured rate: a training that was resumed was timed from there on.
                "training_seconds": rate and passes * model["train_pictures"] / rate,
                "training_pictures_per_second": rate,
                "scoring_seconds_per_picture": scored.get("seconds_per_picture"),
                "latency_seconds": scored.get("latency_seconds"),
                "peak_memory_bytes": model.get("peak_memory_bytes"),
                "parameters": model.get("parameters"),
                "device": model["device"],
            }
        )
    return pd.DataFrame(rows, columns=["target", "training", *COSTS, "device"], dtype=object)
