"""Dimensions as sums of products; `test_axes.py` compares index vectors with their definition."""

from lit_share.alignment._axes import leaf, product_of, sum_of
from lit_share.alignment._blocks import blocks, indices


def test_blocks_of_heads_that_hold_sums():
    """Queries and values of each head in turn: units of one kind do not lie side by side."""
    heads, q, v = leaf(2), leaf(3), leaf(1)
    found = blocks(product_of([heads, sum_of([q, v])]))
    assert [(b.start, b.sizes, b.strides, b.axes) for b in found] == [
        (0, (2, 3), (4, 1), (heads, q)),
        (3, (2, 1), (4, 1), (heads, None)),
    ]
    assert found[0].positions().tolist() == [[0, 1, 2], [4, 5, 6]]


def test_neighbours_that_stay_are_one_block():
    free = leaf(2)
    (block,) = blocks(product_of([free, leaf(3, "stays"), leaf(4, "stays")]))
    assert (block.sizes, block.strides, block.axes) == ((2, 12), (12, 1), (free, None))


def test_axes_that_are_not_named_stay():
    assert indices(product_of([leaf(2), leaf(3)]), {}).tolist() == [0, 1, 2, 3, 4, 5]
    assert indices(leaf(1), {}).tolist() == [0]
