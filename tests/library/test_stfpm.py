from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torchvision.models import resnet18

from rkd_pipeline.detectors import system_of
from rkd_pipeline.detectors.fit import fit
from rkd_pipeline.detectors.stfpm import STFPMDetector, loss, squared_distances
from rkd_pipeline.device import Compute
from rkd_pipeline.models.teacher_files import TeacherName, TeacherRegistry
from rkd_pipeline.models.twin import new_twin
from rkd_pipeline.models.weights import TeacherWeights, load_weights
from rkd_pipeline.recipes.distillation_recipes import STFPM
from rkd_pipeline.recipes.named_recipes import RECIPES
from rkd_pipeline.training.loop import Epoch, TrainedStudent

_OFFICIAL = RECIPES["stfpm"]
assert isinstance(_OFFICIAL, STFPM)
SMALL = replace(_OFFICIAL, batch_size=4, early_stopping=None)


@pytest.fixture(scope="module")
def weights() -> TeacherWeights:
    return load_weights(TeacherRegistry(Path("none")), TeacherName("resnet18", "random"))


@pytest.fixture
def small(images: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(images[:6, ::2, ::2])  # (6, 32, 32, 3)


@pytest.fixture
def run(weights: TeacherWeights, small: np.ndarray, cpu: Compute, tmp_path: Path) -> Callable[..., TrainedStudent]:
    def call(epochs: int = 2, recipe: STFPM = SMALL, **more: object) -> TrainedStudent:
        source = system_of(recipe).teacher(weights, recipe)
        given = {"seed": 0, "compute": cpu, "checkpoint": tmp_path / "c", "identity": "test"} | more
        return fit(recipe, source, small, None, epochs=epochs, **given)

    return call


@pytest.fixture
def detector(weights: TeacherWeights) -> STFPMDetector:
    system = system_of(SMALL)
    made = system.detector(
        SMALL, system.teacher(weights, SMALL), new_twin("resnet18", 1).state_dict(), 0.0, torch.device("cpu")
    )
    assert isinstance(made, STFPMDetector)
    return made


def test_the_loss_by_hand() -> None:
    """Two positions: (3, 4) and (4, 3), then (1, 0) and (0, 2), brought to length 1."""
    a = torch.tensor([[3.0, 1.0], [4.0, 0.0]]).view(1, 2, 1, 2)
    b = torch.tensor([[4.0, 0.0], [3.0, 2.0]]).view(1, 2, 1, 2)
    at_each = [0.2**2 + 0.2**2, 2.0]
    torch.testing.assert_close(squared_distances(a, b), torch.tensor(at_each).view(1, 1, 2))
    assert loss([a], [b]).item() == pytest.approx(sum(at_each) / 2)
    assert loss([a, a], [b, a]).item() == pytest.approx(sum(at_each) / 2, abs=1e-6)


def test_the_settings_are_the_official_code_s() -> None:
    found = (_OFFICIAL.side, _OFFICIAL.batch_size, _OFFICIAL.epochs, _OFFICIAL.learning_rate, _OFFICIAL.momentum)
    assert (*found, _OFFICIAL.weight_decay) == (256, 32, 100, 0.4, 0.9, 1e-4)


def test_the_student_has_the_teacher_s_layers() -> None:
    """As many weights as torchvision's network up to layer3, spread as torchvision draws them."""
    torch.manual_seed(0)
    whole = resnet18(weights=None)
    before = [whole.conv1, whole.bn1, whole.layer1, whole.layer2, whole.layer3]
    student = new_twin("resnet18", 0)
    wanted = [p for module in before for p in module.parameters()]
    assert [p.shape for p in student.parameters()] == [p.shape for p in wanted]
    for drawn, torchvision_s in zip(student.parameters(), wanted, strict=True):
        assert drawn.std().item() == pytest.approx(torchvision_s.std().item(), rel=0.05, abs=1e-9)
    shapes = [tuple(f.shape) for f in student(torch.zeros(1, 3, 64, 64))]
    assert shapes == [(1, 64, 16, 16), (1, 128, 8, 8), (1, 256, 4, 4)]
    state = torch.random.get_rng_state()
    new_twin("resnet18", 0)
    assert torch.equal(state, torch.random.get_rng_state())


def test_a_step_is_that_of_sgd_by_hand(run: Callable[..., TrainedStudent], weights: TeacherWeights, small: np.ndarray,
                                       tmp_path: Path) -> None:  # fmt: skip
    """One step on one batch: the weights less the rate times gradient and decay; momentum comes with the second."""
    trained = run(1, replace(SMALL, batch_size=6)).state
    source = system_of(SMALL).teacher(weights, SMALL)
    student = new_twin("resnet18", 0)
    x = (torch.from_numpy(small).permute(0, 3, 1, 2) / 255 - source.mean) / source.std
    total = torch.zeros(())
    for a, b in zip(source.layer_outputs(x), student(x), strict=True):
        total = total + (F.normalize(a) - F.normalize(b)).square().sum(1).mean()
    total.backward()
    for name, weight in student.named_parameters():
        wanted = weight - 0.4 * (weight.grad + 1e-4 * weight)
        torch.testing.assert_close(trained[name], wanted, rtol=1e-3, atol=1e-4)


def test_a_killed_training_resumes_to_the_same_weights(run: Callable[..., TrainedStudent], tmp_path: Path) -> None:
    """With momentum, which the checkpoint holds."""
    whole = run(checkpoint=tmp_path / "whole")

    def kill(epoch: Epoch) -> None:
        if epoch.epoch == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(checkpoint_seconds=0, on_epoch=kill)
    resumed = run(checkpoint_seconds=0)
    assert whole.history == resumed.history
    assert all(torch.equal(v, resumed.state[k]) for k, v in whole.state.items())


def test_maps_are_the_official_code_s(detector: STFPMDetector, images: np.ndarray) -> None:
    """By torch's own normalisation and interpolation: multiplied at a quarter of the image's side, then enlarged."""
    x = detector.source.prepared(torch.from_numpy(images[:3]))
    product = torch.ones(1)
    with torch.no_grad():
        for a, b in zip(detector.source.layer_outputs(x), detector.student(x), strict=True):
            found = (F.normalize(a) - F.normalize(b)).square().sum(1, keepdim=True)
            product = product * F.interpolate(found, 16, mode="bilinear", align_corners=False)
        expected = F.interpolate(product, 64, mode="bilinear", align_corners=False)[:, 0].numpy()
    scores = detector.score(images[:3], batch_size=2)
    assert scores.maps is not None
    assert scores.maps.dtype == np.float32
    np.testing.assert_allclose(scores.maps, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(scores.images["map_max"], scores.maps.max((1, 2)))
    alone = detector.score(images[1:2]).maps
    np.testing.assert_allclose(alone, scores.maps[1:2], rtol=1e-4, atol=1e-6)
