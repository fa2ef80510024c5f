import pandas as pd

from rkd_pipeline.recipes.named_recipes import RECIPES
from rkd_pipeline.results.comparison import REPEATS, with_published

METRICS = pd.DataFrame(
    [
        ("image_auroc", "map_max", 0.90, 0.85, 0.95),
        ("image_auroc", "l_kd", 0.99, 0.98, 1.0),
        ("pixel_auroc", "map", 0.96, 0.95, 0.97),
        ("aupimo", "map", 0.5, 0.4, 0.6),
    ],
    columns=["metric", "score_rule", "value", "ci_low", "ci_high"],
)


def test_the_number_of_the_system_that_the_recipe_repeats_stands_beside() -> None:
    compared, same = with_published("mvtec_ad.screw", "rkd-official-s0", METRICS)
    found = compared.set_index("metric")
    assert found["published"].to_dict() == {"image_auroc": 0.97, "pixel_auroc": 0.996}
    assert found.loc["image_auroc", "value"] == 0.90  # of the map's maximum, as in the literature
    assert same


def test_another_teacher_or_a_short_schedule_is_another_experiment() -> None:
    for training in ("rkd-official@resnet18-s0", "rkd-official~10e-s0"):
        compared, same = with_published("mvtec_ad.screw", training, METRICS)
        assert len(compared) == 2
        assert not same


def test_what_nobody_published_is_compared_with_nothing() -> None:
    assert with_published("demo.weave", "rkd-official-s0", METRICS)[0].empty
    assert with_published("mvtec_ad.screw", "rkd-mkd-mean-s0", METRICS)[0].empty
    assert set(REPEATS) <= set(RECIPES)
