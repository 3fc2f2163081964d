"""Comparisons of members: loops against plain torch, in every dtype and layout."""

import itertools
import math

import pytest
import torch

from lit_share.functional import Comparison, _compare, compare_members
from lit_share.functional._fused import is_loopable

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
    assert is_loopable(members)
    looped = compare_members(members)
    between, size, equal = _compare._plain_sums(members)
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("shapes", [[(6,), (1,)], [(2, 3), (3, 2)], [(4,)]])
def test_members_of_other_shapes_are_refused(shapes, dtype):
    members = [torch.ones(shape, dtype=dtype) for shape in shapes]
    with pytest.raises(ValueError, match="two or more tensors of one shape, got the shapes"):
        compare_members(members)


def test_nan_is_no_distance_of_zero():
    broken = compare_members([torch.tensor([math.nan]), torch.tensor([1.0])])
    assert math.isnan(broken.distance)
    assert math.isnan(Comparison.total([broken, Comparison(4.0, 8.0, 1, 2)]).distance)


@pytest.mark.parametrize(
    ("a", "b"),
    [(2**53, 2**53 + 1), (1 + 1j, 1 + 2j), (True, False)],
    ids=["int", "complex", "bool"],
)
def test_equality_is_that_of_the_members_own_dtype(a, b):
    comparison = compare_members([torch.tensor([a, a]), torch.tensor([b, a])])
    assert comparison.equal == 1
    if isinstance(a, complex):
        assert comparison.between == pytest.approx(abs(a - b) ** 2)


def test_blocks_are_added_up_exactly(monkeypatch):
    """As on a device without float64: more elements than float32 can count."""
    monkeypatch.setattr(_compare, "float64_on", lambda _: torch.float32)
    w = torch.zeros(2**24 + 3, dtype=torch.bfloat16)
    assert compare_members([w, w]).equal == 2**24 + 3
