"""Pages under docs/ that are made from the code are as the code makes them now."""

import ast
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rkd_pipeline.recipes.named_recipes import RECIPES
from rkd_pipeline.recipes.variants import FACTORS
from rkd_pipeline.results.paper_claims import CLAIMS, SAME_LEVEL, SAME_ROTATED, SAME_SIZE
from rkd_pipeline.store.stage_versions import STAGES

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
ADDING = sorted((DOCS / "how-to").glob("add-a-*.md"))


def redrawn(script: str, page: str) -> str:
    """The page as the script beside it would leave it."""
    spec = importlib.util.spec_from_file_location(script, DOCS / f"{script}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return str(module.redrawn(page))


def test_the_drawings_show_the_model_as_it_is() -> None:
    page = (DOCS / "architecture.md").read_text(encoding="utf-8")
    assert redrawn("drawings", page) == page, "run python docs/drawings.py"
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
    page = (DOCS / "systems.md").read_text(encoding="utf-8")
    assert redrawn("systems", page) == page, "run python docs/systems.py"
    assert all(f"| {name} |" in page for name in RECIPES)


def test_the_tables_of_results_are_those_of_the_files() -> None:
    page = (DOCS / "results.md").read_text(encoding="utf-8")
    assert redrawn("results", page) == page, "run python docs/results.py"
    assert page.count("\n| ") > 80


def test_every_training_on_record_says_what_it_was_made_of() -> None:
    for folder in sorted(p for p in (DOCS / "results").iterdir() if p.is_dir()):
        trainings = pd.read_csv(folder / "trainings.csv")
        measured = pd.read_parquet(folder / "benchmark.parquet")[
            ["target", "training", "computed_on"]
        ].drop_duplicates()
        histories = pd.read_parquet(folder / "histories.parquet")
        same = ["target", "training"]
        assert sorted(trainings[same].itertuples(index=False)) == sorted(measured[same].itertuples(index=False))
        assert not measured[same].duplicated().any()
        assert trainings["weights_sha256"].str.fullmatch("[0-9a-f]{64}").all()
        assert trainings["device"].notna().all()
        epochs = trainings.set_index(same)["epochs_trained"]
        lengths = histories.groupby(same).size().reindex(epochs.index, fill_value=0)  # in one pass: no epochs
        assert (epochs == lengths).all()


def in_backticks(text: str) -> list[str]:
    return re.findall(r"`([^`\n]+)`", text)


def without_code(page: str) -> str:
    return re.sub(r"^ *```.*?^ *```$", "", page, flags=re.DOTALL | re.MULTILINE)


def code_blocks(page: str) -> list[str]:
    return re.findall(r"^ *```python\n(.*?)^ *```$", page, flags=re.DOTALL | re.MULTILINE)


def broken_links(page: Path) -> Iterator[str]:
    for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if "://" not in link and not (page.parent / link).exists():
            yield f"{page.relative_to(ROOT)}: {link}"


def test_every_link_leads_somewhere() -> None:
    assert not [broken for page in PAGES for broken in broken_links(page)]


@pytest.mark.parametrize("page", [p for p in PAGES if p.name != "architecture.md"], ids=lambda p: str(p.name))
def test_every_file_that_a_page_names_exists(page: Path) -> None:
    """Paths start at the repository's root, or within the library; a how-to may also name what its reader adds."""
    text = page.read_text(encoding="utf-8")
    named = {n for n in in_backticks(without_code(text)) if re.fullmatch(r"[\w./-]+/[\w.-]+\.(py|csv|md|j2)", n)}
    rooms = {room.name for room in (ROOT / "rkd_pipeline").iterdir() if room.is_dir()}
    ours = {n for n in named if n.split("/")[0] in {"rkd_pipeline", "assets", "resources", "tests", "docs", *rooms}}
    added = {n for n in ours if (page in ADDING and f"Write `{n}`" in text) or n == "tests/library/test_mean_image.py"}
    assert not {n for n in ours - added if not any((base / n).is_file() for base in (ROOT, ROOT / "rkd_pipeline"))}


def test_there_is_a_page_for_each_thing_that_people_add() -> None:
    assert [p.stem for p in ADDING] == ["add-a-dataset-layout", "add-a-metric", "add-a-system", "add-a-table"]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert all(f"docs/how-to/{page.name}" in readme for page in [*ADDING, DOCS / "how-to" / "upgrade.md"])


@pytest.mark.parametrize("page", ADDING, ids=lambda p: str(p.stem))
def test_every_name_in_a_step_is_in_a_file_that_the_step_names(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    code = "".join(code_blocks(text))
    steps = re.split(r"^(?=\d+\. )", without_code(text), flags=re.MULTILINE)[1:]
    assert len(steps) >= 4
    for step in steps:
        names = in_backticks(step.partition("\nThen:")[0])
        files = [ROOT / n for n in names if (ROOT / n).is_file()]
        source = "".join(f.read_text(encoding="utf-8") for f in files)
        for name in (n for n in names if re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", n)):
            places = source + code
            assert all(re.search(rf"\b{re.escape(part)}\b", places) for part in name.split(".")), f"{name} in: {step}"


@pytest.mark.parametrize("page", ADDING, ids=lambda p: str(p.stem))
def test_what_a_page_imports_exists(page: Path) -> None:
    blocks = [re.sub(r"^   ", "", block, flags=re.MULTILINE) for block in code_blocks(page.read_text(encoding="utf-8"))]
    trees = [ast.parse(block.strip().rstrip(",")) for block in blocks]
    assert trees
    defined = {n.name for tree in trees for n in ast.walk(tree) if isinstance(n, ast.ClassDef | ast.FunctionDef)}
    for node in (n for tree in trees for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)):
        if str(node.module).startswith("rkd_pipeline"):
            module = importlib.import_module(str(node.module))
            assert all(hasattr(module, alias.name) or alias.name in defined for alias in node.names), ast.unparse(node)


def test_the_example_metric_is_right() -> None:
    """Against counting, threshold by threshold, with ties."""
    page = (DOCS / "how-to" / "add-a-metric.md").read_text(encoding="utf-8")
    space: dict[str, Any] = {}
    exec(re.sub(r"^   ", "", code_blocks(page)[0], flags=re.MULTILINE), space)
    rng = np.random.default_rng(0)
    for _ in range(50):
        labels, scores = np.r_[True, False, rng.random(40) < 0.5], rng.integers(0, 8, 42) / 8
        found = [t for t in np.unique(scores) if (scores[labels] >= t).mean() >= 0.95]
        assert space["image_fpr_95"](labels, scores) == (scores[~labels] >= max(found)).mean()


def test_the_page_of_upgrades_names_every_stage_once() -> None:
    section = (DOCS / "how-to" / "upgrade.md").read_text(encoding="utf-8").partition("## From 0.1 to 0.2")[2]
    made_again, _, rest = section.partition("Why:")
    stays = rest.partition("same version as before")[0]
    assert "`table_1` to `table_4`" in made_again
    named = in_backticks(made_again) + ["table_2", "table_3"] + [n for n in in_backticks(stays) if n in STAGES]
    assert sorted(named) == sorted(STAGES)
