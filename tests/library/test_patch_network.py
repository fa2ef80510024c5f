from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from rkd_pipeline.models.patch_network import RECEPTIVE_FIELDS, PatchNetwork, multiply_adds, padded, patches_at
from rkd_pipeline.recipes.named_recipes import RECIPES
from rkd_pipeline.recipes.recipe import UninformedStudents


@pytest.mark.parametrize("p", RECEPTIVE_FIELDS)
def test_dense_is_every_patch_one_by_one(p: int) -> None:
    torch.manual_seed(p)
    network = PatchNetwork(p, width=4, out=3).double()
    images = torch.rand(2, 3, 40 if p == 65 else 24, 40 if p == 65 else 24, dtype=torch.double)
    side = images.shape[-1]
    big = padded(images, p)
    dense = network.dense(big)
    assert dense.shape == (2, 3, side, side)
    for i, row, column in ((0, 0, 0), (0, 5, 11), (1, side - 1, side - 1), (1, 7, 2), (0, 12, 13)):
        crop = big[i : i + 1, :, row : row + p, column : column + p]
        torch.testing.assert_close(dense[i, :, row, column], network(crop)[0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("p", RECEPTIVE_FIELDS)
def test_a_vector_sees_the_whole_patch_and_nothing_else(p: int) -> None:
    torch.manual_seed(p)
    network = PatchNetwork(p, width=8, out=4).double()
    seen = torch.zeros(p, p, dtype=torch.double)
    for _ in range(12):
        patch = torch.rand(1, 3, p, p, dtype=torch.double, requires_grad=True)
        (gradient,) = torch.autograd.grad(network(patch).square().sum(), patch)
        seen += gradient.abs().sum((0, 1))
    assert (seen[0] > 0).any()
    assert (seen[-1] > 0).any()
    assert (seen[:, 0] > 0).any()
    assert (seen[:, -1] > 0).any()
    assert network(torch.rand(1, 3, p, p).double()).shape == (1, 4)
    if p == 17:  # no pools: every pixel has its say
        assert (seen > 0).all()


def test_patches_are_cut_around_their_pixels() -> None:
    images = torch.arange(2 * 3 * 16 * 16, dtype=torch.float32).view(2, 3, 16, 16)
    big = padded(images, 17)
    which, rows, columns = torch.tensor([0, 1, 1]), torch.tensor([0, 3, 15]), torch.tensor([5, 0, 15])
    found = patches_at(big, which, rows, columns, 17)
    for i in range(3):
        expected = big[which[i], :, rows[i] : rows[i] + 17, columns[i] : columns[i] + 17]
        torch.testing.assert_close(found[i], expected)
        torch.testing.assert_close(found[i, :, 8, 8], images[which[i], :, rows[i], columns[i]])


def test_a_side_that_pools_do_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 8, not 20"):
        PatchNetwork(33, 4, 3).dense(torch.rand(1, 3, 52, 52))


@pytest.mark.parametrize("p", RECEPTIVE_FIELDS)
def test_the_count_of_multiplications_is_torch_s(p: int) -> None:
    with torch.device("meta"):
        network = PatchNetwork(p, 8, 6)
        patch, padded_image = torch.empty(1, 3, p, p), torch.empty(1, 3, 48 + p - 1, 48 + p - 1)
    with FlopCounterMode(display=False) as alone:
        network(patch)
    assert alone.get_total_flops() == 2 * multiply_adds(p, 8, 6)
    with FlopCounterMode(display=False) as whole:
        network.dense(padded_image)
    assert whole.get_total_flops() == 2 * multiply_adds(p, 8, 6, side=48)


def test_the_page_s_gflop_of_a_dense_evaluation_are_torch_s() -> None:
    page = (Path(__file__).parents[2] / "docs" / "systems.md").read_text(encoding="utf-8")
    for name, label in (("us", "`us`"), ("us-small", "networks of `us-small`")):
        recipe = RECIPES[name]
        assert isinstance(recipe, UninformedStudents)
        flops = 0
        for p in recipe.receptive_fields:
            with torch.device("meta"):
                network = PatchNetwork(p, recipe.width, recipe.descriptor)
                image = torch.empty(1, 3, recipe.side + p - 1, recipe.side + p - 1)
            with FlopCounterMode(display=False) as counter:
                network.dense(image)
            flops += counter.get_total_flops() * (1 + recipe.students)
        assert f"| {label} | {recipe.side} | {flops / 1e9:.{0 if flops > 1e12 else 1}f} |" in page
