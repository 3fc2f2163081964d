"""What an alignment changed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class AlignedAxis:
    """What happened to the units of an axis.

    Attributes:
        name: The dimension of the first parameter that has it, as ``"fc1.weight[0]"``.
        size: The number of units.
        moved: The number of units that changed their position, for each member but the first.
        before: The cosine between the weights of all units of the first member and of the others,
            before; the mean over the others.
        after: The same after.
    """

    name: str
    size: int
    moved: tuple[int, ...]
    before: float
    after: float


@dataclass(frozen=True)
class AlignReport:
    """What `align` changed: its text says it in a line, and Rich prints it as a table.

    Attributes:
        members: The names of the submodules, the reference first.
        by: What units were matched by.
        axes: The axes whose units may be permuted.
        distances: The relative distance of each tie before and after, by the tie's name.
        pinned: Why dimensions stay in order, by names as ``"fc3.weight[0]"``.
        unused: Parameters that the forward does not read, which stay as they are.
        difference: The largest difference of an output, relative to the largest number in it.
        permute: For each member but the first, what returns tensors permuted as its parameters
            were, given tensors by the names of these.
    """

    members: tuple[str, ...]
    by: str
    axes: tuple[AlignedAxis, ...]
    distances: Mapping[str, tuple[float, float]]
    pinned: Mapping[str, str]
    unused: tuple[str, ...]
    difference: float
    permute: Mapping[str, Callable[[Mapping[str, Tensor]], dict[str, Tensor]]] = field(
        default_factory=dict, repr=False, compare=False
    )

    @property
    def before(self) -> float:
        """The mean cosine of all axes before; NaN if there are none."""
        return _mean([axis.before for axis in self.axes])

    @property
    def after(self) -> float:
        """The mean cosine of all axes after; NaN if there are none."""
        return _mean([axis.after for axis in self.axes])

    @property
    def moved(self) -> int:
        """The number of units that changed their position, over all axes and members."""
        return sum(sum(axis.moved) for axis in self.axes)

    def move(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return tensors whose units are permuted as those of the parameters were.

        Args:
            tensors: Tensors of the shapes of parameters, by their names in the module, such as an
                average of weights that was taken before.

        Returns:
            Tensors by the same names; those outside of the members are the same.

        Raises:
            AlignError: If a member has no parameter of this name or shape.
        """
        moved = dict(tensors)
        for member, permute in self.permute.items():
            prefix = f"{member}."
            own = {name for name in tensors if name.startswith(prefix)}
            inner = permute({name.removeprefix(prefix): tensors[name] for name in own})
            moved |= {f"{prefix}{name}": tensor for name, tensor in inner.items()}
        return moved

    def __str__(self) -> str:
        first, *others = self.members
        total = len(others) * sum(axis.size for axis in self.axes)
        if not self.axes:
            return (
                f"nothing to align in {', '.join(self.members)}: no units may be permuted "
                f"({_first_reason(self.pinned)})"
            )
        return (
            f"aligned {', '.join(others)} to {first} by {self.by}: {self.moved:,} of {total:,} "
            f"units moved, in {len(self.axes)} axes; cosine {self.before:.2f} → {self.after:.2f}"
        )

    def __rich__(self) -> Table:
        """Return a table of axes and ties, and of the dimensions that stay in order."""
        from rich.table import Table

        table = Table(title=str(self), title_justify="left")
        for header in ("axis or tie", "units", "moved", "before", "after"):
            table.add_column(header, justify="left" if header == "axis or tie" else "right")
        for axis in self.axes:
            moved = ", ".join(f"{count:,}" for count in axis.moved)
            numbers = (f"{axis.before:.3f}", f"{axis.after:.3f}")
            table.add_row(f"cosine of {axis.name}", f"{axis.size:,}", moved, *numbers)
        for name, (before, after) in self.distances.items():
            table.add_row(f"distance of {name}", "", "", f"{before:.3f}", f"{after:.3f}")
        for name, reason in self.pinned.items():
            table.add_row(f"{name} stays", "", "", "", reason)
        for name in self.unused:
            table.add_row(f"{name} stays", "", "", "", "the forward does not read it")
        return table


def _mean(numbers: Sequence[float]) -> float:
    if not numbers:
        return math.nan
    return sum(numbers) / len(numbers)


def _first_reason(pinned: Mapping[str, str]) -> str:
    return next((f"{name}: {reason}" for name, reason in pinned.items()), "it has no parameters")
