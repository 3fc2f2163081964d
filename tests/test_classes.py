"""A class in place of an object is told, wherever an object is an argument."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

import lit_share as ls
from lit_share.lab.models import Classifier

TIES = ls.Ties("a.*", "b.*")


def models():
    return nn.ModuleDict({name: nn.Linear(2, 2) for name in "ab"})


def attach(*given):
    return ls.PenaltySteps("soft_tie", TIES, 0.1).attach(*given)


@pytest.mark.parametrize(
    ("use", "kind", "instead"),
    [
        (lambda: ls.Regularize(ls.Penalty, TIES, 0.1), "Penalty", ""),
        (lambda: ls.Regularize("soft_tie", ls.Ties, 0.1), "Ties", "lit_share.Ties('a.*', 'b.*')"),
        (lambda: ls.Regularize("soft_tie", TIES, ls.Learned), "Learned", ""),
        (lambda: ls.Regularize("soft_tie", TIES, 1.0, ls.Ramp), "Ramp", "Ramp(duration=1000)"),
        (lambda: ls.Penalty("owl", "input", "zero", ls.OwlWeights), "OwlWeights", "OwlWeights(lam"),
        (lambda: ls.Share(ls.Ties), "Ties", "lit_share.Ties('a.*', 'b.*')"),
        (lambda: ls.Paired(a=Classifier), "Classifier", "write Paired(a=Classifier(...))"),
        (lambda: TIES.find(nn.Linear), "Linear", "write Linear(...)"),
        (lambda: ls.share(nn.Linear, TIES), "Linear", "write Linear(...)"),
        (lambda: attach(models(), torch.optim.SGD), "SGD", "torch.optim.SGD(module"),
        (
            lambda: attach(models(), [torch.optim.SGD]),
            "'torch",
            "torch.optim.SGD(module",
        ),
        (lambda: ls.Ties(nn.Linear), "Linear", "write Ties('a.*', 'b.*')"),
    ],
)
def test_a_class(use, kind, instead):
    with pytest.raises((TypeError, ls.TieError), match=re.escape(f"class {kind}")) as error:
        use()
    assert instead in str(error.value)
