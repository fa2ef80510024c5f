"""Benchmarks that run where little is installed, in a setting that takes seconds."""

import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torchvision.models import get_model
from torchvision.models import resnet as torchvisions

from rkd_pipeline.models.architectures import ARCHITECTURES

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
# What a bare machine lacks (filelock and jinja2 are there, since torch needs them). What is None cannot be imported.
BARE = """
import runpy, sys
absent = ("torchvision", "safetensors", "pydantic", "pydantic_settings", "psutil", "PIL", "tomlkit", "rich",
          "matplotlib", "tabulate", "pooch", "requests", "typer", "dagster", "mlflow")
sys.modules |= dict.fromkeys(absent)
sys.argv[:] = sys.argv[1:]
sys.path.insert(0, sys.argv[0].rpartition("/")[0])
runpy.run_path(sys.argv[0], run_name="__main__")
"""
TINY = ("--epochs", "1", "--images", "4", "--categories", "1", "--arch", "resnet18", "--side", "32", "--device", "cpu")


@pytest.fixture
def bare_resnet(monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import bare_resnet

    return bare_resnet


@pytest.mark.slow
def test_the_whole_of_a_dataset_runs_on_a_bare_machine() -> None:
    program = [sys.executable, "-c", BARE, str(BENCHMARKS / "gpu.py"), *TINY]
    done = subprocess.run(program, cwd=BENCHMARKS.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^mvtec_ad\.carpet +4 +4 ", done.stdout, re.MULTILINE)
    assert "1 categories, 1 epochs: " in done.stdout
    assert re.search(r"^share of the rate +[0-9.]+$", done.stdout, re.MULTILINE)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_its_resnets_have_torchvisions_parameters(name: str, bare_resnet: ModuleType) -> None:
    with torch.device("meta"):
        ours, theirs = bare_resnet.ResNet(ARCHITECTURES[name]), get_model(name)
    shapes = [[(k, v.shape) for k, v in network.state_dict().items()] for network in (ours, theirs)]
    assert shapes[0] == shapes[1]


def test_its_blocks_and_its_resnet_18_compute_what_torchvisions_do(bare_resnet: ModuleType) -> None:
    generator = torch.Generator().manual_seed(0)
    narrow, wide = torch.rand(2, 3, 32, 32, generator=generator), torch.rand(2, 64, 8, 8, generator=generator)
    torch.manual_seed(0)
    ours = bare_resnet.ResNet(ARCHITECTURES["resnet18"])
    torch.manual_seed(0)
    theirs = get_model("resnet18")
    assert all(torch.equal(v, theirs.state_dict()[k]) for k, v in ours.state_dict().items())
    pairs = [
        (ours, theirs, narrow),
        (bare_resnet.Bottleneck(64, 16, base_width=128), torchvisions.Bottleneck(64, 16, base_width=128), wide),
    ]
    for one, other, x in pairs:
        other.load_state_dict(one.state_dict())
        assert torch.equal(one.eval()(x), other.eval()(x))
