"""Which axes may be permuted differently beside each unit of another one."""

import torch
import torch.nn.functional as F
from torch import nn

from lit_share.alignment import axis_graph, check_outputs, run
from lit_share.alignment._axes import leaf, product_of, sum_of
from lit_share.alignment._within import find_parents

from ._nets import Function, numbers, some_permutations

X = numbers(2, 5, 3)


def parents(*occurrences):
    """Of axes 0 and 1, which tensors have in these combinations."""
    a, b = leaf(2), leaf(3)
    return find_parents([make(a, b) for make in occurrences], {a: 0, b: 1})


def test_an_axis_that_never_occurs_alone_is_within_the_other():
    assert parents(lambda a, b: [product_of([a, b])], lambda a, b: [a, leaf(7), b]) == {1: 0}
    assert parents(lambda a, b: [a, b], lambda a, b: [a]) == {1: 0}
    assert parents(lambda a, b: [a, b], lambda a, b: [b]) == {}


def test_an_axis_beside_two_of_another_is_not_within_it():
    assert parents(lambda a, b: [a, a, b]) == {}
    assert parents(lambda a, b: [a, b, b]) == {1: 0}
    assert parents(lambda a, b: [sum_of([product_of([a, b]), b])]) == {}
    assert parents(lambda a, b: [sum_of([product_of([a, b]), a])]) == {1: 0}


def free(function, **layers):
    """The parents of the axes of 2 · 4 units, after a check that they may be used."""
    torch.manual_seed(0)
    layers = {"up": nn.Linear(3, 8)} | layers
    module = Function(lambda self, x: function(self, self.up(x).unflatten(-1, (2, 4))), **layers)
    graph = axis_graph(module, X)
    before = run(module, X)
    graph.permute_(module, some_permutations(graph, torch.Generator().manual_seed(0)))
    check_outputs(module, before, X, rtol=1e-5)
    return {axis.size: axis.within for axis in graph.free}


def test_sums_over_heads_make_their_dimensions_one():
    assert free(lambda self, h: h.exp().sum(-1).amax(-1)) == {2: None, 4: 0}
    assert free(lambda self, h: h.exp().amax(-2).sum(-1)) == {2: None, 4: None}


def test_a_softmax_over_heads_makes_their_dimensions_one():
    def function(self, h):
        return (h.softmax(-2) * h).flatten(-2).exp().sum(-1)

    assert free(function) == {2: None, 4: None}
    assert free(lambda self, h: (h.softmax(-1) * h).flatten(-2).exp().sum(-1)) == {2: None, 4: 0}


def test_a_norm_over_heads_makes_their_dimensions_one():
    def by_layer(self, h):
        return F.layer_norm(h.mT, (2,)).exp().flatten(-2).sum(-1)

    def by_group(self, h):
        return F.group_norm(h.movedim(-1, 1), 4).exp().transpose(1, 2).flatten(2).sum(-1)

    assert free(by_layer) == {2: None, 4: None}
    assert free(by_group) == {2: None, 4: None}


def test_a_norm_with_weights_for_one_head_makes_their_dimensions_one():
    def function(self, h):
        return self.norm(h).exp().flatten(-2).sum(-1)

    assert free(function, norm=nn.LayerNorm(4)) == {2: None, 4: None}
    bare = nn.LayerNorm(4, elementwise_affine=False)
    assert free(function, norm=bare) == {2: None, 4: 0}


def test_heads_that_meet_other_heads_make_their_dimensions_one():
    """Dimension d of one head is multiplied by dimension d of another."""
    assert free(lambda self, h: (h @ h.mT).exp().flatten(1).sum(-1)) == {2: None, 4: None}
    assert free(lambda self, h: torch.einsum("nlhd,nmhd->nhlm", h, h).exp().sum(1)) == {
        2: None, 4: 0,
    }  # fmt: skip


def test_weights_that_have_heads_and_dimensions_apart():
    """A grouped convolution has groups in its outputs, and the inputs of each in dimension 1."""

    def function(self, h):
        return self.conv(F.relu(h.flatten(-2).mT)).exp().sum(1)

    conv = nn.Conv1d(8, 10, 1, groups=2)
    assert free(function, conv=conv) == {2: None, 4: 0, 5: 0}
