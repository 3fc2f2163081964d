"""Names of parameters in a narrow column of a table: broken after dots only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions
    from rich.measure import Measurement
    from rich.text import Text

# What continues a name is indented, so that it is not read as another one.
_INDENT = "  "


@dataclass(frozen=True)
class BrokenNames:
    """Names that Rich prints a line each, and wraps after dots.

    Rich itself would break a long word anywhere, as in ``a.net.tru nk.weight``.

    Attributes:
        lines: The names, a line each.
    """

    lines: str

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        from rich.measure import Measurement

        names = self.lines.split("\n")
        shortest = 0
        for name in names:
            first, *others = _parts(name)
            shortest = max(shortest, len(first), *(len(_INDENT + part) for part in others))
        most = options.max_width
        return Measurement(min(shortest, most), min(max(map(len, names)), most))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        # Importing Rich takes 50 ms, so it is left to those who print a table.
        from rich.text import Text

        broken = [break_name(name, options.max_width) for name in self.lines.split("\n")]
        yield Text("\n".join(broken), overflow="fold")


def break_name(name: str, width: int) -> str:
    r"""Break a name after dots into lines of at most a width, where its parts allow that.

    Example:
        >>> break_name("encoder.layers.0.attention.weight", 18)
        'encoder.layers.0.\n  attention.weight'
        >>> break_name("encoder.weight", 18)
        'encoder.weight'
    """
    lines = [""]
    for part in _parts(name):
        if lines[-1].strip() and len(lines[-1] + part) > width:
            lines.append(_INDENT)
        lines[-1] += part
    return "\n".join(lines)


def _parts(name: str) -> list[str]:
    """Split a name after its dots."""
    *parts, last = name.split(".")
    return [*(f"{part}." for part in parts), last]
