"""All systems side by side: what is compared, and which differences are called larger than noise."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from rkd_pipeline.results.system_comparison import beyond_noise, noise_rows, noise_sheet, pair_rows, systems_sheet
from rkd_pipeline.stages.benchmark import build_benchmark, read_benchmark
from rkd_pipeline.stages.leaderboard import build_leaderboard, read_leaderboard
from rkd_pipeline.stages.systems import FIGURES, build_systems, few_shots, read_pairs, read_system_sheets, schedules
from rkd_pipeline.statistics.contrasts import Block
from rkd_pipeline.statistics.replicates import Evidence, evidence
from rkd_pipeline.store.result_store import Store
from tests.library.arena import TARGET, Finish

LABELS = np.r_[np.zeros(40, bool), np.ones(40, bool)]
IDS = [f"{i:02d}.png" for i in range(80)]
RECIPES = {"good": "padim", "fair": "rkd", "same": "rkd", "alone": "deep-lof"}


def scored(strength: float, seed: int, rule: str = "map_max") -> tuple[np.ndarray, Evidence]:
    scores = np.random.default_rng(seed).normal(size=80) + strength * LABELS
    return scores, evidence(IDS, LABELS, {rule: scores}, None, None)


def test_two_systems_are_compared_on_the_same_images_seed_by_seed() -> None:
    cells: dict[Block, dict[str, Evidence]] = {}
    aurocs: dict[str, list[float]] = {"good": [], "fair": []}
    for seed in (0, 1, 2):
        for name, strength in (("good", 3.0), ("fair", 1.0)):
            scores, found = scored(strength, 10 * seed + len(name))
            cells.setdefault(("bolts", seed, 0), {})[name] = found
            aurocs[name].append(float(roc_auc_score(LABELS, scores)))
    cells["bolts", 0, 0]["same"] = cells["bolts", 0, 0]["fair"]
    cells["bolts", 0, 0]["alone"] = scored(1.0, 5, "image_score")[1]
    pairs = pair_rows(cells, RECIPES, {"bolts": None}).set_index(["first", "second"])
    assert set(pairs["quality"]) == {"image_auroc"}  # there are no maps
    row = pairs.loc[("good", "fair")]
    differences = np.subtract(aurocs["good"], aurocs["fair"])
    assert row["difference"] == pytest.approx(differences.mean())
    assert row["seed_sd"] == pytest.approx(differences.std(ddof=1))
    assert row["seeds"] == 3
    # DeLong's variance of one AUROC of 40 and 40 images; the two systems' errors are independent here.
    assert row["image_sd"] == pytest.approx(np.hypot(0.017, 0.048), rel=0.35)
    assert row["differ"]
    equal = pairs.loc[("fair", "same")]
    assert (equal["difference"], bool(equal["differ"]), np.isnan(equal["p"])) == (0, False, True)
    # Four systems that all have seed 0 make six pairs, and Holm's correction is over those that have an interval.
    assert len(pairs) == 6
    smallest = pairs["p"].min()
    assert pairs["p_holm"].min() == pytest.approx(5 * smallest)


def test_an_interval_that_leaves_out_zero_and_its_p_agree() -> None:
    cells: dict[Block, dict[str, Evidence]] = {("bolts", 0, 0): {f"s{i}": scored(i / 6, 100 + i)[1] for i in range(9)}}
    pairs = pair_rows(cells, dict.fromkeys(cells["bolts", 0, 0], "rkd"), {"bolts": None})
    assert 5 < (pairs["ci_low"] > 0).sum() < 36
    assert ((pairs["ci_low"] > 0) == (pairs["p"] < 0.05)).all()
    assert (pairs["difference"] >= 0).all()
    assert (pairs["p_holm"] >= pairs["p"]).all()


def test_splits_of_their_own_widen_the_interval_and_are_named() -> None:
    cells: dict[Block, dict[str, Evidence]] = {
        ("mri", seed, seed): {"good": scored(2.0, seed)[1], "fair": scored(1.0, 50 + seed)[1]} for seed in range(3)
    }
    [drawn] = pair_rows(cells, RECIPES, {"mri": 10 / 88}).to_dict("records")
    [given] = pair_rows(cells, RECIPES, {"mri": None}).to_dict("records")
    assert drawn["difference"] == pytest.approx(given["difference"])
    assert (drawn["method"], given["method"]) == ("repeats", "images and seeds")
    noise = noise_rows(pd.DataFrame([drawn]), {"mri": True})
    assert "(and splits)" in noise_sheet(noise).rows[0][5]


def test_what_may_be_noise_is_white() -> None:
    pairs = pd.DataFrame(
        {
            "first": ["a", "a", "b"],
            "second": ["b", "c", "c"],
            "difference": [0.2, 0.3, 0.1],
            "differ": [True, True, False],
        }
    )
    matrix = beyond_noise(pairs, ["a", "b", "c"])
    expected = [[np.nan, 0.2, 0.3], [-0.2, np.nan, np.nan], [-0.3, np.nan, np.nan]]
    np.testing.assert_array_equal(matrix, expected)


def test_systems_with_and_without_epochs_stand_in_one_table(arena: tuple[Store, Finish]) -> None:
    store, finish = arena
    for seed in (0, 1):
        finish(f"rkd@resnet18.random-s{seed}", 2.0, luck=1)
        finish(f"padim@resnet18.random-s{seed}", 0.5, luck=2)
        finish(f"padim+shots=8@resnet18.random-s{seed}", 0.3, luck=3)
    finish("deep-lof@resnet18.random-s0", 0.1, luck=4)
    rows = read_benchmark(build_benchmark(store))
    assert rows.loc[rows["recipe"] == "padim", "epochs"].isna().all()
    assert not rows.loc[rows["recipe"] == "padim", "short_schedule"].any()
    found = build_systems(store)
    [sheet, noise] = read_system_sheets(found)
    names = [row[0].split(" †")[0].split(" ‡")[0].split(" §")[0] for row in sheet.rows]
    assert names == ["rkd, resnet18.random, 200 epochs", "padim, resnet18.random", "deep-lof, resnet18.random"]
    assert [row[4] for row in sheet.rows] == ["2", "2", "1"]
    assert noise.rows[0][:4] == [TARGET, "Image AUROC", "3", "3"]
    assert set(read_pairs(found)["quality"]) == {"image_auroc"}
    assert (found.facts["few_shot_recipes"], found.facts["timed_recipes"]) == (1, 0)
    assert all((found.folder / name).read_bytes()[1:4] == b"PNG" for name in FIGURES)
    board = read_leaderboard(build_leaderboard(store)).systems
    assert set(board["system"]) == set(names)


def test_few_shots_are_a_line_per_recipe() -> None:
    numbers = {"image_auroc": 0.8, "image_auroc_low": 0.7, "image_auroc_high": 0.9}
    systems = pd.DataFrame(
        {"target": "screw", "recipe": name, **numbers} for name in ("padim+shots=8", "padim", "padim+shots=4")
    )
    assert few_shots(systems) == {"screw": {"padim": [(4, 0.8, 0.7, 0.9), (8, 0.8, 0.7, 0.9)]}}


def at_lengths(*given: tuple[str, int, str, str]) -> pd.DataFrame:
    """Rows of ``system_rows``: recipe, epochs, teacher, device; a second of training an epoch."""
    return pd.DataFrame(
        {"target": "screw", "recipe": recipe, "epochs": epochs, "teacher": teacher, "device": device}
        | {"training_seconds": float(epochs), "image_auroc": 0.8, "image_auroc_low": 0.7, "image_auroc_high": 0.9}
        | {"aupro_30": np.nan, "aupro_30_low": np.nan, "aupro_30_high": np.nan}
        for recipe, epochs, teacher, device in given
    )


def test_a_recipe_of_several_lengths_is_a_line_over_time_and_its_system_stands_beside_it() -> None:
    lengths = [("rkd", 200, "a", "cpu"), ("rkd", 10, "a", "cpu"), ("rkd-official", 20, "a", "cpu")]
    elsewhere = [("rkd-es", 20, "b", "cpu"), ("rkd-es", 20, "a", "cuda"), ("mkd", 602, "a", "cpu")]
    assert schedules(at_lengths(*lengths, *elsewhere)) == {
        "screw": {
            "rkd": [(10, 10.0, {"image_auroc": (0.8, 0.7, 0.9)}), (200, 200.0, {"image_auroc": (0.8, 0.7, 0.9)})],
            "rkd-official": [(20, 20.0, {"image_auroc": (0.8, 0.7, 0.9)})],
        }
    }


def test_what_was_timed_on_another_device_is_another_line() -> None:
    found = schedules(at_lengths(*(("rkd", epochs, "a", device) for epochs in (10, 20) for device in ("cpu", "cuda"))))
    assert set(found["screw"]) == {"rkd, cpu", "rkd, cuda"}


def test_one_length_alone_is_no_curve() -> None:
    assert schedules(at_lengths(("rkd", 200, "a", "cpu"), ("rkd-official", 20, "a", "cpu"))) == {}


def test_nothing_measured_says_so(store: Store) -> None:
    build_benchmark(store)
    found = build_systems(store)
    assert (found.folder / "systems.md").read_text().startswith("No two systems")
    assert read_system_sheets(found) == []
    assert systems_sheet(pd.read_parquet(found.folder / "systems.parquet"), "screw").rows == []
