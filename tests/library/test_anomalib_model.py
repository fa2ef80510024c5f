"""What of the adapter over anomalib needs no anomalib; what does is in tests/anomalib."""

import json
import random
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.utils import check_random_state
from torch import nn

from rkd_pipeline.detectors import system_of
from rkd_pipeline.detectors.anomalib_model import CflowMaps, kept_tensors
from rkd_pipeline.detectors.anomalib_trainer import Batches, Schedule, StubTrainer, normalised, optimisers_of, seeded
from rkd_pipeline.detectors.fit import fit
from rkd_pipeline.device import Compute
from rkd_pipeline.errors import BadKey, RkdError
from rkd_pipeline.models.teacher_files import TeacherName, TeacherRegistry
from rkd_pipeline.models.weights import load_weights
from rkd_pipeline.recipes.anomalib_recipes import UNFIT, AnomalibModel, AnomalibTrained
from rkd_pipeline.recipes.named_recipes import RECIPES
from rkd_pipeline.recipes.recipe import EarlyStopping
from rkd_pipeline.recipes.training_key import TrainingKey

OURS = [r for r in RECIPES.values() if isinstance(r, AnomalibModel)]
CPU = torch.device("cpu")


def test_recipes_are_listed_and_read_without_anomalib() -> None:
    assert len({r.model for r in OURS}) == 12
    assert not {r.model for r in OURS} & set(UNFIT)
    assert "anomalib" not in sys.modules
    key = TrainingKey.parse("anomalib-stfpm-brief@embedded~2e-s1")
    assert (key.epochs, str(key)) == (2, "anomalib-stfpm-brief@embedded~2e-s1")
    with pytest.raises(BadKey, match="learns in one pass"):
        TrainingKey.parse("anomalib-padim~2e-s0")
    with pytest.raises(BadKey, match="takes resnet18, wide_resnet50_2 as a teacher, not resnet50"):
        TrainingKey.parse("anomalib-uflow@resnet50-s0")
    with pytest.raises(BadKey, match="has no teacher, not resnet18"):
        TrainingKey.parse("anomalib-ganomaly@resnet18-s0")


def test_arguments_within_arguments_survive_provenance() -> None:
    settings = RECIPES["anomalib-cflow"].settings()
    assert settings["arguments"] == [["layers", ["layer2", "layer3"]]]
    assert json.loads(json.dumps(settings)) == settings
    assert "learning_rate" not in settings


@pytest.mark.parametrize("name", ["anomalib-padim-brief", "anomalib-stfpm-brief"])
def test_without_anomalib_the_error_names_the_fix(
    name: str, images: np.ndarray, cpu: Compute, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "anomalib", None)
    recipe = RECIPES[name]
    weights = load_weights(TeacherRegistry(Path("none")), TeacherName("resnet18", "random"))
    teacher = system_of(recipe).teacher(weights, recipe)
    with pytest.raises(RkdError, match=re.escape("pip install --constraint constraints.txt '.[anomalib]'")):
        fit(recipe, teacher, images, None, epochs=recipe.epochs, seed=0, compute=cpu, checkpoint=tmp_path / "c",
            identity="test")  # fmt: skip


def test_a_model_that_is_none_here_says_why(images: np.ndarray, cpu: Compute, tmp_path: Path) -> None:
    recipe = AnomalibModel("x", "s", "p", "c", "d", model="WinClip")
    teacher = system_of(recipe).teacher(load_weights(TeacherRegistry(Path("none")), TeacherName("none")), recipe)
    with pytest.raises(RkdError, match="WinClip cannot be a system here: it needs CLIP"):
        fit(recipe, teacher, images, None, epochs=None, seed=0, compute=cpu, checkpoint=tmp_path / "c", identity="t")


def test_what_a_model_keeps_is_found_in_lists_of_all_its_parts_once() -> None:
    inner, outer = nn.Linear(2, 2), nn.Module()
    outer.inner, outer.stores = inner, [[torch.zeros(3)], [torch.zeros(4), torch.zeros(5)]]
    inner.kept, inner.names, outer.shared = [torch.zeros(2)], ["layer1"], outer.stores[0]
    assert sorted(len(t) for t in kept_tensors(outer)) == [2, 3, 4, 5]


def test_seeds_are_given_to_all_generators_and_taken_back() -> None:
    def draw() -> list[float]:
        return [float(torch.rand(())), check_random_state(None).random_sample(), random.random()]

    torch.manual_seed(1)
    with seeded(7, CPU):
        first = draw()
    after = draw()
    torch.manual_seed(1)
    with seeded(7, CPU):
        assert draw() == first
    assert float(torch.rand(())) == after[0]
    assert draw()[1:] != first[1:]


def test_images_are_normalised_as_imagenets_and_contiguous() -> None:
    images = np.zeros((2, 4, 4, 3), np.uint8)
    images[..., 1] = 255
    found = normalised(images, CPU)
    assert found.is_contiguous()
    np.testing.assert_allclose(found[1, :, 2, 3], [-0.485 / 0.229, (1 - 0.456) / 0.224, -0.406 / 0.225], rtol=1e-6)


def test_the_stub_trainer_gives_all_images_in_their_order(images: np.ndarray) -> None:
    trainer = StubTrainer(Batches(images, 5, CPU), epochs=4)
    sizes = [len(batch.image) for batch in trainer.datamodule.train_dataloader()]
    assert sizes == [len(batch.image) for batch in trainer.train_dataloader] == [5, 5, 2]
    assert trainer.estimated_stepping_batches == 12


def test_optimisers_are_found_in_every_form_and_schedules_replayed() -> None:
    weight = nn.Parameter(torch.zeros(1))

    class Model:
        def __init__(self, form: int) -> None:
            self.form = form

        def configure_optimizers(self) -> object:
            sgd = torch.optim.SGD([weight], lr=1.0)
            decay = torch.optim.lr_scheduler.StepLR(sgd, 1, gamma=0.5)
            return (
                sgd,
                [sgd, sgd],
                ([sgd], [decay]),
                {"optimizer": sgd, "lr_scheduler": {"scheduler": decay, "interval": "step"}},
            )[self.form]

    found = [optimisers_of(Model(form)) for form in range(4)]
    assert [(len(o), [s.each_step for s in schedules]) for o, schedules in found] == [
        (1, []), (2, []), (1, [False]), (1, [True]),
    ]  # fmt: skip
    [sgd], [schedule] = found[2]
    sgd.step()
    assert isinstance(schedule, Schedule)
    schedule.advance(3)
    schedule.advance(3)
    assert sgd.param_groups[0]["lr"] == 0.125


def test_maps_of_cflow_do_not_depend_on_the_batch() -> None:
    """Against the formula, written out: K - sum_k exp(l_k - highest_k), one layer of the image's size."""
    maps = CflowMaps(1)
    maps.learns = True
    seen = torch.rand(3 * 4 * 4) + 1
    maps([seen], [4], [4], (4, 4))
    maps.learns = False
    assert float(maps.highest) == float(seen.max())
    values = torch.rand(2 * 4 * 4)
    found = maps([values], [4], [4], (4, 4))
    np.testing.assert_allclose(found, 1 - np.exp(values.numpy() - float(seen.max())).reshape(2, 4, 4), rtol=1e-5)
    assert torch.equal(maps([values[:16]], [4], [4], (4, 4)), found[:1])


def test_early_stopping_is_refused(images: np.ndarray, cpu: Compute, tmp_path: Path) -> None:
    recipe = AnomalibTrained("x", "s", "p", "c", "d", model="Stfpm", early_stopping=EarlyStopping())
    with pytest.raises(RkdError, match="no loss of held-out images"):
        fit(recipe, nn.Identity(), images[:9], images[9:], epochs=1, seed=0, compute=cpu,
            checkpoint=tmp_path / "c", identity="a test")  # fmt: skip


def test_the_page_says_of_every_model_whether_it_runs() -> None:
    page = (Path(__file__).parents[2] / "docs" / "systems.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (runs|needs|does not fit)", page, re.MULTILINE)
    assert len(rows) == len(dict(rows)) == 33
    assert {name for name, how in rows if how == "does not fit"} == set(UNFIT)
    assert {r.model for r in OURS} <= {name for name, how in rows if how == "runs"}
