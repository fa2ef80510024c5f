"""A page for each training: its numbers, its figures, and what it was made from."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd

from rkd_pipeline.recipes.training_key import TrainingKey
from rkd_pipeline.results.report_page import CaptionedFigure, TrainingPage, render_training
from rkd_pipeline.results.tables.sheet import NOT_PUBLISHED, Sheet, in_epochs, percent, with_interval
from rkd_pipeline.stages.anomaly_scores import read_metrics
from rkd_pipeline.stages.mirror_records import mlflow_run_id
from rkd_pipeline.store.result_store import Result, Store
from rkd_pipeline.store.stage_versions import ANOMALY_SCORES, METRICS, REPORT, TRAINED_MODEL, TRAINING_PAGE
from rkd_pipeline.training.conditions import computed_on

FILE = "page.html"
_REPORT = f"../../../{REPORT.name}/report.html"  # seen from a page
_CAPTIONS = {
    "maps.png": "Test images and their anomaly maps: of each class the highest, the median and the lowest score.",
    "scores.png": "Scores of the test images by class.",
    "curves.png": "Receiver operating characteristic, and overlap with the defects where there are masks.",
    "losses.png": "Loss during training.",
}
_WIDTH = 900  # pixels; the figures at full size lie in ``metrics``
_IN_UNITS_OF_THE_SCORE = ("threshold", "pixel_threshold")


def build_training_page(store: Store, target_name: str, training: str) -> Result:
    """``training_page``: of a training's stored metrics and figures, made now if nobody has yet."""
    metrics, model, scored = (
        store.require(stage, target_name, training) for stage in (METRICS, TRAINED_MODEL, ANOMALY_SCORES)
    )
    run = mlflow_run_id(store, target_name, training)

    def write(folder: Path) -> dict[str, Any]:
        page = TrainingPage(
            target=target_name,
            key=training,
            report=_REPORT,
            figures=_figures(metrics),
            numbers=_numbers(read_metrics(metrics)),
            provenance=_provenance(model, scored, training, run),
        )
        (folder / FILE).write_text(render_training(page), encoding="utf-8")
        return {}

    # The facts of model and scores are no part of their data versions.
    parameters = {"mlflow_run": run, "finished": model.provenance.environment["finished"]}
    return store.produce(
        TRAINING_PAGE, [target_name, training], write, parameters=parameters, inputs=[metrics, model, scored]
    )


def address_from_report(target_name: str, training: str) -> str:
    """Where a training's page is, seen from the report: as both lie in a store that is a folder."""
    return quote(f"../{TRAINING_PAGE.name}/{target_name}/{training}/{FILE}", safe="/@~+=,")


def _figures(metrics: Result) -> list[CaptionedFigure]:
    from rkd_pipeline.results.figures import thumbnail

    files = {name: metrics.folder / name for name in _CAPTIONS}
    return [
        CaptionedFigure(_CAPTIONS[name], thumbnail(file.read_bytes(), _WIDTH))
        for name, file in files.items()
        if file.exists()
    ]


def _numbers(table: pd.DataFrame) -> Sheet:
    """Every row of a metrics table, in percent but for thresholds."""
    sheet = Sheet("Numbers", ["Metric", "Score", "Value [95%]", "Chosen on", "Interval", "Normal", "Anomalous"])
    for row in table.to_dict("records"):
        if row["metric"] in _IN_UNITS_OF_THE_SCORE:
            value = NOT_PUBLISHED if pd.isna(row["value"]) else f"{row['value']:.6g}, in units of the score"
        else:
            value = with_interval(row["value"], row["ci_low"], row["ci_high"])
        method = NOT_PUBLISHED if pd.isna(row["interval_method"]) else str(row["interval_method"])
        counts = [str(row["n_normal"]), str(row["n_anomalous"])]
        sheet.rows.append([row["metric"], row["score_rule"], value, str(row["protocol"]), method, *counts])
    sheet.below.append(f"In percent, thresholds apart. {percent(0.5)} is what chance gives an AUROC.")
    return sheet


def _provenance(model: Result, scored: Result, training: str, run: str | None) -> Mapping[str, str]:
    recipe = TrainingKey.parse(training).recipe
    made, facts = model.provenance, model.facts
    return {
        "System": f"{recipe.title}: {recipe.summary}",
        "Teacher": f"{made.parameters['teacher']}, SHA-256 {made.parameters['teacher_sha256'][:12]}",
        "Images": f"{facts['train_pictures']} train, {facts['validation_pictures']} validation",
        "Epochs": _epochs(facts),
        "Beside images": str(facts.get("descriptors", "")),
        "Shares the training of": str(facts.get("shares_training_of", "")),
        "Computed on": computed_on(facts, scored.facts),
        "Finished": str(made.environment["finished"]),
        "Result": model.data_version,
        "MLflow run": run or "",
        "Software": ", ".join(f"{name} {version}" for name, version in made.environment["versions"].items()),
    }


def _epochs(facts: Mapping[str, Any]) -> str:
    return f"{facts['epochs_trained']}, kept {facts['best_epoch']}" if facts["epochs_trained"] else in_epochs(None)
