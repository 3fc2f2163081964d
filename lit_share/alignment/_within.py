"""Find axes that may be permuted differently beside each unit of another one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from math import prod

from lit_share.alignment._axes import Axis, resolve
from lit_share.alignment._blocks import blocks

# More combinations of blocks than this are not looked at: their axes get no parent.
LIMIT = 20_000


def find_parents(
    occurrences: Iterable[Sequence[Axis]], numbers: Mapping[Axis, int]
) -> dict[int, int]:
    r"""Return for each free axis the axis beside whose units it may be permuted differently.

    An axis d is *within* an axis h if a permutation of its own per unit of h leaves the computation
    alone, :math:`(h, d) \to (\pi(h), \sigma_h(d))`, as the dimensions of a head are within the
    heads. It is if d never occurs without exactly one h beside it: not in a tensor, nor in a
    product of tensors before it is summed, nor in what is left of a tensor after a reduction.
    Then each operation treats the slices of different h apart from each other.

    Args:
        occurrences: Axes that occur together, of each tensor of a computation.
        numbers: The free axes and their numbers. A parent has the smaller number and no parent.

    Returns:
        From numbers of axes to those of their parents, for axes that have one.
    """
    candidates: dict[int, set[int]] = {}
    seen = set()
    for axes in occurrences:
        dimensions = [axis for axis in map(resolve, axes) if axis.size > 1]
        key = tuple(map(id, dimensions))
        if key in seen:
            continue
        seen.add(key)
        _strike_out(candidates, dimensions, numbers)
    parents: dict[int, int] = {}
    for d in sorted(candidates):
        possible = [h for h in sorted(candidates[d]) if h < d and h not in parents]
        if possible:
            parents[d] = possible[0]
    return parents


def _strike_out(
    candidates: dict[int, set[int]], dimensions: Sequence[Axis], numbers: Mapping[Axis, int]
) -> None:
    """Remove candidates that do not occur exactly once beside an axis."""
    terms = []
    for dimension in dimensions:
        found = {
            tuple(numbers[a] for a in block.axes if a is not None and a in numbers)
            for block in blocks(dimension)
        }
        terms.append(sorted(found))
    if prod(map(len, terms)) > LIMIT:
        for number in {number for term in terms for block in term for number in block}:
            candidates[number] = set()
        return
    for combination in product(*terms):
        counts = Counter(number for block in combination for number in block)
        once = {number for number, count in counts.items() if count == 1}
        for number in counts:
            beside = once - {number}
            candidates[number] = candidates.get(number, beside) & beside
