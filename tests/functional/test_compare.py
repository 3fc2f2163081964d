"""Comparisons of members: loops against plain torch, in every dtype and layout."""

import itertools
import math

import pytest
import torch

from lit_share.functional import Comparison, _compare, compare_members

LAYOUTS = {
    "contiguous": lambda w: w,
    "transposed": lambda w: w.T.contiguous().T,
    "expanded": lambda w: w[:1].expand(w.shape),
    "empty": lambda w: w[:0],
    "scalar": lambda w: w[0, 0],
}


def members_of(count, dtype):
    generator = torch.Generator().manual_seed(count)
    # More than one job, and not a multiple of the loops' blocks.
    members = [torch.randn(331, 101, generator=generator).to(dtype) for _ in range(count)]
    for member in members[1:]:
        member[:, ::3] = members[0][:, ::3]
    members[-1][:, ::2] = members[0][:, ::2]
    return members


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("count", [2, 3, 5])
def test_sums_are_those_of_all_pairs(count, dtype, layout):
    members = [LAYOUTS[layout](w) for w in members_of(count, dtype)]
    comparison = compare_members(members)
    wide = [w.double() for w in members]
    between = sum(float((a - b).square().sum()) for a, b in itertools.combinations(wide, 2))
    assert comparison.between == pytest.approx(between, rel=1e-9)
    assert comparison.size == pytest.approx(
        (count - 1) * sum(float(w.square().sum()) for w in wide), rel=1e-9
    )
    assert comparison.equal == torch.stack([w == wide[0] for w in wide]).all(dim=0).sum()
    assert comparison.numel == members[0].numel()


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3e38])
def test_loops_and_torch_agree_on_extreme_numbers(count, value):
    members = members_of(count, torch.float32)
    members[1][5, 7] = value
    looped = compare_members(members)
    between, size, equal = _compare._plain_sums(members).tolist()
    for sum_of_loop, sum_of_torch in ((looped.between, between), (looped.size, size)):
        # Infinite numbers may give NaN or infinity, as sums are taken in another order.
        if math.isfinite(sum_of_torch) or math.isfinite(sum_of_loop):
            assert sum_of_loop == pytest.approx(sum_of_torch, rel=1e-9)
    assert looped.equal == equal


def test_totals_of_no_and_of_several_ties():
    assert Comparison.total([]).distance == Comparison.total([]).tied == 0.0
    ties = [Comparison(4.0, 8.0, 1, 2), Comparison(0.0, 8.0, 2, 2)]
    assert Comparison.total(ties) == Comparison(4.0, 16.0, 3, 4)
    assert Comparison.total(ties).distance == 0.5
    assert Comparison.total(ties).tied == 0.75
