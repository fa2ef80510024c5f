from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch.nn import functional as F

from rkd_pipeline.detectors import system_of
from rkd_pipeline.detectors.fit import fit
from rkd_pipeline.detectors.recontrast import ReContrastDetector, ReContrastTask, mined, new_student
from rkd_pipeline.device import Compute
from rkd_pipeline.models.multiresolution import Source
from rkd_pipeline.models.teacher_files import TeacherName, TeacherRegistry
from rkd_pipeline.models.weights import TeacherWeights, load_weights
from rkd_pipeline.recipes.distillation_recipes import ReContrast
from rkd_pipeline.recipes.named_recipes import RECIPES
from rkd_pipeline.training.loop import Epoch, TrainedStudent
from rkd_pipeline.training.task import TaskInputs

_NAMED = RECIPES["recontrast"]
assert isinstance(_NAMED, ReContrast)
SMALL = replace(_NAMED, batch_size=5)


@pytest.fixture(scope="module")
def weights() -> TeacherWeights:
    return load_weights(TeacherRegistry(Path("none")), TeacherName("resnet18", "random"))


@pytest.fixture
def source(weights: TeacherWeights) -> Source:
    return Source(weights, normalise=True)


@pytest.fixture
def small(images: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(images[:5, ::2, ::2])  # (5, 32, 32, 3)


@pytest.fixture
def run(source: Source, small: np.ndarray, cpu: Compute, tmp_path: Path) -> Callable[..., TrainedStudent]:
    def call(epochs: int = 2, recipe: ReContrast = SMALL, **more: object) -> TrainedStudent:
        given = {"seed": 0, "compute": cpu, "checkpoint": tmp_path / "c", "identity": "test"} | more
        return fit(recipe, source, small, None, epochs=epochs, **given)

    return call


@pytest.fixture
def task(source: Source, small: np.ndarray, cpu: Compute) -> ReContrastTask:
    return ReContrastTask(SMALL, source, TaskInputs(small, None, 0, cpu))


def test_easy_positions_send_no_gradient_and_change_no_value() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(2, 4, 3, 3, generator=generator) for _ in "ab")
    b.requires_grad_()
    global_distance = 1 - F.cosine_similarity(a.flatten(1), b.flatten(1))
    (whole,) = torch.autograd.grad(global_distance.sum(), b)
    at_each = (1 - F.cosine_similarity(a, b)).detach()
    for hardness in (-3.0, 0.0, 1.0):
        loss = mined([a], [b], torch.tensor(hardness))
        torch.testing.assert_close(loss, global_distance)
        (found,) = torch.autograd.grad(loss.sum(), b)
        easy = at_each.numpy() < at_each.numpy().mean() + hardness * at_each.numpy().std(ddof=1)
        assert (found.abs().sum(1).numpy() == 0).tolist() == easy.tolist()
        torch.testing.assert_close(found, whole * torch.from_numpy(~easy)[:, None])
    assert easy.sum() > 9  # the last one leaves few
    torch.testing.assert_close(mined([a, a], [b, b], torch.tensor(0.0)), 2 * global_distance)


def test_the_encoder_starts_as_the_frozen_one_and_only_the_decoder_s_path_teaches_it(
    task: ReContrastTask, source: Source, small: np.ndarray
) -> None:
    """The gradient of the encoder is that of half the loss of what is decoded from its features: targets stop it.

    With the statistics of eval mode, so that the two domains do not meet in BatchNorm.
    """
    student = task.student.eval()
    x = source.prepared(torch.from_numpy(small[:3]))
    frozen, own = source.layer_outputs(x), student.encoder(x)
    for a, b in zip(own, frozen, strict=True):
        torch.testing.assert_close(a, b)
    task.losses(task.batch(torch.arange(3), torch.Generator())).sum().backward()
    found = [p.grad for p in student.encoder.parameters()]
    pairs = zip(frozen, student.distillation(own), strict=True)
    loss = torch.stack([1 - F.cosine_similarity(a.flatten(1), b.flatten(1)) for a, b in pairs]).sum() / 2
    wanted = torch.autograd.grad(loss, list(student.encoder.parameters()))
    scale = max(float(w.abs().max()) for w in wanted)
    assert scale > 0
    for g, w in zip(found, wanted, strict=True):
        torch.testing.assert_close(g, w, rtol=1e-2, atol=1e-3 * scale)


def test_hardness_and_learning_rates_follow_the_schedule(task: ReContrastTask) -> None:
    """Twenty epochs of a step: hardness grows from -3 to 1 in the first two, rates drop after sixteen epochs."""
    optimisers = task.optimisers(SMALL, on_gpu=False)
    hardness, rates = [], []
    for epoch in range(20):
        task.start_epoch(epoch, 20, optimisers)
        rates.append([g["lr"] for g in optimisers[0].param_groups])
        hardness.append(float(task.batch(torch.arange(2), torch.Generator())[-1]))
    assert hardness == [-3, -1] + [1] * 18
    assert rates[:16] == [[0.002, 1e-5]] * 16
    np.testing.assert_allclose(rates[16:], [[0.0004, 2e-6]] * 4)


def test_statistics_are_renewed_or_kept(run: Callable[..., TrainedStudent], source: Source) -> None:
    started = new_student(SMALL, source, 0).state_dict()
    kept = run(1, replace(SMALL, batch_size=5, renews_statistics=False)).state
    name = "encoder.parts.1.0.bn1.running_mean"
    assert torch.equal(kept[name], started[name])
    assert not torch.equal(kept["encoder.parts.1.0.conv1.weight"], started["encoder.parts.1.0.conv1.weight"])


def test_a_killed_training_resumes_to_the_same_weights(run: Callable[..., TrainedStudent], tmp_path: Path) -> None:
    """With hardness and rates, which depend on where in the training a step is."""
    whole = run(checkpoint=tmp_path / "whole")

    def kill(epoch: Epoch) -> None:
        if epoch.epoch == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(checkpoint_seconds=0, on_epoch=kill)
    resumed = run(checkpoint_seconds=0)
    assert whole.history == resumed.history
    assert all(torch.equal(v, resumed.state[k]) for k, v in whole.state.items())


def test_maps_are_of_both_encoders(source: Source, images: np.ndarray) -> None:
    student = new_student(SMALL, source, 1)
    state = student.state_dict()
    made = system_of(SMALL).detector(SMALL, source, state, 0.0, torch.device("cpu"))
    assert isinstance(made, ReContrastDetector)
    student.eval()
    with torch.no_grad():
        x = source.prepared(torch.from_numpy(images[:3]))
        frozen, own = source.layer_outputs(x), student.encoder(x)
        pairs = [
            *zip(frozen, student.distillation(own), strict=True),
            *zip(own, student.distillation(frozen), strict=True),
        ]
        maps = [
            F.interpolate((1 - F.cosine_similarity(a, b))[:, None], 64, mode="bilinear", align_corners=True)
            for a, b in pairs
        ]
    expected = [gaussian_filter(m, sigma=4) for m in torch.stack(maps).sum(0)[:, 0].numpy()]
    scores = made.score(images[:3], batch_size=2)
    assert scores.maps is not None
    np.testing.assert_allclose(scores.maps, np.stack(expected), rtol=1e-3, atol=1e-4)
