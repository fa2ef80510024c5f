"""Pages under docs/ that are made from the code are as the code makes them now."""

import importlib.util
from pathlib import Path

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
