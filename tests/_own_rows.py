"""A norm and a center that the library does not have, registered as anybody would: one row each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from lit_share.functional import CENTERS, NORMS, Center, Norm


def middle(members, _):
    """The geometric center of two members."""
    a, b = members
    point = (a + b) / 2.0
    return [point, point], [a - point, b - point]


def huber(n, _):
    """½ Σ h(n), where h(n) is n²/2 below 1, and n − ½ above."""
    return 0.5 * torch.where(n < 1.0, 0.5 * n.square(), n - 0.5).sum()


def huber_prox(n, _, t):
    """r + t/2 · min(r, 1) = n."""
    halves = [step / 2.0 for step in t]
    return [torch.where(x < 1.0 + h, x / (1.0 + h), x - h) for x, h in zip(n, halves, strict=True)]


ROWS = {
    "half_huber": Norm(huber, lambda n, _: 0.5 * n.clamp_max(1.0), huber_prox, smooth=True),
    # Σ √n, which no formula here has a proximal operator of.
    "root": Norm(lambda n, _: n.sqrt().sum(), lambda n, _: 0.5 / n.sqrt()),
}


@contextmanager
def registered() -> Iterator[None]:
    """Have the rows in the tables for a while."""
    with pytest.MonkeyPatch.context() as patch:
        for name, norm in ROWS.items():
            patch.setitem(NORMS, name, norm)
        patch.setitem(CENTERS, "middle", Center(middle, min_members=2, compares_members=True))
        yield
