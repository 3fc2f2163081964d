"""The plan: the ties of a module, and the parameters that hard sharing would save."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from lit_share.text import counted, visible
from lit_share.ties._broken_names import BrokenNames
from lit_share.ties._clusters import ClusteredTie, TensorValues, cluster_ties
from lit_share.ties._distributed import is_dtensor
from lit_share.ties._names import and_more, shortened
from lit_share.ties._refs import BufferRef
from lit_share.ties._tie import Tie
from lit_share.ties._unaligned import unaligned_remark, unlike_remark

if TYPE_CHECKING:
    from rich.table import Table


# The remarks on more ties would hide the plan; `lit_share.clusters` has them all.
_SHOWN = 5


@dataclass(frozen=True)
class PlannedTie:
    """A line of the plan.

    Attributes:
        name: The tie's name.
        members: The members' names.
        shape: The shape of each member.
        parameters: The number of elements of all members; shared elements count once.
        saved: The number of elements that hard sharing would save.
    """

    name: str
    members: tuple[str, ...]
    shape: tuple[int, ...]
    parameters: int
    saved: int

    @classmethod
    def of(cls, tie: Tie) -> PlannedTie:
        """Return the line of a tie."""
        # Members that are shared already have one Parameter, so they count once.
        distinct = {(id(member.parameter), member.slice) for member in tie.members}
        names = tuple(member.name for member in tie.members)
        saved = (len(distinct) - 1) * tie.numel
        return cls(tie.name, names, tie.shape, len(distinct) * tie.numel, saved)

    def listed(self, separator: str) -> str:
        """Return the members' names as printable text."""
        return shortened([*map(visible, self.members)], separator)

    @property
    def has_several(self) -> bool:
        """Whether the tie has several members, which hard sharing can make one Parameter."""
        return len(self.members) > 1

    @property
    def size(self) -> str:
        """The shape as text; ``"scalar"`` if there are no dimensions."""
        return "×".join(map(str, self.shape)) or "scalar"


@dataclass(frozen=True)
class Plan:
    """The ties of a module, printable with `rich.print` and `print`.

    Attributes:
        ties: A line for each tie.
        buffers: The names of corresponding buffers that are not shared.
        unused: Patterns of ``exclude``, and classes of ``types``, that match nothing.
        unaligned: The names of ties whose members start from unrelated weights.
        clusters: Which members are equal, or how many numbers of a tensor; without ties that are
            sharded or on the meta device.
        remarks: A remark on each of the unused.
        unlike: The names of ties of a matrix and a transpose that start from unrelated weights.
    """

    ties: tuple[PlannedTie, ...]
    buffers: tuple[tuple[str, ...], ...] = ()
    unused: tuple[str, ...] = ()
    unaligned: tuple[str, ...] = ()
    clusters: tuple[ClusteredTie | TensorValues, ...] = ()
    remarks: tuple[str, ...] = ()
    unlike: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        ties: Sequence[Tie],
        buffers: Sequence[Sequence[BufferRef]] = (),
        unused: Mapping[str, str] = MappingProxyType({}),
        unaligned: Sequence[Tie] = (),
        unlike: Sequence[Tie] = (),
    ) -> Plan:
        """Return the plan of ties and of the buffers that their patterns match."""
        different = [refs for refs in buffers if len({id(ref.stored) for ref in refs}) > 1]
        return cls(
            tuple(map(PlannedTie.of, ties)),
            tuple(tuple(ref.name for ref in refs) for refs in different),
            tuple(unused),
            tuple(tie.name for tie in unaligned),
            cluster_ties([tie for tie in ties if _is_comparable(tie)]).ties,
            tuple(unused.values()),
            tuple(tie.name for tie in unlike),
        )

    @property
    def parameters(self) -> int:
        """The number of parameters in all ties."""
        return sum(tie.parameters for tie in self.ties)

    @property
    def saved(self) -> int:
        """The number of parameters that hard sharing of all ties would save."""
        return sum(tie.saved for tie in self.ties)

    def __str__(self) -> str:
        head = f"ties: {len(self.ties)}, tied parameters: {self.parameters:,}"
        # The numbers of a tensor, and single members, cannot be one Parameter.
        if any(tie.has_several for tie in self.ties):
            head += f", saved by hard sharing: {self.saved:,}"
        lines = [f"  {visible(t.name)} ({t.size}): {t.listed(' = ')}" for t in self.ties]
        return "\n".join([head, *lines, *self._remarks()])

    def __rich__(self) -> Table:
        # Importing Rich takes 50 ms, so it is left to those who print a table.
        from rich.box import SIMPLE
        from rich.table import Table
        from rich.text import Text

        table = Table(title="Tie plan", box=SIMPLE, padding=(0, 1, 0, 0), show_footer=True)
        remarks = self._remarks()
        if remarks:
            table.caption = Text("\n".join(remarks))
        table.add_column("tie", counted(len(self.ties), "tie"), overflow="fold")
        table.add_column("members", overflow="fold")
        table.add_column("shape", justify="right", no_wrap=True)
        table.add_column("parameters", f"{self.parameters:,}", justify="right", no_wrap=True)
        saved = ""
        if any(tie.has_several for tie in self.ties):
            saved = f"{self.saved:,}"
        table.add_column("saved if\nshared", saved, justify="right")
        for tie in self.ties:
            names = BrokenNames(visible(tie.name)), BrokenNames(tie.listed("\n"))
            saved = "-"
            if tie.has_several:
                saved = f"{tie.saved:,}"
            table.add_row(*names, tie.size, f"{tie.parameters:,}", saved)
        return table

    def _remarks(self) -> list[str]:
        remarks = []
        if self.buffers:
            names = shortened([*map(visible, self.buffers[0])], ", ")
            names += and_more(len(self.buffers) - 1)
            remarks.append(
                f"each model keeps its own buffers ({names}) unless they are shared with "
                "buffers=True"
            )
        if self.unaligned:
            remarks.append(unaligned_remark(self.unaligned))
        if self.unlike:
            remarks.append(unlike_remark(self.unlike))
        remarks += self._equal_members()
        remarks += self._equal_numbers()
        return [*remarks, *self.remarks]

    def _equal_members(self) -> list[str]:
        # Members that are all equal, as models from the same weights have them, need no remark.
        several = [tie for tie in self.clusters if isinstance(tie, ClusteredTie)]
        some = [tie for tie in several if 1 < tie.count < tie.size]
        listed = [f"{visible(tie.name)}: {tie.listed(' | ')}" for tie in some]
        return _remark("some members are equal:", listed)

    def _equal_numbers(self) -> list[str]:
        inside = [tie for tie in self.clusters if isinstance(tie, TensorValues)]
        return _remark("different values:", [tie.listed("") for tie in inside])


def _remark(head: str, listed: Sequence[str]) -> list[str]:
    if not listed:
        return []
    text = "\n  ".join([head, *listed[:_SHOWN]])
    return [text + and_more(len(listed) - _SHOWN, "\n  ")]


def _is_comparable(tie: Tie) -> bool:
    # Shards would need a collective, for a remark only.
    parameters = tie.parameters
    has_values = not any(p.is_meta or is_dtensor(p) for p in parameters)
    return tie.compares and has_values
