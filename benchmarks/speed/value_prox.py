"""Compare steps inside a tensor with sorting it: `python -m benchmarks.speed value_prox`.

Steps write to the tensor, which is restored before each; sorting is measured with that, too.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from benchmarks.speed._clock import DEVICE, Call, Row, alternate, ratio
from lit_share.functional import TieBatch, TieTensors
from lit_share.penalties import RECIPES

REPEATS = 15
# The most that a step may take, relative to `torch.sort`.
TARGET = 1.5
# Steps that make no, some and all numbers equal.
STEPS = (1e-3, 1.0, 10.0)


def cases(n: int) -> dict[str, Tensor]:
    """Return tensors of n numbers, by what is equal in them."""
    numbers = torch.randn(n, device=DEVICE)
    return {"all different": numbers, "100 values": (20.0 * numbers).round() / 20.0}


def step_of(start: Tensor, size: float) -> Call:
    """Return a call that restores the tensor and takes the proximal step."""
    penalty = RECIPES["value_tie"].penalty
    assert penalty is not None
    tie = TieTensors([start.clone()], steps=[size], inside=True)
    batch = TieBatch(penalty, [tie])

    def take() -> None:
        tie.members[0].copy_(start)
        batch.prox_()

    return take


def sort_of(start: Tensor) -> Call:
    """Return a call that restores a tensor and sorts it."""
    member = start.clone()

    def sort() -> None:
        member.copy_(start)
        torch.sort(member)

    return sort


def measure() -> Iterator[Row]:
    """Yield the rows."""
    for n in (10**4, 10**6):
        for kind, start in cases(n).items():
            for size in STEPS:
                contestants = {"step": step_of(start, size), "torch.sort": sort_of(start)}
                times = alternate(contestants, REPEATS)
                what = f"value_tie, {n:,} numbers, {kind}, step {size:g}"
                target = None
                if n == 10**6:
                    target = TARGET
                yield ratio(times, "step", "torch.sort", what, target=target)
