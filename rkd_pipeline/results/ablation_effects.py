"""What an ablation found: effects with intervals, largest first. Each is a contrast of models on the same images."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from rkd_pipeline.recipes.ablation_design import RESPONSES, SUM, Contrast, Design, quantity
from rkd_pipeline.results.tables.seeds import stopping_note
from rkd_pipeline.results.tables.sheet import NOT_PUBLISHED, Sheet, in_epochs, percent
from rkd_pipeline.statistics.contrasts import (
    INTERVAL_METHODS,
    Blocks,
    Estimate,
    Part,
    complete,
    interval_notes,
    on_one_target,
    over_targets,
    units_of,
)

HEADINGS = {"aupro_30": "AUPRO", "pixel_auroc": "Pixel AUROC", "pixel_ap": "Pixel AP", "image_auroc": "Image AUROC"}
COLUMNS = {
    "centre": "recipe from which factors are changed",
    "teacher": "whose features were distilled",
    "epochs": "schedule",
    "response": "metric",
    "rank": "by size of the effect among those of the same centre, configuration and response; 1 is largest",
    "kind": "training, scoring, or interaction of two factors",
    "factor": "what was changed; joined by × where two were",
    "change": "from which level to which; of an interaction, the levels that meet",
    "target": "target; empty: mean over targets",
    "effect": "difference of the metric (of an interaction: what the two add beyond both alone), as a fraction",
    "ci_low": "lower bound, 95%",
    "ci_high": "upper bound, 95%",
    "interval_method": "; ".join(f"{name}: {text}" for name, text in INTERVAL_METHODS.items()),
    "targets": "over how many the effect is a mean",
    "seeds": "how many each target has, at least",
    "base": "value before the change; empty for interactions",
}


@dataclass(frozen=True)
class Ablation:
    """What was found around one centre with one teacher and schedule.

    Attributes:
        centre, teacher, epochs: around what.
        effects: columns as in ``COLUMNS``, largest first within a response, means before single targets.
        missing: planned and not measured: columns centre, target, training.
        absent: factor to the reason why it does not exist here.
        spread: target to the standard deviation of the centre's response over seeds, where there are two or more.
    """

    centre: str
    teacher: str
    epochs: int
    effects: pd.DataFrame
    missing: pd.DataFrame
    absent: Mapping[str, str]
    spread: Mapping[str, Mapping[str, float]]


def analyse(
    made: Design, cells: Blocks, test_to_train: Mapping[str, float | None]
) -> tuple[pd.DataFrame, dict[str, dict[str, float]]]:
    """All effects that the cells answer, and how the centre's responses vary over seeds.

    Args:
        made: the questions.
        cells: what was measured.
        test_to_train: per target, as for ``contrasts.on_one_target``.

    Returns:
        Effects with the columns of ``COLUMNS`` from ``response`` on; per target, response to standard deviation.
    """
    rows: list[dict[str, Any]] = []
    for response in RESPONSES:
        for contrast in (*made.contrasts, *made.further):
            rows += _effect(contrast, response, cells, test_to_train)
    columns = list(COLUMNS)[3:]
    effects = pd.DataFrame(rows, columns=columns).assign(rank=pd.NA)
    if len(effects):
        overall = effects[effects["target"] == ""]
        ranks = overall["effect"].abs().groupby(overall["response"]).rank(ascending=False, method="first")
        effects["rank"] = ranks.reindex(effects.index).astype("Int64")
        order = {name: i for i, name in enumerate(RESPONSES)}
        key = ["response", "kind", "factor", "change"]
        of_all = overall.assign(rank=ranks)[[*key, "rank"]].rename(columns={"rank": "_rank"})
        effects = effects.merge(of_all, on=key).assign(_order=lambda t: t["response"].map(order))
        effects = effects.sort_values(["_order", "_rank", "target"], kind="stable", ignore_index=True)[columns]
    return effects, _spread(made.centre.name, cells)


def _effect(
    contrast: Contrast, response: str, cells: Blocks, test_to_train: Mapping[str, float | None]
) -> list[dict[str, Any]]:
    """One contrast of one response: its mean over targets, and each of them."""
    asked = [(arm, quantity(response, arm.scoring)) for arm in contrast.arms]
    parts = [Part(arm.weight, arm.recipe, q) for arm, q in asked if q is not None]
    units = units_of(parts, cells) if len(parts) == len(asked) else {}
    if not units:
        return []
    start = parts[1]
    bases: dict[str, list[float]] = {}
    for cell in complete(parts, cells):
        bases.setdefault(cell[0], []).append(cells[cell][start.recipe].values[start.quantity])
    found = {target: on_one_target(of_target, test_to_train[target]) for target, of_target in units.items()}
    all_of_them = {"": over_targets(list(found.values()))} | found
    about = {"response": response, "kind": contrast.kind, "factor": contrast.factor, "change": contrast.change}
    of_base = {name: float(np.mean(values)) for name, values in bases.items()}
    of_base[""] = float(np.mean(list(of_base.values())))
    plain = len(contrast.arms) == 2
    return [about | _numbers(name, e) | {"base": of_base[name] if plain else np.nan} for name, e in all_of_them.items()]


def _numbers(target: str, estimate: Estimate) -> dict[str, Any]:
    return {
        "target": target,
        "effect": estimate.value,
        "ci_low": estimate.low,
        "ci_high": estimate.high,
        "interval_method": estimate.method,
        "targets": estimate.targets,
        "seeds": estimate.seeds,
    }


def _spread(centre: str, cells: Blocks) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, list[float]]] = {}
    for (target, _, _), models in cells.items():
        for response in RESPONSES:
            asked = quantity(response, SUM)
            if centre in models and asked is not None and asked in models[centre].values:
                found.setdefault(target, {}).setdefault(response, []).append(models[centre].values[asked])
    return {
        target: {response: float(np.std(values, ddof=1)) for response, values in responses.items() if len(values) > 1}
        for target, responses in found.items()
    }


def stands_out(row: Mapping[str, Any]) -> bool:
    """The interval of an effect leaves 0 out, and holds the noise of training where models differ by training."""
    noise_in = row["kind"] == "scoring" or row["seeds"] > 1
    return noise_in and bool(row["ci_low"] > 0 or row["ci_high"] < 0)


def ablation_sheet(found: Ablation) -> Sheet:
    """Effects for reading: one row per change, a column per response, largest first by the first response there is."""
    overall = found.effects[found.effects["target"] == ""]
    shown = [r for r in RESPONSES if (overall["response"] == r).any()]
    title = f"Ablation around {found.centre}, {found.teacher}, {in_epochs(found.epochs)}"
    sheet = Sheet(title, ["Factor", "Change", "Kind", *(HEADINGS[r] for r in shown)])
    order = overall.drop_duplicates(["kind", "factor", "change"])
    table = overall.set_index(["kind", "factor", "change", "response"])
    for kind, name, change in order[["kind", "factor", "change"]].itertuples(index=False):
        cells = []
        for response in shown:
            at = (kind, name, change, response)
            cells.append(_cell({"kind": kind} | table.loc[at].to_dict()) if at in table.index else NOT_PUBLISHED)
        sheet.rows.append([name, change, kind, *cells])
    targets = sorted(set(found.effects["target"]) - {""})
    n = int((overall["response"] == shown[0]).sum()) if shown else 0
    sheet.below += [
        "Change of the metric in percentage points [95% interval], largest first. Bold where 0 is left out; "
        "effects of training only from two seeds on, since one seed does not show the noise of training. "
        f"Not corrected for {n} changes: about one in twenty would be bold by chance.",
        *interval_notes(overall["interval_method"].unique()),
    ]
    what = "Mean" if len(targets) > 1 else "Measured"
    sheet.below.append(f"{what} on {', '.join(targets)}. Each target by itself is in the table's file.")
    sheet.below += [f"{name}: {why}." for name, why in found.absent.items()]
    for target, spread in found.spread.items():
        if spread:
            parts = ", ".join(f"{HEADINGS[r]} {percent(v)}" for r, v in spread.items())
            sheet.below.append(f"Seeds of the centre alone on {target} vary by (standard deviation): {parts}.")
    if note := stopping_note("rkd-es", found.epochs):
        sheet.below.append(f"stop=15: {note}.")
    if len(found.missing):
        names = ", ".join(f"{r.target} {r.training}" for r in found.missing.itertuples())
        sheet.below.append(f"Planned and not measured, {len(found.missing)}: {names}.")
    return sheet


def _cell(row: Mapping[str, Any]) -> str:
    value = percent(row["effect"], sign=True)
    if not np.isfinite(row["ci_low"]):
        return value
    text = f"{value} [{percent(row['ci_low'], sign=True)}, {percent(row['ci_high'], sign=True)}]"
    return f"**{text}**" if stands_out(row) else text
