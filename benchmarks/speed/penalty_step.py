"""What the step of a penalty costs by itself: `python -m benchmarks.speed penalty_step`.

Pairs of models, to which `lit_share.PenaltySteps` is attached once. A step is what a training loop
calls before or after each step of its optimizer. The floor of a gradient reads two weights and two
gradients and writes two gradients, 24 bytes for each pair of numbers; that of a proximal step reads
and writes two weights, 16 bytes. Both are moved at the best speed of ``add_`` in the same
alternation. Autograd has ½‖A − B‖² in the loss; weight decay is what optimizers do of their own.
On several threads, the threads of torch's OpenMP keep the cores busy for some milliseconds after
each of its operations, so steps right after one are slower, and are measured, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import nn

import lit_share as ls
from benchmarks.speed._clock import Call, Row, after, alternate, floor, on_gpu, ratio, spread, waits
from benchmarks.speed._models import MODELS, pair

REPEATS = 15
SOFT_TIE = ls.Penalty(norm="squared", groups="element", center="mean")
PROXES = {
    "exact_tie": ls.Penalty(norm="l1", groups="element", center="mean"),
    "unit_tie": ls.Penalty(norm="l1", groups="output", center="mean"),
    "layer_tie": ls.Penalty(norm="l1", groups="tensor", center="mean"),
}
# Bytes that a step has to move for each pair of numbers, if not 16.
BYTES = {"soft_tie": 24}
# The most that a step may take over its floor, on large models and on the small one.
TARGETS = {
    "soft_tie": (1.1, 1.5),
    "exact_tie": (1.1, 1.5),
    "unit_tie": (1.3, 2.0),
    "layer_tie": (1.6, 2.0),
}
TIES = ls.Ties("a.*", "b.*")
# So small that weights stay as they are over all repeats, but not 0, with which nothing is done.
STRENGTH = 1e-12


def attached(penalty: ls.Penalty, models: nn.ModuleDict) -> ls.PenaltySteps:
    """Open the penalty as a training loop does before its first step."""
    steps = ls.PenaltySteps(penalty, TIES, STRENGTH)
    steps.attach(models, torch.optim.SGD(models.parameters(), lr=1.0))
    return steps


def autograd(models: nn.ModuleDict) -> None:
    """Add the gradient of what one would write: the penalty in the loss."""
    pairs = zip(models["a"], models["b"], strict=True)
    loss = torch.stack([0.5 * (a - b).square().sum() for a, b in pairs]).sum()
    loss.backward()


def measure() -> Iterator[Row]:
    """Yield the rows."""
    for name, shapes in MODELS.items():
        models = pair(shapes())
        parameters = list(models.parameters())
        numbers = sum(p.numel() for p in parameters) // 2
        is_small = numbers < 10**6
        weights, grads = [p.detach() for p in parameters], [p.grad for p in parameters]
        soft_tie = attached(SOFT_TIE, models).before_step
        times = alternate(
            {
                "floor": floor(24 * numbers),
                "ours": soft_tie,
                "autograd": partial(autograd, models),
                "weight decay": partial(torch._foreach_add_, grads, weights, alpha=0.0),
            },
            REPEATS,
        )
        gigabytes = [24e-9 * numbers / seconds for seconds in times["floor"]]
        yield spread(f"the machine's limit, {24e-6 * numbers:.0f} MB", gigabytes, unit="GB/s")
        most = TARGETS["soft_tie"][is_small]
        yield ratio(times, "ours", "floor", f"soft_tie, {name}", target=most)
        yield ratio(times, "autograd", "ours", f"autograd, {name}", target=5.0, is_most=False)
        yield ratio(times, "ours", "weight decay", f"soft_tie, {name}")
        # It moves the same bytes in the same tensors, and needs nothing else.
        yield ratio(times, "weight decay", "floor", f"torch._foreach_add_, {name}")
        proxes: dict[str, Call] = {
            which: attached(penalty, models).after_step for which, penalty in PROXES.items()
        }
        times = alternate({"floor": floor(16 * numbers), **proxes}, REPEATS)
        if on_gpu():
            for which, call in {"soft_tie": soft_tie, **proxes}.items():
                count = float(waits(call))
                yield Row(
                    f"{which}, {name}", count, count, count, unit="waits of the host", target=0.0
                )
        for which in PROXES:
            most = TARGETS[which][is_small]
            yield ratio(times, which, "floor", f"{which}, {name}", target=most)
        if torch.get_num_threads() > 1:
            for which, call in {"soft_tie": soft_tie, **proxes}.items():
                operation = floor(BYTES.get(which, 16) * numbers)
                times = after(operation, {"floor": operation, which: call}, REPEATS)
                yield ratio(times, which, "floor", f"{which}, {name}, right after an operation")
