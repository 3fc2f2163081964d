"""The table of a sweep's cells, before they run."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from lit_share.lab.sweeps._cells import Cell, State, seconds_of
from lit_share.lab.sweeps._progress import duration
from lit_share.text import visible

if TYPE_CHECKING:
    from rich.console import RenderableType

# Words for the cells of each state, in the order in which they are printed.
_WORDS: dict[State, str] = {
    "finished": "finished",
    "pruned": "pruned",
    "interrupted": "to resume",
    "failed": "failed, to run again",
    "changed": "to run again, as their config has changed",
    "new": "to run",
    "wrong": "wrong",
}
_ENDED = ("finished", "pruned")


@dataclass(frozen=True)
class SweepPlan:
    """The cells of a sweep, which Rich prints as a table with a row for all seeds.

    Attributes:
        directory: The sweep's directory.
        cells: The state and the folder of each cell; a cell without a folder has never started.
        problems: For each problem, the cells that cannot run because of it.
        missing: For each thing that is missing on this machine, the cells that need it.
        trials: For a search, the number of trials of each cell, which stands for them.
    """

    directory: Path
    cells: Mapping[Cell, tuple[State, Path | None]]
    problems: Mapping[str, Collection[Cell]] = field(default_factory=dict)
    missing: Mapping[str, Collection[Cell]] = field(default_factory=dict)
    trials: Mapping[Cell, int] = field(default_factory=dict)

    def estimate(self) -> tuple[float, int] | None:
        """Return the seconds left if cells run one by one, and the number of cells measured.

        A strategy of which no cell has finished is expected to take as long as the mean of all.
        `None` if no cell has finished.
        """
        # Strategies differ in their cost, and the order of cells is that of strategies.
        measured: dict[str, list[float]] = defaultdict(list)
        for cell, (state, folder) in self.cells.items():
            if state == "finished" and folder is not None:
                seconds = seconds_of(folder)
                if seconds is not None:
                    measured[_strategy(cell)].append(seconds)
        every = [seconds for several in measured.values() for seconds in several]
        if not every:
            return None
        left = [cell for cell, (state, _) in self.cells.items() if state not in _ENDED]
        total = sum(
            self.trials.get(cell, 1) * fmean(measured.get(_strategy(cell)) or every)
            for cell in left
        )
        return total, len(every)

    def __rich__(self) -> RenderableType:
        """Return the table, the summary and the problems."""
        from rich.box import SIMPLE_HEAD
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        settings = {cell: _setting(cell) for cell in self.cells}
        keys = _keys(settings.values())
        varied = [k for k in keys if len({s.get(k) for s in settings.values()}) > 1]
        # A row for each seed would be ten times as many.
        rows: dict[tuple[str, ...], list[Cell]] = defaultdict(list)
        columns = [key for key in varied if key != "seed"]
        for cell, setting in settings.items():
            rows[tuple(setting.get(key, "-") for key in columns)].append(cell)
        table = Table(box=SIMPLE_HEAD, padding=(0, 1))
        for name in (*columns, "seeds", "cells", "state"):
            table.add_column(Text(visible(name)), overflow="fold")
        for values, cells in rows.items():
            seeds = _listed([settings[cell].get("seed", "-") for cell in cells])
            count = str(len(cells))
            if tried := {self.trials[cell] for cell in cells if cell in self.trials}:
                count += f" × {max(tried)} trials"
            texts = (*values, seeds, count, self._state(cells))
            table.add_row(*[Text(visible(text)) for text in texts])
        equal = " ".join(f"{k}={v}" for k, v in _first(settings).items() if k not in varied)
        lines = [f"in all cells: {equal}"] if equal else []
        return Group(*map(Text, map(visible, lines)), table, Text(self.summary()))

    def summary(self) -> str:
        """Return what the table lacks: the number of cells, their duration, what is wrong."""
        lines = [f"{sum(self._trials(c) for c in self.cells)} cells: {self._state(self.cells)}"]
        estimate = self.estimate()
        if estimate is not None:
            seconds, count = estimate
            lines.append(
                f"about {duration(seconds)} left if they run one by one, by {count} finished cells"
            )
        else:
            lines.append("how long they take is unknown: no cell has finished in this directory")
        for title, found in (("missing on this machine", self.missing), ("wrong", self.problems)):
            lines += [f"{title}: {text}" for text in described(found, self.cells)]
        if not self.problems:
            lines.append("nothing is wrong in the configs of these cells")
        return "\n".join(visible_lines(line) for line in lines)

    def _trials(self, cell: Cell) -> int:
        return self.trials.get(cell, 1)

    def _state(self, cells: Collection[Cell]) -> str:
        counts: Counter[State] = Counter()
        for cell in cells:
            counts[self.cells[cell][0]] += self._trials(cell)
        return ", ".join(f"{counts[s]} {word}" for s, word in _WORDS.items() if counts[s])


def described(found: Mapping[str, Collection[Cell]], cells: Collection[Cell]) -> list[str]:
    """Return a text for each problem, with the number of its cells and the first of them.

    Args:
        found: The cells of each problem.
        cells: All cells; overrides that all of them have are not repeated.

    Example:
        >>> cells = [("data=digits", "seed=0"), ("data=digits", "seed=1")]
        >>> described({"no GPU": cells[1:]}, cells)
        ['no GPU (1 of 2 cells: seed=1)']
    """
    equal = set.intersection(*map(set, cells)) if cells else set()
    texts = []
    for problem, those in found.items():
        first = " ".join(override for override in next(iter(those)) if override not in equal)
        text = f"{problem} ({len(those)} of {len(cells)} cells"
        if first:
            text += f", first {first}" if len(those) > 1 else f": {first}"
        texts.append(f"{text})")
    return texts


def visible_lines(text: str) -> str:
    """Escape characters that a terminal would obey, except for the ends of lines."""
    return "\n".join(map(visible, text.split("\n")))


def _setting(cell: Cell) -> dict[str, str]:
    pairs = (override.partition("=") for override in cell)
    return {key.lstrip("+"): value for key, _, value in pairs}


def _strategy(cell: Cell) -> str:
    return _setting(cell).get("regularizer", "")


def _keys(settings: Collection[Mapping[str, str]]) -> list[str]:
    return list(dict.fromkeys(key for setting in settings for key in setting))


def _first(settings: Mapping[Cell, dict[str, str]]) -> dict[str, str]:
    return next(iter(settings.values()), {})


def _listed(seeds: list[str]) -> str:
    if len(seeds) > 4:
        return f"{seeds[0]}, {seeds[1]}, …, {seeds[-1]}"
    return ", ".join(seeds)
