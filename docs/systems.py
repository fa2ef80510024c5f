"""The table of docs/systems.md, made from the recipes: python docs/systems.py writes it anew."""

import re
from pathlib import Path

from rkd_pipeline.results.tables.recipe_sheet import recipe_sheet

PAGE = Path(__file__).with_name("systems.md")
_BLOCK = re.compile(r"(<!-- recipes -->\n).*(<!-- end of recipes -->)", re.DOTALL)


def redrawn(page: str) -> str:
    """The page with its table as the recipes are now."""
    table = recipe_sheet().markdown().strip()
    return _BLOCK.sub(lambda found: f"{found[1]}{table}\n{found[2]}", page)


if __name__ == "__main__":
    PAGE.write_text(redrawn(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
