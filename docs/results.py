"""The results that the repository holds, and the tables of results.md made from them.

    python docs/results.py collect FOLDER STORE...   # what stores measured, into a folder beside this file
    python docs/results.py collect FOLDER STORE... --but OTHER   # without the trainings that another folder holds
    python docs/results.py [FILE]                    # rewrite the tables of results.md, and its figure

A folder of results has `benchmark.parquet` (every measured number: rkd_pipeline/results/schema.py names the columns),
`trainings.csv` (what each training was made from, by what, on what, and the SHA-256 of its weights and maps),
`histories.parquet` (losses per epoch), and what `KEPT` names of claims, ablation and systems where a store has it. A
test compares results.md with them.
"""

import argparse
import json
import shutil
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from rkd_pipeline.results.figures import BLUE, GREY, ORANGE, SKY, tidy
from rkd_pipeline.results.paper_claims import CLAIMS as PAPER_CLAIMS
from rkd_pipeline.results.published import published_rows
from rkd_pipeline.results.ranking import COSTS, leaderboard, system_names
from rkd_pipeline.results.system_comparison import noise_sheet
from rkd_pipeline.results.tables.sheet import percent, with_interval
from rkd_pipeline.results.tables.table_3 import table_3, table_3_sheet
from rkd_pipeline.stages.benchmark import build_benchmark, read_benchmark, with_conditions
from rkd_pipeline.stages.trained_model import HISTORY_FILE, WEIGHTS_FILE, read_history
from rkd_pipeline.store.result_store import Ref, Store
from rkd_pipeline.store.stage_versions import (
    ABLATION,
    ANOMALY_SCORES,
    CLAIMS,
    LEADERBOARD,
    METRICS,
    SYSTEMS,
    TRAINED_MODEL,
)

HERE = Path(__file__).parent
PAGE, FOLDER = HERE / "results.md", HERE / "results"
SCHEDULE, AROUND_SCREW, OF_SYSTEMS = FOLDER / "paper_schedule", FOLDER / "ablation_on_screw", FOLDER / "systems"
ON_THE_DEMO = FOLDER / "systems_on_the_demo"
CURVES = FOLDER / "curves.png"
FACTS = (
    "train_pictures", "epochs_trained", "best_epoch", "stopped_early", "final_train_loss", "lambda", "device",
    "threads", "cpu", "timed_seconds", "pictures_per_second", "peak_memory_bytes",
)  # fmt: skip
EPOCHS = (10, 25, 50, 100, 200)
BOUNDS = ["value", "ci_low", "ci_high"]
_SAME = ["target", "training"]
CLAIMS_BY_KEY = {key: claim.says for key, claim in PAPER_CLAIMS.items()}


# Of a stage, what is worth keeping beside the numbers.
KEPT = {
    CLAIMS: ("claims.csv",),
    ABLATION: ("ablation.csv",),
    SYSTEMS: ("systems.csv", "pairs.parquet", "noise.csv", "cost.png", "shots.png", "differences_aupro_30.png"),
    LEADERBOARD: ("leaderboard.csv", "ranks.png"),
}


def collect(folder: Path, stores: Iterable[Store], but: Path | None = None) -> None:
    """Write what stores hold into ``folder``; a training that several hold, or that is in ``but``, counts once."""
    folder.mkdir(parents=True, exist_ok=True)
    recorded = pd.DataFrame(columns=_SAME) if but is None else pd.read_csv(but / "trainings.csv")
    elsewhere = set(recorded[_SAME].itertuples(index=False, name=None))
    rows, trainings, histories = [], [], []
    for store in stores:
        table = read_benchmark(build_benchmark(store))
        new = ~pd.MultiIndex.from_frame(table[_SAME]).isin(elsewhere)
        rows.append(table[(table["origin"] == "measured") & new])
        for key in store.keys(METRICS):
            if key in elsewhere:
                continue
            trainings.append(_made_of(store, key))
            history = read_history(store.require(TRAINED_MODEL, *key))
            histories.append(history.assign(target=key[0], training=key[1]))
        for stage, names in KEPT.items():
            for file in (store.folder(Ref(stage.name)) / name for name in names):
                if file.exists():
                    shutil.copy(file, folder)
    numbers = pd.concat(rows).drop_duplicates([*_SAME, "metric", "score_rule"])
    numbers.to_parquet(folder / "benchmark.parquet", index=False)
    pd.DataFrame(trainings).drop_duplicates(_SAME).sort_values(_SAME).to_csv(folder / "trainings.csv", index=False)
    pd.concat(histories).drop_duplicates([*_SAME, "epoch"]).to_parquet(folder / "histories.parquet", index=False)


def _made_of(store: Store, key: tuple[str, ...]) -> dict[str, Any]:
    results = [store.require(stage, *key) for stage in (TRAINED_MODEL, ANOMALY_SCORES, METRICS)]
    model, scores, metrics = (result.provenance for result in results)
    made = {"target": key[0], "training": key[1]} | {name: model.facts.get(name) for name in FACTS}
    return made | {
        "teacher_sha256": model.parameters["teacher_sha256"],
        "weights_sha256": model.files[WEIGHTS_FILE]["sha256"],
        "history_sha256": model.files[HISTORY_FILE]["sha256"],
        "maps_sha256": scores.files.get("maps.npy", {}).get("sha256"),  # empty: the system makes no maps
        "inputs": json.dumps(model.inputs),
        "stage_versions": json.dumps({p.stage: p.stage_version for p in (model, scores, metrics)}),
        "finished": model.environment["finished"],
        "python": model.environment["python"],
        "versions": json.dumps(model.environment["versions"]),
    }


class Results:
    """A folder of results.

    Attributes:
        rows: of the tidy table, measured ones alone.
        trainings: one row per training.
        histories: one row per epoch.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows = pd.read_parquet(folder / "benchmark.parquet")
        self.trainings = pd.read_csv(folder / "trainings.csv")
        self.histories = pd.read_parquet(folder / "histories.parquet")

    def value(self, target: str, recipe: str, metric: str, rule: str, *, epochs: int, seed: int) -> pd.Series:
        """The row of one number; all empty where it was not measured."""
        r = self.rows
        wanted = (r["target"] == target) & (r["recipe"] == recipe) & (r["metric"] == metric) & (r["score_rule"] == rule)
        found = r[wanted & (r["epochs"] == epochs) & (r["seed"] == seed)]
        return found.iloc[0] if len(found) else pd.Series(dtype=object).reindex(BOUNDS)


def paper_table() -> str:
    """Table 3 at each recipe's own schedule."""
    results = Results(SCHEDULE)
    own = results.rows[results.rows["recipe"].ne("rkd") | results.rows["epochs"].eq(200)]
    images = results.trainings.set_index(["target", "training"])["train_pictures"].astype(int).to_dict()
    both = pd.concat([own, published_rows()], ignore_index=True)
    cells = table_3(both, images)
    return with_conditions(table_3_sheet(cells), cells, both).markdown()


def seeds_table() -> str:
    """Image AUROC of every seed."""
    results = Results(SCHEDULE)
    lines = [["Dataset", "Recipe", "Score", *(f"seed {s}" for s in range(5)), "mean", "SD"]]
    for target in ("brain_mri", "head_ct"):
        for recipe, rules in (
            ("rkd", ("map_max", "l_kd")), ("rkd-es", ("map_max", "l_kd")), ("rkd-mkd", ("map_max", "l_mkd")),
            ("rkd-mkd-es", ("map_max", "l_mkd")), ("rkd-official", ("map_max", "l_kd")), ("mkd-medical", ("loss",)),
        ):  # fmt: skip
            for rule in rules:
                epochs = 51 if recipe == "mkd-medical" else 200
                values = pd.Series([
                    results.value(target, recipe, "image_auroc", rule, epochs=epochs, seed=seed)["value"]
                    for seed in range(5)
                ], dtype="Float64")  # fmt: skip
                if values.notna().any():
                    spread = percent(values.std()) if values.notna().sum() > 1 else ""
                    shown = [percent(v, "") for v in values]
                    lines.append([target, f"`{recipe}`", rule, *shown, percent(values.mean()), spread])
    return _markdown(lines)


def schedule_table() -> str:
    """Quality against the length of the schedule, seed 0."""
    results = Results(SCHEDULE)
    lines = [["Epochs", *map(str, EPOCHS)]]
    for target, recipe, metric, rule in (
        ("brain_mri", "rkd", "image_auroc", "map_max"),
        ("brain_mri", "rkd", "image_auroc", "l_kd"),
        ("head_ct", "rkd", "image_auroc", "map_max"),
        ("head_ct", "rkd", "image_auroc", "l_kd"),
        ("mvtec_ad.screw", "rkd-official", "image_auroc", "map_max"),
        ("mvtec_ad.screw", "rkd-official", "pixel_auroc", "map"),
        ("mvtec_ad.screw", "rkd-official", "aupro_30", "map"),
        ("mvtec_ad.screw", "rkd-official", "pixel_ap", "map"),
    ):
        cells = [results.value(target, recipe, metric, rule, epochs=e, seed=0) for e in EPOCHS]
        name = f"{target}, `{recipe}`, {metric.replace('_', ' ')}" + ("" if rule == "map" else f" ({rule})")
        lines.append([name, *(with_interval(c["value"], c["ci_low"], c["ci_high"]) for c in cells)])
    return _markdown(lines)


SCREW_METRICS = (
    ("pixel AUROC", "pixel_auroc", "map"),
    ("pixel AP", "pixel_ap", "map"),
    ("pixel F1-max (oracle)", "pixel_f1_max", "map"),
    ("AUPRO at 0.3", "aupro_30", "map"),
    ("AUPRO at 0.05", "aupro_05", "map"),
    ("PRO at Youden's J, the paper's (oracle)", "pro_youden", "map"),
    ("PRO as RD4AD's code has it", "pro_rd4ad", "map"),
    ("AUPIMO", "aupimo", "map"),
    ("image AUROC, map's maximum", "image_auroc", "map_max"),
    ("image AUROC, L_KD", "image_auroc", "l_kd"),
    ("image AUROC, L_MKD", "image_auroc", "l_mkd"),
)


def screw_table() -> str:
    """Every metric of the trainings of 200 epochs on screw, seed by seed."""
    results = Results(SCHEDULE)
    columns = [(r, s) for r in ("rkd", "rkd-mkd", "rkd-official") for s in (0, 1)] + [("rkd-es", 0)]
    lines = [["", *(f"`{recipe}`, seed {seed}" for recipe, seed in columns)]]
    for name, metric, rule in SCREW_METRICS:
        cells = [results.value("mvtec_ad.screw", r, metric, rule, epochs=200, seed=s) for r, s in columns]
        lines.append([name, *(with_interval(c["value"], c["ci_low"], c["ci_high"]) for c in cells)])
    return _markdown(lines)


def ablation_table() -> str:
    """Effects on screw, largest change of AUPRO first, as the asset's own table has them."""
    effects = pd.read_csv(AROUND_SCREW / "ablation.csv")
    effects = effects[effects["target"].isna()]  # means over targets; here there is one
    responses = ["aupro_30", "pixel_auroc", "pixel_ap", "image_auroc"]
    lines = [["Factor", "Change", "AUPRO", "pixel AUROC", "pixel AP", "image AUROC"]]
    for (factor, change), rows in effects.groupby(["factor", "change"], sort=False):
        found = rows.set_index("response").reindex(responses)
        cells = [_effect(row) for _, row in found.iterrows()]
        lines.append([factor, change, *cells])
    return _markdown(lines)


def _effect(row: pd.Series) -> str:
    if pd.isna(row["effect"]):
        return ""
    text = with_interval(row["effect"], row["ci_low"], row["ci_high"], sign=True)
    return f"**{text}**" if row["ci_low"] > 0 or row["ci_high"] < 0 else text


def claims_table() -> str:
    """The claims at each recipe's own schedule, and within the publication."""
    claims = pd.read_csv(SCHEDULE / "claims.csv", keep_default_na=False, na_values=dict.fromkeys(BOUNDS, ""))
    shown = claims[claims["value"].notna() & ~claims["where"].str.contains(r", (?:10|25|50|100) epochs$")]
    lines = [["Claim", "Compared", "Where", "On", "Found", "Verdict"]]
    for _, row in shown.iterrows():
        found = with_interval(row["value"], row["ci_low"], row["ci_high"], sign=True)
        lines.append(
            [CLAIMS_BY_KEY[row["claim"]], row["compared"], row["where"], row["targets"], found, row["verdict"]]
        )
    return _markdown(lines)


# Of the comparison of systems: column, target, quality.
COMPARED = (
    ("Brain MRI", "brain_mri", "image_auroc"),
    ("Head CT", "head_ct", "image_auroc"),
    ("screw", "mvtec_ad.screw", "image_auroc"),
    ("screw, pixel AUROC", "mvtec_ad.screw", "pixel_auroc"),
    ("screw, AUPRO", "mvtec_ad.screw", "aupro_30"),
)
REFERENCE = "rkd, resnet18.4c740094, 200 epochs"


def systems_table() -> str:
    """Every system on the three targets, best mean rank first, then those that lack a target."""
    systems = pd.read_csv(OF_SYSTEMS / "systems.csv")
    ranks = _ranks()
    order = sorted(systems["system"].unique(), key=lambda s: (ranks.get(s, np.inf), s))
    by = systems.set_index(["target", "system"])
    lines = [["System", "Mean rank", "Seeds", *(name for name, _, _ in COMPARED)]]
    for system in order:
        of = {target: by.loc[(target, system)] for _, target, _ in COMPARED if (target, system) in by.index}
        cells = []
        for _, target, quality in COMPARED:
            cells.append(_quality(of[target], quality) if target in of else "")
        seeds = ", ".join(str(of[t]["seeds"]) if t in of else "–" for t in dict.fromkeys(t for _, t, _ in COMPARED))
        rank = f"{ranks[system]:.1f}" if system in ranks else ""
        lines.append([_named(of), rank, seeds, *cells])
    return _markdown(lines)


def _quality(row: pd.Series, quality: str) -> str:
    """A number with its interval; a dash of a system that has no such number."""
    if pd.isna(row[quality]):
        return "–"
    return with_interval(*(row[quality + end] for end in ("", "_low", "_high")))


def _named(of: dict[str, pd.Series]) -> str:
    """A system as its recipe, its teacher's architecture, and its schedule where that is shorter than its own."""
    row = next(iter(of.values()))
    short = f", {row['epochs']:.0f} epochs" if row["short_schedule"] else ""
    teacher = "" if row["teacher"] == "none" else f" ({row['teacher'].partition('.')[0]})"
    return f"`{row['recipe']}`{teacher}{short}"


def _ranks() -> dict[str, float]:
    """Mean rank by image AUROC, of the systems that were measured on all three targets."""
    rows = pd.concat([Results(folder).rows for folder in (SCHEDULE, OF_SYSTEMS)], ignore_index=True)
    rows = rows[system_names(rows).isin(pd.read_csv(OF_SYSTEMS / "systems.csv")["system"])]
    costs = rows[_SAME].drop_duplicates().assign(device="", **dict.fromkeys(COSTS, np.nan))
    ranked = leaderboard(rows, costs).systems.dropna(subset="mean_rank")
    return dict(zip(ranked["system"], ranked["mean_rank"], strict=True))


def against_reference_table() -> str:
    """The difference of every system to the paper's recipe, and whether it stands after Holm's correction."""
    pairs = pd.read_parquet(OF_SYSTEMS / "pairs.parquet")
    systems = pd.read_csv(OF_SYSTEMS / "systems.csv")
    lines = [["System less `rkd`", *(name for name, _, _ in COMPARED)]]
    for system in sorted(set(systems["system"]) - {REFERENCE}):
        cells = []
        for _, target, quality in COMPARED:
            here = pairs[(pairs["target"] == target) & (pairs["quality"] == quality)]
            cells.append(_difference(here, system))
        of = systems[systems["system"] == system].set_index("target")
        lines.append([_named({t: of.loc[t] for t in of.index}), *cells])
    return _markdown(lines)


def _difference(pairs: pd.DataFrame, system: str) -> str:
    """``system`` less the reference, in points; bold where the pair differs after Holm's correction."""
    for one, other, sign in ((system, REFERENCE, 1), (REFERENCE, system, -1)):
        found = pairs[(pairs["first"] == one) & (pairs["second"] == other)]
        if len(found):
            row = found.iloc[0]
            low, high = (row["ci_low"], row["ci_high"]) if sign == 1 else (-row["ci_high"], -row["ci_low"])
            text = with_interval(sign * row["difference"], low, high, sign=True)
            return f"**{text}**" if row["differ"] else text
    return ""


def noise_table(folder: Path) -> str:
    """Which differences are larger than noise, as the asset's own table has it."""
    sheet = noise_sheet(pd.read_csv(folder / "noise.csv"))
    return _markdown([list(sheet.headings), *sheet.rows])


def cost_table() -> str:
    """Quality and cost of every system on the demo's four targets, best mean rank first."""
    board = pd.read_csv(ON_THE_DEMO / "leaderboard.csv")
    lines = [
        ["System", "Mean rank", "Image AUROC", "Pixel AUROC", "AUPRO", "Training, s", "Scoring, ms/image",
         "One image alone, ms", "Peak memory, GiB", "Numbers, M"]
    ]  # fmt: skip
    for row in board.to_dict("records"):
        of = {"target": pd.Series(row | {"short_schedule": pd.notna(row["epochs"])})}
        quality = [percent(row[q]) for q in ("image_auroc", "pixel_auroc", "aupro_30")]
        costs = [
            f"{row['training_seconds']:.1f}", f"{1000 * row['scoring_seconds_per_picture']:.0f}",
            f"{1000 * row['latency_seconds']:.0f}", f"{row['peak_memory_bytes'] / 2**30:.2f}",
            f"{row['parameters'] / 1e6:.2f}",
        ]  # fmt: skip
        lines.append([_named(of), f"{row['mean_rank']:.1f}", *quality, *costs])
    return _markdown(lines)


def _markdown(lines: list[list[str]]) -> str:
    head, *rows = (f"| {' | '.join(line)} |" for line in lines)
    return "\n".join([head, "|" + "---|" * len(lines[0]), *rows]) + "\n"


def draw_curves(file: Path) -> None:
    """Losses of the trainings of 200 epochs, and quality against the length of the schedule."""
    results = Results(SCHEDULE)
    figure, (losses, medical, screw) = plt.subplots(1, 3, figsize=(12, 3.4), layout="constrained")
    for target, colour in (("brain_mri", BLUE), ("head_ct", ORANGE)):
        for seed in range(5):
            h = results.histories
            of = h[(h["target"] == target) & h["training"].str.fullmatch(rf"rkd-es@resnet18\.[0-9a-f]{{8}}-s{seed}")]
            losses.plot(of["epoch"], of["train_loss"], color=colour, lw=0.8, alpha=0.5)
            losses.plot(of["epoch"], of["validation_loss"], color=colour, lw=1, label=target if seed == 0 else None)
    losses.set(xlabel="epoch", ylabel="loss (thin: training)", title="rkd-es, seeds 0 to 4", yscale="log")
    for target, colour in (("brain_mri", BLUE), ("head_ct", ORANGE)):
        for rule, style in (("map_max", "-"), ("l_kd", ":")):
            _draw(medical, results, target, "rkd", "image_auroc", rule, colour, style, f"{target}, {rule}")
    medical.set(xlabel="epochs of the schedule", ylabel="image AUROC, %", title="rkd, seed 0")
    of_screw = (("aupro_30", "map", BLUE), ("pixel_auroc", "map", SKY), ("image_auroc", "map_max", GREY))
    for metric, rule, colour in of_screw:
        _draw(screw, results, "mvtec_ad.screw", "rkd-official", metric, rule, colour, "-", metric.replace("_", " "))
    screw.set(xlabel="epochs of the schedule", ylabel="%", title="rkd-official on screw, seed 0")
    for axes in (losses, medical, screw):
        tidy(axes)
        axes.legend(fontsize=7, frameon=False)
    figure.savefig(file, dpi=110)
    plt.close(figure)


def _draw(
    axes: Axes, results: Results, target: str, recipe: str, metric: str, rule: str, colour: str, style: str, label: str
) -> None:
    found = [results.value(target, recipe, metric, rule, epochs=e, seed=0) for e in EPOCHS]
    values, low, high = (100 * pd.Series([f[c] for f in found], dtype=float) for c in BOUNDS)
    axes.plot(EPOCHS, values, style, color=colour, marker=".", label=label)
    if style == "-":
        axes.fill_between(EPOCHS, low, high, color=colour, alpha=0.12, lw=0)
    axes.set_xscale("log")
    axes.set_xticks(EPOCHS, [str(e) for e in EPOCHS])


TABLES = {
    "table_3": paper_table,
    "seeds": seeds_table,
    "schedule": schedule_table,
    "screw": screw_table,
    "ablation": ablation_table,
    "claims": claims_table,
    "systems": systems_table,
    "against_rkd": against_reference_table,
    "noise": partial(noise_table, OF_SYSTEMS),
    "cost": cost_table,
    "demo_noise": partial(noise_table, ON_THE_DEMO),
}


def redrawn(page: str) -> str:
    """The page with every table made anew."""
    for name, make in TABLES.items():
        start, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
        before, found, rest = page.partition(start)
        _, found_end, after = rest.partition(end)
        if not (found and found_end):
            raise ValueError(f"results.md has no place for the table {name}: {start.strip()} ... {end}")
        page = f"{before}{start}{make()}{end}{after}"
    return page


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("what", nargs="*", help="a page, or: collect FOLDER STORE...")
    asked.add_argument("--but", help="leave out the trainings that this folder holds")
    options = asked.parse_args()
    if options.what[:1] == ["collect"]:
        _, folder, *stores = options.what
        collect(FOLDER / folder, [Store(Path(p)) for p in stores], FOLDER / options.but if options.but else None)
        return
    file = Path(options.what[0]) if options.what else PAGE
    file.write_text(redrawn(file.read_text(encoding="utf-8")), encoding="utf-8")
    draw_curves(CURVES)


if __name__ == "__main__":
    main()
