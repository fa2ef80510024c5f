"""The report: tables, figures, leaderboard and provenance of a store, in one HTML file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from rkd_pipeline.data.user_targets import targets_in
from rkd_pipeline.recipes.score_rules import OWN
from rkd_pipeline.recipes.training_key import TrainingKey
from rkd_pipeline.results.ranking import Leaderboard, leaderboard_sheet, pairs_sheet
from rkd_pipeline.results.report_page import CaptionedFigure, Report, Training, render
from rkd_pipeline.results.tables.recipe_sheet import recipe_sheet
from rkd_pipeline.results.tables.sheet import in_epochs, with_interval
from rkd_pipeline.stages.ablation import figure_files, read_sheets
from rkd_pipeline.stages.anomaly_scores import read_metrics, value_of
from rkd_pipeline.stages.benchmark import read_benchmark, read_cells, table_sheet
from rkd_pipeline.stages.claims import read_sheet
from rkd_pipeline.stages.history import FIGURE, read_moves, read_points, sheets_of
from rkd_pipeline.stages.leaderboard import DIAGRAM, read_leaderboard
from rkd_pipeline.stages.paper_figures import FIGURES, figure_file
from rkd_pipeline.stages.systems import COST, DIFFERENCES, SHOTS, read_system_sheets
from rkd_pipeline.store.result_store import Result, Store
from rkd_pipeline.store.stage_versions import (
    ABLATION,
    ANOMALY_SCORES,
    BENCHMARK,
    CLAIMS,
    HISTORY,
    LEADERBOARD,
    METRICS,
    REPORT,
    SYSTEMS,
    TABLE_1,
    TABLE_2,
    TABLE_3,
    TABLE_4,
    TABLE_DEMO,
    TRAINED_MODEL,
)
from rkd_pipeline.training.conditions import computed_on

TABLES = (TABLE_1, TABLE_2, TABLE_3, TABLE_4, TABLE_DEMO)
FILE = "report.html"
_CAPTIONS = {
    "figure_3": "Figure 3. Where teacher and student disagree, per scale. Above: a normal image, the median one by "
    "score; below: the median defective one. The outline is the defect, and its place in the normal image.",
    "figure_5": "Figure 5. Best and worst texture by pixel AUROC. Defective images at the median, the 90% and the "
    "10% quantile of their score.",
    "figure_6": "Figure 6. Best and worst object by pixel AUROC, chosen and shown as in Figure 5.",
    "figure_7": "Figure 7. Loss during training and on held-out normal images; each recipe has its own loss.",
}
_NUMBERS = {
    "image AUROC": ("image_auroc", OWN),
    "pixel AUROC": ("pixel_auroc", "map"),
    "AUPRO": ("aupro_30", "map"),
}
_THUMBNAIL = 900


def build_report(store: Store) -> Result:
    """``report``: ``report.html``, self-contained."""
    read_first = (BENCHMARK, LEADERBOARD, SYSTEMS, ABLATION, CLAIMS)
    benchmark, board, side_by_side, ablation, claims = (store.require(stage) for stage in read_first)
    tables = [store.require(stage) for stage in TABLES]
    figures = [store.require(stage) for stage in FIGURES]
    history = store.require(HISTORY)

    def write(folder: Path) -> dict[str, Any]:
        rows = read_benchmark(benchmark)
        trainings = _trainings(store, rows)
        found = read_leaderboard(board)
        measured = [bool(read_cells(table)["measured"].notna().any()) for table in tables]
        sheets = list(zip((table_sheet(store, stage) for stage in TABLES), measured, strict=True))
        report = Report(
            subtitle=_subtitle(rows),
            left_out=benchmark.facts["left_out"],
            tables=[sheet for sheet, done in sheets if done],
            unmeasured=[sheet for sheet, done in sheets if not done and sheet.rows],
            figures=[CaptionedFigure(_CAPTIONS[f.provenance.stage], figure_file(f).read_bytes()) for f in figures],
            history=sheets_of(read_points(history), read_moves(history)),
            over_time=_over_time(history),
            leaderboard=leaderboard_sheet(found),
            pairs=pairs_sheet(found) if len(found.pairs) else None,
            ranks=_ranks(board, found),
            systems=read_system_sheets(side_by_side),
            side_by_side=_side_by_side(side_by_side),
            ablation=read_sheets(ablation),
            effects=_effects(ablation),
            claims=read_sheet(claims),
            recipes=recipe_sheet(rows),
            trainings=trainings,
            datasets=_datasets(store, rows),
            versions=benchmark.provenance.environment["versions"],
        )
        (folder / FILE).write_text(render(report), encoding="utf-8")
        return {"trainings": len(trainings), "tables": len(report.tables), "figures": len(figures)}

    read = [benchmark, board, side_by_side, ablation, claims, history, *tables, *figures]
    return store.produce(REPORT, [], write, inputs=read)


def _subtitle(rows: pd.DataFrame) -> str:
    ours = rows[rows["origin"] == "measured"]
    counts = {
        "training": ours[["target", "training"]].drop_duplicates().shape[0],
        "target": ours["target"].nunique(),
        "recipe": ours["recipe"].nunique(),
    }
    parts = [f"{n} {name}{'s' * (n != 1)}" for name, n in counts.items()]
    return f"Measured: {parts[0]} of {parts[1]} with {parts[2]}. What is not measured says so."


def _ranks(result: Result, board: Leaderboard) -> CaptionedFigure:
    return CaptionedFigure(f"Mean ranks. {board.verdict}", (result.folder / DIAGRAM).read_bytes())


_SIDE_BY_SIDE = {
    COST: "Quality against cost, a column per target. The dashed line joins systems that no other one beats in both.",
    DIFFERENCES["image_auroc"]: "Image AUROC, row less column, where it differs beyond the noise of images, seeds and "
    "splits, corrected for the number of pairs. White: it may be noise.",
    DIFFERENCES["aupro_30"]: "AUPRO, in the same way; systems without maps have none.",
    SHOTS: "Quality against the number of training images, which the seed draws.",
}


def _side_by_side(systems: Result) -> list[CaptionedFigure]:
    if not systems.facts["systems"]:
        return []
    shown = [name for name in _SIDE_BY_SIDE if name != SHOTS or systems.facts["few_shot_recipes"]]
    return [CaptionedFigure(_SIDE_BY_SIDE[name], (systems.folder / name).read_bytes()) for name in shown]


def _effects(ablation: Result) -> list[CaptionedFigure]:
    caption = (
        "Effect of each change on the metric, largest first, with its interval. Circles: training; squares: scoring; "
        "diamonds: what two changes add beyond both alone."
    )
    files = figure_files(ablation) if ablation.facts["centres"] else []
    return [CaptionedFigure(caption, file.read_bytes()) for file in files]


def _over_time(history: Result) -> CaptionedFigure | None:
    if not history.facts["rounds"]:
        return None
    caption = (
        "Image AUROC over re-benchmarks, mean and 95% interval. A black ring: moved beyond noise. A white diamond: "
        "another draw of the test set."
    )
    return CaptionedFigure(caption, (history.folder / FIGURE).read_bytes())


def _trainings(store: Store, rows: pd.DataFrame) -> list[Training]:
    from rkd_pipeline.results.figures import thumbnail

    ours = rows[rows["origin"] == "measured"]
    keys = ours[["target", "training", "mlflow_run_id"]].drop_duplicates().sort_values(["target", "training"])
    found = []
    for target_name, key, run in keys.itertuples(index=False):
        metrics, model = (store.require(stage, target_name, key) for stage in (METRICS, TRAINED_MODEL))
        table = read_metrics(metrics)
        recipe = TrainingKey.parse(key).recipe
        numbers = {
            heading: _with_interval(table, metric, rule)
            for heading, (metric, asked) in _NUMBERS.items()
            for rule in (recipe.own_score if asked == OWN else asked,)
            if value_of(table, metric, rule) is not None
        }
        environment = model.provenance.environment
        provenance = {
            "System": f"{recipe.title}: {recipe.summary}",
            "Teacher": f"{model.provenance.parameters['teacher']}, SHA-256 "
            f"{model.provenance.parameters['teacher_sha256'][:12]}",
            "Images": f"{model.facts['train_pictures']} train, {model.facts['validation_pictures']} validation",
            "Epochs": _epochs(model.facts),
            "Beside images": str(model.facts.get("descriptors", "")),
            "Shares the training of": str(model.facts.get("shares_training_of", "")),
            "Computed on": computed_on(model.facts, store.require(ANOMALY_SCORES, target_name, key).facts),
            "Finished": str(environment["finished"]),
            "Result": model.data_version,
            "MLflow run": "" if pd.isna(run) else str(run),
        }
        maps = CaptionedFigure(
            f"{target_name}, {key}", thumbnail((metrics.folder / "maps.png").read_bytes(), _THUMBNAIL)
        )
        found.append(Training(target_name, key, numbers, provenance, maps))
    return found


def _epochs(facts: Mapping[str, Any]) -> str:
    return f"{facts['epochs_trained']}, kept {facts['best_epoch']}" if facts["epochs_trained"] else in_epochs(None)


def _with_interval(table: pd.DataFrame, metric: str, rule: str) -> str:
    row = table[(table["metric"] == metric) & (table["score_rule"] == rule)].iloc[0]
    return with_interval(row["value"], row["ci_low"], row["ci_high"])


def _datasets(store: Store, rows: pd.DataFrame) -> list[dict[str, str]]:
    measured = rows[rows["origin"] == "measured"].drop_duplicates("dataset").sort_values("dataset")
    described = [targets_in(store).dataset_of(name) for name in measured["target"]]
    noted = any(d.note for d in described)
    return [
        {"Dataset": d.title, "Source": d.source, "Licence": d.licence, "Citation": d.citation}
        | ({"Note": d.note} if noted else {})
        for d in described
    ]
