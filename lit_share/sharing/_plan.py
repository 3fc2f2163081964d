"""The plan: what is tied with what, and what hard sharing would save, before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.box import SIMPLE
from rich.table import Table
from rich.text import Text

from lit_share.sharing._starts import remark_on
from lit_share.sharing._tie import BufferSlot, Tie, shortened
from lit_share.text import visible


@dataclass(frozen=True)
class PlannedTie:
    """One row of the plan.

    Attributes:
        name: The tie's name.
        members: The names of its members.
        shape: The shape of each.
        parameters: The number of parameters that the members have together, shared ones counted once.
        saved: How many of them hard sharing would save.
    """

    name: str
    members: tuple[str, ...]
    shape: tuple[int, ...]
    parameters: int
    saved: int


@dataclass(frozen=True)
class Plan:
    """The ties of a module, printable with `rich.print` and `print`.

    Attributes:
        ties: One row for each.
        buffers: The names of buffers that fit the patterns, and are not one.
        idle: Patterns that exclude nothing.
        apart: The names of ties whose members start from weights that have nothing to do with each other.
    """

    ties: tuple[PlannedTie, ...]
    buffers: tuple[tuple[str, ...], ...] = ()
    idle: tuple[str, ...] = ()
    apart: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        ties: Sequence[Tie],
        buffers: Sequence[Sequence[BufferSlot]] = (),
        idle: Sequence[str] = (),
        apart: Sequence[Tie] = (),
    ) -> Plan:
        """The plan of these ties, of the buffers that go with them, and of what is to be remarked."""
        different = [row for row in buffers if len({id(place.stored) for place in row}) > 1]
        names = tuple(tuple(place.name for place in row) for row in different)
        planned = tuple(_planned(tie) for tie in ties)
        return cls(planned, names, tuple(idle), tuple(tie.name for tie in apart))

    @property
    def parameters(self) -> int:
        """The number of parameters in all ties."""
        return sum(tie.parameters for tie in self.ties)

    @property
    def saved(self) -> int:
        """The number of parameters that hard sharing of all ties would save."""
        return sum(tie.saved for tie in self.ties)

    def __str__(self) -> str:
        head = f"ties: {len(self.ties)}, tied parameters: {self.parameters:,}, saved by hard sharing: {self.saved:,}"
        rows = [
            f"  {visible(tie.name)} ({_text(tie.shape)}): {_listed(tie, ' = ')}"
            for tie in self.ties
        ]
        return "\n".join([head, *rows, *self._remarks()])

    def __rich__(self) -> Table:
        remark = Text("\n".join(self._remarks())) if self._remarks() else None
        table = Table(
            title="Tie plan", caption=remark, box=SIMPLE, padding=(0, 1, 0, 0), show_footer=True
        )
        table.add_column("tie", f"{len(self.ties)} ties", overflow="fold")
        table.add_column("members", overflow="fold")
        table.add_column("shape", justify="right")
        table.add_column("parameters", f"{self.parameters:,}", justify="right")
        table.add_column("saved if\nshared", f"{self.saved:,}", justify="right")
        for tie in self.ties:
            names = Text(visible(tie.name)), Text(_listed(tie, "\n"))
            table.add_row(*names, _text(tie.shape), f"{tie.parameters:,}", f"{tie.saved:,}")
        return table

    def _remarks(self) -> list[str]:
        remarks = []
        if self.buffers:
            named = shortened([*map(visible, self.buffers[0])], ", ") + (
                f" and {len(self.buffers) - 1} more" if self.buffers[1:] else ""
            )
            remarks.append(
                f"each model keeps its own buffers ({named}) unless they are shared with buffers=True"
            )
        if self.apart:
            remarks.append(remark_on(self.apart))
        if self.idle:
            remarks.append(f"exclude matches nothing: {', '.join(map(repr, self.idle))}")
        return remarks


def _planned(tie: Tie) -> PlannedTie:
    distinct = {(id(member.parameter), member.part): member for member in tie.members}
    return PlannedTie(
        name=tie.name,
        members=tuple(member.name for member in tie.members),
        shape=tuple(tie.shape),
        parameters=len(distinct) * tie.numel,
        saved=(len(distinct) - 1) * tie.numel,
    )


def _listed(tie: PlannedTie, separator: str) -> str:
    return shortened([*map(visible, tie.members)], separator)


def _text(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "scalar"
