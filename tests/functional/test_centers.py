from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from lit_share.functional import mean

from ._zoo import MEMBERS


class TestMean:
    @pytest.mark.parametrize("name", MEMBERS)
    @pytest.mark.parametrize("count", [1, 2, 3])
    def test_value(self, name, count):
        make, scale = MEMBERS[name]
        members = make(count, torch.Generator().manual_seed(0))
        assert_close(mean(members), torch.stack(members).mean(0), rtol=0, atol=1e-15 * scale)

    @pytest.mark.parametrize(
        "dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64], ids=str
    )
    def test_of_equal_members_is_that_member(self, dtype):
        """Bit by bit, also where the sum of the members would be rounded, or be infinite."""
        member = torch.tensor([0.1, -1.0 / 3.0, 0.0, 0.7 * torch.finfo(dtype).max], dtype=dtype)
        for count in (1, 2, 3, 7):
            result = mean([member] * count)
            assert result.dtype == dtype
            assert torch.equal(result, member)

    def test_pure(self):
        members = [torch.ones(2), torch.zeros(2)]
        for count in (1, 2):
            mean(members[:count]).fill_(5.0)
        assert [w.tolist() for w in members] == [[1.0, 1.0], [0.0, 0.0]]
