"""All measured systems over all targets: mean ranks, tests between them, cost beside quality.

A system is a recipe with one teacher and schedule. Ranks and tests are over targets (Demsar 2006): Wilcoxon's
signed-rank test per pair of systems, Holm's correction over all pairs. Seeds are averaged first, since they are no
independent evidence about targets.

scikit-posthocs offers the same tests, on top of statsmodels and seaborn; scipy's Wilcoxon and ten lines of Holm are all
that is needed of it, and it does not leave out targets that not every system was measured on.
"""

from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import rankdata, wilcoxon

from rkd_pipeline.models.teacher_files import NONE
from rkd_pipeline.recipes.lookup import own_score, recipe
from rkd_pipeline.recipes.recipe import deviations_of
from rkd_pipeline.recipes.score_rules import OWN, QUALITY
from rkd_pipeline.recipes.variants import is_variant
from rkd_pipeline.results.tables.sheet import NOT_PUBLISHED, Sheet, percent
from rkd_pipeline.statistics.multiple_testing import holm

LEVEL = 0.05
SYSTEM = ["recipe", "teacher", "epochs"]
COSTS = {
    "training_seconds": "of one training, teacher features included",
    "training_pictures_per_second": "in training, all epochs together; of a system without epochs in its one pass",
    "scoring_seconds_per_picture": "inference in batches: all networks, map and scores",
    "latency_seconds": "inference of one image alone: median of a few",
    "peak_memory_bytes": "of training: of the process on a CPU, of torch's tensors on a GPU",
    "parameters": "numbers that training left: weights, a bank's features, a Gaussian's moments",
}
COLUMNS = {
    "system": "recipe, teacher, schedule",
    "recipe": "training configuration",
    "teacher": "whose features were distilled",
    "epochs": "schedule; empty of a system that learns in one pass",
    "targets": "on how many targets it was measured",
    "ranked_on": "over how many common targets the rank is; 0 where it has none",
    "mean_rank": "by image AUROC of the system's own score; 1 is best",
    "score": "the image score that the system's authors use",
    "deviation": "where it differs from paper and code",
    **{name: f"mean {name} over its targets that have one" for name in QUALITY},
    **{name: f"{text}; mean over its trainings" for name, text in COSTS.items()},
    "device": "where it was trained",
}


@dataclass(frozen=True)
class Leaderboard:
    """Systems ranked, and what the tests say.

    Attributes:
        systems: columns as in ``COLUMNS``, best rank first.
        pairs: first, second, wins, losses, ties, p, p_holm, differ; empty where no test is possible.
        groups: sets of systems, adjacent in rank, of which no pair differs.
        targets: those that the ranks are over.
        verdict: what was tested, or why nothing was; for people.
    """

    systems: pd.DataFrame
    pairs: pd.DataFrame
    groups: list[list[str]]
    targets: list[str]
    verdict: str


def leaderboard(benchmark: pd.DataFrame, costs: pd.DataFrame) -> Leaderboard:
    """Rank and test everything measured.

    Args:
        benchmark: the tidy table.
        costs: one row per target and training that is in the benchmark: both names, the columns of ``COSTS`` (empty
            where not recorded) and ``device``.
    """
    measured = benchmark[benchmark["origin"] == "measured"]
    # Variants stand in the ablation: here they would only thin out what all systems share.
    measured = measured[~measured["recipe"].map(is_variant).astype(bool)].assign(system=system_names)
    scores = _per_target(measured, "image_auroc")
    ranked, targets = _common(scores)
    compared = scores.loc[targets, ranked]
    ranks = pd.Series(rankdata(-compared.to_numpy(), axis=1).mean(axis=0), ranked) if targets else pd.Series()
    pairs, verdict = _tests(compared, ranks)
    systems = measured[["system", *SYSTEM]].drop_duplicates().set_index("system")
    table = systems.assign(
        targets=scores.notna().sum(),
        ranked_on=pd.Series(len(targets), ranks.index).reindex(systems.index).fillna(0).astype(int),
        mean_rank=ranks,
        score=systems["recipe"].map(own_score),
        deviation=[deviations_of(recipe(r), t) for r, t in zip(systems["recipe"], systems["teacher"], strict=True)],
        **{name: _per_target(measured, name).mean() for name in QUALITY},
        **_mean_costs(measured, costs),
    )
    table = table.reset_index().sort_values(["mean_rank", "system"], na_position="last", ignore_index=True)
    return Leaderboard(table[list(COLUMNS)], pairs, _groups(ranks, pairs), targets, verdict)


def system_names(rows: pd.DataFrame) -> pd.Series:
    """What a system is called: recipe, teacher and schedule, as far as it has them."""
    of_system = rows.groupby(SYSTEM, dropna=False, sort=False).ngroup().to_numpy()  # thousands of rows, a few systems
    names = [
        ", ".join([recipe, *([] if teacher == NONE else [teacher]), *([] if pd.isna(n) else [f"{n} epochs"])])
        for recipe, teacher, n in rows[SYSTEM].drop_duplicates().itertuples(index=False)
    ]
    return pd.Series(pd.array(names, "string").take(of_system), rows.index)


def _per_target(measured: pd.DataFrame, quality: str) -> pd.DataFrame:
    """Mean over seeds: targets down, systems across, NaN where not measured."""
    metric, rule = QUALITY[quality]
    wanted = measured["recipe"].map(own_score) if rule == OWN else rule
    rows = measured[(measured["metric"] == metric) & (measured["score_rule"] == wanted) & measured["value"].notna()]
    return rows.assign(value=rows["value"].astype(float)).pivot_table(index="target", columns="system", values="value")


def _common(scores: pd.DataFrame) -> tuple[list[str], list[str]]:
    """Systems that share targets, and the targets that all of them share.

    Systems join in order of coverage, as long as there are more results in what is common (systems times targets): one
    with few targets would take the others' away.
    """
    order = scores.notna().sum().sort_values(ascending=False, kind="stable").index
    shared = scores[order].notna().cumprod(axis=1)  # of the systems up to each one
    results = shared.sum() * np.arange(1, len(order) + 1)
    if len(order) < 2 or not results.iloc[1:].any():
        return [], []
    ranked = order[: int(results.iloc[1:].argmax()) + 2]
    return list(ranked), sorted(shared.index[shared[ranked[-1]].astype(bool)])


def _tests(compared: pd.DataFrame, ranks: pd.Series) -> tuple[pd.DataFrame, str]:
    """Every pair, best rank first, or none with the reason."""
    columns = ["first", "second", "wins", "losses", "ties", "p", "p_holm", "differ"]
    order = list(ranks.sort_values(kind="stable").index)
    if len(order) < 2:
        return pd.DataFrame(columns=columns), "Nothing to rank: no two systems were measured on the same targets."
    found = list(combinations(order, 2))
    n, needed = len(compared), targets_needed(len(found))
    if n < needed:
        return pd.DataFrame(columns=columns), (
            f"No test: {len(order)} systems share {n} target{'s' * (n != 1)}. With {len(found)} "
            f"pair{'s' * (len(found) != 1)}, even a system that wins on every target could not differ at the 5% level "
            f"below {needed} targets. The ranks are a description of these targets, no more."
        )
    rows = []
    for first, second in found:
        difference = (compared[first] - compared[second]).to_numpy()
        p = float(wilcoxon(difference).pvalue) if difference.any() else 1.0
        rows.append((first, second, int((difference > 0).sum()), int((difference < 0).sum()),
                     int((difference == 0).sum()), p))  # fmt: skip
    pairs = pd.DataFrame(rows, columns=columns[:6])
    pairs["p_holm"] = holm(pairs["p"].to_numpy())
    pairs["differ"] = pairs["p_holm"] < LEVEL
    return pairs, (
        f"Wilcoxon's signed-rank test over {n} common targets, Holm's correction over {len(found)} "
        f"pair{'s' * (len(found) != 1)}: {int(pairs['differ'].sum())} differ at the 5% level."
    )


def targets_needed(pairs: int) -> int:
    """The fewest targets with which one of so many pairs can differ: the smallest two-sided p is ``2 / 2^n``.

    >>> targets_needed(1), targets_needed(3)
    (6, 7)
    """
    n = 1
    while pairs * 2.0 ** (1 - n) >= LEVEL:
        n += 1
    return n


def _groups(ranks: pd.Series, pairs: pd.DataFrame) -> list[list[str]]:
    """The longest runs of systems, in order of rank, without a pair that differs."""
    if pairs.empty:
        return []
    order = list(ranks.sort_values(kind="stable").index)
    differ = {frozenset(pair) for pair in pairs.loc[pairs["differ"], ["first", "second"]].itertuples(index=False)}
    groups: list[list[str]] = []
    for start in range(len(order)):
        stop = start + 1
        while stop < len(order) and not any(frozenset((order[stop], o)) in differ for o in order[start:stop]):
            stop += 1
        if stop - start > 1 and not (groups and set(order[start:stop]) <= set(groups[-1])):
            groups.append(order[start:stop])
    return groups


def _mean_costs(measured: pd.DataFrame, costs: pd.DataFrame) -> dict[str, pd.Series]:
    names = measured[["target", "training", "system"]].drop_duplicates()
    names = names.merge(costs.astype({"target": "string", "training": "string"}), on=["target", "training"])
    grouped = names.astype(dict.fromkeys(COSTS, float)).groupby("system")
    devices = grouped["device"].agg(lambda found: "; ".join(sorted(set(found))))
    return {name: grouped[name].mean() for name in COSTS} | {"device": devices}


def leaderboard_sheet(board: Leaderboard) -> Sheet:
    """The leaderboard for reading."""
    headings = ["System", "Targets", "Mean rank", "Score", "Image AUROC", "Pixel AUROC", "AUPRO", "Training, s"]
    headings += ["Images/s", "Scoring, ms/image", "Latency, ms", "Peak memory, GiB", "Parameters, M", "Device"]
    sheet = Sheet("Leaderboard", headings)
    for row in board.systems.to_dict("records"):
        cost = [
            _number(row["training_seconds"], 1, 0),
            _number(row["training_pictures_per_second"], 1, 1),
            _number(row["scoring_seconds_per_picture"], 1000, 1),
            _number(row["latency_seconds"], 1000, 1),
            _number(row["peak_memory_bytes"], 2**-30, 2),
            _number(row["parameters"], 1e-6, 1),
        ]
        quality = [percent(row[name]) for name in QUALITY]
        rank = _number(row["mean_rank"], 1, 2)
        mark = sheet.mark(row["deviation"])
        sheet.rows.append(
            [row["system"] + mark, str(row["targets"]), rank, row["score"], *quality, *cost, row["device"]]
        )
    if board.targets:
        sheet.below.append(f"Ranks by image AUROC (each system's own score) over {', '.join(board.targets)}.")
    sheet.below.append(board.verdict)
    sheet.below.append(
        "Quality in percent: means over the targets that a system was measured on, which differ between systems; "
        "compare ranks, not means. Cost: means over trainings; compare only what ran on the same device, alone on it."
    )
    return sheet


def pairs_sheet(board: Leaderboard) -> Sheet:
    """The tests for reading; without rows where there are none."""
    sheet = Sheet(
        "Pairs", ["First", "Second", "Wins, losses, ties", "p", "p after Holm", "Differ"], below=[board.verdict]
    )
    for row in board.pairs.to_dict("records"):
        record = f"{row['wins']}, {row['losses']}, {row['ties']}"
        verdict = "yes" if row["differ"] else "no"
        sheet.rows.append([row["first"], row["second"], record, f"{row['p']:.4f}", f"{row['p_holm']:.4f}", verdict])
    return sheet


def diagram_title(board: Leaderboard) -> str:
    """What the rank diagram shows, and what its bars mean or why there are none."""
    bars = "bars join what no test tells apart" if len(board.pairs) else "too few targets for a test, so no bars"
    n = len(board.targets)
    return f"Mean rank by image AUROC over {n} target{'s' * (n != 1)}; {bars}"


def _number(value: Any, factor: float, digits: int) -> str:
    return NOT_PUBLISHED if pd.isna(value) else f"{factor * float(value):.{digits}f}"


def shown_ranks(systems: pd.DataFrame) -> dict[str, float]:
    """System to mean rank, for the diagram; empty where nothing is ranked."""
    ranked = systems[systems["mean_rank"].notna()]
    return dict(zip(ranked["system"], ranked["mean_rank"].astype(float), strict=True))
