import pytest

from rkd_pipeline.catalog import targets_of
from rkd_pipeline.errors import UnknownName
from rkd_pipeline.plan import DEMO_EPOCHS, named
from rkd_pipeline.training_key import TrainingKey


def test_the_demo_plan_needs_no_download_and_covers_every_demo_target() -> None:
    cells = named("demo")
    keys = {cell.training: TrainingKey.parse(cell.training) for cell in cells}
    assert {str(key.teacher) for key in keys.values()} == {"embedded"}
    official = f"rkd-official@embedded~{DEMO_EPOCHS}e-s0"
    assert [c.target for c in cells if c.training == official] == [t.name for t in targets_of("demo")]
    assert [keys[c.training].recipe.name for c in cells if c.training != official] == ["rkd-mkd-es"]


def test_an_unknown_plan_lists_the_known_ones() -> None:
    with pytest.raises(UnknownName, match=r"unknown plan 'dema'.*demo"):
        named("dema")
