"""Losses added batch by batch, read at once or at the end."""

import math

import numpy as np
import pytest
import torch

from rkd_pipeline.training.loss_sum import LossSum

BATCHES = [torch.rand(n, generator=torch.Generator().manual_seed(n)) * 1000 for n in (5, 5, 2, 7)]


@pytest.mark.parametrize("at_once", [True, False])
def test_it_is_the_float64_sum_of_each_batch_s_float32_sum(at_once: bool) -> None:
    losses = LossSum(at_once=at_once)
    assert losses.total() == 0
    for batch in BATCHES:
        given = batch.clone()
        losses.add(given)
        given.fill_(math.nan)  # a recorded step writes the next losses to the same place
    by_hand = math.fsum(np.float64(batch.numpy().sum(dtype=np.float32)) for batch in BATCHES)
    assert losses.total() == pytest.approx(by_hand, rel=1e-6)
    assert losses.total() == losses.total()
    assert losses.first_fault() is None


def test_small_losses_are_not_lost_beside_a_large_sum() -> None:
    """In float32 one would leave 2 ** 24 as it is."""
    losses = LossSum(at_once=False)
    for value in (2.0**24, *[1.0] * 100):
        losses.add(torch.tensor([value]))
    assert losses.total() == 2**24 + 100


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_the_first_batch_that_is_no_number_is_named(wrong: float) -> None:
    at_once, later = LossSum(at_once=True), LossSum(at_once=False)
    for losses in (at_once, later):
        losses.add(torch.tensor([1.0]))
        losses.add(torch.tensor([1.0, wrong]))
    later.add(torch.tensor([-wrong]))
    for losses in (at_once, later):
        fault = losses.first_fault()
        assert fault is not None
        assert fault[0] == 2
        assert str(fault[1]) == str(wrong)


def test_a_cpu_s_are_read_at_once_and_those_of_other_devices_later() -> None:
    assert LossSum.of(torch.device("cpu")).at_once
    assert not LossSum.of(torch.device("cuda")).at_once
