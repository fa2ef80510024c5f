"""The command line without a store: what it accepts, refuses and exports, and how it ends."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pandas as pd
import pytest
import typer

from rkd_pipeline.cli import terminal
from rkd_pipeline.cli.main import app, main
from rkd_pipeline.data.catalog import Kind
from rkd_pipeline.data.user_targets import LAYOUTS
from rkd_pipeline.operations import status
from rkd_pipeline.recipes.plans import PLANS
from rkd_pipeline.signals import Interrupted

RKD: Any = typer.main.get_command(app)


@pytest.fixture(autouse=True)
def _environment_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RKD_STORE", "RKD_DATA", "RKD_ARCHIVES", "RKD_DOWNLOAD"):
        monkeypatch.setenv(name, "")


def commands(group: Any = RKD, path: str = "") -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{path}{name} ")
        else:
            yield path + name, command


def options() -> dict[tuple[str, str], Any]:
    return {(path, p.opts[0]): p for path, c in commands() for p in c.params if p.opts[0].startswith("--")}


def test_every_option_has_a_variable_of_its_own_meaning() -> None:
    found = {where: option.envvar for where, option in options().items()}
    assert len(found) > 80
    assert not [where for where, variable in found.items() if not str(variable).startswith("RKD_")]
    shared = {"--store", "--data", "--archives", "--download"}
    own = [variable for (_, option), variable in found.items() if option not in shared]
    assert len(own) == len(set(own))
    assert all(variable == f"RKD_{option[2:].upper()}" for (_, option), variable in found.items() if option in shared)


def test_variables_that_people_have_set_for_long_keep_their_names() -> None:
    names = "targets recipes seeds teacher weights epochs device skip-bad"
    found = options()
    assert all(found["run", f"--{n}"].envvar == f"RKD_{n.replace('-', '_').upper()}" for n in names.split())
    again = {o: found["rebenchmark", o].envvar for o in ("--plan", "--seeds", "--new-draws")}
    assert again == {
        "--plan": "RKD_REBENCHMARK_PLAN",
        "--seeds": "RKD_REBENCHMARK_SEEDS",
        "--new-draws": "RKD_REBENCHMARK_NEW_DRAWS",
    }


def test_names_in_the_help_are_those_that_the_library_knows() -> None:
    def shown(path: str, option: str) -> set[str]:
        command = dict(commands())[path]
        after = command.get_help(typer.Context(command)).split(option)[1].strip()
        return set(after[1 : after.index("]" if after[0] == "[" else ">")].split("|"))

    assert shown("add-target", "--layout") == set(LAYOUTS)
    assert shown("add-target", "--kind") == set(get_args(Kind))
    assert shown("run", "--plan") == set(PLANS)


@pytest.mark.parametrize(
    ("given", "ignored"),
    [
        (["--targets", "demo.weave"], "--targets"),
        (["--recipes", "rkd"], "--recipes"),  # the default, but somebody said it
        (["--seeds", "0,1"], "--seeds"),
        (["--teacher", "resnet18"], "--teacher"),
        (["--weights", "random"], "--weights"),
        (["--epochs", "3"], "--epochs"),
        (["--ablation"], "--ablation"),
        (["--epochs", "3", "--seeds", "1"], "--seeds and --epochs"),
    ],
)
def test_what_a_plan_would_ignore_is_refused(
    given: list[str], ignored: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "--plan", "demo", *given]) == 2
    assert f"--plan says what is trained, so {ignored} would be ignored" in capsys.readouterr().err


def test_what_a_plan_would_ignore_is_refused_from_the_environment_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RKD_RECIPES", "mkd")
    assert main(["run", "--plan", "demo"]) == 2
    assert "RKD_RECIPES (in the environment) would be ignored" in capsys.readouterr().err
    monkeypatch.delenv("RKD_RECIPES")
    monkeypatch.setenv("RKD_PLAN", "demo")
    assert main(["run", "--targets", "demo.weave"]) == 2
    assert "RKD_PLAN (in the environment) says what is trained, so --targets" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["run", "--plan", "nope"], "'nope' is none of ablation, demo, paper"),
        (["run", "--targets", "x", "--interactions", "loss*stop"], "give both, or neither"),
        (["rebenchmark", "--new-reference", "moved", "--seeds", "3"], "--seeds would be ignored"),
        (["predict", "x.png", "--target", "x", "--threshold", "nan"], "nan is no threshold"),
        (["run", "--targets", "x", "--epochs", "many"], "--epochs"),
        (["table", "7"], "'7' is not one of '1', '2', '3', '4', 'demo'"),
        (["nope"], "No such command 'nope'"),
        (["champion", "force", "x", "y"], "--why"),
    ],
)
def test_wrong_usage_is_two(given: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(given) == 2
    said = capsys.readouterr()
    assert says in said.err
    assert said.out == ""


def test_a_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("RKD_DEVICE", "gpu")
    assert main(["run", "--targets", "demo.weave"]) == 2
    said = capsys.readouterr().err
    assert "RKD_DEVICE" in said
    assert "'gpu' is not one of 'auto', 'cpu', 'cuda'" in said


@pytest.mark.parametrize(("number", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_command_that_a_signal_ends_says_so(
    number: signal.Signals, expected: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(store: object) -> None:
        raise Interrupted(number)

    monkeypatch.setattr(status, "training_states", interrupted)
    assert main(["status"]) == expected
    assert capsys.readouterr().err == f"\nrkd: ended by {number.name}; the same command goes on from here\n"


def test_the_old_name_of_rotated_is_accepted() -> None:
    for name in ("--rotated", "--turned"):
        assert RKD.commands["run"].make_context("run", [name, "--plan", "demo"]).params["rotated"] is True
    assert RKD.commands["run"].make_context("run", ["--plan", "demo"]).params["rotated"] is False


def test_places_become_the_environment_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["status", "--store", "there", "--archives", "zips", "--download"]) == 0
    assert os.environ["RKD_STORE"] == str(tmp_path / "there")
    assert os.environ["RKD_DATA"] == str(tmp_path / "data")
    assert os.environ["RKD_ARCHIVES"] == str(tmp_path / "zips")
    assert os.environ["RKD_DOWNLOAD"] == "1"


def test_help_and_completion_need_nothing_that_takes_long(tmp_path: Path) -> None:
    heavy = {"torch", "dagster", "mlflow", "pandas", "numpy", "scipy", "matplotlib"}
    code = f"""if True:
        import sys
        from rkd_pipeline.cli.main import main
        main(["run", "--help"])
        print({heavy} & {{*sys.modules}})
    """
    asked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "RKD_TARGETS" in asked.stdout
    assert asked.stdout.splitlines()[-1] == "set()"


@pytest.mark.parametrize(
    ("words", "expected"), [("rkd ru", "run"), ("rkd run --plan ta", "table_1"), ("rkd data ", "card")]
)
def test_completion_offers_commands_and_plans(words: str, expected: str) -> None:
    asked = subprocess.run(
        [sys.executable, "-m", "rkd_pipeline.cli"],
        env=os.environ
        | {"_RKD_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split(" ")) - 1)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert expected in asked.stdout.split()


ROWS = pd.DataFrame({"target": ["demo.weave", "样品"], "training": ["rkd@embedded~16e-s0" * 6, "x"], "n": [3, 12]})


def test_a_table_in_a_pipe_has_whole_rows(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    terminal.print_table(ROWS)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert [cell.strip() for cell in lines[2].strip("|").split("|")] == ["demo.weave", "rkd@embedded~16e-s0" * 6, "3"]


@pytest.mark.parametrize("columns", [40, 80])
def test_a_table_on_a_terminal_fits_and_loses_nothing(
    columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(terminal, "is_terminal", lambda stream: True)
    terminal.print_table(ROWS)
    text = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    assert max(map(len, text.splitlines())) <= columns
    for letter in "@~":
        assert text.count(letter) == 6
