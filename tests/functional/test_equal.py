"""Which tensors are equal, against comparisons of all pairs."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_share.functional import _equal, first_equal


def by_all_pairs(tensors):
    """Number by number, in float64."""
    first = []
    for i, tensor in enumerate(tensors):
        equal = [j for j in range(i) if tensors[j].tolist() == tensor.tolist()]
        first.append(min(equal, default=i))
    return first


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from([0.0, 1.0, 2.0]), min_size=3, max_size=3), max_size=9),
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.complex64]),
)
def test_as_all_pairs(rows, dtype):
    tensors = [torch.tensor(row).to(dtype) for row in rows]
    assert first_equal(tensors) == by_all_pairs(tensors)


@pytest.mark.parametrize("place", [0, 1, 4_999, 10_000])
def test_one_number_makes_the_difference(place):
    """Also one that is not in the sample."""
    tensors = [torch.zeros(10_001) for _ in range(3)]
    tensors[1][place] = 1.0
    assert first_equal(tensors) == [0, 1, 0]


def test_transposes_and_slices():
    stack = torch.arange(12.0).reshape(2, 3, 2).contiguous()
    matrix = torch.arange(6.0).reshape(3, 2)
    assert first_equal([matrix, stack[0], stack[1], matrix.T.contiguous().T]) == [0, 0, 2, 0]
    assert first_equal([torch.ones(2, 3), torch.ones(3, 2).T, torch.ones(3, 2)]) == [0, 0, 2]


def test_zeros_of_both_signs_are_equal_and_nan_equals_nothing():
    zero, nan = torch.zeros(3), torch.full((3,), math.nan)
    assert first_equal([zero, -zero, nan, nan, nan.clone()]) == [0, 0, 2, 3, 4]
    # NaN outside of the sample.
    long = torch.zeros(1000)
    long[1] = math.nan
    assert first_equal([long, long.clone()]) == [0, 1]


def test_other_dtypes_and_shapes_are_different():
    tensors = [torch.zeros(4), torch.zeros(4).double(), torch.zeros(2, 2), torch.zeros(4)]
    assert first_equal(tensors) == [0, 1, 2, 0]


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.uint16, torch.bool])
def test_dtypes_for_which_torch_has_few_operations(dtype):
    one, zero = torch.ones(40).to(dtype), torch.zeros(40).to(dtype)
    assert first_equal([one, zero, one.clone(), zero.clone()]) == [0, 1, 0, 1]


def test_scalars_and_nothing():
    assert first_equal([torch.tensor(1.0), torch.tensor(2.0), torch.tensor(1.0)]) == [0, 1, 0]
    assert first_equal([torch.empty(0, 3), torch.empty(0, 3)]) == [0, 0]
    assert first_equal([torch.tensor(True), torch.tensor(True)]) == [0, 0]
    assert first_equal([]) == []


def test_few_pairs_are_compared_in_full(monkeypatch):
    """Those of members that differ are told apart by their samples."""
    calls = []
    real = torch.equal

    def equal(*pair):
        calls.append(pair)
        return real(*pair)

    monkeypatch.setattr(_equal.torch, "equal", equal)
    distinct = [torch.randn(500, generator=torch.Generator().manual_seed(i)) for i in range(20)]
    assert first_equal([*distinct, *distinct]) == [*range(20), *range(20)]
    assert len(calls) == 20
