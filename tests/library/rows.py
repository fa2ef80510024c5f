"""Benchmarks made by hand: rows of trainings that never were, beside the real published ones."""

import pandas as pd

from rkd_pipeline.results.published import published_rows
from rkd_pipeline.results.schema import COLUMN_TYPES, COLUMNS


def measured(
    target: str, recipe: str, seed: int, value: float, *, epochs: int = 200, **more: object
) -> dict[str, object]:
    """One measured number with an interval of 0.1 to either side."""
    row = {
        "target": target, "dataset": target.split(".")[0], "category": target.split(".")[-1], "kind": "medical",
        "recipe": recipe, "teacher": "wide_resnet50_2", "epochs": epochs, "seed": seed, "repeat": seed,
        "training": f"{recipe}-s{seed}", "short_schedule": epochs < 200, "metric": "image_auroc",
        "score_rule": "map_max", "value": value, "ci_low": value - 0.1, "ci_high": value + 0.1,
        "interval_method": "delong", "n_normal": 10, "n_anomalous": 155, "origin": "measured",
    }  # fmt: skip
    return row | more


def localised(category: str, recipe: str, metric: str, value: float, **more: object) -> dict[str, object]:
    """One measured number of an MVTec AD category's maps."""
    defaults: dict[str, object] = {"seed": 0, "kind": "texture", "metric": metric, "score_rule": "map"}
    given = defaults | {"ci_low": value - 0.01, "ci_high": value + 0.01, "interval_method": "bootstrap"} | more
    return measured(f"mvtec_ad.{category}", recipe, value=value, **given)


def benchmark(*rows: dict[str, object]) -> pd.DataFrame:
    """The tidy table of these rows and everything published."""
    ours = pd.DataFrame(list(rows)).reindex(columns=list(COLUMNS)).astype(COLUMN_TYPES)
    return pd.concat([ours, published_rows().astype(COLUMN_TYPES)], ignore_index=True)
