"""Several `Ties` where ties are an argument."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from lit_share.alignment import AlignError, align
from lit_share.callbacks import Regularize, Share
from lit_share.metrics import sharing_stats
from lit_share.penalties import add_penalty_gradient
from lit_share.sharing import share, unshare
from lit_share.ties import TieError, Ties, as_ties, clusters

from .._modules import mlp, pair_of

FIRST, SECOND = Ties("a.0.*", "b.0.*"), Ties("a.2.*", "c.2.*", exclude=["*.bias"])


@pytest.fixture
def models():
    return pair_of(a=mlp(0), b=mlp(1), c=mlp(2))


def test_ties_of_all_parts_with_distinct_names(models):
    ties = as_ties([FIRST, SECOND])
    assert {tie.name: [m.name for m in tie.members] for tie in ties.find(models)} == {
        "a.0.weight = b.0.weight": ["a.0.weight", "b.0.weight"],
        "bias": ["a.0.bias", "b.0.bias"],
        "a.2.weight = c.2.weight": ["a.2.weight", "c.2.weight"],
    }
    assert repr(ties) == f"[{FIRST}, {SECOND}]"
    assert ties.plan(models).saved == FIRST.plan(models).saved + SECOND.plan(models).saved
    assert len(ties.refs(models)) == 3


def test_penalties_are_those_of_the_parts(models):
    add_penalty_gradient(models, "soft_tie", [FIRST, SECOND], 0.1)
    together = [p.grad for p in models.parameters()]
    models.zero_grad()
    for part in (FIRST, SECOND):
        add_penalty_gradient(models, "soft_tie", part, 0.1)
    for once, p in zip(together, models.parameters(), strict=True):
        assert (once is None) == (p.grad is None)
        assert once is None or torch.equal(once, p.grad)


def test_every_argument_that_takes_ties(models):
    both = [FIRST, SECOND]
    assert Regularize("soft_tie", both, 0.1).ties.parts == (FIRST, SECOND)
    assert Share(both).ties.parts == (FIRST, SECOND)
    assert len(clusters(models, both).ties) == 3
    found = share(models, both)
    assert models["a"][0].weight is models["b"][0].weight
    assert models["a"][2].weight is models["c"][2].weight
    assert models["a"][2].bias is not models["c"][2].bias
    assert sharing_stats(models, both).unique == sharing_stats(models, found).unique
    unshare(models, both)
    assert models["a"][0].weight is not models["b"][0].weight
    assert models["a"][2].weight is not models["c"][2].weight


def test_unused_exclude_of_any_part(models):
    ties = as_ties([FIRST, Ties("a.2.*", "c.2.*", exclude=["*.biass"])])
    with pytest.warns(UserWarning, match=re.escape("'*.biass', did you mean '*.bias'?")):
        ties.find(models)
    assert ties.plan(models).unused == ("*.biass",)


def test_a_member_of_two_parts_is_refused(models):
    with pytest.raises(TieError, match=r"several of \[.*\] name 'a.0.weight': write one Ties"):
        as_ties([FIRST, Ties("a.0.*", "c.0.*")]).find(models)


def test_numbers_and_members_are_told_apart():
    assert not as_ties([FIRST, Ties("c.0.weight[...]")]).inside
    with pytest.raises(TieError, match=re.escape("'c.0.weight[...]'")):
        Share([FIRST, Ties("c.0.weight[...]")])


def test_alignment_takes_one(models):
    with pytest.raises(AlignError, match="align each of them"):
        align(models, [FIRST, SECOND], torch.ones(2, 4))


@pytest.mark.parametrize("wrong", [[FIRST, "a.*"], [], [nn.Linear(2, 2)], None, {"a": FIRST}])
def test_what_is_no_list_of_ties(wrong):
    with pytest.raises(TypeError, match=re.escape("ties must be a lit_share.Ties(...), got")):
        as_ties(wrong)
