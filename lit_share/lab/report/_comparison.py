"""The table that compares strategies."""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lit_share.lab.report._estimate import UNDEFINED, Estimate
from lit_share.lab.report._settings import COLUMNS, label, setting_of, varying
from lit_share.lab.results import Result
from lit_share.text import visible


@dataclass(frozen=True)
class Row:
    """One strategy with one choice of data, model and ties; means are over the chosen runs, one per seed.

    Attributes:
        data: The config chosen for the group of this name; so with `model` and `ties`.
        model: See `data`.
        ties: See `data`.
        overrides: What else was overridden, such as `data.n_b=20`.
        strategy: The regularizers' names joined by `+`.
        failed: Number of runs that failed or diverged.
        score: The metric over seeds; `None` if there is no run to choose from.
        difference: The metric less that of the baseline, over the seeds that both have; `None` if there are none.
        strength: Median of the chosen strengths.
        distance: Mean distance between members.
        unique: Mean number of different parameters.
        seconds: Mean duration of training.
        bytes: Mean size of the numbers in the compact file.
        training_bytes: Mean size of parameters, gradients and optimizer state.
        tuned: What the chosen runs have of other keys that were chosen on validation data, and how many of them.
        runs: The chosen runs, one per seed.
        tried: All runs, also those of other strengths and those that failed.
    """

    data: str | None
    model: str | None
    ties: str | None
    overrides: str
    strategy: str
    failed: int
    score: Estimate | None
    difference: Estimate | None
    strength: float | None
    distance: float | None
    unique: float | None
    seconds: float | None
    bytes: float | None = None
    training_bytes: float | None = None
    tuned: str = ""
    runs: tuple[Result, ...] = ()
    tried: tuple[Result, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """Strategies side by side; Rich prints it as a table.

    Attributes:
        rows: One per strategy, data, model and ties.
        metric: Name of the test metric.
        objective: Name of the validation metric by which runs were chosen.
        mode: Whether the objective is to be large (`max`) or small (`min`).
        failures: The runs that failed or diverged.
        baseline: The strategy that the others are compared with.
    """

    rows: tuple[Row, ...]
    metric: str
    objective: str
    mode: Literal["min", "max"]
    failures: tuple[Result, ...]
    baseline: str = "none"

    @property
    def is_tuned(self) -> bool:
        """Whether more than the strength was chosen on validation data."""
        return any(row.tuned for row in self.rows)

    @property
    def better(self) -> Literal["min", "max"] | None:
        """Whether the metric is to be large or small; `None` if that is known of the objective only."""
        same = self.metric.rpartition("/")[2] == self.objective.rpartition("/")[2]
        default = self.metric == default_metric(self.objective)
        return self.mode if same or default else None

    def to_csv(self, path: str | Path) -> None:
        """Write the rows in full precision, with an empty cell for what is undefined.

        Names are written as they are, for programs to read: a spreadsheet may take one that begins with ``=`` for a
        formula, so import results that are not your own as text.

        Args:
            path: The file to write.
        """
        records = self.records()
        with Path(path).open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=records[0])
            writer.writeheader()
            writer.writerows(records)

    def records(self) -> list[dict[str, object]]:
        """The rows in full precision, with `None` for what is undefined."""
        return [self._record(row) for row in self.rows]

    def _record(self, row: Row) -> dict[str, object]:
        score, difference = row.score, row.difference
        return {
            "data": row.data,
            "model": row.model,
            "ties": row.ties,
            "overrides": row.overrides,
            "strategy": row.strategy,
            "metric": self.metric,
            "n": score.n if score else 0,
            "failed": row.failed,
            "mean": score and score.mean,
            "low": score and score.low,
            "high": score and score.high,
            "baseline": self.baseline,
            "pairs": difference.n if difference else 0,
            "difference": difference and difference.mean,
            "difference_low": difference and difference.low,
            "difference_high": difference and difference.high,
            "strength": row.strength,
            "distance": row.distance,
            "unique": row.unique,
            "seconds": row.seconds,
            "bytes": row.bytes,
            "training_bytes": row.training_bytes,
            "tuned": row.tuned,
        }

    def __rich__(self) -> RenderableType:
        table = Table(
            box=SIMPLE_HEAD,
            padding=0,
            caption=_literal(
                f"mean ± 95 % t-interval over n seeds; median strength, chosen by {self.objective} ({self.mode})"
            ),
            caption_justify="left",
        )
        settings = [setting_of(row.tried[0]) for row in self.rows]
        differing = varying(settings)
        groups, others = (
            [key for key in differing if key in COLUMNS],
            [key for key in differing if key not in COLUMNS],
        )
        for name in [*groups, *(["overrides"] if others else []), "strategy"]:
            table.add_column(name, overflow="fold", no_wrap=True)
        for name in [
            "n",
            "failed",
            self.metric,
            f"− {self.baseline}",
            "strength",
            "distance",
            "unique",
            "seconds",
        ]:
            # In a narrow terminal other columns give way first.
            table.add_column(
                _literal(name),
                justify="right",
                overflow="fold",
                no_wrap=name not in ("strength", "distance"),
            )
        if self.is_tuned:
            table.add_column("tuned", overflow="fold")
        for row, setting in zip(self.rows, settings, strict=True):
            names = [setting.get(name, UNDEFINED) for name in groups]
            own = [label(setting, others) or UNDEFINED] if others else []
            last = [row.tuned or UNDEFINED] if self.is_tuned else []
            table.add_row(
                *(_literal(cell) for cell in [*names, *own, row.strategy, *cells(row), *last])
            )
        common = (
            label(settings[0], [key for key in settings[0] if key not in differing])
            if settings
            else ""
        )
        return Group(
            *self._failure_lines(), *([_literal(f"all with {common}")] if common else []), table
        )

    def _failure_lines(self) -> list[Text]:
        """One line for each different reason."""
        paths = defaultdict(list)
        for result in self.failures:
            paths[(result.failure or "").partition("\n")[0]].append(str(result.path.parent))
        return [
            _literal(f"{len(paths[why])} failed: {why} ({', '.join(paths[why])})") for why in paths
        ]


def _literal(text: str) -> Text:
    """What Rich prints letter by letter, and terminals do not obey."""
    return Text(visible(text))


def default_metric(objective: str) -> str:
    """The objective's name with `test` in place of `val`."""
    return re.sub(r"(?<![a-z])val(?![a-z])", "test", objective)


def cells(row: Row) -> list[str]:
    """The numbers of a row as they are printed, from n to seconds."""
    n = row.score.n if row.score else 0
    difference = _format(row.difference)
    if row.difference and row.difference.n < n:
        difference += f" (n={row.difference.n})"
    return [
        str(n),
        str(row.failed),
        _format(row.score),
        difference,
        _format(row.strength, ".4g"),
        _format(row.distance, ".4g"),
        _format(row.unique, ",.0f"),
        _format(row.seconds, ",.1f"),
    ]


def _format(value: object, spec: str = "") -> str:
    return UNDEFINED if value is None else format(value, spec)
