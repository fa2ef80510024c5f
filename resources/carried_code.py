"""The part of ``rkd_pipeline`` that a logged model carries, so that it loads where this repository is not installed.

Carried is what the scorer imports, what that imports, and so on: read from the code, so that nothing is forgotten when
a module moves. The packages that this code imports are the model's requirements.
"""

import ast
import importlib.metadata
import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import rkd_pipeline
from resources.mlflow_client import TrackingError

PACKAGE = rkd_pipeline.__name__
_ROOT = Path(rkd_pipeline.__file__).parent


def carried_files(scorer: Path, modules: Iterable[str]) -> list[Path]:
    """Files of ``rkd_pipeline`` that a scorer needs; ``modules`` are those that it imports by a computed name."""
    found: set[Path] = set()
    waiting = [*_own_files(scorer), *(file for name in modules for file in _files_of(name))]
    while waiting:
        file = waiting.pop()
        if file not in found:
            found.add(file)
            waiting += _own_files(file)
    return sorted(found)


def copy_code(files: Iterable[Path], folder: Path) -> Path:
    """Copy files of the package into ``folder``, as a package of the same name; returns that package's folder."""
    for file in files:
        copy = folder / PACKAGE / file.relative_to(_ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
    return folder / PACKAGE


def requirements(files: Iterable[Path]) -> list[str]:
    """What these files import from other packages, as ``name==version`` of this environment; MLflow adds itself.

    Raises ``TrackingError`` where one is not installed: the model was trained in another environment.
    """
    imported = {name.partition(".")[0] for file in files for name in _imports(file)}
    foreign = imported - set(sys.stdlib_module_names) - {PACKAGE, "mlflow"}
    packages = importlib.metadata.packages_distributions()
    if unknown := sorted(name for name in foreign if name not in packages):
        raise TrackingError(
            f"no installed package provides {', '.join(unknown)}, which the model's code imports, and MLflow would try "
            "it; mirror it from an environment like the one that it was trained in",
            passing=False,
        )
    names = {packages[name][0] for name in foreign}
    # What follows a + names a build, such as cu128, which a registry does not know.
    return sorted(f"{name.lower()}=={importlib.metadata.version(name).partition('+')[0]}" for name in names)


def _own_files(file: Path) -> list[Path]:
    return [found for name in _imports(file) for found in _files_of(name)]


def _files_of(module: str) -> list[Path]:
    """Files behind a dotted name of our package, with those of the packages around it; none for other packages."""
    first, *rest = module.split(".")
    if first != PACKAGE:
        return []
    found, place = [_ROOT / "__init__.py"], _ROOT
    for part in rest:
        place = place / part
        found.append(place / "__init__.py" if place.is_dir() else place.with_suffix(".py"))
    return [file for file in found if file.exists()]  # a name may be of a function inside the last module


def _imports(file: Path) -> Iterator[str]:
    """Dotted names that a file imports, also inside functions; not those for type checkers alone."""
    waiting: list[ast.AST] = [ast.parse(file.read_text(encoding="utf-8"))]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            waiting += node.orelse
            continue
        waiting += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
