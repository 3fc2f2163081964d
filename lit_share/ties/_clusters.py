"""Clusters: which members of a tie, or numbers of a tensor, are exactly equal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lit_share.functional import count_values, first_equal
from lit_share.text import counted, visible
from lit_share.ties._names import shortened
from lit_share.ties._shards import sums_over_shards
from lit_share.ties._tie import Tie, map_ties

if TYPE_CHECKING:
    from rich.table import Table

# More members that equal no other are summed up, and of larger clusters the middle is left out.
_MOST_ALONE, _MOST_MEMBERS = 3, 24


@dataclass(frozen=True)
class ClusteredTie:
    """The clusters of a tie of members.

    Attributes:
        name: The tie's name.
        members: The members' names.
        labels: The number of each member's cluster, counted from 0 in the order of first members.
    """

    name: str
    members: tuple[str, ...]
    labels: tuple[int, ...]

    @property
    def count(self) -> int:
        """The number of clusters; 1 if all members are equal."""
        return len(set(self.labels))

    @property
    def size(self) -> int:
        """The number of members, which fall into the clusters."""
        return len(self.members)

    @property
    def groups(self) -> list[list[str]]:
        """The names of the members of each cluster."""
        groups: list[list[str]] = [[] for _ in range(self.count)]
        for member, label in zip(self.members, self.labels, strict=True):
            groups[label].append(member)
        return groups

    def listed(self, separator: str) -> str:
        """Return the clusters as printable text, as ``a.w = b.w | c.w``.

        More than three members that equal no other come last: ``d = f | 4 alone: a, b, c, e``.
        """
        groups = [[*map(visible, group)] for group in self.groups]
        alone = [group[0] for group in groups if len(group) == 1]
        if len(alone) <= _MOST_ALONE:
            return separator.join(_equal(group, len(groups)) for group in groups)
        several = [_equal(group, len(groups)) for group in groups if len(group) > 1]
        return separator.join([*several, f"{len(alone):,} alone: {shortened(alone, ', ')}"])


@dataclass(frozen=True)
class TensorValues:
    """The different values of a tensor whose numbers are compared, by ``[...]``.

    Attributes:
        name: The tie's name.
        member: The member's name.
        numbers: How many numbers the tensor has.
        count: How many different values these have.
    """

    name: str
    member: str
    numbers: int
    count: int

    @property
    def size(self) -> int:
        """The number of numbers, which fall into the values."""
        return self.numbers

    def listed(self, _: str) -> str:
        """Return the counts as printable text, as ``w[...]: 2 values of 8 numbers``."""
        values, numbers = counted(self.count, "value"), counted(self.numbers, "number")
        return f"{visible(self.member)}: {values} of {numbers}"


@dataclass(frozen=True)
class ClusterReport:
    """The clusters of several ties, printable with `rich.print` and `print`.

    Attributes:
        ties: The clusters of each tie, or the values of its tensor.
    """

    ties: tuple[ClusteredTie | TensorValues, ...]

    @property
    def members(self) -> int:
        """The number of members of all ties; for ``[...]``, of numbers that are compared."""
        return sum(tie.size for tie in self.ties)

    @property
    def count(self) -> int:
        """The number of clusters of all ties; for ``[...]``, of different values."""
        return sum(tie.count for tie in self.ties)

    def as_dict(self) -> dict[str, dict[str, int]]:
        """Return the number of each member's cluster by the names of ties and members, as JSON.

        Ties inside a tensor, which may have a million numbers, are left out.
        """
        several = [tie for tie in self.ties if isinstance(tie, ClusteredTie)]
        return {t.name: dict(zip(t.members, t.labels, strict=True)) for t in several}

    def __str__(self) -> str:
        head = f"ties: {len(self.ties)}, members: {self.members:,}, clusters: {self.count:,}"
        lines = [f"  {visible(tie.name)}: {tie.listed(' | ')}" for tie in self.ties]
        return "\n".join([head, *lines])

    def __rich__(self) -> Table:
        """Return a table of ties, with a line for each cluster."""
        from rich.box import SIMPLE
        from rich.table import Table
        from rich.text import Text

        table = Table(title="Clusters", box=SIMPLE, padding=(0, 1, 0, 0), show_footer=True)
        table.add_column("tie", counted(len(self.ties), "tie"), overflow="fold")
        table.add_column("clusters", f"{self.count:,}", justify="right")
        table.add_column("equal members", counted(self.members, "member"), overflow="fold")
        for tie in self.ties:
            # Rich would read the brackets in a plain string, as in `w[0]`, as markup.
            names = Text(visible(tie.name)), str(tie.count), Text(tie.listed("\n"))
            table.add_row(*names)
        return table


def cluster_ties(ties: Sequence[Tie]) -> ClusterReport:
    """Return `clusters` of ties that were found in a module."""
    return ClusterReport(tuple(map_ties(ties, _clusters, _values)))


def _equal(names: Sequence[str], clusters: int) -> str:
    # That all members are equal is said by the first and the last. Of several clusters each member
    # is listed, as it could be in any, unless they are very many, as positions are.
    if clusters == 1 or len(names) > _MOST_MEMBERS:
        return shortened(names, " = ")
    return " = ".join(names)


def _clusters(ties: Sequence[Tie]) -> list[ClusteredTie | TensorValues]:
    found: list[ClusteredTie | TensorValues] = []
    for tie, labels in zip(ties, cluster_labels(ties), strict=True):
        names = tuple(member.name for member in tie.members)
        found.append(ClusteredTie(tie.name, names, tuple(labels)))
    return found


def _values(tie: Tie) -> TensorValues:
    (member,), (tensor,) = tie.members, tie.tensors()
    return TensorValues(tie.name, member.name, tensor.numel(), count_values(tensor))


def cluster_labels(ties: Sequence[Tie]) -> list[list[int]]:
    """Return, for each member of each tie, the number of its cluster; see `ClusteredTie`."""
    # Aliases are equal without a comparison, also where they are NaN.
    aliases = [tie.first_aliases for tie in ties]
    distinct = [sorted(set(own)) for own in aliases]
    compared: list[list[Tensor]] = []
    for tie, indices in zip(ties, distinct, strict=True):
        tensors = tie.tensors()
        compared.append([tensors[i] for i in indices])
    found: list[list[int]] = []
    matrices = sums_over_shards(_differences, compared)
    for own, indices, matrix in zip(aliases, distinct, matrices, strict=True):
        # Members are equal if their slices are equal on all ranks, so that no rank counted a
        # difference. `argmax` returns the first of the largest.
        first = (matrix == 0).int().argmax(dim=1).tolist()
        number: dict[int, int] = {}
        label_of = {}
        for i, j in zip(indices, first, strict=True):
            label_of[i] = number.setdefault(j, len(number))
        found.append([label_of[i] for i in own])
    return found


def _differences(members: Sequence[Tensor]) -> Tensor:
    """Return the matrix of members × members that is 1 where two differ, and 0 elsewhere."""
    first = torch.tensor(first_equal(members))
    return (first[:, None] != first).int()
