from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from rkd_pipeline.device import Compute
from rkd_pipeline.models.pretraining import augmentation
from rkd_pipeline.models.pretraining.classifier import Pretrained, Settings, _loss, _shape, pretrain, settling
from rkd_pipeline.models.pretraining.formula_images import draw_class, draw_collection
from rkd_pipeline.models.pretraining.formulas import FAMILIES, formula
from rkd_pipeline.models.teacher_files import TeacherRegistry
from rkd_pipeline.models.weights import register_weights


@pytest.mark.parametrize("family", sorted(set(FAMILIES), key=lambda f: f.__name__), ids=lambda f: f.__name__)
def test_every_family_draws_varied_images_of_the_same_class(family: object) -> None:
    number = FAMILIES.index(family)
    for draw in (formula(number, 0), formula(number + 10, 0)):
        first, second = (draw(np.random.default_rng(i), 64) for i in (0, 1))
        assert first.shape == (64, 64, 3)
        assert np.isfinite(first).all()
        assert -0.01 <= first.min() < first.max() <= 1.01
        assert np.abs(first - second).mean() > 0.005
        np.testing.assert_array_equal(draw(np.random.default_rng(0), 64), first)


def test_the_collection_is_the_same_for_any_number_of_processes() -> None:
    drawn = draw_collection(classes=3, per_class=2, side=32, seed=5, processes=2)
    assert drawn.shape == (6, 32, 32, 3)
    for number in range(3):
        np.testing.assert_array_equal(drawn[2 * number : 2 * number + 2], draw_class(number, 5, 2, 32))


def test_augmented_images_stay_images_and_masks_are_shares() -> None:
    rng = torch.Generator().manual_seed(0)
    images = torch.rand(16, 3, 48, 48, generator=rng)
    varied = augmentation.photographed(augmentation.posed(images, 32, rng), rng)
    assert varied.shape == (16, 3, 32, 32)
    assert varied.min() >= 0
    assert varied.max() <= 1
    masks = augmentation.masks(400, 16, rng)
    assert masks.min() >= 0
    assert masks.max() <= 1
    unmixed = (masks.flatten(1) == 1).all(1).float().mean()
    assert 0.2 < unmixed < 0.45


def test_some_images_are_cut_out_pixel_by_pixel() -> None:
    """Every value of theirs is one of the source; an interpolated image has values in between."""
    rng = torch.Generator().manual_seed(3)
    images = torch.randint(0, 2, (60, 1, 48, 48), generator=rng).float().expand(-1, 3, -1, -1)
    cut = augmentation.posed(images, 32, rng)
    exact = ((cut < 1e-3) | (cut > 1 - 1e-3)).flatten(1).all(1)
    assert 0.2 < exact.float().mean() < 0.6
    assert (cut[exact].flatten(1).mean(1) - 0.5).abs().max() < 0.1  # parts of the image, not its padding


def test_spread_and_evenness_against_their_definitions() -> None:
    generator = torch.Generator().manual_seed(2)
    features = torch.rand(3, 5, 4, 4, generator=generator)
    few, uneven = _shape(features)
    places = features.double().flatten(2).transpose(1, 2).numpy()
    length = np.linalg.norm(places, axis=2)
    around = places / length[..., None]
    around = (around - around.mean(1, keepdims=True)).reshape(-1, 5)
    eigenvalues = np.linalg.eigvalsh(np.cov(around.T, bias=True))
    participation = eigenvalues.sum() ** 2 / (eigenvalues**2).sum()
    assert float(few) == pytest.approx(np.log(5 / participation), rel=1e-4)
    assert float(uneven) == pytest.approx(np.log(length).var(1).mean(), rel=1e-4)
    assert [float(v) for v in _shape(7 * features)] == pytest.approx([float(few), float(uneven)], rel=1e-3)


def test_the_loss_weighs_both_classes_by_their_share() -> None:
    """Against the definition, written out: label-smoothed cross-entropies of the image and of its four places."""
    generator = torch.Generator().manual_seed(1)
    whole, places = torch.randn(1, 5, generator=generator), torch.randn(1, 5, 2, 2, generator=generator)
    shares = torch.tensor([[[1.0, 0.25], [0.0, 0.5]]])

    def entropy(logits: Tensor, share: float) -> float:
        target = torch.full((5,), 0.02)
        target[3] += 0.9 * share
        target[1] += 0.9 * (1 - share)
        return float(-(target * logits.log_softmax(0)).sum())

    local = np.mean([entropy(places[0, :, i, j], float(shares[0, i, j])) for i in (0, 1) for j in (0, 1)])
    expected = entropy(whole[0], float(shares.mean())) + local
    assert float(_loss(whole, places, shares, torch.tensor([3]), torch.tensor([1]))) == pytest.approx(
        expected, rel=1e-5
    )


def test_a_small_pretraining_learns_is_repeatable_and_makes_a_teacher(cpu: Compute, tmp_path: Path) -> None:
    settings = Settings(classes=4, per_class=8, side=48, small=32, large=48, epochs=5, batch_size=16)
    images = np.concatenate([draw_class(n, 0, 8, 48) for n in range(4)])
    runs: list[list[tuple[float, dict[str, Tensor]]]] = [[], []]
    for run in runs:
        pretrain(settings, images, cpu, lambda epoch, loss, accuracy, state, run=run: run.append((loss, state)))
    losses = [loss for loss, _ in runs[0]]
    assert min(losses[1:]) < losses[0]
    for a, b in zip(runs[0][-1][1].values(), runs[1][-1][1].values(), strict=True):
        assert torch.equal(a, b)
    save_file(runs[0][-1][1], tmp_path / "t.safetensors")
    assert register_weights(TeacherRegistry(tmp_path / "teachers.toml"), tmp_path / "t.safetensors").arch == "resnet18"


def test_the_second_stage_goes_on_from_the_first_s_weights_and_a_frozen_part_learns_nothing_from_classes(
    cpu: Compute,
) -> None:
    settings = Settings(classes=3, per_class=8, side=48, small=32, large=32, batch_size=8, spread=0, evenness=0)
    second = settling(settings)
    assert (second.small, second.large, second.epochs, second.seed) == (64, 64, 1, settings.seed)
    assert second.per_class < settings.per_class
    torch.manual_seed(5)
    start = {k: v.half() for k, v in Pretrained(3).network.state_dict().items() if not k.endswith("batches_tracked")}
    images = np.concatenate([draw_class(n, 0, second.per_class, 48) for n in range(3)])
    ends = []
    for frozen in (1.0, 0.0):
        pretrain(
            replace(second, frozen=frozen, weight_decay=0.0),
            images,
            cpu,
            lambda epoch, loss, accuracy, state: ends.append(state),
            start,
        )
    weights = [k for k in start if "running" not in k]
    assert all(torch.equal(ends[0][k], start[k]) for k in weights)
    assert not all(torch.equal(ends[1][k], start[k]) for k in weights)
    assert (ends[0]["bn1.running_mean"] != start["bn1.running_mean"]).any()
