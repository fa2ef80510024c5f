import pytest
import torch
from torch.nn.functional import cosine_similarity

from rkd_pipeline.training.losses import discrepancy, l_kd, l_kd_flat, l_mkd, l_val, training_loss


@pytest.fixture
def features() -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    g = torch.Generator().manual_seed(0)
    shapes = [(3, 8, 8, 6), (3, 16, 4, 3), (3, 32, 2, 1)]
    return [torch.randn(s, generator=g) for s in shapes], [torch.randn(s, generator=g) for s in shapes]


def test_equations_1_and_2_by_torch_s_own_cosine(features: tuple[list[torch.Tensor], list[torch.Tensor]]) -> None:
    a, b = features
    expected = sum((1 - cosine_similarity(x, y, dim=1)).mean((1, 2)) for x, y in zip(a, b, strict=True))
    torch.testing.assert_close(l_kd(a, b), expected)


def test_the_flattened_loss_by_torch_s_own_cosine(features: tuple[list[torch.Tensor], list[torch.Tensor]]) -> None:
    a, b = features
    expected = sum(1 - cosine_similarity(x.flatten(1), y.flatten(1)) for x, y in zip(a, b, strict=True))
    torch.testing.assert_close(l_kd_flat(a, b), expected)


def test_by_hand() -> None:
    # One image, two channels, two positions: parallel at the first (cos 1), orthogonal at the second (cos 0).
    a = torch.tensor([[[[1.0, 0.0]], [[0.0, 2.0]]]])
    b = torch.tensor([[[[3.0, 1.0]], [[0.0, 0.0]]]])
    torch.testing.assert_close(discrepancy(a, b), torch.tensor([[[0.0, 1.0]]]))
    torch.testing.assert_close(l_kd([a, a], [b, b]), torch.tensor([1.0]))
    # Flattened: <a, b> = 3, |a| = sqrt 5, |b| = sqrt 10.
    torch.testing.assert_close(l_kd_flat([a], [b]), torch.tensor([1 - 3 / 50**0.5]))
    # Squared differences: position 1 has 4 + 0, position 2 has 1 + 4; mean over positions of their sums 4.5.
    torch.testing.assert_close(l_val([a], [b]), torch.tensor([4.5]))
    torch.testing.assert_close(l_val([a], [b], "mean"), torch.tensor([2.25]))
    torch.testing.assert_close(l_mkd([a], [b], lambda_=2.0), torch.tensor([4.5 + 2.0 * 0.5]))


def test_scaling_the_student_changes_only_l_val(features: tuple[list[torch.Tensor], list[torch.Tensor]]) -> None:
    a, b = features
    scaled = [3 * y for y in b]
    torch.testing.assert_close(l_kd(a, scaled), l_kd(a, b))
    torch.testing.assert_close(l_kd_flat(a, scaled), l_kd_flat(a, b))
    assert (l_val(a, scaled) > l_val(a, b)).all()


@pytest.mark.parametrize("name", ["kd", "kd_flat", "mkd"])
def test_a_perfect_student_has_no_loss_and_any_other_a_gradient(
    name: str, features: tuple[list[torch.Tensor], list[torch.Tensor]]
) -> None:
    a, b = features
    loss = training_loss(name, 0.5, "sum")
    torch.testing.assert_close(loss(a, a), torch.zeros(3), atol=1e-5, rtol=0)
    b = [y.double().requires_grad_() for y in b]
    assert torch.autograd.gradcheck(lambda *y: loss([x.double() for x in a], list(y)).double(), b, eps=1e-3, atol=1e-2)


@pytest.mark.parametrize("name", ["kd", "kd_flat", "mkd"])
@pytest.mark.parametrize("zeros", ["all", "one position", "both networks"])
def test_zero_features_give_no_nan_and_no_nan_gradient(name: str, zeros: str) -> None:
    """A ReLU that lets nothing through at a position makes a zero vector: the step after it must not be NaN."""
    g = torch.Generator().manual_seed(1)
    teacher, student = torch.rand(2, 4, 3, 3, generator=g), torch.rand(2, 4, 3, 3, generator=g)
    if zeros == "one position":
        student[:, :, 1, 1] = 0
    else:
        student[:] = 0
    if zeros == "both networks":
        teacher[:] = 0
    before = student.requires_grad_()
    value = training_loss(name, 0.5, "sum")([teacher], [before.relu()])
    value.mean().backward()
    assert torch.isfinite(value).all()
    assert before.grad is not None
    assert torch.isfinite(before.grad).all()
    if zeros != "one position":
        assert (before.grad == 0).all()  # the ReLU passes nothing back
        return
    # Elsewhere the gradient is that of torch's own cosine.
    reference = student.detach().clone().requires_grad_()
    cosines = cosine_similarity(teacher, reference, dim=1)
    expected = {
        "kd": (1 - cosines).mean((1, 2)),
        "kd_flat": 1 - cosine_similarity(teacher.flatten(1), reference.flatten(1)),
        "mkd": (teacher - reference).square().sum(1).mean((1, 2)) + 0.5 * (1 - cosines).mean((1, 2)),
    }[name]
    expected.mean().backward()
    assert reference.grad is not None
    there = torch.ones(3, 3, dtype=torch.bool)
    there[1, 1] = False
    torch.testing.assert_close(before.grad[..., there], reference.grad[..., there], rtol=1e-4, atol=1e-6)
