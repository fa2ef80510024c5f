"""The direction of imports, read from the code: rkd_pipeline <- resources <- assets <- rkd_pipeline/definitions.py."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FACES = {ROOT / "rkd_pipeline" / name for name in ("definitions.py", "cli.py")}


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imported(module: Path) -> Iterator[str]:
    """Every module imported anywhere in a file, inside functions too."""
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively; say where from"
            yield str(node.module)


def offences(files: list[Path], forbidden: set[str]) -> list[str]:
    return [
        f"{file.relative_to(ROOT)} imports {name}"
        for file in files
        for name in imported(file)
        if name.split(".")[0] in forbidden
    ]


def test_the_library_knows_neither_dagster_nor_mlflow_nor_what_is_built_on_it() -> None:
    library = [m for m in modules("rkd_pipeline") if m not in FACES]
    assert len(library) > 30
    assert not offences(library, {"dagster", "mlflow", "assets", "resources"})


def test_resources_do_not_know_assets_and_assets_do_not_know_mlflow() -> None:
    assert not offences(modules("resources"), {"assets"})
    assert not offences(modules("assets"), {"mlflow", "torch"})


@pytest.mark.parametrize("package", ["resources", "assets"])
def test_nobody_reaches_for_the_faces(package: str) -> None:
    reached = [
        n for m in modules(package) for n in imported(m) if n in ("rkd_pipeline.cli.main", "rkd_pipeline.definitions")
    ]
    assert not reached


def test_every_test_folder_of_the_library_mirrors_a_module() -> None:
    """A reader finds the tests of ``x.py`` in ``test_x.py``, or in a file named after its package."""
    names = {m.stem for m in modules("rkd_pipeline")} | {
        p.name for p in (ROOT / "rkd_pipeline").rglob("*") if p.is_dir()
    }
    named = {t.stem.removeprefix("test_") for t in (ROOT / "tests/library").glob("test_*.py")}
    assert named <= names | {"bad_input", "only_normal_images"}, f"no module of these names: {sorted(named - names)}"


def test_names_are_given_and_locks_are_taken_in_one_place() -> None:
    """A rename that nobody synced, or a lock that may turn into a soft one, is a fault that shows in no other test."""
    allowed = {
        "files.py": {"replace"},
        "store.py": {"rename"},  # out of the way; what takes its place is published
        "fetch.py": {"rename"},  # into the user's data folder, synced around it
        "download.py": {"replace"},  # a part becomes pooch's temporary file, which is hashed and synced
        "mlflow_mirror.py": {"replace"},  # a copy in MLflow's folder becomes a link to the same bytes
        "locks.py": {"FileLock"},
    }
    found = {
        (module.name, node.attr if isinstance(node, ast.Attribute) else node.id)
        for package in ("rkd_pipeline", "resources", "assets")
        for module in modules(package)
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8")))
        if (isinstance(node, ast.Attribute) and ast.unparse(node) in ("os.replace", "os.rename", "filelock.FileLock"))
        or (isinstance(node, ast.Name) and node.id == "FileLock")
    }
    assert found == {(name, call) for name, calls in allowed.items() for call in calls}
