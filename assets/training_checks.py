"""What a training is worth. A check that has nothing to compare is skipped, and the log says why."""

from collections.abc import Iterator

import dagster as dg
import pandas as pd

from assets import anomaly_scores as evaluation
from assets import trained_model as training
from assets.partitions import target_and_training
from assets.reporting import NothingCompared, outcomes, table, user_errors
from resources.storage import StoreResource
from rkd_pipeline.operations.champions import Quality, against_champion
from rkd_pipeline.results import comparison
from rkd_pipeline.stages.anomaly_scores import read_metrics
from rkd_pipeline.stages.trained_model import read_history
from rkd_pipeline.store.stage_versions import METRICS, TRAINED_MODEL

LEARNT, CHANCE, PUBLISHED = "loss_fell", "better_than_chance", "not_below_published"
KEEPS_UP = "keeps_up_with_champion"


# One step for all of them: each step of a run costs four kilobytes of events.
@dg.multi_asset_check(
    specs=[
        dg.AssetCheckSpec(
            LEARNT,
            asset=training.trained_model,
            description="The last epoch's loss is below the first one's, and finite.",
        ),
        dg.AssetCheckSpec(CHANCE, asset=evaluation.metrics, description="Image AUROC's interval lies above one half."),
        dg.AssetCheckSpec(
            PUBLISHED,
            asset=evaluation.metrics,
            description="No number lies, with its interval, below the one that the paper or RD4AD published. "
            "An error where it is the published experiment; a warning where schedule or teacher differ.",
        ),
        dg.AssetCheckSpec(
            KEEPS_UP,
            asset=evaluation.metrics,
            description="A training of the champion's configuration is not worse than the champion beyond the noise of "
            "the test images: paired, one-sided at 95%. Others have no verdict, and skip this.",
        ),
    ],
    can_subset=True,
)
def check_training(context: dg.AssetCheckExecutionContext, store: StoreResource) -> Iterator[dg.AssetCheckResult]:
    """Whether it learnt, beats chance, reaches what was published, and keeps up with the champion."""
    opened, key = store.open(), target_and_training(context.op_execution_context)

    def rows() -> pd.DataFrame:
        return read_metrics(opened.require(METRICS, *key))

    with user_errors():
        yield from outcomes(
            context,
            {
                LEARNT: lambda: learnt(read_history(opened.require(TRAINED_MODEL, *key))),
                CHANCE: lambda: above_chance(rows()),
                PUBLISHED: lambda: as_published(*key, rows()),
                KEEPS_UP: lambda: keeps_up(against_champion(opened, opened.require(METRICS, *key))),
            },
        )


def learnt(history: pd.DataFrame) -> dg.AssetCheckResult | NothingCompared:
    """Of the losses per epoch."""
    if len(history) < 2:
        return NothingCompared("one epoch has one loss" if len(history) else "it learns in one pass, without losses")
    first, last = history["train_loss"].iloc[0], history["train_loss"].iloc[-1]
    return dg.AssetCheckResult(
        asset_key=TRAINED_MODEL.name,
        check_name=LEARNT,
        passed=bool(last < first),  # a finite one: training refuses others
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"first": float(first), "last": float(last), "epochs": len(history)},
    )


def above_chance(rows: pd.DataFrame) -> dg.AssetCheckResult | NothingCompared:
    """Of a table of metrics."""
    auroc = rows[(rows["metric"] == "image_auroc") & rows["value"].notna()]
    if auroc.empty:
        return NothingCompared("there is no image AUROC; its rows say why")
    below = auroc[~(auroc["ci_low"] > 0.5)]
    return dg.AssetCheckResult(
        asset_key=METRICS.name,
        check_name=CHANCE,
        passed=below.empty,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"at_chance": table(below[["score_rule", "value", "ci_low", "ci_high"]])},
    )


def as_published(target_name: str, training_key: str, rows: pd.DataFrame) -> dg.AssetCheckResult | NothingCompared:
    """Of a table of metrics, beside what the paper or RD4AD published for the same."""
    compared, same_experiment = comparison.with_published(target_name, training_key, rows)
    compared = compared[compared["ci_high"].notna()]
    if compared.empty:
        return NothingCompared(f"nothing is published that {target_name} {training_key} repeats")
    below = compared[compared["ci_high"] < compared["published"]]
    severity = dg.AssetCheckSeverity.ERROR if same_experiment else dg.AssetCheckSeverity.WARN
    return dg.AssetCheckResult(
        asset_key=METRICS.name,
        check_name=PUBLISHED,
        passed=below.empty,
        severity=severity,
        metadata={
            "below": table(below),
            "compared": table(compared),
            "same_experiment": same_experiment,
        },
    )


def keeps_up(quality: Quality) -> dg.AssetCheckResult | NothingCompared:
    """Of a training beside the champion."""
    if quality.worse is None:
        return NothingCompared(quality.text)
    numbers = {"difference": quality.difference, "standard_error": quality.error}
    shown = {"comparison": quality.text} | {k: v for k, v in numbers.items() if v is not None}
    return dg.AssetCheckResult(
        asset_key=METRICS.name,
        check_name=KEEPS_UP,
        passed=not quality.worse,
        severity=dg.AssetCheckSeverity.WARN,
        metadata=shown,
    )


CHECKS = [check_training]
