"""The wheel: it holds every module and all package data, and it runs where nothing else of the repository is."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest
from setuptools import Distribution

ROOT = Path(__file__).parents[2]
PACKAGES = ("rkd_pipeline", "assets", "resources")
# What the code opens beside its modules; a file that is forgotten here is missing in the wheel alone.
DATA = {
    "rkd_pipeline/py.typed",
    "rkd_pipeline/models/embedded_teacher.safetensors",
    "rkd_pipeline/results/published_results.csv",
    *(f"rkd_pipeline/results/{page}.html.j2" for page in ("page", "parts", "report", "training")),
    "resources/dagster.yaml",
}


def in_the_source() -> set[str]:
    """Modules and data of the three packages; what Python has compiled is none of them."""
    files = (p for package in PACKAGES for p in (ROOT / package).rglob("*") if p.is_file())
    return {p.relative_to(ROOT).as_posix() for p in files if "__pycache__" not in p.parts}


def test_setuptools_would_pack_every_module_and_all_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    distribution = Distribution({"script_name": "setup.py"})  # there is none; setuptools would leave it out
    distribution.parse_config_files()
    distribution.include_package_data = False  # else it writes *.egg-info here, and believes an older one's list
    build = distribution.get_command_obj("build_py")
    build.ensure_finalized()
    modules = {Path(file).as_posix() for _, _, file in build.find_all_modules()}
    data = {Path(folder, name).as_posix() for _, folder, _, names in build.data_files for name in names}
    assert modules | data == in_the_source()
    assert data == DATA
    assert {name.split("/")[0] for name in modules} == set(PACKAGES)


def run(*command: object, cwd: Path, **environment: str) -> str:
    """A command's standard output; a failure shows everything that it printed."""
    # Nothing of this process's environment that could lend the wheel a module or a setting.
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "RKD_", "VIRTUAL_ENV"))}
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=kept | environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.slow
def test_the_wheel_runs_in_an_empty_environment(tmp_path: Path) -> None:
    uv = shutil.which("uv", path=str(Path(sys.executable).parent)) or shutil.which("uv")
    assert uv, "uv is not installed; `make setup` does it"
    # A copy: setuptools writes build/ and *.egg-info beside what it packs.
    source = tmp_path / "source"
    for package in PACKAGES:
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    run(uv, "build", "--quiet", "--wheel", "--out-dir", tmp_path / "dist", cwd=source)
    [wheel] = (tmp_path / "dist").glob("*.whl")
    assert wheel.name.endswith("-py3-none-any.whl")
    with ZipFile(wheel) as packed:
        assert {name for name in packed.namelist() if ".dist-info/" not in name} == in_the_source()

    away = tmp_path / "away"
    away.mkdir()
    run(uv, "venv", "--quiet", "--python", sys.executable, away / "venv", cwd=away)
    installed = away / "venv" / "bin"
    constraints = ROOT / "constraints.txt"
    run(uv, "pip", "install", "--quiet", "--python", installed / "python", "--constraint", constraints, wheel, cwd=away)

    for command in ("run", "status", "table"):
        assert command in run(installed / "rkd", "--help", cwd=away)
    assert "no trainings yet" in run(installed / "rkd", "status", cwd=away)
    assert "| **Carpet** | published | 95.6 / – |" in run(installed / "rkd", "table", "1", cwd=away)  # package data
    assert (away / "store" / "table_1" / "table_1.csv").is_file()
