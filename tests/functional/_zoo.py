"""The registry: every penalty, and the members that it meets in every test.

A new norm, grouping, center or kind of OWL weights is a new row here, and gets all the tests of
`test_penalty` by it.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from lit_share.functional import OwlWeights, Penalty

from . import _reference as reference
from ._reference import Array

# Name of the row: the norm, what its `weights=` are, and the same weights written plainly.
NORMS: dict[str, tuple[str, Callable[[int], object] | None, Callable[[int], Array] | None]] = {
    "squared": ("squared", None, None),
    "l1": ("l1", None, None),
    "owl_pld": (
        "owl",
        lambda _: OwlWeights(lambda1=0.3, lambda2=0.2, fraction=0.5),
        lambda n: np.array([0.3 + 0.2 * max((n + 1) // 2 - k + 1, 0) for k in range(1, n + 1)]),
    ),
    "owl_oscar": (
        "owl",
        lambda _: OwlWeights(lambda1=0.1, lambda2=0.25),
        lambda n: np.array([0.1 + 0.25 * (n - k + 1) for k in range(1, n + 1)]),
    ),
    "owl_tensor": (
        "owl",
        lambda n: torch.tensor([1.0 / k for k in range(1, n + 1)], dtype=torch.float64),
        lambda n: np.array([1.0 / k for k in range(1, n + 1)]),
    ),
}
GROUPS = ("element", "output", "input", "tensor", "spectrum")
CENTERS = {
    "zero": (1, 2, 3),
    "mean": (2, 3),
    "first": (2, 3),
    "start": (1, 2, 3),
    "graph": (2, 3, 5, 8),
}


@dataclass(frozen=True)
class Spec:
    """One row of the registry."""

    row: str
    groups: str
    center: str

    def __str__(self) -> str:
        return f"{self.row}-{self.groups}-{self.center}"

    @property
    def norm(self) -> str:
        return NORMS[self.row][0]

    @property
    def homogeneous(self) -> bool:
        """Whether the penalty is of degree 1 in the deviations (else of degree 2)."""
        return self.norm != "squared"

    def fits(self, shape: Sequence[int], count: int) -> bool:
        least = {
            "element": 0,
            "output": 1,
            "input": 2,
            "tensor": 0,
            "spectrum": 2 if count == 1 else 0,
        }
        return count in CENTERS[self.center] and len(shape) >= least[self.groups]

    def penalty(self, shape: Sequence[int], count: int) -> Penalty:
        given = NORMS[self.row][1]
        weights = (
            None
            if given is None
            else given(reference.group_count(self.groups, tuple(shape), count))
        )
        return Penalty(self.norm, self.groups, self.center, weights)


# Graphs have edges, and steps that are iterated: `test_fusion` is their registry.
#
# What the weights are does not touch centers: two kinds of them meet two centers only, for the time
# it takes.
SPECS = [
    Spec(row, groups, center)
    for row, groups, center in itertools.product(NORMS, GROUPS, CENTERS)
    if center != "graph" and (row not in ("owl_oscar", "owl_tensor") or center in ("zero", "mean"))
]
each_penalty = pytest.mark.parametrize("spec", SPECS, ids=str)


@dataclass(frozen=True)
class Case:
    """A penalty and members that it takes; ``scale`` is the size of their numbers."""

    spec: Spec
    name: str
    members: list[Tensor]
    start: list[Tensor] | None = None
    scale: float = 1.0
    penalty: Penalty = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(
            self, "penalty", self.spec.penalty(self.members[0].shape, len(self.members))
        )

    def __repr__(self) -> str:
        return f"<{self.spec} on {len(self.members)} {self.name}>"

    @property
    def owl_weights(self) -> Array | None:
        """The OWL weights, not computed by the package."""
        plain = NORMS[self.spec.row][2]
        shape, count = tuple(self.members[0].shape), len(self.members)
        return (
            None if plain is None else plain(reference.group_count(self.spec.groups, shape, count))
        )

    @property
    def moving(self) -> slice:
        """The members that the penalty moves."""
        return slice(1, None) if self.spec.center == "first" else slice(None)

    def steps(self, *sizes: float) -> list[float]:
        """Step sizes such that about 0.3 makes some groups equal and 30 makes all groups equal."""
        return [t * self.scale if self.spec.homogeneous else t for t in sizes]

    def value(self) -> Tensor:
        return self.penalty.value(self.members, self.start)

    def gradient(self) -> list[Tensor]:
        return self.penalty.gradient(self.members, self.start)

    def prox(self, step: float | Sequence[float]) -> list[Tensor]:
        return self.penalty.prox(self.members, step, self.start)

    def map(self, function: Callable[[Tensor], Tensor], scale: float = 1.0) -> Case:
        """The same case with ``function`` applied to every member and starting value."""
        start = None if self.start is None else [function(s) for s in self.start]
        return replace(
            self, members=[function(w) for w in self.members], start=start, scale=self.scale * scale
        )

    def to(self, dtype: torch.dtype) -> Case:
        return self.map(lambda w: w.to(dtype))


def _random(*shape: int, times: float = 1.0) -> Callable[[int, torch.Generator], list[Tensor]]:
    return lambda count, rng: [
        times * torch.randn(shape, generator=rng, dtype=torch.float64) for _ in range(count)
    ]


def _equal(count: int, rng: torch.Generator) -> list[Tensor]:
    return _random(3, 4)(1, rng) * count


def _tied(count: int, rng: torch.Generator) -> list[Tensor]:
    """Multiples of a matrix of ±1: all elements, rows and columns have deviations of one norm."""
    signs = torch.randint(0, 2, (3, 4), generator=rng, dtype=torch.float64) * 2.0 - 1.0
    return [(i + 1.0) * signs for i in range(count)]


def _with_zero_groups(count: int, rng: torch.Generator) -> list[Tensor]:
    members = _random(3, 4)(count, rng)
    for w in members:
        w[1], w[:, 2] = 0.0, 0.0
    return members


def _graded(count: int, rng: torch.Generator) -> list[Tensor]:
    """Members, and the rows of each, of sizes from 1 down to 1e-8."""
    sizes = torch.tensor([[1.0], [1e-2], [1e-4]], dtype=torch.float64)
    return [w * sizes * 10.0 ** (-2 * i) for i, w in enumerate(_random(3, 4)(count, rng))]


def _noncontiguous(count: int, rng: torch.Generator) -> list[Tensor]:
    return [w[:, ::2].T for w in _random(4, 6)(count, rng)]


# Name: the members, from their number and a source of random numbers; the size of their numbers.
MEMBERS: dict[str, tuple[Callable[[int, torch.Generator], list[Tensor]], float]] = {
    "scalar": (_random(), 1.0),
    "vector": (_random(5), 1.0),
    "matrix": (_random(3, 4), 1.0),
    "tall matrix": (_random(4, 3), 1.0),
    "kernel": (_random(3, 2, 2, 2), 1.0),
    "small matrix": (_random(2, 3), 1.0),
    "small kernel": (_random(2, 2, 1, 2), 1.0),
    "tiny": (_random(3, 4, times=1e-12), 1e-12),
    "huge": (_random(3, 4, times=1e8), 1e8),
    "equal": (_equal, 1.0),
    "zeros": (_random(3, 4, times=0.0), 1.0),
    "tied norms": (_tied, 1.0),
    "zero groups": (_with_zero_groups, 1.0),
    "graded": (_graded, 1.0),
    "noncontiguous": (_noncontiguous, 1.0),
}
# Here all norms differ and none is zero, so that every penalty is differentiable.
SMOOTH = ("vector", "matrix", "tall matrix", "kernel", "noncontiguous")


def cases(spec: Spec, *names: str, counts: Sequence[int] = (1, 2, 3)) -> list[Case]:
    """The penalty on the members of these names (default: all) that it takes: at least one."""
    found = []
    for name, count in itertools.product(names or MEMBERS, counts):
        make, scale = MEMBERS[name]
        rng = torch.Generator().manual_seed(zlib.crc32(f"{name} {count}".encode()))
        members = make(count, rng)
        if spec.fits(members[0].shape, count):
            found.append(Case(spec, name, members, _start(spec, name, members, rng), scale))
    assert found
    return found


def case(spec: Spec, name: str, count: int) -> Case:
    """The penalty on these members."""
    (found,) = cases(spec, name, counts=[count])
    return found


def _start(
    spec: Spec, name: str, members: list[Tensor], rng: torch.Generator
) -> list[Tensor] | None:
    if spec.center != "start":
        return None
    if name == "equal":
        return [w.clone() for w in members]
    if name in ("tied norms", "zeros", "zero groups"):
        return [torch.zeros_like(w) for w in members]
    return [
        w + MEMBERS[name][1] * torch.randn(w.shape, generator=rng, dtype=w.dtype) for w in members
    ]


def shuffle_within_symmetry(
    spec: Spec, shape: Sequence[int], count: int, seed: int
) -> Callable[[Tensor], Tensor]:
    """A random permutation of the elements that leaves the penalty as it is."""
    rng = torch.Generator().manual_seed(seed)
    index = torch.arange(int(np.prod(shape))).view(tuple(shape))
    if spec.groups == "spectrum" and count == 1:
        table = index.flatten(1)
        table = table[torch.randperm(table.shape[0], generator=rng)]
        order = table[:, torch.randperm(table.shape[1], generator=rng)].view(tuple(shape))
    elif spec.groups in ("output", "input"):
        dim = ("output", "input").index(spec.groups)
        table = index.movedim(dim, 0)
        rows = [
            row.flatten()[torch.randperm(row.numel(), generator=rng)].view_as(row) for row in table
        ]
        order = torch.stack([rows[i] for i in torch.randperm(len(rows), generator=rng)]).movedim(
            0, dim
        )
    else:
        order = torch.randperm(index.numel(), generator=rng).view(tuple(shape))
    return lambda w: w.flatten()[order]
