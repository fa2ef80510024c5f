import pytest
from hypothesis import given
from hypothesis import strategies as st

from rkd_pipeline.errors import BadKey, RkdError, UnknownName
from rkd_pipeline.recipes.lookup import recipe
from rkd_pipeline.recipes.named_recipes import RECIPES
from rkd_pipeline.recipes.recipe import EarlyStopping, ReverseKD
from rkd_pipeline.recipes.training_key import TrainingKey
from rkd_pipeline.recipes.variants import FACTORS, changed, is_variant, levels_of, variant

# Of factors that no ablation trains.
OTHERS = {"rate": ("0.001",), "schedule": ("constant", "cosine"), "shots": ("8", "all")}
levels = st.fixed_dictionaries({}, optional={n: st.sampled_from(f.levels or OTHERS[n]) for n, f in FACTORS.items()})

# Recipes that factors lead from one to another; the fusion of maps is scoring, a calibration part is no factor.
FAMILY = sorted(r.name for r in RECIPES.values() if isinstance(r, ReverseKD) and r.fusion == "sum" and not r.calibrates)


@given(base=st.sampled_from(FAMILY), wanted=levels)
def test_every_change_has_one_name_and_the_name_says_it(base: str, wanted: dict[str, str]) -> None:
    try:
        made = changed(recipe(base), wanted)
    except BadKey:
        assert {"val", "lambda"} & wanted.keys()  # which need loss=mkd
        return
    assert recipe(made.name) == made
    assert TrainingKey.parse(f"{made.name}-s0").recipe == made
    found = levels_of(made)
    assert all(found[name] == level for name, level in wanted.items())
    # Whatever recipe one starts from, equal settings end at the same name.
    again = [changed(r, _meaningful(found)) for r in map(recipe, FAMILY)]
    assert {r.name for r in again} == {made.name}


def _meaningful(found: dict[str, str]) -> dict[str, str]:
    return found if found["loss"] == "mkd" else {k: v for k, v in found.items() if k not in ("val", "lambda")}


@pytest.mark.parametrize(
    ("spelled", "name"),
    [
        ("rkd+loss=mkd", "rkd-mkd"),
        ("rkd+stop=15", "rkd-es"),
        ("rkd+batch=16+beta2=0.999", "rkd+beta2=0.999+batch=16"),
        ("rkd-mkd-mean+loss=kd", "rkd"),
        ("rkd-official+loss=kd+beta2=0.99+batch=32", "rkd+oce=wide+side=256"),
    ],
)
def test_two_spellings_meet_in_one_name(spelled: str, name: str) -> None:
    assert variant(spelled).name == name
    with pytest.raises(BadKey, match=f"its one key is {name.replace('+', '.')}-s0"):
        TrainingKey.parse(f"{spelled}-s0")


def test_a_variant_changes_what_it_names_and_nothing_else() -> None:
    made = recipe("rkd+beta2=0.999+batch=16+side=256+stop=3")
    assert (made.betas, made.batch_size, made.side) == ((0.5, 0.999), 16, 256)
    assert made.early_stopping == EarlyStopping(3)
    same = {
        k: v for k, v in made.settings().items() if k not in ("name", "betas", "batch_size", "side", "early_stopping")
    }
    assert same.items() <= RECIPES["rkd"].settings().items()
    assert recipe("rkd-mkd+lambda=0.5").settings()["lambda_"] == 0.5
    assert is_variant(made.name)
    assert not is_variant("rkd-mkd-es")


def test_a_recipe_without_a_fixed_lambda_has_the_settings_of_before() -> None:
    """Otherwise every model that was trained before lambda could be fixed would be stale."""
    assert all("lambda_" not in recipe(name).settings() for name in FAMILY)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("rkd+betta=1", "unknown factor 'betta'; known: batch, beta2"),
        ("nope+beta2=0.9", "unknown recipe 'nope'"),
        ("rkd+beta2", "beta2 is a number above 0 and below 1"),
        ("rkd+beta2=1", "beta2 is a number above 0 and below 1"),
        ("rkd+beta2=.9", "beta2 is a number"),
        ("rkd+beta2=nan", "beta2 is a number"),
        ("rkd+batch=1", "batch is a whole number from 2"),
        ("rkd+batch=016", "batch is a whole number"),
        ("rkd+side=250", "side is a multiple of 32"),
        ("rkd+stop=0", "stop is a whole number from 1"),
        ("rkd+loss=l2", "loss is one of kd, kd_flat, mkd"),
        ("rkd+lambda=0.5", "lambda=0.5 changes nothing without loss=mkd"),
        ("rkd-mkd+lambda=-1", "lambda is a number above 0"),
        ("rkd+batch=16+batch=8", "names a factor twice"),
        ("rkd+", "unknown factor ''"),
    ],
)
def test_a_bad_name_says_what_is_wrong(name: str, says: str) -> None:
    with pytest.raises(RkdError, match=says):
        recipe(name)


def test_a_factor_says_where_it_does_not_exist() -> None:
    assert FACTORS["oce"].absent_on("wide_resnet50_2") is None
    assert FACTORS["oce"].absent_on("resnet18") == (
        "not measurable with resnet18: its levels differ only for wide_resnet50_2, resnet34"
    )
    assert all(f.absent_on("resnet18") is None for name, f in FACTORS.items() if name != "oce")
    with pytest.raises(UnknownName):
        FACTORS["oce"].absent_on("vgg16")


def test_a_variant_of_a_calibrating_recipe_calibrates() -> None:
    made = recipe("rkd-cal+beta2=0.999")
    assert made.calibrates
    assert made.name == "rkd-cal+beta2=0.999"
    assert recipe("rkd-cal+stop=15").name == "rkd-es-cal"
