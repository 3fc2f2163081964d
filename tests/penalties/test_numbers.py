"""Scalars of NumPy and torch are numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from lit_share.penalties import Learned, Path, PenaltySteps, Ramp, add_penalty_gradient, apply_prox
from lit_share.ties import Ties

from .._modules import mlp, pair_of

TIES = Ties("a.*", "b.*")
HALF = [np.float32(0.5), np.float64(0.5), np.array(0.5), torch.tensor(0.5)]


@pytest.mark.parametrize("half", HALF)
def test_a_scalar_is_the_number_that_it_has(half):
    steps = PenaltySteps("soft_tie", TIES, half)
    assert type(steps.strength) is float
    assert steps.strength_at(0, 0) == 0.5
    assert Learned(start=half) == Learned(start=0.5)
    assert Path(low=half, high=1.0).strengths == Path(low=0.5, high=1.0).strengths
    assert Ramp(duration=2, start=half)(0, 0) == 0.5


@pytest.mark.parametrize("one", [np.int64(1), np.uint8(1), torch.tensor(1)])
def test_whole_numbers(one):
    assert PenaltySteps("soft_tie", TIES, one).strength == 1
    assert Path(steps=one, epochs=one, first=one).max_epochs == 2
    assert Learned(every=one).every == 1
    assert Ramp(duration=one, begin=one)(1, 0) == 0.0


@pytest.mark.parametrize("half", HALF)
def test_functions(half):
    given, plain = (pair_of(a=mlp(0), b=mlp(1)) for _ in range(2))
    for pair, number in ((given, half), (plain, 0.5)):
        add_penalty_gradient(pair, "soft_tie", TIES, number)
        apply_prox(pair, "exact_tie", TIES, number)
    for own, other in zip(given.parameters(), plain.parameters(), strict=True):
        assert torch.equal(own, other)
        assert torch.equal(own.grad, other.grad)


@pytest.mark.parametrize("wrong", [np.bool_(True), torch.tensor(True), np.ones(1), torch.ones(2)])
def test_what_is_no_number(wrong):
    with pytest.raises(TypeError, match="strength must be a number"):
        PenaltySteps("soft_tie", TIES, wrong)


def test_a_strength_that_would_not_be_trained():
    strength = nn.Parameter(torch.tensor(0.1))
    for use in (
        lambda: PenaltySteps("soft_tie", TIES, strength),
        lambda: add_penalty_gradient(pair_of(a=mlp(0), b=mlp(1)), "soft_tie", TIES, strength),
    ):
        with pytest.raises(TypeError, match=r"write strength=lit_share\.Learned\(\)"):
            use()
    assert PenaltySteps("soft_tie", TIES, strength.detach()).strength == pytest.approx(0.1)
