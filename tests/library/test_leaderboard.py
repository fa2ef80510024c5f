import numpy as np
import pandas as pd
import pytest
from scipy.stats import wilcoxon

from rkd_pipeline.results.ranking import COSTS, leaderboard, leaderboard_sheet, pairs_sheet, targets_needed
from tests.library.rows import benchmark, measured

TEACHER = "wide_resnet50_2, 200 epochs"


def rows_of(values: dict[str, list[float]]) -> list[dict[str, object]]:
    """Recipe to one image AUROC per target; NaN: not measured."""
    return [
        measured(f"folder.t{i:02d}", recipe, 0, value)
        for recipe, row in values.items()
        for i, value in enumerate(row)
        if not np.isnan(value)
    ]


def costs(rows: list[dict[str, object]], **given: float) -> pd.DataFrame:
    pairs = [{"target": r["target"], "training": r["training"], "device": "cpu, fp32", **given} for r in rows]
    return pd.DataFrame(pairs).reindex(columns=["target", "training", *COSTS, "device"])


def board_of(values: dict[str, list[float]], **given: float):
    rows = rows_of(values)
    return leaderboard(benchmark(*rows), costs(rows, **given))


def test_ranks_are_means_over_targets_with_ties_shared() -> None:
    board = board_of({"rkd": [0.9, 0.8, 0.7], "rkd-es": [0.8, 0.8, 0.6], "rkd-mkd": [0.7, 0.9, 0.8]})
    ranks = board.systems.set_index("recipe")["mean_rank"]
    assert ranks["rkd"] == pytest.approx((1 + 2.5 + 2) / 3)
    assert ranks["rkd-es"] == pytest.approx((2 + 2.5 + 3) / 3)
    assert ranks["rkd-mkd"] == pytest.approx((3 + 1 + 1) / 3)


def test_too_few_targets_are_said_and_not_tested() -> None:
    board = board_of({"rkd": [0.9] * 3, "rkd-es": [0.8] * 3})
    assert board.pairs.empty
    assert board.groups == []
    assert "share 3 targets" in board.verdict
    assert "below 6 targets" in board.verdict


@pytest.mark.parametrize("pairs", [1, 3, 10, 45])
def test_the_number_of_targets_needed_is_where_a_clean_sweep_first_differs(pairs: int) -> None:
    needed = targets_needed(pairs)
    for n, differs in ((needed, True), (needed - 1, False)):
        sweep = wilcoxon(np.arange(1.0, n + 1)).pvalue * pairs
        assert (sweep < 0.05) == differs


def test_pairs_are_wilcoxon_s_with_holm_s_correction() -> None:
    rng = np.random.default_rng(3)
    base = rng.uniform(0.6, 0.8, 12)
    values = {"rkd": base + 0.1, "rkd-es": base + 0.1 + rng.normal(0, 0.01, 12), "rkd-mkd": base}
    board = board_of({k: v.tolist() for k, v in values.items()})
    p = {frozenset((r["first"].split(",")[0], r["second"].split(",")[0])): (r["p"], r["p_holm"], r["differ"])
         for r in board.pairs.to_dict("records")}  # fmt: skip
    for pair, (found, _, _) in p.items():
        first, second = sorted(pair)
        assert found == pytest.approx(wilcoxon(values[first] - values[second]).pvalue)
    ordered = sorted(p.values())
    step = [min(1, ordered[0][0] * 3), min(1, ordered[1][0] * 2), min(1, ordered[2][0])]
    assert [adjusted for _, adjusted, _ in ordered] == pytest.approx(np.maximum.accumulate(step))
    assert p[frozenset(("rkd", "rkd-mkd"))][2]
    assert not p[frozenset(("rkd", "rkd-es"))][2]
    [group] = board.groups
    assert {name.split(",")[0] for name in group} == {"rkd", "rkd-es"}


def test_a_system_with_few_targets_takes_no_part_in_the_ranking() -> None:
    nan = float("nan")
    board = board_of({"rkd": [0.9, 0.8, 0.7, 0.6], "rkd-es": [0.8, 0.7, 0.6, 0.5], "rkd-mkd": [0.99, nan, nan, nan]})
    systems = board.systems.set_index("recipe")
    assert systems["ranked_on"].to_dict() == {"rkd": 4, "rkd-es": 4, "rkd-mkd": 0}
    assert pd.isna(systems.loc["rkd-mkd", "mean_rank"])
    assert systems.loc["rkd-mkd", "targets"] == 1
    assert len(board.targets) == 4


def test_ranks_are_over_as_many_results_as_systems_share() -> None:
    """Step by step half of the targets was given up for one more system, until one target was left of four."""
    nan = float("nan")
    full = {r: [0.9, 0.8, 0.7, 0.6] for r in ("rkd", "rkd-es", "rkd-mkd", "rkd-official")}
    few = {"padim": [0.9, 0.8, nan, nan], "subspace": [0.9, nan, nan, nan]}
    board = board_of(full | few)
    assert len(board.targets) == 4
    assert set(board.systems.dropna(subset="mean_rank")["recipe"]) == set(full)

    many = {r: [0.9, 0.8, nan, nan] for r in ("rkd-mkd", "rkd-official", "padim", "subspace")}
    board = board_of({"rkd": [0.9, 0.8, 0.7, 0.6], "rkd-es": [0.8, 0.7, 0.6, 0.5]} | many)
    assert len(board.targets) == 2
    assert board.systems["mean_rank"].notna().all()


def test_seeds_are_averaged_and_schedules_are_not() -> None:
    rows = [measured("head_ct", "rkd", s, v, training=f"rkd-s{s}") for s, v in enumerate((0.6, 0.8))]
    rows.append(measured("head_ct", "rkd", 0, 0.9, epochs=40, training="rkd~40e-s0"))
    board = leaderboard(benchmark(*rows), costs(rows))
    assert board.systems.set_index("epochs")["image_auroc"].to_dict() == {
        200: pytest.approx(0.7),
        40: pytest.approx(0.9),
    }
    assert board.systems["mean_rank"].tolist() == [1.0, 2.0]


def test_cost_stands_beside_quality_and_a_dash_where_it_was_not_recorded() -> None:
    values = {"rkd": [0.9, 0.8], "rkd-es": [0.8, 0.7]}
    known = board_of(values, training_seconds=90.0, scoring_seconds_per_picture=0.02, peak_memory_bytes=2.0**30)
    shown = leaderboard_sheet(known)
    first = dict(zip(shown.headings, shown.rows[0], strict=True))
    assert first["System"] == f"rkd, {TEACHER} †"
    assert "batch size and width of the OCE" in shown.notes()[-1]
    assert first["Score"] == "map_max"
    assert (first["Training, s"], first["Scoring, ms/image"], first["Peak memory, GiB"]) == ("90", "20.0", "1.00")
    assert first["Parameters, M"] == "–"
    assert first["Image AUROC"] == "85.0"
    assert not pairs_sheet(known).rows


def test_one_system_alone_is_not_ranked() -> None:
    board = board_of({"rkd": [0.9]})
    assert board.verdict == "Nothing to rank: no two systems were measured on the same targets."
    assert board.systems["mean_rank"].isna().all()


def test_nothing_measured_is_an_empty_leaderboard() -> None:
    board = leaderboard(benchmark(), costs([]))
    assert board.systems.empty
    assert "Nothing to rank" in leaderboard_sheet(board).markdown()
