"""Cost over the number of tied parameters: `python -m benchmarks.speed growth`.

Ratios of the time per number between sizes, numbers of tensors and numbers of members, all of them
in one alternation. Ties are opened once, as a training loop does, and only steps are timed.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

import lit_share as ls
from benchmarks.speed._clock import DEVICE, Call, Row, alternate, ratio, spread
from lit_share.functional import TieBatch, TieTensors

SOFT_TIE = ls.Penalty(norm="squared", groups="element", center="mean")


def ties(numbers: int, tensors: int, members: int = 2) -> list[TieTensors]:
    """Make ties with this total of numbers for each member."""
    size = numbers // tensors
    made = [[torch.randn(size, device=DEVICE) for _ in range(members)] for _ in range(tensors)]
    return [TieTensors(own, grads=[torch.zeros_like(w) for w in own]) for own in made]


def step(made: list[TieTensors]) -> Call:
    """Open the ties, and return a call that adds their gradient."""
    return partial(TieBatch(SOFT_TIE, made).add_gradient_, 1e-9)


def compare(what: str, cases: dict[str, tuple[int, int, int]], most: float) -> Iterator[Row]:
    """Yield the cost per number of each case, as a ratio to the first."""
    calls = {name: step(ties(*case)) for name, case in cases.items()}
    times = alternate(calls, 5)
    each = {name: [t / (case[0] * case[2]) for t in times[name]] for name, case in cases.items()}
    first = next(iter(cases))
    for name in list(cases)[1:]:
        ratios = [a / b for a, b in zip(each[name], each[first], strict=True)]
        yield spread(f"{what}, {name}", ratios, against=f"{first}, per number", target=most)


def operations(made: list[TieTensors]) -> None:
    """Do the three operations that a pair needs, and nothing else."""
    for tie in made:
        (a, b), (of_a, of_b) = tie.members, tie.grads
        d = a - b
        of_a.add_(d, alpha=1e-9)
        of_b.sub_(d, alpha=1e-9)


def weight_decay(made: list[TieTensors]) -> Call:
    """Return a call that adds all members to their gradients."""
    grads = [grad for tie in made for grad in tie.grads]
    members = [member for tie in made for member in tie.members]
    return partial(torch._foreach_add_, grads, members, alpha=0.0)


def measure() -> Iterator[Row]:
    """Yield the rows; flat means at most half as much again."""
    sizes = {f"10^{k} numbers": (10**k, 10, 2) for k in (7, 5, 6, 8)}
    yield from compare("soft_tie", sizes, 1.5)
    tensors = {f"{count:,} tensors": (10**7, count, 2) for count in (10, 100, 1_000, 10_000)}
    yield from compare("soft_tie, 10^7 numbers", tensors, 1.5)
    tiny = ties(10**7, 10_000)
    calls = {"ours": step(tiny), "its operations alone": partial(operations, tiny)}
    what = "soft_tie, 10^7 numbers, 10,000 tensors"
    yield ratio(alternate(calls, 5), "ours", "its operations alone", what)
    # What a single call of torch costs that reads each tensor once: the limit without compilation.
    calls = {
        f"{count:,} tensors": weight_decay(ties(10**7, count)) for count in (10, 1_000, 10_000)
    }
    times = alternate(calls, 5)
    for name in list(calls)[1:]:
        yield ratio(times, name, "10 tensors", f"torch._foreach_add_, 10^7 numbers, {name}")
    # Two members have one difference instead of two deviations.
    members = {f"{count} members": (10**6, 10, count) for count in (4, 2, 8, 16)}
    yield from compare("soft_tie, 10^6 numbers", members, 1.5)
