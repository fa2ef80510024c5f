"""The report: tables, figures, leaderboard and provenance of a store, in one HTML file."""

from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd

from rkd_pipeline.data.user_targets import targets_in
from rkd_pipeline.recipes.lookup import own_score
from rkd_pipeline.recipes.score_rules import OWN
from rkd_pipeline.results.ranking import Leaderboard, leaderboard_sheet, pairs_sheet
from rkd_pipeline.results.report_page import CaptionedFigure, ListedTraining, Report, render
from rkd_pipeline.results.tables.recipe_sheet import recipe_sheet
from rkd_pipeline.results.tables.sheet import Sheet, with_interval
from rkd_pipeline.stages.ablation import figure_files, read_sheets
from rkd_pipeline.stages.benchmark import read_benchmark, read_cells, table_sheet
from rkd_pipeline.stages.claims import read_sheet
from rkd_pipeline.stages.history import FIGURE, read_moves, read_points, sheets_of
from rkd_pipeline.stages.leaderboard import DIAGRAM, read_leaderboard
from rkd_pipeline.stages.paper_figures import FIGURES, figure_file
from rkd_pipeline.stages.systems import COST, DIFFERENCES, SHOTS, TIME, read_system_sheets
from rkd_pipeline.stages.training_page import FILE as PAGE
from rkd_pipeline.stages.training_page import address_from_report, build_training_page
from rkd_pipeline.store.files import write_atomically
from rkd_pipeline.store.result_store import Result, Store
from rkd_pipeline.store.stage_versions import (
    ABLATION,
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
    TRAINING_PAGE,
)

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
_THUMBNAIL, _EXAMPLES = 900, 20  # pixels; targets: some 0.3 MB each


def build_report(store: Store) -> Result:
    """``report``: ``report.html``, self-contained but for links to the trainings' pages, which are made here too."""
    read_first = (BENCHMARK, LEADERBOARD, SYSTEMS, ABLATION, CLAIMS)
    benchmark, board, side_by_side, ablation, claims = (store.require(stage) for stage in read_first)
    tables = [store.require(stage) for stage in TABLES]
    figures = [store.require(stage) for stage in FIGURES]
    history = store.require(HISTORY)
    rows = read_benchmark(benchmark)
    for pair in _pairs(rows):
        build_training_page(store, *pair)

    def write(folder: Path) -> dict[str, Any]:
        trainings = _listed(rows)
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
            headings=[heading for heading in _NUMBERS if any(heading in t.numbers for t in trainings)],
            trainings=trainings,
            examples=_examples(store, rows),
            provenance=_made_on(store, rows),
            datasets=_datasets(store, rows),
            versions=benchmark.provenance.environment["versions"],
        )
        (folder / FILE).write_text(render(report), encoding="utf-8")
        return {"trainings": len(trainings), "tables": len(report.tables), "figures": len(figures)}

    read = [benchmark, board, side_by_side, ablation, claims, history, *tables, *figures]
    return store.produce(REPORT, [], write, inputs=read)


def copy_report(store: Store, folder: Path) -> Path:
    """The report and the pages that it links to, as files in ``folder``; returns the report's.

    They lie there as in a store that is a folder, so that links lead from one to the other.
    """
    report = folder / REPORT.name / FILE
    write_atomically(report, store.require(REPORT).file(FILE).read_bytes())
    for target_name, training in _pairs(read_benchmark(store.require(BENCHMARK))):
        page = store.require(TRAINING_PAGE, target_name, training).file(PAGE)
        write_atomically(folder / TRAINING_PAGE.name / target_name / training / PAGE, page.read_bytes(), durable=False)
    return report


def _pairs(rows: pd.DataFrame) -> list[tuple[str, str]]:
    ours = rows[rows["origin"] == "measured"][["target", "training"]].drop_duplicates()
    return sorted(ours.itertuples(index=False, name=None))


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
    TIME: "Quality against the time of training. Each point is a training of its own, evaluated when it was over; the "
    "number beside it: its epochs.",
}
_SHOWN_WHERE = {SHOTS: "few_shot_recipes", TIME: "timed_recipes"}  # figures that need a fact


def _side_by_side(systems: Result) -> list[CaptionedFigure]:
    if not systems.facts["systems"]:
        return []
    shown = [name for name in _SIDE_BY_SIDE if name not in _SHOWN_WHERE or systems.facts[_SHOWN_WHERE[name]]]
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


def _listed(rows: pd.DataFrame) -> list[ListedTraining]:
    """Every measured training with its numbers, by target and key."""
    ours = rows[rows["origin"] == "measured"]
    own = _own_scores(ours)
    found: dict[tuple[str, str], dict[str, str]] = {}
    for heading, (metric, rule) in _NUMBERS.items():
        wanted = own if rule == OWN else rule
        of_metric = ours[(ours["metric"] == metric) & (ours["score_rule"] == wanted)]
        columns = ["target", "training", "value", "ci_low", "ci_high"]
        for target_name, training, value, low, high in of_metric[columns].itertuples(index=False):
            numbers = found.setdefault((target_name, training), {})
            if not pd.isna(value):
                numbers[heading] = with_interval(value, low, high)
    return [ListedTraining(*pair, numbers, address_from_report(*pair)) for pair, numbers in sorted(found.items())]


def _own_scores(measured: pd.DataFrame) -> pd.Series:
    """Of each row, the image score that its system's authors use."""
    return measured["recipe"].map({name: own_score(name) for name in measured["recipe"].unique()})


def _examples(store: Store, rows: pd.DataFrame) -> list[CaptionedFigure]:
    """Maps of one training of each target, the first targets by name: neither the best of its target nor the worst.

    It has the median image AUROC of its target's trainings, by each system's own score.
    """
    from rkd_pipeline.results.figures import thumbnail

    measured = rows[(rows["origin"] == "measured") & (rows["metric"] == "image_auroc")]
    measured = measured[measured["score_rule"] == _own_scores(measured)]
    shown = []
    for target_name, of_target in list(measured.groupby("target", sort=True))[:_EXAMPLES]:
        ordered = of_target.sort_values(["value", "training"], ignore_index=True)
        training = str(ordered["training"][(len(ordered) - 1) // 2])
        of_how_many = (
            f"the median by image AUROC of its target's {len(ordered)}" if len(ordered) > 1 else "the only one"
        )
        maps = store.require(METRICS, str(target_name), training).file("maps.png")
        caption = f"{target_name}, {training}: {of_how_many}"
        shown.append(CaptionedFigure(caption, thumbnail(maps.read_bytes(), _THUMBNAIL)))
    return shown


def _made_on(store: Store, rows: pd.DataFrame) -> Sheet:
    """How many trainings there are by teacher and by what they were computed on."""
    ours = rows[rows["origin"] == "measured"].drop_duplicates(["target", "training"])
    named = ["target", "training", "computed_on"]
    counted: Counter[tuple[str, str, str]] = Counter()
    for target_name, training, conditions in ours[named].itertuples(index=False):
        parameters = store.require(TRAINED_MODEL, target_name, training).provenance.parameters
        counted[str(parameters["teacher"]), str(parameters["teacher_sha256"])[:12], str(conditions)] += 1
    sheet = Sheet("Provenance", ["Teacher", "SHA-256", "Computed on", "Trainings"])
    sheet.rows = [[*what, str(n)] for what, n in sorted(counted.items())]
    sheet.below.append("What each training was made from is on its page.")
    return sheet


def _datasets(store: Store, rows: pd.DataFrame) -> list[dict[str, str]]:
    measured = rows[rows["origin"] == "measured"].drop_duplicates("dataset").sort_values("dataset")
    described = [targets_in(store).dataset_of(name) for name in measured["target"]]
    noted = any(d.note for d in described)
    return [
        {"Dataset": d.title, "Source": d.source, "Licence": d.licence, "Citation": d.citation}
        | ({"Note": d.note} if noted else {})
        for d in described
    ]
