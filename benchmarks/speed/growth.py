"""How the cost grows with what is tied: `python -m benchmarks.speed growth`.

Nanoseconds per number (of a pair: two numbers that are tied), and ratios between sizes, numbers of tensors and of
members, all of them in one alternation.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

import lit_share as ls
from benchmarks.speed._clock import DEVICE, Row, alternate, ratio, spread
from lit_share.functional import add_gradient_

SOFT_TIE = ls.Penalty(norm="squared", groups="element", center="mean")


def ties(
    numbers: int, tensors: int, members: int = 2
) -> tuple[list[list[Tensor]], list[list[Tensor]]]:
    """Members and their gradients, of so many numbers in all for each member."""
    size = numbers // tensors
    made = [[torch.randn(size, device=DEVICE) for _ in range(members)] for _ in range(tensors)]
    return made, [[torch.zeros_like(w) for w in tie] for tie in made]


def compare(what: str, cases: dict[str, tuple[int, int, int]], most: float) -> Iterator[Row]:
    """Cost per number of each case, as a ratio to the first."""
    calls = {
        name: partial(add_gradient_, SOFT_TIE, *ties(*case), 1e-9) for name, case in cases.items()
    }
    times = alternate(calls, 5)
    each = {name: [t / (case[0] * case[2]) for t in times[name]] for name, case in cases.items()}
    first = next(iter(cases))
    for name in list(cases)[1:]:
        ratios = [a / b for a, b in zip(each[name], each[first], strict=True)]
        yield spread(f"{what}, {name}", ratios, against=f"{first}, per number", target=most)


def operations(made: list[list[Tensor]], grads: list[list[Tensor]]) -> None:
    """The three operations that a pair needs, and nothing else."""
    for (a, b), (of_a, of_b) in zip(made, grads, strict=True):
        d = a - b
        of_a.add_(d, alpha=1e-9)
        of_b.sub_(d, alpha=1e-9)


def measure() -> Iterator[Row]:
    """The rows; flat means at most half as much again."""
    sizes = {f"10^{k} numbers": (10**k, 10, 2) for k in (7, 5, 6, 8)}
    yield from compare("soft_tie", sizes, 1.5)
    tensors = {f"{count:,} tensors": (10**7, count, 2) for count in (10, 100, 1_000, 10_000)}
    yield from compare("soft_tie, 10^7 numbers", tensors, 1.5)
    tiny = ties(10**7, 10_000)
    calls = {
        "ours": partial(add_gradient_, SOFT_TIE, *tiny, 1e-9),
        "its operations alone": partial(operations, *tiny),
    }
    what = "soft_tie, 10^7 numbers, 10,000 tensors"
    yield ratio(alternate(calls, 5), "ours", "its operations alone", what)
    # Of two members there is one difference in the place of two deviations.
    members = {f"{count} members": (10**6, 10, count) for count in (4, 2, 8, 16)}
    yield from compare("soft_tie, 10^6 numbers", members, 1.5)
