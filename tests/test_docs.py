"""Pages under docs/ that are made from the code are as the code makes them now."""

import importlib.util
from pathlib import Path

from rkd_pipeline.recipes.named_recipes import RECIPES
from rkd_pipeline.recipes.variants import FACTORS
from rkd_pipeline.results.paper_claims import CLAIMS, SAME_LEVEL, SAME_ROTATED, SAME_SIZE

DOCS = Path(__file__).parent.parent / "docs"


def test_the_drawings_show_the_model_as_it_is() -> None:
    spec = importlib.util.spec_from_file_location("drawings", DOCS / "drawings.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page = (DOCS / "architecture.md").read_text(encoding="utf-8")
    assert module.redrawn(page) == page, "run python docs/drawings.py"
    assert page.count("256 × 56 × 56") >= 3


def test_the_page_of_the_ablation_has_every_factor_level_and_claim() -> None:
    page = (DOCS / "how-to" / "ablation.md").read_text(encoding="utf-8")
    for name, factor in FACTORS.items():
        [row] = [line for line in page.splitlines() if line.startswith(f"| `{name}` |")]
        assert all(f"`{level}`" in row for level in factor.levels), name
        assert not factor.only_on or all(arch in row for arch in factor.only_on)
    claims = page.partition("## The claims")[2]
    assert claims.count("\n| ") - 1 == len(CLAIMS)
    for margin in (SAME_SIZE, SAME_ROTATED):
        assert f"within {100 * margin:.0f} points" in claims
    assert f"above -{100 * SAME_LEVEL:.0f} point" in claims


def test_the_table_of_systems_is_the_recipes_own() -> None:
    spec = importlib.util.spec_from_file_location("systems", DOCS / "systems.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page = (DOCS / "systems.md").read_text(encoding="utf-8")
    assert module.redrawn(page) == page, "run python docs/systems.py"
    assert all(f"| {name} |" in page for name in RECIPES)
