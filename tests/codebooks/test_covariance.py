"""The covariance of inputs, of one pass over batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lit_share.codebooks import Covariance


def of(*batches, dim=-1):
    covariance = Covariance()
    for batch in batches:
        covariance.add(batch, dim)
    return covariance


def test_batches_together_are_as_numpy_has_them():
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(50, 6, generator=rng, dtype=torch.float64) @ torch.randn(
        6, 6, generator=rng, dtype=torch.float64
    )
    x += 100.0
    found = of(*x.split([1, 20, 29]))
    torch.testing.assert_close(found.mean, x.mean(0))
    expected = torch.from_numpy(np.cov(x.numpy(), rowvar=False, bias=True))
    torch.testing.assert_close(found.of_varying(), expected)


def test_sites_of_channels_are_samples():
    x = torch.randn(4, 3, 5, 2, generator=torch.Generator().manual_seed(0))
    flat = x.movedim(1, -1).reshape(-1, 3)
    torch.testing.assert_close(of(x, dim=-3).of_varying(), of(flat).of_varying())


def test_ranks_together_are_one():
    x = torch.randn(30, 4, generator=torch.Generator().manual_seed(0)) + 5.0
    ranks = [of(part) for part in x.split([10, 20])]
    # Each rank asks for the same three sums, one after the other.
    asked = [[], []]
    for rank, own in zip(ranks, asked, strict=True):
        other = ranks[1 - ranks.index(rank)]
        total = rank.count + other.count
        mean = (rank.mean * rank.count + other.mean * other.count) / total

        def add(tensor, own=own, other=other, mean=mean):
            delta = other.mean - mean
            terms = [
                torch.tensor(float(other.count), dtype=torch.float64),
                other.mean * other.count,
                other._products + torch.outer(delta, delta) * other.count,
            ]
            own.append(tensor)
            return tensor + terms[len(own) - 1]

        summed = Covariance()
        summed.count, summed.mean, summed._products = rank.count, rank.mean, rank._products
        summed.all_reduce(add)
        assert summed.count == 30
        torch.testing.assert_close(summed.of_varying(), of(x).of_varying())


def test_inputs_that_vary_by_rounding_are_constant():
    x = torch.rand(20, 3, generator=torch.Generator().manual_seed(0))
    x[:, 1], x[:, 2] = 0.1, 0.0
    assert of(*x.split(7)).constant().tolist() == [False, True, True]


def test_a_batch_without_samples_adds_nothing():
    assert of(torch.zeros(0, 3), torch.ones(2, 3)).count == 2


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused(number):
    with pytest.raises(ValueError, match="NaN or infinite"):
        of(torch.tensor([[1.0, number]]))
