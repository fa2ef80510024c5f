"""The paper's figures, drawn from what the store holds. A figure that cannot be drawn says why, as a figure."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rkd_pipeline.recipes.recipe import ReverseKD
from rkd_pipeline.recipes.training_key import TrainingKey
from rkd_pipeline.results.comparison import of_papers_systems
from rkd_pipeline.results.tables.sheet import in_epochs
from rkd_pipeline.stages.anomaly_scores import read_scores
from rkd_pipeline.stages.benchmark import read_benchmark
from rkd_pipeline.stages.datasets import PreparedArrays, open_prepared
from rkd_pipeline.stages.trained_model import open_model, read_history
from rkd_pipeline.store.result_store import Result, Store
from rkd_pipeline.store.stage_versions import (
    ANOMALY_SCORES,
    BENCHMARK,
    FIGURE_3,
    FIGURE_5,
    FIGURE_6,
    FIGURE_7,
    TRAINED_MODEL,
    Stage,
)

FIGURES = (FIGURE_3, FIGURE_5, FIGURE_6, FIGURE_7)
PAPER_DATASET = "mvtec_ad"
PAPER_RECIPE = "rkd"
_CONFIGURATION = ["recipe", "teacher", "epochs"]

Drawn = tuple[bytes, dict[str, Any]]


def build_figure(store: Store, stage: Stage) -> Result:
    """A figure as ``<stage>.png``; its facts say what was drawn, or why nothing was."""
    draw: dict[Stage, Callable[[Store, pd.DataFrame], Drawn]] = {
        FIGURE_3: _figure_3,
        FIGURE_5: lambda s, rows: _best_and_worst(s, rows, "texture", "Figure 5"),
        FIGURE_6: lambda s, rows: _best_and_worst(s, rows, "object", "Figure 6"),
        FIGURE_7: _figure_7,
    }
    benchmark = store.require(BENCHMARK)

    def write(folder: Path) -> dict[str, Any]:
        image, facts = draw[stage](store, of_papers_systems(read_benchmark(benchmark)))
        (folder / f"{stage.name}.png").write_bytes(image)
        return facts

    return store.produce(stage, [], write, inputs=[benchmark])


def figure_file(figure: Result) -> Path:
    """The image of a built figure."""
    return figure.folder / f"{figure.provenance.stage}.png"


def _localised(rows: pd.DataFrame) -> pd.DataFrame:
    """Measured pixel AUROCs, those of the paper's dataset if there are any."""
    rows = rows[(rows["metric"] == "pixel_auroc") & rows["value"].notna()]
    papers = rows[rows["dataset"] == PAPER_DATASET]
    return papers if len(papers) else rows


def _nothing(why: str) -> Drawn:
    from rkd_pipeline.results.figures import message

    return message(why), {"drawn": [], "why": why}


def _figure_3(store: Store, rows: pd.DataFrame) -> Drawn:
    """The target and training with the highest pixel AUROC; its median normal and median defective image."""
    import torch

    from rkd_pipeline.device import full_precision
    from rkd_pipeline.results.figures import Discrepancy, feature_discrepancy
    from rkd_pipeline.training.losses import discrepancy

    rows = _localised(rows[rows["system"] == ReverseKD.title]).sort_values(
        ["value", "target", "training"], ascending=[False, True, True]
    )
    if rows.empty:
        return _nothing("Figure 3: no target with ground-truth masks has been measured with Reverse KD.")
    target_name, training = rows.iloc[0][["target", "training"]]
    scores, _, arrays = _scored(store, target_name, training)
    shows_defect = arrays.masks(list(scores["image_id"])).any(axis=(1, 2))
    ids = [_by_score(scores[shows_defect == anomalous], anomalous=anomalous)[0] for anomalous in (False, True)]
    images = np.asarray(arrays.images(ids))
    teacher, student = open_model(store, store.require(TRAINED_MODEL, target_name, training), torch.device("cpu"))
    student.eval()
    with torch.inference_mode(), full_precision():
        features = teacher(torch.from_numpy(images))
        scales = [discrepancy(a, b).numpy() for a, b in zip(features, student(features), strict=True)]
    normal, defective = (Discrepancy(images[i], [m[i] for m in scales]) for i in (0, 1))
    mask = np.asarray(arrays.masks(ids[1:])[0])
    title = f"{target_name}, {training}: teacher and student features, 1 - cosine"
    facts = {"drawn": [target_name], "training": training, "pictures": ids}
    return feature_discrepancy(normal, defective, mask, title), facts


def _best_and_worst(store: Store, rows: pd.DataFrame, kind: str, figure: str) -> Drawn:
    """Best and worst category by pixel AUROC, of the recipe and schedule that was measured on most categories."""
    from rkd_pipeline.results.figures import best_and_worst
    from rkd_pipeline.results.figures.paper import Category

    rows = _localised(rows[rows["kind"] == kind])
    if rows.empty:
        return _nothing(f"{figure}: no {kind} category with ground-truth masks has been measured.")
    chosen = _most_measured(rows)
    means = chosen.assign(value=chosen["value"].astype(float)).groupby("target")["value"].mean().sort_values()
    shown = [means.index[-1]] if len(means) == 1 else [means.index[-1], means.index[0]]
    categories = []
    for name, word in zip(shown, ("best", "worst"), strict=False):
        training = chosen.loc[chosen["target"] == name].sort_values("seed")["training"].iloc[0]
        scores, maps, arrays = _scored(store, name, training)
        ids = _by_score(scores, anomalous=True, shares=(0.5, 0.9, 0.1))
        at = scores.set_index("image_id").index.get_indexer(ids)
        heading = f"{name if len(means) == 1 else f'{word}: {name}'}, pixel AUROC {100 * means[name]:.1f}"
        pixels = (np.asarray(a) for a in (arrays.images(ids), maps[at], arrays.masks(ids)))
        categories.append(Category(heading, *pixels))
    recipe, teacher, epochs = chosen.iloc[0][_CONFIGURATION]
    measured = f"{len(means)} {kind} categor{'y' if len(means) == 1 else 'ies'} measured"
    title = f"{recipe}, {teacher}, {in_epochs(epochs)}; {measured}"
    why = "fewer than two are measured: no best and no worst" if len(means) == 1 else ""
    title += f"\n{why}" if why else ""
    return best_and_worst(categories, title), {"drawn": shown, "measured": len(means), "why": why}


def _figure_7(store: Store, rows: pd.DataFrame) -> Drawn:
    """Losses of every recipe on one target at one schedule: Head CT as in the paper, or where most recipes are."""
    from rkd_pipeline.results.figures import recipe_losses

    rows = rows[rows["metric"] == "image_auroc"]
    if rows.empty:
        return _nothing("Figure 7: nothing has been measured.")
    of_paper = rows[rows["target"] == "head_ct"]
    rows = of_paper if len(of_paper) else rows
    recipes = rows.groupby(["target", "teacher", "epochs"])["recipe"].nunique().sort_index()
    target_name, teacher, epochs = recipes.idxmax()
    chosen = rows[(rows["target"] == target_name) & (rows["teacher"] == teacher) & (rows["epochs"] == epochs)]
    first = chosen.sort_values("seed").drop_duplicates("recipe").sort_values("recipe")
    histories = {}
    for recipe, training in first[["recipe", "training"]].itertuples(index=False):
        model = store.require(TRAINED_MODEL, target_name, training)
        stops = TrainingKey.parse(training).recipe.early_stopping is not None
        histories[recipe] = (read_history(model), model.facts["best_epoch"] if stops else None)
    title = f"{target_name}, {teacher}, {in_epochs(epochs)}: training and validation loss"
    return recipe_losses(histories, title), {"drawn": [target_name], "recipes": list(histories)}


def _most_measured(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of the configuration that was measured on most targets; the paper's recipe where that leaves a choice."""
    coverage = rows.groupby(_CONFIGURATION)["target"].nunique().reset_index(name="targets")
    coverage["ours"] = coverage["recipe"] == PAPER_RECIPE
    best = coverage.sort_values(
        ["targets", "ours", "epochs", *_CONFIGURATION[:2]], ascending=[False, False, False, True, True]
    )
    return rows.merge(best.head(1)[_CONFIGURATION], on=_CONFIGURATION)


def _scored(store: Store, target_name: str, training: str) -> tuple[pd.DataFrame, np.ndarray, PreparedArrays]:
    scores, maps = read_scores(store.require(ANOMALY_SCORES, target_name, training))
    assert maps is not None  # what is drawn here has a pixel AUROC
    _, arrays = open_prepared(store, target_name, TrainingKey.parse(training).recipe.side)
    return scores, maps, arrays


def _by_score(scores: pd.DataFrame, *, anomalous: bool, shares: tuple[float, ...] = (0.5,)) -> list[str]:
    """Test images of a class at given quantiles of the map's maximum: the median one tells most about the class."""
    which = (scores["part"] == "test") & (scores["anomalous"] == anomalous)
    order = scores[which].sort_values(["map_max", "image_id"])["image_id"].tolist()
    return [order[round(share * (len(order) - 1))] for share in shares]
