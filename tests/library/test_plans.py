import sys

import pytest

from rkd_pipeline.data.catalog import targets_of
from rkd_pipeline.errors import UnknownName
from rkd_pipeline.models.teacher_files import TeacherName
from rkd_pipeline.recipes import plans
from rkd_pipeline.recipes.anomalib_recipes import AnomalibModel
from rkd_pipeline.recipes.named_recipes import RECIPES
from rkd_pipeline.recipes.plans import DEMO_EPOCHS, PlannedTraining, cross, named
from rkd_pipeline.recipes.training_key import TrainingKey


def test_seeds_come_outermost_so_that_an_early_stop_leaves_whole_comparisons() -> None:
    cells = cross(["brain_mri", "head_ct"], ["rkd", "rkd-es"], [0, 2])
    assert [(c.target, c.training) for c in cells] == [
        ("brain_mri", "rkd-s0"), ("brain_mri", "rkd-es-s0"), ("head_ct", "rkd-s0"), ("head_ct", "rkd-es-s0"),
        ("brain_mri", "rkd-s2"), ("brain_mri", "rkd-es-s2"), ("head_ct", "rkd-s2"), ("head_ct", "rkd-es-s2"),
    ]  # fmt: skip


def test_teacher_and_schedule_become_part_of_the_key() -> None:
    [cell] = cross(["head_ct"], ["rkd"], [1], teacher=TeacherName("resnet18", "4c740094"), epochs=40)
    assert cell == PlannedTraining("head_ct", "rkd@resnet18.4c740094~40e-s1")


def test_an_unknown_recipe_is_refused() -> None:
    with pytest.raises(UnknownName, match="unknown recipe"):
        cross(["head_ct"], ["nope"], [0])


def test_the_demo_plan_needs_no_download_and_covers_every_demo_target() -> None:
    cells = named("demo")
    keys = {cell.training: TrainingKey.parse(cell.training) for cell in cells}
    assert {str(key.teacher) for key in keys.values()} == {"embedded"}
    official = f"rkd-official-brief@embedded~{DEMO_EPOCHS}e-s0"
    assert [c.target for c in cells if c.training == official] == [t.name for t in targets_of("demo")]
    assert [keys[c.training].recipe.name for c in cells if c.training != official] == ["rkd-mkd-cal-brief"]


def test_the_plan_of_systems_has_each_on_every_demo_target_and_needs_no_download() -> None:
    cells = named("systems")
    keys = {cell: TrainingKey.parse(cell.training) for cell in cells}
    assert all(str(key.teacher) == ("embedded" if key.recipe.networks else "none") for key in keys.values())
    demo = {t.name for t in targets_of("demo")}
    for system in {r.system for r in RECIPES.values()} - {"anomalib_model"}:  # which needs an extra
        assert {cell.target for cell, key in keys.items() if key.recipe.system == system} == demo, system
    assert len({cell.shared or cell for cell in cells}) < len(cells)  # maps of MKD share its training
    assert {c.training for c in cells if "official" in c.training} == {
        c.training for c in named("demo") if "official" in c.training
    }  # which the demo has trained already


@pytest.mark.parametrize("installed", [False, True])
def test_the_plan_of_systems_has_anomalib_s_models_where_they_can_be_trained(
    installed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plans, "anomalib_is_installed", lambda: installed)
    keys = [(cell.target, TrainingKey.parse(cell.training)) for cell in named("systems")]
    theirs = [(target, key) for target, key in keys if isinstance(key.recipe, AnomalibModel)]
    models = {r.model for r in RECIPES.values() if isinstance(r, AnomalibModel)}
    for target in (t.name for t in targets_of("demo")):
        assert sorted(key.recipe.model for at, key in theirs if at == target) == sorted(models if installed else ())
    assert all(key.recipe.side <= 128 and (key.epochs or 0) <= 20 for _, key in theirs)
    assert all(str(key.teacher) == ("embedded" if key.recipe.networks else "none") for _, key in theirs)
    assert any(not key.recipe.localises for _, key in theirs) == installed
    assert "anomalib" not in sys.modules


def test_the_paper_s_plan_fills_its_tables() -> None:
    assert [len(named(f"table_{n}")) for n in (1, 2, 3, 4)] == [5 * 2, 10 * 2, 3 * 3 * 3, 5 * 2]
    assert len(set(named("paper"))) == len(named("paper")) == 67
    assert {TrainingKey.parse(c.training).short_schedule for c in named("paper")} == {False}


def test_an_unknown_plan_lists_the_known_ones() -> None:
    with pytest.raises(UnknownName, match=r"unknown plan 'dema'.*demo"):
        named("dema")
