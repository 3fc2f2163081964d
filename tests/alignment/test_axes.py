"""Trees of axes: united trees move together, whatever they were before."""

import random

import pytest
import torch

from lit_share.alignment._axes import (
    cut,
    is_free,
    leaf,
    leaves,
    parts_of,
    pin,
    product_of,
    resolve,
    sum_of,
    unite,
)
from lit_share.alignment._blocks import indices


def some_tree(size, draw, pool, depth=3):
    """A random tree; leaves are new, pinned, or occur elsewhere."""
    kind = draw.choice(["leaf", "product", "sum"])
    factors = [n for n in range(2, size) if size % n == 0]
    if depth and kind == "product" and factors:
        n = draw.choice(factors)
        parts = [some_tree(m, draw, pool, depth - 1) for m in (n, size // n)]
        return product_of(parts)
    if depth and kind == "sum" and size > 1:
        n = draw.randrange(1, size)
        return sum_of([some_tree(m, draw, pool, depth - 1) for m in (n, size - n)])
    known = [axis for axis in pool if axis.size == size]
    if known and draw.random() < 0.3:
        return draw.choice(known)
    reason = "pinned" if draw.random() < 0.1 else None
    pool.append(leaf(size, reason))
    return pool[-1]


def some_orders(axes, seed):
    generator = torch.Generator().manual_seed(seed)
    free = {part: None for axis in axes for part in leaves(axis) if part.reason is None}
    return {part: torch.randperm(part.size, generator=generator) for part in free}


def reference(axis, orders):
    """The index vector by its definition."""
    axis = resolve(axis)
    if axis.kind == "leaf":
        return orders.get(axis, torch.arange(axis.size))
    parts = [reference(part, orders) for part in parts_of(axis, axis.kind)]
    index = parts[0]
    for part in parts[1:]:
        if axis.kind == "sum":
            index = torch.cat([index, len(index) + part])
        else:
            index = (index[:, None] * len(part) + part).flatten()
    return index


@pytest.mark.parametrize("seed", range(300))
def test_united_trees_have_equal_indices(seed):
    draw, pool = random.Random(seed), []
    size = draw.choice([4, 6, 8, 12, 16, 18, 24])
    trees = [some_tree(size, draw, pool) for _ in range(3)]
    unite(trees[0], trees[1], "do not fit")
    unite(trees[2], trees[1], "do not fit")
    orders = some_orders(trees, seed)
    first, *others = (indices(tree, orders) for tree in trees)
    assert first.sort().values.equal(torch.arange(size))
    assert all(torch.equal(first, other) for other in others)
    assert torch.equal(first, reference(trees[0], orders))


@pytest.mark.parametrize("seed", range(100))
def test_pieces_are_permuted_as_in_the_whole(seed):
    draw = random.Random(seed)
    size = draw.choice([6, 8, 12, 24])
    tree = some_tree(size, draw, [])
    first = draw.randrange(1, size)
    found = cut(tree, [first, size - first], "cut")
    orders = some_orders([tree], seed)
    whole = indices(tree, orders)
    assert torch.equal(whole, reference(tree, orders))
    if found is not None:
        left, right = (indices(piece, orders) for piece in found)
        assert torch.equal(whole, torch.cat([left, first + right]))


def test_a_leaf_becomes_what_it_is_united_with():
    a, b, c = leaf(6), leaf(2), leaf(3)
    unite(a, product_of([b, c]), "")
    assert list(leaves(a)) == [b, c]
    unite(leaf(2, "an input"), b, "")
    assert not is_free(b)
    assert is_free(a)
    assert repr(a) == "(2!·3)"


def test_products_are_refined_in_common():
    a, b = product_of([leaf(8), leaf(64)]), product_of([leaf(16), leaf(32)])
    unite(a, b, "")
    assert [axis.size for axis in leaves(a)] == [8, 2, 32]
    assert list(leaves(a)) == list(leaves(b))
    assert is_free(a)


def test_products_without_common_factors_are_pinned_where_they_differ():
    a = product_of([leaf(5), leaf(2), leaf(6)])
    b = product_of([leaf(5), leaf(3), leaf(4)])
    unite(a, b, "do not fit")
    assert [axis.reason for axis in leaves(a)] == [None, "do not fit", "do not fit"]
    assert next(leaves(a)) is next(leaves(b))


def test_sums_are_refined_at_all_boundaries():
    a, b = sum_of([leaf(5), leaf(2)]), sum_of([leaf(2), leaf(5)])
    unite(a, b, "")
    assert [axis.size for axis in leaves(a)] == [2, 3, 2]
    assert list(leaves(a)) == list(leaves(b))


def test_a_product_of_equal_parts_is_a_sum():
    """3 · E and E' + E'' + E''' are one E three times."""
    units = leaf(4)
    fused, terms = product_of([leaf(3), units]), sum_of([leaf(4), leaf(4), leaf(4)])
    unite(fused, terms, "")
    assert len(set(leaves(terms))) == 1
    assert list(leaves(fused)) == list(leaves(terms))
    assert is_free(units)


def test_a_product_that_a_sum_cuts_inside_is_pinned():
    a, b = product_of([leaf(2), leaf(3)]), sum_of([leaf(2), leaf(4)])
    unite(a, b, "do not fit")
    assert not is_free(a)
    assert not is_free(b)


def test_the_first_reason_is_kept():
    axis = product_of([leaf(2, "first"), leaf(3)])
    pin(axis, "second")
    assert [part.reason for part in leaves(axis)] == ["first", "second"]
