"""All systems side by side: tables per target, which differences are larger than noise, and figures."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from rkd_pipeline.recipes.lookup import recipe
from rkd_pipeline.recipes.training_key import TrainingKey
from rkd_pipeline.recipes.variants import changed, is_variant
from rkd_pipeline.results.ranking import system_names
from rkd_pipeline.results.system_comparison import (
    NAMES,
    beyond_noise,
    noise_rows,
    noise_sheet,
    pair_rows,
    system_rows,
    systems_sheet,
)
from rkd_pipeline.results.tables.sheet import Sheet
from rkd_pipeline.stages.ablation import drawn_share
from rkd_pipeline.stages.benchmark import read_benchmark
from rkd_pipeline.stages.evidence import evidence_of, gather_evidence
from rkd_pipeline.stages.leaderboard import costs
from rkd_pipeline.statistics.contrasts import Block
from rkd_pipeline.statistics.replicates import Evidence
from rkd_pipeline.store.result_store import Result, Store
from rkd_pipeline.store.stage_versions import BENCHMARK, SYSTEMS, TRAINED_MODEL

FILE, PAIRS, NOISE, TEXT, SHEETS = "systems.parquet", "pairs.parquet", "noise.parquet", "systems.md", "sheets.json"
COST, SHOTS, TIME = "cost.png", "shots.png", "time.png"
DIFFERENCES = {quality: f"differences_{quality}.png" for quality in ("image_auroc", "aupro_30")}
FIGURES = (COST, *DIFFERENCES.values(), SHOTS, TIME)
TIMED = ("image_auroc", "aupro_30")  # what the figure of time shows
Lines = dict[str, dict[str, list[tuple[int, float, float, float]]]]  # target to recipe to shots, value, low, high
Schedules = dict[str, dict[str, list[tuple[int, float, dict[str, tuple[float, float, float]]]]]]  # see schedules
NOTHING = "No two systems were measured on the same target."


def build_systems(store: Store) -> Result:
    """``systems``: as parquet, CSV and markdown, with figures. From stored results only; nothing is trained for it."""
    benchmark = store.require(BENCHMARK)
    rows = read_benchmark(benchmark)
    ours = rows[rows["origin"] == "measured"]
    named = ours[~ours["recipe"].map(is_variant).astype(bool)]
    gathered = {pair: gather_evidence(store, *pair) for pair in _with_another(named)}
    spent = costs(store, ours)

    def write(folder: Path) -> dict[str, Any]:
        shares = drawn_share(store, list(ours[["target", "training"]].itertuples(index=False, name=None)))
        own_draws = {target: share is not None for target, share in shares.items()}
        trained_on = {
            pair: int(store.require(TRAINED_MODEL, *pair).facts["train_pictures"])
            for pair in ours[["target", "training"]].drop_duplicates().itertuples(index=False, name=None)
        }
        systems = system_rows(named, spent, trained_on, own_draws)
        cells, recipes = _cells(named, gathered)
        compared = pair_rows(cells, recipes, shares)
        noise = noise_rows(compared, own_draws)
        for frame, file in ((systems, FILE), (compared, PAIRS), (noise, NOISE)):
            frame.to_parquet(folder / file, index=False)
            frame.to_csv((folder / file).with_suffix(".csv"), index=False)
        sheets = [systems_sheet(systems, target) for target in systems["target"].unique()]
        sheets += [noise_sheet(noise)] if len(noise) else []
        text = "\n".join(f"**{s.title}**\n\n{s.markdown()}" for s in sheets) or NOTHING + "\n"
        (folder / TEXT).write_text(text, encoding="utf-8")
        (folder / SHEETS).write_text(json.dumps([asdict(sheet) for sheet in sheets]), encoding="utf-8")
        with_variants = system_rows(ours, spent, trained_on, own_draws)
        shots, timed = few_shots(with_variants), schedules(with_variants)
        _draw(folder, systems, compared, shots)
        _draw_time(folder, timed)
        return {
            "systems": systems["system"].nunique(),
            "pairs": len(compared),
            "differ": int(compared["differ"].sum()),
            "few_shot_recipes": len({name for lines in shots.values() for name in lines}),
            "timed_recipes": len({name for lines in timed.values() for name in lines}),
        }

    parameters = {"costs": spent.to_dict("records")}  # facts beside results: without them a change would go unnoticed
    return store.produce(SYSTEMS, [], write, parameters=parameters, inputs=[benchmark, *gathered.values()])


def _with_another(named: pd.DataFrame) -> list[tuple[str, str]]:
    """Target and training of what can be compared: another system was trained with the same seed and repeat."""
    trainings = named.assign(system=system_names(named))
    trainings = trainings[["target", "seed", "repeat", "system", "training"]].drop_duplicates()
    systems = trainings.groupby(["target", "seed", "repeat"])["system"].transform("nunique")
    return list(trainings.loc[systems > 1, ["target", "training"]].itertuples(index=False, name=None))


def _cells(
    named: pd.DataFrame, gathered: dict[tuple[str, str], Result]
) -> tuple[dict[Block, dict[str, Evidence]], dict[str, str]]:
    """Target, seed and repeat to system to evidence; and each system's recipe."""
    trainings = named.assign(system=system_names(named))[["target", "training", "system", "recipe"]].drop_duplicates()
    cells: dict[Block, dict[str, Evidence]] = {}
    for target, training, system, _ in trainings.itertuples(index=False):
        if (target, training) not in gathered:
            continue
        key = TrainingKey.parse(training)
        cells.setdefault((target, key.seed, key.repeat), {})[system] = evidence_of(gathered[target, training])
    return cells, dict(zip(trainings["system"], trainings["recipe"], strict=True))


def _draw(folder: Path, systems: pd.DataFrame, compared: pd.DataFrame, shots: Lines) -> None:
    from rkd_pipeline.results.figures import (
        FewShot,
        Priced,
        difference_matrices,
        message,
        quality_against_cost,
        quality_against_shots,
    )

    priced = {
        str(target): [
            Priced(r["system"], r["image_auroc"], r["training_seconds"], r["scoring_seconds_per_picture"])
            for r in found.to_dict("records")
        ]
        for target, found in systems.groupby("target")
    }
    cost = quality_against_cost(priced, NAMES["image_auroc"]) if priced else message("Nothing has been measured.")
    (folder / COST).write_bytes(cost)
    for quality, file in DIFFERENCES.items():
        panels = {}
        for target, found in compared[compared["quality"] == quality].groupby("target"):
            ordered = systems[systems["target"] == target].sort_values(quality, ascending=False)
            names = [n for n in ordered["system"] if n in set(found["first"]) | set(found["second"])]
            panels[str(target)] = (names, beyond_noise(found, names))
        title = f"{NAMES[quality]}: differences beyond noise after Holm's correction; white: may be noise"
        (folder / file).write_bytes(difference_matrices(panels, title) if panels else message(NOTHING))
    lines = {
        target: {name: [FewShot(*point) for point in points] for name, points in of_target.items()}
        for target, of_target in shots.items()
    }
    nothing = message("No training with few images was measured; name one like padim+shots=8.")
    (folder / SHOTS).write_bytes(quality_against_shots(lines, NAMES["image_auroc"]) if lines else nothing)


def few_shots(systems: pd.DataFrame) -> Lines:
    """Target to recipe to (training images, image AUROC, its bounds), of recipes that were trained with few images.

    ``systems`` as ``system_rows`` gives them, variants too. Trainings on all images are not drawn: how many these are
    differs between recipes, since some hold images out.
    """
    lines: Lines = {}
    for row in systems.to_dict("records"):
        made = recipe(row["recipe"])
        if made.shots is None or pd.isna(row["image_auroc"]):
            continue
        base = changed(made, {"shots": "all"}).name
        value, low, high = (float(row[f"image_auroc{end}"]) for end in ("", "_low", "_high"))
        point = made.shots, value, low, high
        lines.setdefault(row["target"], {}).setdefault(base, []).append(point)
    return {t: {n: sorted(points) for n, points in of.items()} for t, of in lines.items()}


def _draw_time(folder: Path, timed: Schedules) -> None:
    from rkd_pipeline.results.figures import Schedule, message, quality_against_time

    panels = {
        target: {
            name: [
                Schedule(epochs, seconds, {NAMES[quality]: numbers for quality, numbers in measured.items()})
                for epochs, seconds, measured in points
            ]
            for name, points in lines.items()
        }
        for target, lines in timed.items()
    }
    found = {name for lines in panels.values() for points in lines.values() for s in points for name in s.quality}
    nothing = message("No recipe was trained with two lengths of its schedule; --epochs sets one.")
    shown = [NAMES[quality] for quality in TIMED if NAMES[quality] in found]
    (folder / TIME).write_bytes(quality_against_time(panels, shown) if panels else nothing)


def schedules(systems: pd.DataFrame) -> Schedules:
    """Target to recipe to (epochs, seconds, quality to value, low and high), of what was trained in several lengths.

    With such a recipe stand all of its system with the same teacher, on the same kind of device: those with one length
    too. Teacher and device are in a name where a target has several. ``systems`` as ``system_rows`` gives them.
    """
    timed = systems[systems["epochs"].notna() & systems["training_seconds"].notna() & systems["image_auroc"].notna()]
    timed = timed.assign(title=[recipe(name).title for name in timed["recipe"]])
    lines: Schedules = {}
    for target, of_target in timed.groupby("target", sort=True):
        lengths = of_target.groupby(["title", "recipe", "teacher", "device"])["epochs"].nunique()
        several = {(title, *where) for title, _, *where in lengths[lengths > 1].index}
        alike = [
            what in several for what in of_target[["title", "teacher", "device"]].itertuples(index=False, name=None)
        ]
        shown = of_target[alike].sort_values("epochs")
        told_apart = [name for name in ("teacher", "device") if shown[name].nunique() > 1]
        for row in shown.to_dict("records"):
            name = ", ".join([row["recipe"], *(str(row[part]) for part in told_apart)])
            measured = {
                quality: (float(row[quality]), float(row[f"{quality}_low"]), float(row[f"{quality}_high"]))
                for quality in TIMED
                if pd.notna(row[quality])
            }
            point = int(row["epochs"]), float(row["training_seconds"]), measured
            lines.setdefault(str(target), {}).setdefault(name, []).append(point)
    return lines


def read_pairs(result: Result) -> pd.DataFrame:
    """Every two systems compared; columns as in ``PAIR_COLUMNS``."""
    return pd.read_parquet(result.folder / PAIRS)


def read_system_sheets(result: Result) -> list[Sheet]:
    """The built tables for reading: one per target, then the one on noise."""
    return [Sheet(**sheet) for sheet in json.loads((result.folder / SHEETS).read_text(encoding="utf-8"))]


def figure_paths(result: Result) -> list[Path]:
    """Every figure."""
    return [result.folder / name for name in FIGURES]
