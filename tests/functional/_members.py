"""Members, steps and parameters of the tests of `center="graph"`."""

from __future__ import annotations

import numpy as np
import pytest
import torch

GROUPS = ("element", "output", "input", "tensor")
COUNTS = (2, 3, 5, 8)
DTYPES = (torch.float64, torch.float32, torch.bfloat16)
each_grouping = pytest.mark.parametrize("groups", GROUPS)
each_count = pytest.mark.parametrize("count", COUNTS)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def members_of(count: int, shape=(2, 3), seed: int = 0) -> list[torch.Tensor]:
    """Members of which the first two are close to each other."""
    rng = torch.Generator().manual_seed(seed)
    members = [torch.randn(shape, generator=rng, dtype=torch.float64) for _ in range(count)]
    members[1] = members[0] + 0.02 * members[1]
    return members


def steps_of(count: int) -> list[list[float]]:
    """Equal and different steps, with members that do not move; small, medium and large."""
    different = [0.1 + 0.1 * i for i in range(count)]
    frozen = [0.0, *different[1:]]
    two_frozen = [0.3, *[0.0] * min(2, count - 1), *different[3:]]
    all_but_one = [*[0.0] * (count - 1), 0.3]
    return [[0.1] * count, [0.4] * count, [5.0] * count, different, frozen, two_frozen, all_but_one]


def arrays(tensors) -> list[np.ndarray]:
    return [w.detach().numpy() for w in tensors]
