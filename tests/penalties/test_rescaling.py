from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW
from torch.testing import assert_close

from lit_share.penalties._optimizers import LearningRates
from lit_share.penalties._rescaling import rescaled


@pytest.mark.parametrize("amsgrad", [False, True])
@pytest.mark.parametrize("make", [Adam, AdamW])
def test_factors_are_those_of_a_step(make, amsgrad):
    """Also long after a large gradient, which only the largest moments remember."""
    parameter = nn.Parameter(torch.zeros(2, dtype=torch.float64))
    optimizer = make([parameter], 0.1, betas=(0.0, 0.5), amsgrad=amsgrad, weight_decay=0.0)
    for gradient in ([100.0, 1.0], *[[1.0, 1.0]] * 20):
        before = parameter.detach().clone()
        parameter.grad = torch.tensor(gradient, dtype=torch.float64)
        optimizer.step()
    moved = before - parameter.detach()
    assert (moved[0] < 0.1 * moved[1]) == amsgrad
    found = factors(optimizer, parameter)
    assert_close(found / found.norm(), moved / moved.norm())


def test_others_multiply_with_the_learning_rate():
    parameter = nn.Parameter(torch.zeros(2))
    assert_close(factors(SGD([parameter], 0.25), parameter), torch.full((2,), 0.25))


def factors(optimizer, parameter):
    rates = LearningRates(optimizer)
    rates.look_up()
    return rescaled({id(parameter): torch.ones_like(parameter)}, [rates])[id(parameter)]
