from collections import Counter

import numpy as np
import pandas as pd
import pytest

from rkd_pipeline.errors import BadKey, UnknownName
from rkd_pipeline.models.teacher_files import TeacherName
from rkd_pipeline.recipes.ablation_design import CENTRES, RESPONSES, Arm, Contrast, Design, design
from rkd_pipeline.recipes.lookup import recipe
from rkd_pipeline.recipes.plans import ablation, named
from rkd_pipeline.recipes.training_key import TrainingKey
from rkd_pipeline.recipes.variants import FACTORS, levels_of
from rkd_pipeline.results.ablation_effects import COLUMNS, Ablation, ablation_sheet, analyse
from rkd_pipeline.results.figures import effect_dots
from rkd_pipeline.stages.ablation import groups
from rkd_pipeline.statistics.replicates import Evidence
from tests.library.rows import benchmark, measured


def differing(one: str, other: str) -> set[str]:
    a, b = levels_of(recipe(one)), levels_of(recipe(other))
    return {name for name in a if a[name] != b[name]}


@pytest.mark.parametrize("centre", CENTRES)
@pytest.mark.parametrize("arch", ["resnet18", "wide_resnet50_2"])
def test_one_factor_at_a_time_around_the_centre(centre: str, arch: str) -> None:
    made = design(centre, arch)
    training = [c for c in made.contrasts if c.kind == "training"]
    for contrast in training:
        changed, start = contrast.arms
        assert (changed.weight, start.weight) == (1, -1)
        assert differing(changed.recipe, start.recipe) == {contrast.factor}
    asked = {c.factor for c in training}
    trained = {name for name, factor in FACTORS.items() if factor.levels}
    assert asked == trained - ({"oce"} if arch == "resnet18" else set())
    assert set(FACTORS) - trained == {"rate", "schedule", "shots"}  # only for names of variants
    assert set(made.absent) == trained - asked
    for contrast in (*made.contrasts, *made.further):
        assert sum(arm.weight for arm in contrast.arms) == 0
    # Every level of every factor that the text of the ablation names is there.
    assert {"kd", "kd_flat", "mkd"} == {levels_of(recipe(n))["loss"] for n in made.recipes}
    assert {"0.99", "0.999"} == {levels_of(recipe(n))["beta2"] for n in made.recipes}
    assert {arm.scoring for c in made.contrasts for arm in c.arms} == {"sum", "product", "l_kd", "l_val", "l_mkd"}


def test_an_interaction_has_the_four_corners_of_its_square() -> None:
    [found] = [c for c in design("rkd", "resnet18", [("loss", "beta2")]).contrasts if c.factor == "loss × beta2"]
    assert found.arms == (
        Arm(1, "rkd+loss=kd_flat+beta2=0.999"), Arm(-1, "rkd+loss=kd_flat"), Arm(-1, "rkd+beta2=0.999"), Arm(1, "rkd"),
    )  # fmt: skip
    without = design("rkd", "resnet18", [])
    assert "rkd+loss=kd_flat+beta2=0.999" not in without.recipes
    assert found in without.further


def test_interactions_that_cannot_be() -> None:
    with pytest.raises(BadKey, match="rate has no levels that the ablation trains"):
        design("rkd", "resnet18", [("loss", "rate")])
    with pytest.raises(BadKey, match="two different factors"):
        design("rkd", "resnet18", [("loss", "loss")])
    with pytest.raises(UnknownName, match="unknown factor"):
        design("rkd", "resnet18", [("loss", "colour")])


def test_the_plan_trains_the_design_and_its_keys_are_valid() -> None:
    teacher = TeacherName("resnet18", "4c740094")
    cells = ablation(["mvtec_ad.screw", "mvtec_ad.tile"], ["rkd"], [0, 1], teacher=teacher, epochs=3)
    names = design("rkd", "resnet18").recipes
    assert len(cells) == 2 * 2 * len(names)
    assert {TrainingKey.parse(c.training).recipe.name for c in cells} == set(names)
    assert [c.target for c in cells[: 2 * len(names)]] == ["mvtec_ad.screw"] * len(names) + ["mvtec_ad.tile"] * len(
        names
    )
    assert {TrainingKey.parse(c.training).seed for c in cells[: 2 * len(names)]} == {0}
    of_demo = named("ablation")
    assert {c.target for c in of_demo} == {"demo.weave", "demo.grain"}
    assert of_demo[0].training.startswith("rkd-brief@embedded")
    assert len(of_demo) == 2 * len(design("rkd-brief", "resnet18").recipes)


def evidence_of(value: float, seed: int, **more: float) -> Evidence:
    values = {("image_auroc", "map_max"): value} | {("image_auroc", rule): v for rule, v in more.items()}
    noise = np.random.default_rng(seed).normal(0, 0.01, 1000)
    return Evidence(("a", "b"), values, {k: v + noise for k, v in values.items()}, pd.DataFrame())


def test_effects_are_the_differences_and_the_largest_comes_first() -> None:
    made = design("rkd", "resnet18")
    cells = {
        ("t", seed, 0): {
            "rkd": evidence_of(0.70 + shift, 1, l_kd=0.72 + shift),
            "rkd+loss=kd_flat": evidence_of(0.80 + shift, 2),
            "rkd+beta2=0.999": evidence_of(0.71, 3),
            "rkd+loss=kd_flat+beta2=0.999": evidence_of(0.90, 4),
        }
        for seed, shift in ((0, 0.0), (1, 0.02))
    }
    effects, spread = analyse(made, cells, {"t": None})
    effects = effects[effects["target"] == ""]
    found = effects.set_index("factor")
    assert found.loc["loss", "effect"] == pytest.approx(0.10)
    assert found.loc["beta2", "effect"] == pytest.approx((0.01 - 0.01) / 2)
    assert found.loc["score", "effect"] == pytest.approx(0.02)
    # 0.90 - 0.80 - 0.71 + 0.70 = 0.09, and with the second seed's 0.82 and 0.72 the same
    assert found.loc["loss × beta2", "effect"] == pytest.approx(0.09)
    assert found.loc["loss", "base"] == pytest.approx(0.71)
    assert list(effects["factor"])[:2] == ["loss", "loss × beta2"]
    assert effects["rank"].tolist() == [1, 2, 3, 4]
    assert (found["seeds"] == 2).all()
    assert spread["t"]["image_auroc"] == pytest.approx(0.02 / np.sqrt(2))
    # The score's effect is of the same draws: no noise is left in it. Over seeds it is the same too.
    assert np.isnan(found.loc["score", "ci_low"])


def test_means_over_targets_come_with_each_target() -> None:
    cells = {
        (target, 0, 0): {"rkd": evidence_of(0.5, 1), "rkd-es": evidence_of(0.5 + gain, 2)}
        for target, gain in (("a", 0.1), ("b", 0.3))
    }
    effects, _ = analyse(design("rkd", "resnet18"), cells, {"a": None, "b": None})
    assert dict(zip(effects["target"], effects["effect"].round(6), strict=True)) == {"": 0.2, "a": 0.1, "b": 0.3}
    assert effects["rank"].isna().tolist() == [False, True, True]
    [mean] = effects[effects["target"] == ""].to_dict("records")
    assert (mean["targets"], mean["seeds"]) == (2, 1)


def test_one_seed_of_training_is_never_bold_and_missing_trainings_are_named() -> None:
    made = design("rkd", "resnet18", [])
    rows = pd.DataFrame(
        [
            {"response": "image_auroc", "rank": i, "kind": kind, "factor": "f", "change": kind, "target": "",
             "effect": 0.1, "ci_low": 0.05, "ci_high": 0.15, "interval_method": "pictures", "targets": 1,
             "seeds": seeds, "base": 0.5} | where
            for where in ({}, {"target": "t", "rank": None})
            for i, (kind, seeds) in enumerate((("training", 1), ("scoring", 1), ("interaction", 2)))
        ]
    )  # fmt: skip
    missing = pd.DataFrame({"centre": ["rkd"], "target": ["t"], "training": ["rkd-es-s0"]})
    found = Ablation("rkd", "resnet18", 3, rows, missing, made.absent, {"t": {"image_auroc": 0.02}})
    sheet = ablation_sheet(found)
    assert "Measured on t." in sheet.markdown()
    assert [row[-1].startswith("**") for row in sheet.rows] == [False, True, True]
    text = sheet.markdown()
    assert "Planned and not measured, 1: t rkd-es-s0." in text
    assert "oce: not measurable with resnet18" in text
    assert "3 epochs are too few for early stopping" in text
    assert "t vary by (standard deviation): Image AUROC 2.0" in text
    assert effect_dots(rows, {"image_auroc": "Image AUROC"}, "title")[:4] == b"\x89PNG"


def test_groups_are_found_among_whatever_was_measured() -> None:
    def row(recipe: str, seed: int, epochs: int = 3, target: str = "mvtec_ad.screw") -> dict[str, object]:
        key = TrainingKey.compose(recipe, seed=seed, teacher=TeacherName("resnet18"), epochs=epochs)
        return measured(target, recipe, seed, 0.5, epochs=epochs, teacher="resnet18", training=str(key))

    rows = benchmark(
        row("rkd", 0), row("rkd-mkd", 0), row("rkd", 1), row("rkd-official", 0), row("rkd+beta2=0.999", 2),
        row("rkd", 0, epochs=4), row("rkd-mkd", 0, target="mvtec_ad.tile"),
    )  # fmt: skip
    [found] = groups(rows)
    assert (found.design.centre.name, found.teacher, found.epochs) == ("rkd", "resnet18", 3)
    assert {cell: sorted(of) for cell, of in found.cells.items()} == {
        ("mvtec_ad.screw", 0, 0): ["rkd", "rkd-mkd"], ("mvtec_ad.screw", 1, 1): ["rkd"],
    }  # fmt: skip
    missing = Counter(TrainingKey.parse(t).seed for t in found.missing()["training"])
    planned = len(found.design.recipes)
    assert missing == {0: planned - 2, 1: planned - 1}
    assert not list(groups(benchmark(row("rkd", 0))))


def test_columns_say_what_the_table_holds() -> None:
    made = Design(recipe("rkd"), [Contrast("training", "stop", "off → 15", (Arm(1, "rkd-es"), Arm(-1, "rkd")))])
    cells = {("t", 0, 0): {"rkd": evidence_of(0.5, 1), "rkd-es": evidence_of(0.6, 2)}}
    effects, _ = analyse(made, cells, {"t": None})
    assert ["centre", "teacher", "epochs", *effects.columns] == list(COLUMNS)
    assert set(effects["response"]) <= set(RESPONSES)
