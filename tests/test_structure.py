"""How the house is built, read from the code: rkd_pipeline <- resources <- assets <- rkd_pipeline/definitions.py."""

import ast
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# A room imports itself and what stands above it here; docs/architecture.md says what each is for.
ROOMS = (
    "names",
    "errors",
    "addresses",
    "settings",
    "progress",
    "signals",
    "device",
    "store",
    "data",
    "models",
    "recipes",
    "metrics",
    "training",
    "detectors",
    "statistics",
    "results",
    "stages",
    "operations",
    "definitions",
    "cli",
)
FACES = ("definitions", "cli")  # where people and Dagster come in: these alone know Dagster


def room(module: str) -> str:
    """``store`` of ``rkd_pipeline.store.files``; empty for the package itself and for other packages."""
    package, _, rest = module.partition(".")
    return rest.split(".")[0] if package == "rkd_pipeline" else ""


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def dotted(module: Path) -> str:
    return ".".join(module.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported(module: Path) -> Iterator[str]:
    """Every module imported anywhere in a file, inside functions too."""
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively; say where from"
            # ``from package import module`` names the module, not only its package.
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            known = [n for n in names if (ROOT / f"{n.replace('.', '/')}.py").exists()]
            yield from known
            if len(known) < len(names):
                yield str(node.module)


def offences(files: list[Path], forbidden: set[str]) -> list[str]:
    return [
        f"{file.relative_to(ROOT)} imports {name}"
        for file in files
        for name in imported(file)
        if name.split(".")[0] in forbidden
    ]


def test_the_library_knows_neither_dagster_nor_mlflow_nor_what_is_built_on_it() -> None:
    library = [m for m in modules("rkd_pipeline") if room(dotted(m)) not in FACES]
    assert len(library) > 30
    assert not offences(library, {"dagster", "mlflow", "assets", "resources"})


def test_resources_do_not_know_assets_and_assets_do_not_know_mlflow() -> None:
    assert not offences(modules("resources"), {"assets"})
    assert not offences(modules("assets"), {"mlflow", "torch"})


def test_only_the_public_part_of_dagster_is_used() -> None:
    """A private module, such as those of dagster._core, may change with any version."""
    files = [m for package in ("rkd_pipeline", "resources", "assets", "tests") for m in modules(package)]
    used = {(file, name) for file in files for name in imported(file) if name.split(".")[0].startswith("dagster")}
    assert len(used) > 20
    assert not [f"{dotted(file)} imports {name}" for file, name in used if "._" in name]


def test_no_run_is_started_within_a_run() -> None:
    """Dagster knows nothing of such a run's place; sensors and the command start runs."""
    calls = [
        dotted(module)
        for package in ("resources", "assets")
        for module in modules(package)
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in ("execute_in_process", "materialize")
    ]
    assert calls == []


def test_a_room_imports_only_what_stands_above_it() -> None:
    found = {room(dotted(m)) for m in modules("rkd_pipeline")} - {""}
    assert found == set(ROOMS)  # every room is in the list, and the list names no room that is gone
    wrong = [
        f"{dotted(m)} imports {name}"
        for m in modules("rkd_pipeline")
        if room(dotted(m))
        for name in imported(m)
        if room(name) and ROOMS.index(room(name)) > ROOMS.index(room(dotted(m)))
    ]
    assert not wrong


def test_no_two_modules_end_in_the_same_name() -> None:
    """But for a stage and the asset that runs it: whoever hears a name finds one place."""
    places = defaultdict(list)
    for package in ("rkd_pipeline", "resources", "assets"):
        for module in modules(package):
            name = module.parent.name if module.stem == "__init__" else module.stem
            if name != "__main__":
                places[name].append(dotted(module))
    twins = {name: found for name, found in places.items() if len(found) > 1}
    assert all(sorted(found) == [f"assets.{name}", f"rkd_pipeline.stages.{name}"] for name, found in twins.items()), (
        twins
    )


@pytest.mark.parametrize("package", ["resources", "assets", "rkd_pipeline"])
def test_nobody_imports_the_command_line(package: str) -> None:
    reached = [dotted(m) for m in modules(package) if room(dotted(m)) != "cli" for n in imported(m) if room(n) == "cli"]
    assert not reached


def test_resources_and_assets_do_not_know_the_definitions() -> None:
    assert not [m for p in ("resources", "assets") for m in modules(p) if "rkd_pipeline.definitions" in imported(m)]


def test_every_test_folder_of_the_library_mirrors_a_module() -> None:
    """A reader finds the tests of ``x.py`` in ``test_x.py``, or in a file named after its package."""
    names = {m.stem for m in modules("rkd_pipeline")} | {
        p.name for p in (ROOT / "rkd_pipeline").rglob("*") if p.is_dir()
    }
    named = {t.stem.removeprefix("test_") for t in (ROOT / "tests/library").glob("test_*.py")}
    assert named <= names | {"bad_input", "only_normal_images", "without_maps"}, (
        f"no module of these names: {sorted(named - names)}"
    )


def test_names_are_given_and_locks_are_taken_in_one_place() -> None:
    """A rename that nobody synced, or a lock that may turn into a soft one, is a fault that shows in no other test."""
    allowed = {
        "files.py": {"replace"},
        "folder_place.py": {"rename"},  # out of the way; what takes its place is published
        "node_cache.py": {"rename", "replace"},  # copies, which are safe to lose
        "fetch.py": {"rename"},  # into the user's data folder, synced around it
        "transfer.py": {"replace"},  # a part becomes pooch's temporary file, which is hashed and synced
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


@pytest.mark.parametrize(
    ("module", "without"),
    [
        (
            "rkd_pipeline.operations.status",
            ("torch", "torchvision", "timm", "sklearn", "matplotlib", "mlflow", "dagster"),
        ),
        ("rkd_pipeline.definitions", ("torch", "torchvision", "timm", "mlflow")),
    ],
)
def test_looking_loads_nothing_that_takes_seconds(module: str, without: tuple[str, ...]) -> None:
    """Every command, and every process that Dagster starts, pays for what is imported at the top."""
    code = f"import sys, {module}; print(*sorted({set(without)!r} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"


def pins(file: str) -> dict[str, str]:
    """Package to version of a file of exact versions."""
    lines = (line.partition("#")[0].strip() for line in (ROOT / file).read_text(encoding="utf-8").splitlines())
    return dict(line.split("==") for line in lines if line)


def test_what_benchmarks_compare_with_is_of_the_versions_that_the_project_has() -> None:
    """Two files of exact versions: only peers that the project does not have may be in one alone."""
    ours, theirs = pins("constraints.txt"), pins("benchmarks/requirements.txt")
    assert {n: v for n, v in theirs.items() if ours.get(n, v) != v} == {}
    assert set(theirs) - set(ours) == {"adeval", "opencv-python"}
