"""What the step of a penalty costs by itself: `python -m benchmarks.speed.penalty_step`.

Pairs of models. The floor of a gradient reads two weights and two gradients and writes two gradients, 24 bytes for each
pair of numbers; that of a proximal step reads and writes two weights, 16 bytes. Both are moved at the best speed of
``add_`` in the same alternation. Autograd has ½‖A − B‖² in the loss; weight decay is what optimizers do of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

import lit_share as ls
from benchmarks.speed._clock import Row, alternate, floor, on_gpu, ratio, spread, waits
from benchmarks.speed._models import MODELS, pairs
from lit_share.functional import add_gradient_, prox_

REPEATS = 15
SOFT_TIE = ls.Penalty(norm="squared", groups="element", center="mean")
EXACT_TIE = ls.Penalty(norm="l1", groups="element", center="mean")
UNIT_TIE = ls.Penalty(norm="l1", groups="output", center="mean")
PROXES = {"exact_tie": EXACT_TIE, "unit_tie": UNIT_TIE}


def autograd(members: list[list[Tensor]]) -> None:
    """What one would write: the penalty in the loss."""
    loss = torch.stack([0.5 * (a - b).square().sum() for a, b in members]).sum()
    loss.backward()


def measure() -> Iterator[Row]:
    """The rows."""
    for name, shapes in MODELS.items():
        members = pairs(shapes())
        numbers = sum(a.numel() for a, _ in members)
        for member in (w for pair in members for w in pair):
            member.requires_grad_().grad = torch.zeros_like(member)
        grads = [[w.grad for w in pair] for pair in members]
        large = numbers > 10**6
        weights, flat = (
            [w.detach() for pair in members for w in pair],
            [g for pair in grads for g in pair],
        )
        times = alternate(
            {
                "floor": floor(24 * numbers),
                "ours": partial(add_gradient_, SOFT_TIE, members, grads, 0.0),
                "autograd": partial(autograd, members),
                "weight decay": partial(torch._foreach_add_, flat, weights, alpha=0.0),
            },
            REPEATS,
        )
        gigabytes = [24e-9 * numbers / seconds for seconds in times["floor"]]
        yield spread(f"the machine's limit, {24e-6 * numbers:.0f} MB", gigabytes, unit="GB/s")
        yield ratio(times, "ours", "floor", f"soft_tie, {name}", target=1.6 if large else None)
        yield ratio(times, "autograd", "ours", f"autograd, {name}", target=5.0, is_most=False)
        yield ratio(times, "ours", "weight decay", f"soft_tie, {name}")
        with torch.no_grad():
            data = [[w.detach() for w in pair] for pair in members]
            times = alternate(
                {
                    "floor": floor(16 * numbers),
                    **{
                        which: partial(prox_, penalty, data, [1e-12] * len(data))
                        for which, penalty in PROXES.items()
                    },
                },
                REPEATS,
            )
        if on_gpu():
            calls = {"soft_tie": partial(add_gradient_, SOFT_TIE, members, grads, 0.0)}
            calls |= {
                which: partial(prox_, penalty, data, [1e-12] * len(data))
                for which, penalty in PROXES.items()
            }
            for which, call in calls.items():
                count = float(waits(call))
                yield Row(
                    f"{which}, {name}", count, count, count, unit="waits of the host", target=0.0
                )
        for which, most in (("exact_tie", 1.5), ("unit_tie", 2.5)):
            yield ratio(times, which, "floor", f"{which}, {name}", target=most if large else None)
