import json

import pytest

from rkd_pipeline.detectors import System, system_of
from rkd_pipeline.errors import BadKey
from rkd_pipeline.recipes.named_recipes import RECIPES, trained_as
from rkd_pipeline.recipes.recipe import ReverseKD, deviations_of
from rkd_pipeline.recipes.score_rules import SCORE_RULES
from rkd_pipeline.recipes.training_key import TrainingKey
from rkd_pipeline.stages.trained_model import training_parameters


def test_every_recipe_says_paper_code_and_deviation_and_has_a_system() -> None:
    for recipe in RECIPES.values():
        assert all((recipe.paper, recipe.code, recipe.deviation, recipe.summary))
        assert isinstance(system_of(recipe), System)
        assert set(recipe.score_rules) <= set(SCORE_RULES)
        assert recipe.own_score in recipe.score_rules
        assert ("map_max" in recipe.score_rules) == recipe.localises


def test_recipes_that_differ_only_in_scoring_share_a_training() -> None:
    shared = {n: trained_as(r).name for n, r in RECIPES.items() if trained_as(r) is not r}
    assert shared == {
        "mkd-gradient": "mkd", "mkd-smoothgrad": "mkd", "mkd-comparable": "mkd", "mkd-brief-discrepancy": "mkd-brief",
        "anogan": "f-anogan", "anogan-brief": "f-anogan-brief",
    }  # fmt: skip
    key = TrainingKey.parse("mkd-gradient@resnet18~5e-s2r1")
    assert str(key.training) == "mkd@resnet18~5e-s2r1"
    assert TrainingKey.parse("mkd-s0").training == TrainingKey.parse("mkd-s0")


def test_settings_of_earlier_trainings_are_as_they_were() -> None:
    assert set(RECIPES["rkd"].settings()) == {
        "name", "teacher", "side", "learning_rate", "betas", "batch_size", "epochs", "early_stopping", "sigma",
        "oce_width", "loss", "val_reduction",
    }  # fmt: skip
    assert RECIPES["rkd-anomalib-2022"].settings()["fusion"] == "product"
    assert "window" not in RECIPES["us"].settings()
    assert RECIPES["us-small"].settings()["window"] == 32


def test_every_recipe_that_adds_maps_where_anomalib_multiplied_them_says_so() -> None:
    adding = [
        r for r in RECIPES.values()
        if isinstance(r, ReverseKD) and "anomalib of June 2022" in r.code and r.fusion == "sum"
    ]  # fmt: skip
    assert len(adding) == 10
    for recipe in adding:
        assert "maps are added, where that anomalib multiplied them" in recipe.deviation, recipe.name


def test_a_one_class_embedding_that_came_later_leaves_other_trainings_valid() -> None:
    """ResNet-34's has two blocks in anomalib, three in RD4AD; with every other teacher they have the same."""
    for teacher in ("resnet18", "resnet50", "wide_resnet50_2"):
        assert set(training_parameters(TrainingKey.parse(f"rkd@{teacher}.random-s0"))) == {
            "recipe", "teacher", "epochs", "seed", "repeat",
        }  # fmt: skip
    assert training_parameters(TrainingKey.parse("rkd@resnet34.random-s0"))["oce_depth"] == 2
    assert "oce_depth" not in training_parameters(TrainingKey.parse("rkd-official@resnet34.random-s0"))
    assert "oce_depth" not in training_parameters(TrainingKey.parse("mkd@resnet34.random-s0"))


def test_another_source_is_said_in_every_row() -> None:
    mkd = RECIPES["mkd"]
    assert deviations_of(mkd, "resnet18").startswith("resnet18 in place of vgg16; ")
    assert deviations_of(mkd, "vgg16.c95c5fd9").startswith("weights c95c5fd9 in place of its own; ")
    assert deviations_of(mkd, "vgg16") == mkd.deviation


def test_reverse_kd_needs_a_resnet() -> None:
    with pytest.raises(BadKey, match=r"takes resnet18, .* as a teacher, not vgg16"):
        TrainingKey.parse("rkd@vgg16-s0")
    assert TrainingKey.parse("mkd@vgg16.random-s0").teacher.arch == "vgg16"


@pytest.mark.parametrize("name", RECIPES)
def test_settings_survive_provenance(name: str) -> None:
    settings = RECIPES[name].settings()
    assert json.loads(json.dumps(settings)) == settings
