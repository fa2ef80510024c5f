"""What is read from outside can carry data, not code; read from the source, so that nobody adds it in passing."""

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

from rkd_pipeline.cli.ui_commands import ui

ROOT = Path(__file__).parent.parent
SOURCES = [p for package in ("rkd_pipeline", "assets", "resources") for p in (ROOT / package).rglob("*.py")]
RUNS_WHAT_IT_READS = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}


def calls() -> Iterator[tuple[Path, str, dict[str | None, ast.expr]]]:
    """Every call by its dotted name, with its keywords."""
    for file in SOURCES:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                yield file, ast.unparse(node.func), {k.arg: k.value for k in node.keywords}


def test_weights_are_read_as_data() -> None:
    loads = [(file, given) for file, name, given in calls() if name == "torch.load"]
    assert loads, "the weights of a state dict are read somewhere"
    for file, given in loads:
        assert ast.unparse(given["weights_only"]) == "True", file
    assert not [file for file, name, given in calls() if name == "np.load" and "allow_pickle" in given]


def test_nothing_that_runs_what_it_reads_is_imported() -> None:
    for file in SOURCES:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            assert not {n.split(".")[0] for n in names} & RUNS_WHAT_IT_READS, file


def test_servers_are_for_this_machine_unless_told_otherwise() -> None:
    assert inspect.signature(ui).parameters["host"].default == "127.0.0.1"


def test_no_shell_reads_what_we_were_given() -> None:
    assert not [file for file, _, given in calls() if "shell" in given]
