"""Permutations of tensors by their blocks, against indexing by hand."""

import torch

from lit_share.alignment._blocks import Block
from lit_share.alignment._permute import compose, invert, permute_tensor

ROWS = torch.tensor([[2, 0, 1], [0, 2, 1]])


def dimension(sizes, axes):
    strides = [int(torch.tensor(sizes[i + 1 :]).prod()) for i in range(len(sizes))]
    return (Block(0, tuple(sizes), tuple(strides), tuple(axes)),)


def test_units_come_from_where_the_vector_says():
    w = torch.randn(3, 4)
    dimensions = (dimension([3], [0]), dimension([4], [1]))
    p, q = torch.tensor([1, 2, 0]), torch.tensor([3, 1, 0, 2])
    assert torch.equal(permute_tensor(w, dimensions, {0: p, 1: q}, {}), w[p][:, q])
    assert torch.equal(permute_tensor(w, dimensions, {1: q}, {}), w[:, q])


def test_an_axis_that_stays_is_carried_along():
    w = torch.randn(6)
    p = torch.tensor([2, 0, 1])
    moved = permute_tensor(w, (dimension([3, 2], [0, None]),), {0: p}, {})
    assert torch.equal(moved, w.view(3, 2)[p].flatten())


def test_a_matrix_permutes_each_slice_in_its_own_way():
    w, heads = torch.randn(6, 5), torch.tensor([1, 0])
    dimensions = (dimension([2, 3], [0, 1]), dimension([5], [None]))
    moved = permute_tensor(w, dimensions, {0: heads, 1: ROWS}, {1: 0})
    parts = w.view(2, 3, 5)[heads]
    wanted = torch.stack([part[row] for part, row in zip(parts, ROWS, strict=True)])
    assert torch.equal(moved, wanted.flatten(0, 1))


def test_parents_in_another_dimension():
    """As the weights of a grouped convolution: groups · outputs, and inputs of a group."""
    w, groups = torch.randn(4, 3), torch.tensor([1, 0])
    dimensions = (dimension([2, 2], [0, None]), dimension([3], [1]))
    moved = permute_tensor(w, dimensions, {0: groups, 1: ROWS}, {1: 0})
    parts = w.view(2, 2, 3)[groups]
    wanted = torch.stack([part[:, row] for part, row in zip(parts, ROWS, strict=True)])
    assert torch.equal(moved, wanted.flatten(0, 1))


def test_an_inverse_undoes_and_a_composition_does_both():
    w = torch.arange(6.0)
    dimensions, parents = (dimension([2, 3], [0, 1]),), {1: 0}
    first = {0: torch.tensor([1, 0]), 1: ROWS}
    for then in (first, {1: ROWS.flip(0)}, {0: first[0]}, {1: torch.tensor([1, 2, 0])}, {}):
        once = permute_tensor(w, dimensions, first, parents)
        twice = permute_tensor(once, dimensions, then, parents)
        both = compose(first, then, parents)
        assert torch.equal(permute_tensor(w, dimensions, both, parents), twice)
        undone = permute_tensor(twice, dimensions, invert(both, parents), parents)
        assert torch.equal(undone, w)
