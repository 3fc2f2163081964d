"""Axes of tensors: trees of products and sums whose leaves are sets of units."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from math import prod
from typing import Literal

Kind = Literal["leaf", "product", "sum"]


class Axis:
    """A dimension of a tensor: a leaf, a product of axes, or a sum of axes.

    A *leaf* is a set of units that may be permuted. A *product* of axes of sizes (m, n) has m · n
    units in row-major order, as a reshape of (m, n) to (m · n,). A *sum* of axes of sizes (m, n)
    has m + n units, as a concatenation.

    An axis may turn out to be a tree after it was made: `unite` and `cut` refine leaves. Functions
    below follow these refinements, so that all tensors with a leaf see them.

    Args:
        size: The number of units, at least 0.
        kind: How ``parts`` are combined.
        parts: The factors of a product or the terms of a sum.
        reason: Why a leaf has to stay in order, or ``None`` if it is free.
    """

    __slots__ = ("_refined", "kind", "parts", "reason", "size")

    def __init__(
        self,
        size: int,
        kind: Kind = "leaf",
        parts: tuple[Axis, ...] = (),
        reason: str | None = None,
    ) -> None:
        self.size, self.kind, self.parts, self.reason = size, kind, parts, reason
        self._refined: Axis | None = None

    def __repr__(self) -> str:
        axis = resolve(self)
        if axis.kind == "leaf":
            return f"{axis.size}" + "!" * (axis.reason is not None)
        sign = {"product": "·", "sum": "+"}[axis.kind]
        return f"({sign.join(map(repr, parts_of(axis, axis.kind)))})"

    def become(self, other: Axis) -> None:
        """Replace this axis, wherever it is used, by ``other``, which has the same size."""
        if self is not other:
            self._refined = other

    @property
    def refined(self) -> Axis | None:
        """What replaced this axis, or ``None``."""
        return self._refined


def leaf(size: int, reason: str | None = None) -> Axis:
    """Return a new leaf, free unless a ``reason`` to stay in order is given."""
    return Axis(size, reason=reason)


def product_of(axes: Sequence[Axis]) -> Axis:
    """Return the product of axes, the last one running fastest."""
    axes = [axis for axis in axes if axis.size != 1]
    if not axes:
        return leaf(1)
    return axes[0] if len(axes) == 1 else Axis(prod(a.size for a in axes), "product", tuple(axes))


def sum_of(axes: Sequence[Axis]) -> Axis:
    """Return the concatenation of axes."""
    axes = [axis for axis in axes if axis.size != 0]
    if not axes:
        return leaf(0)
    return axes[0] if len(axes) == 1 else Axis(sum(a.size for a in axes), "sum", tuple(axes))


def resolve(axis: Axis) -> Axis:
    """Return what an axis has become: its newest refinement."""
    while True:
        while axis.refined is not None:
            axis = axis.refined
        if axis.kind == "leaf":
            return axis
        parts = parts_of(axis, axis.kind)
        if len(parts) > 1:
            return axis
        # All factors but one have size 1, or all terms but one have size 0.
        axis.become(parts[0] if parts else leaf(axis.size))


def parts_of(axis: Axis, kind: Kind) -> list[Axis]:
    """Return the factors or terms of an axis, those of nested products or sums in their place."""
    while axis.refined is not None:
        axis = axis.refined
    if axis.kind != kind or kind == "leaf":
        return [axis]
    neutral = {"product": 1, "sum": 0}[kind]
    parts = []
    for part in axis.parts:
        inner = resolve(part)
        if inner.size != neutral:
            parts += parts_of(inner, kind)
    return parts


def leaves(axis: Axis) -> Iterator[Axis]:
    """Yield the leaves of an axis in order, each as often as it occurs."""
    axis = resolve(axis)
    if axis.kind == "leaf":
        yield axis
    else:
        for part in parts_of(axis, axis.kind):
            yield from leaves(part)


def is_free(axis: Axis) -> bool:
    """Whether a permutation of some leaf of the axis is possible."""
    return any(part.reason is None and part.size > 1 for part in leaves(axis))


def pin(axis: Axis, reason: str) -> None:
    """Keep all leaves of an axis in order. The first reason of a leaf is kept."""
    for part in leaves(axis):
        if part.reason is None:
            part.reason = reason


def unite(a: Axis, b: Axis, reason: str) -> None:
    """Make two axes of one size move together.

    Leaves become one leaf, and a leaf becomes the tree that it is united with. Two products get
    their common refinement where one of sizes (m, k) meets one of sizes (n, l) and one of k and l
    divides the other; two sums get the terms between all boundaries of either. A product meets a
    sum if its first factor can be cut at the sum's boundaries: 3 · E and E' + E'' + E''' make all
    four E one axis. Everything else is pinned.

    Args:
        a: An axis.
        b: An axis of the same size.
        reason: Why leaves are pinned if the trees do not fit.
    """
    a, b = resolve(a), resolve(b)
    if a is b or a.size <= 1:
        return
    if b.kind == "leaf" and a.kind != "leaf":
        a, b = b, a
    if a.kind == "leaf":
        _unite_leaf(a, b)
    elif a.kind == b.kind == "product":
        _unite_products(a, b, reason)
    elif a.kind == b.kind == "sum":
        lengths = _merged([part.size for part in parts_of(a, "sum")], parts_of(b, "sum"))
        _unite_pieces(a, b, lengths, reason)
    else:
        terms = a if a.kind == "sum" else b
        _unite_pieces(a, b, [part.size for part in parts_of(terms, "sum")], reason)


def _unite_leaf(a: Axis, b: Axis) -> None:
    """Make a leaf become another axis, which takes over its reason to stay."""
    if b.kind == "leaf":
        b.reason = b.reason or a.reason
    elif a.reason is not None:
        pin(b, a.reason)
    a.become(b)


def _merged(lengths: Sequence[int], parts: Sequence[Axis]) -> list[int]:
    """Return the lengths between the boundaries of either division of a dimension."""
    ends = sorted({*accumulate(lengths), *accumulate(part.size for part in parts)})
    return [end - start for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def _unite_pieces(a: Axis, b: Axis, lengths: list[int], reason: str) -> None:
    pieces_of_a, pieces_of_b = cut(a, lengths, reason), cut(b, lengths, reason)
    if pieces_of_a is None or pieces_of_b is None:
        pin(a, reason)
        pin(b, reason)
        return
    for piece_of_a, piece_of_b in zip(pieces_of_a, pieces_of_b, strict=True):
        unite(piece_of_a, piece_of_b, reason)


def _unite_products(a: Axis, b: Axis, reason: str) -> None:
    """Unite two products between each two boundaries that they have in common."""
    segments = _segments(parts_of(a, "product"), parts_of(b, "product"))
    if len(segments) > 1:
        for left, right in segments:
            unite(product_of(left), product_of(right), reason)
        return
    left, right = segments[0]
    # They have no boundary in common, so the last factor of one has to be a product itself.
    small, large = sorted((left[-1], right[-1]), key=lambda factor: factor.size)
    if large.kind == "leaf" and large.size % small.size == 0:
        sizes = (large.size // small.size, small.size)
        large.become(product_of([leaf(size, large.reason) for size in sizes]))
        unite(a, b, reason)
    else:
        pin(a, reason)
        pin(b, reason)


def _segments(a: list[Axis], b: list[Axis]) -> list[tuple[list[Axis], list[Axis]]]:
    """Return pairs of runs of factors, each with the same product and as short as possible."""
    segments: list[tuple[list[Axis], list[Axis]]] = []
    a, b = list(a), list(b)
    while a:
        left, right = [a.pop()], [b.pop()]
        while (m := prod(f.size for f in left)) != (n := prod(f.size for f in right)):
            if m < n:
                left.insert(0, a.pop())
            else:
                right.insert(0, b.pop())
        segments.insert(0, (left, right))
    return segments


def cut(axis: Axis, lengths: Sequence[int], reason: str) -> list[Axis] | None:
    """Cut an axis into consecutive pieces.

    Args:
        axis: An axis.
        lengths: The sizes of the pieces, whose sum is the size of the axis.
        reason: Why pieces of one unit stay where they are.

    Returns:
        The pieces; ``None`` if a boundary is inside of a product's minor factors.
    """
    axis = resolve(axis)
    lengths = [length for length in lengths if length]
    if len(lengths) <= 1:
        return [axis] * len(lengths)
    if axis.kind == "sum":
        return _cut_sum(axis, lengths, reason)
    if axis.kind == "leaf":
        pieces = [
            leaf(length, axis.reason or (reason if length == 1 else None)) for length in lengths
        ]
    else:
        first, *minor = parts_of(axis, "product")
        step = axis.size // first.size
        if any(length % step for length in lengths):
            return None
        majors = cut(first, [length // step for length in lengths], reason)
        if majors is None:
            return None
        pieces = [product_of([major, *minor]) for major in majors]
    axis.become(sum_of(pieces))
    return pieces


def _cut_sum(axis: Axis, lengths: Sequence[int], reason: str) -> list[Axis] | None:
    terms = parts_of(axis, "sum")
    ends = set(accumulate(lengths))
    start = 0
    for term in terms:
        inside = sorted(end - start for end in ends if start < end < start + term.size)
        bounds = [0, *inside, term.size]
        if cut(term, [q - p for p, q in pairwise(bounds)], reason) is None:
            return None
        start += term.size
    terms = parts_of(axis, "sum")
    pieces = []
    for length in lengths:
        taken: list[Axis] = []
        while sum(term.size for term in taken) < length:
            taken.append(terms.pop(0))
        pieces.append(sum_of(taken))
    return pieces
