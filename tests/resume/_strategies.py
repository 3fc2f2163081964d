"""What is shared, and how: the rows of the tests."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from lit_share import Penalty, Ramp, Regularize, Share, SharingMonitor, Ties

from ._training import Lit, adam, sgd

PAIR, MATRICES = Ties("a.*", "b.*"), Ties("*.weight")
# The biases of one model's hidden units and outputs, and the other's hidden units, have one shape.
THREE = Ties("a.0.bias", "b.0.bias", "a.0.weight[:]")
STEPS, EPOCHS = Ramp(12, 0.3, 1.5, begin=2, shape="cosine"), Ramp(4, 2.0, 0.5, unit="epochs")


def descending(n):
    return torch.linspace(1.0, 0.4, n, dtype=torch.float64)


SOFT, EXACT = Penalty("squared", "element", "mean"), Penalty("l1", "element", "mean")
UNIT, START = Penalty("l1", "output", "mean"), Penalty("squared", "element", "start")
CLUSTERS = Penalty("l1", "tensor", "graph", edges="adaptive")
ROBUST = Penalty("l1", "tensor", "graph", edges="star")
LASSO, GROWL = Penalty("l1", "input", "zero"), Penalty("owl", "input", "zero", descending)

PRECISION = {
    name: 2.0 * torch.rand(p.shape, generator=torch.Generator().manual_seed(i)).double()
    for i, (name, p) in enumerate(Lit().named_parameters())
}


def strategy(optimizer, *makes):
    return optimizer, lambda: [*(make() for make in makes), SharingMonitor(PAIR)]


# An optimizer, and what makes the callbacks of one training.
# One of each kind: a gradient, a step at the end of an epoch, state of its own, and sharing.
ONE_OF_EACH = {"soft_tie", "unit_tie, every epoch", "cluster_tie", "unit_tie, then hard"}

STRATEGIES = {
    "soft_tie": strategy(adam, partial(Regularize, SOFT, PAIR, 0.4, STEPS)),
    "exact_tie": strategy(sgd, partial(Regularize, EXACT, PAIR, 0.3, EPOCHS)),
    "unit_tie": strategy(adam, partial(Regularize, UNIT, PAIR, 0.4, STEPS)),
    "unit_tie, every epoch": strategy(
        sgd, partial(Regularize, UNIT, PAIR, 0.2, STEPS, every="epoch")
    ),
    "cluster_tie": strategy(adam, partial(Regularize, CLUSTERS, THREE, 0.4, Ramp(4, begin=3))),
    "robust_tie": strategy(adam, partial(Regularize, ROBUST, THREE, 0.4, STEPS)),
    "value_tie": strategy(
        adam, partial(Regularize, "value_tie", Ties("*.weight[...]"), 0.3, STEPS)
    ),
    "growl": strategy(sgd, partial(Regularize, GROWL, MATRICES, 1.5, STEPS, keep_zeros=True)),
    "group_lasso": strategy(
        adam, partial(Regularize, LASSO, MATRICES, 1.0, EPOCHS, every="epoch", keep_zeros=True)
    ),
    "l2_sp": strategy(sgd, partial(Regularize, START, Ties("*"), 0.6, STEPS)),
    "ewc": strategy(sgd, partial(Regularize, START, Ties("*"), 0.6, STEPS, precision=PRECISION)),
    "soft_tie, precision of Adam": strategy(
        adam, partial(Regularize, SOFT, PAIR, 0.4, STEPS, precision="adam")
    ),
    "hard_tie": strategy(adam, partial(Share, PAIR)),
    "soft_tie, then hard": strategy(
        sgd, partial(Regularize, SOFT, PAIR, 0.5, STEPS), partial(Share, PAIR, epoch=2)
    ),
    "unit_tie, then hard": strategy(
        adam,
        partial(Regularize, UNIT, PAIR, 2.0, EPOCHS),
        partial(Share, PAIR, where="equal", epoch=2),
    ),
    "ewc, then hard": strategy(
        adam,
        partial(Regularize, START, Ties("*"), 0.3, STEPS, precision=PRECISION),
        partial(Share, PAIR, init="first", epoch=2),
    ),
    "l2_sp, then hard": strategy(
        sgd,
        partial(Regularize, START, Ties("*"), 0.3, STEPS),
        partial(Share, PAIR, init="first", epoch=2),
    ),
}

# For long tests.
MARKED = [
    pytest.param(name, marks=[pytest.mark.slow] * (name not in ONE_OF_EACH)) for name in STRATEGIES
]
