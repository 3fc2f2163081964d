"""A tie: the tensors of a module that ought to be alike."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from typing import NamedTuple, TypeVar

from torch import Tensor, nn

from lit_share.ties._layers import position_count
from lit_share.ties._names import shortened
from lit_share.ties._refs import ParameterRef
from lit_share.ties._suffix import WHOLE, Suffix

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Member:
    """A tensor of a tie: a parameter, its transpose, or one of its slices along dim 0.

    Attributes:
        ref: The parameter.
        suffix: What the member is of the parameter: the suffix of its pattern.
        index: The index of a slice; ``None`` for others.
    """

    ref: ParameterRef
    suffix: Suffix = WHOLE
    index: int | None = None

    @property
    def name(self) -> str:
        """The parameter's name, followed by ``.T``, by ``[3]`` for a slice, or by ``[...]``."""
        return self.ref.name + self.suffix.of_member(self.index)

    @property
    def parameter(self) -> nn.Parameter:
        """The Parameter that holds the member."""
        return self.ref.parameter

    @property
    def slice(self) -> int | None:
        """The index of the member in its parameter; ``None`` if it is the whole parameter."""
        # If a layer uses one filter at all positions, each position is the whole parameter.
        if self.index is None or position_count(self.ref.owner):
            return None
        return self.index

    @property
    def is_transposed(self) -> bool:
        """Whether the member is the transpose of `parameter`."""
        # A name that stores the transpose of `parameter`, transposed again, is `parameter` itself.
        return self.suffix.transposes != self.ref.is_transposed

    def view(self, tensor: Tensor) -> Tensor:
        """Return the member's transpose or slice of a tensor of the shape of `parameter`."""
        if self.is_transposed:
            return tensor.T
        return tensor if self.slice is None else tensor[self.slice]


class Run(NamedTuple):
    """Adjacent members of a tie that are slices of one parameter, or a single member.

    Attributes:
        first: The first member.
        length: The number of members.
    """

    first: Member
    length: int

    @property
    def is_sliced(self) -> bool:
        """Whether the members are different slices."""
        return self.length > 1 and self.first.slice is not None

    @property
    def is_whole(self) -> bool:
        """Whether each member is the whole parameter as it is stored."""
        return self.first.slice is None and not self.first.is_transposed

    def views(self, tensor: Tensor) -> Sequence[Tensor]:
        """Return the members' slices or transposes of a tensor of the shape of their parameter."""
        if self.is_sliced:
            return tensor.unbind()
        return [self.first.view(tensor)] * self.length


@dataclass(frozen=True, eq=False, repr=False)
class Tie:
    """N ≥ 1 tensors of one shape in a module, its *members*.

    Attributes:
        name: The text that the stars stand for, or the first member's name; the names of all
            members where ties that were found together would have the same name.
        members: The members, in the order of the patterns.
    """

    name: str
    members: tuple[Member, ...]

    def __repr__(self) -> str:
        return f"Tie({self.name!r}: {shortened([member.name for member in self.members], ' = ')})"

    @cached_property
    def runs(self) -> list[Run]:
        """The members, adjacent slices of a parameter in one run."""
        # The parameter of a layer with 900 positions is looked up once, not for each slice.
        grouped = groupby(self.members, key=lambda m: (m.ref, m.suffix))
        runs = [list(members) for _, members in grouped]
        return [Run(members[0], len(members)) for members in runs]

    @property
    def layer(self) -> str:
        """The first member's module, by which the ties of a weight and of its bias belong together.

        A parameter of the outermost module is a layer of its own.
        """
        name = self.members[0].ref.name
        return name.rpartition(".")[0] or name

    @property
    def inside(self) -> bool:
        """Whether the numbers of the only member are compared with each other."""
        return self.members[0].suffix.compares_numbers

    @property
    def compares(self) -> bool:
        """Whether several members, or the numbers of one, are compared."""
        return self.inside or len(self.members) > 1

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of each member."""
        first = self.members[0]
        return tuple(first.view(first.parameter.detach()).shape)

    @property
    def numel(self) -> int:
        """The number of elements of one member."""
        return math.prod(self.shape)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The Parameter of each member."""
        parameters: list[nn.Parameter] = []
        for run in self.runs:
            parameters += [run.first.parameter] * run.length
        return parameters

    @property
    def first_aliases(self) -> list[int]:
        """For each member, the index of the first that is the same tensor of the same Parameter."""
        seen: dict[tuple[int, bool, int | None], int] = {}
        first: list[int] = []
        for run in self.runs:
            parameter, transposed = id(run.first.parameter), run.first.is_transposed
            for offset in range(run.length):
                index = offset if run.is_sliced else run.first.slice
                first.append(seen.setdefault((parameter, transposed, index), len(first)))
        return first

    @property
    def is_shared(self) -> bool:
        """Whether all members have one stored Parameter, in the same orientation."""
        return not any(self.first_aliases)

    @property
    def has_aliases(self) -> bool:
        """Whether some members are the same tensor."""
        return len(set(self.first_aliases)) < len(self.members)

    def split(self, labels: Sequence[int]) -> list[Tie]:
        """Return a tie for each label that several members have."""
        parts: dict[int, list[Member]] = {}
        for member, label in zip(self.members, labels, strict=True):
            parts.setdefault(label, []).append(member)
        return [replace(self, members=tuple(own)) for own in parts.values() if len(own) > 1]

    def without_aliases(self) -> Tie:
        """Return the tie with one of the members that are the same tensor."""
        distinct = sorted(set(self.first_aliases))
        return replace(self, members=tuple(self.members[i] for i in distinct))

    def tensors(self) -> list[Tensor]:
        """Return the members, detached; writing to them writes to the parameters."""
        tensors: list[Tensor] = []
        for run in self.runs:
            tensors += run.views(run.first.parameter.detach())
        return tensors


def map_ties(
    ties: Sequence[Tie],
    of_members: Callable[[list[Tie]], Iterable[T]],
    of_numbers: Callable[[Tie], T],
) -> list[T]:
    """Return a result for each tie.

    Args:
        ties: The ties.
        of_members: Compute the results of all ties of members at once, as shards need.
        of_numbers: Compute the result of a tie inside a tensor.
    """
    of_others = iter(of_members([tie for tie in ties if not tie.inside]))
    results: list[T] = []
    for tie in ties:
        if tie.inside:
            results.append(of_numbers(tie))
        else:
            results.append(next(of_others))
    return results


def distinctly_named(ties: Sequence[Tie]) -> list[Tie]:
    """Return the ties; those that have the same name are renamed after their members."""
    counts = Counter(tie.name for tie in ties)
    named: list[Tie] = []
    for tie in ties:
        if counts[tie.name] > 1:
            tie = replace(tie, name=" = ".join(member.name for member in tie.members))
        named.append(tie)
    return named
