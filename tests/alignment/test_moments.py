"""Moments over batches are those of all numbers together."""

import pytest
import torch

from lit_share.alignment._moments import Moments


@pytest.mark.parametrize("dim", [-1, -2, -3])
def test_batches_add_up(dim):
    torch.manual_seed(0)
    values = 100.0 + torch.randn(9, 4, 5, 6, dtype=torch.float64)
    moments = Moments()
    for batch in values.split([2, 3, 4]):
        moments.add(batch, dim)
    units = values.movedim(dim, 0).flatten(1)
    assert moments.count == units.shape[1]
    assert moments.calls == 3
    torch.testing.assert_close(moments.mean, units.mean(1))
    torch.testing.assert_close(moments.variance(), units.var(1, correction=0))
    torch.testing.assert_close(moments.variance(correction=1), units.var(1))
    torch.testing.assert_close(moments.deviation(), units.std(1, correction=0))


def test_units_that_vary_by_rounding_have_no_deviation():
    moments = Moments()
    for size in (3, 7, 11):
        moments.add(torch.full((size, 1), 0.1, dtype=torch.float64), -1)
    assert moments.variance() > 0
    assert moments.deviation() == 0
