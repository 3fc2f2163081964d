"""The table that compares strategies."""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Literal, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lit_share.files import write_text
from lit_share.lab.report._estimate import UNDEFINED, Estimate
from lit_share.lab.report._settings import COLUMNS, label, setting_of, varying
from lit_share.lab.results import Result
from lit_share.text import encodable, visible


class Scores(NamedTuple):
    """A metric of a row: the mean over seeds, and the difference to the baseline."""

    mean: Estimate | None
    difference: Estimate | None

    @property
    def direction(self) -> str:
        """The side of 0 that the difference's interval is on, "above" or "below"; else ""."""
        difference = self.difference
        if difference is None or difference.low is None or difference.high is None:
            return ""
        if difference.low > 0:
            return "above"
        return "below" * (difference.high < 0)


ARROWS = {"above": "↑", "below": "↓", "": ""}


@dataclass(frozen=True)
class Row:
    """A strategy with data, model and ties; means are over the chosen runs, one per seed.

    Attributes:
        data: The config chosen for the group of this name; likewise `model` and `ties`.
        model: See `data`.
        ties: See `data`.
        overrides: Other overrides, such as `data.n_b=20`.
        strategy: The name of the config of regularizers, or of several joined by `+`.
        failed: Number of runs that failed or diverged.
        score: The metric over seeds; `None` without finished runs.
        difference: The metric minus the baseline's, over common seeds; `None` without them.
        strength: Median of the chosen strengths.
        distance: Mean distance between members.
        unique: Mean number of unique parameters.
        seconds: Mean duration of training.
        bytes: Mean size of the compact file; in older results, that of its numbers.
        training_bytes: Mean size of parameters, gradients and optimizer state.
        tuned: Values of other keys chosen on validation data, with the number of runs.
        runs: The chosen runs, one per seed.
        tried: All runs, including other strengths and failures.
        control: The chosen runs of the baseline, one per seed; empty for the baseline itself.
        scores: For each test metric that all rows have, its estimate and that of its difference.
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
    control: tuple[Result, ...] = ()
    scores: dict[str, Scores] = field(default_factory=dict)

    @property
    def at_end(self) -> str:
        """Return "max" or "min" if most seeds chose that end of the strengths, or "".

        Beyond it the score may be better still. 0 is no end that one could go beyond.
        """
        tried = {run.strength for run in self.tried if run.strength is not None}
        chosen = [run.strength for run in self.runs if run.strength is not None]
        if len(tried) > 1:
            for name, end in (("max", max(tried)), ("min", min(tried))):
                if 2 * chosen.count(end) > len(chosen) and end > 0:
                    return name
        return ""


@dataclass(frozen=True)
class Comparison:
    """A comparison of strategies, which Rich prints as a table.

    Attributes:
        rows: A row for each strategy, data, model and ties.
        metric: Name of the test metric.
        objective: Name of the validation metric by which runs were chosen.
        mode: Whether a large (`max`) or a small (`min`) objective is better.
        failures: The runs that failed or diverged.
        baseline: The strategy that the others are compared with.
        pruned: Number of runs that a search stopped early; they are in no row.
    """

    rows: tuple[Row, ...]
    metric: str
    objective: str
    mode: Literal["min", "max"]
    failures: tuple[Result, ...]
    baseline: str = "none"
    pruned: int = 0

    @property
    def is_tuned(self) -> bool:
        """Whether keys other than the strength were chosen on validation data."""
        return any(row.tuned for row in self.rows)

    @property
    def better(self) -> Literal["min", "max"] | None:
        """Whether a small (`"min"`) or large (`"max"`) metric is better; `None` if unknown."""
        known = {run.better.get(self.metric) for row in self.rows for run in row.runs}
        if len(known) == 1 and None not in known:
            return known.pop()
        # Of other metrics, only the objective has a mode: it holds for the same on test data.
        same = self.metric.rpartition("/")[2] == self.objective.rpartition("/")[2]
        default = self.metric == default_metric(self.objective)
        if same or default:
            return self.mode
        return None

    @property
    def metrics(self) -> list[str]:
        """The test metrics that all rows with runs have, in the order of the first one."""
        measured = [row.scores for row in self.rows if row.runs]
        return [n for own in measured[:1] for n in own if all(n in other for other in measured)]

    @property
    def of_all_models(self) -> list[str]:
        """The metric of each model of a `Paired`, their mean last; empty if there is only one."""
        _, slash, same = self.metric.partition("/")
        if not slash:
            return []
        own = [name for name in self.metrics if name.partition("/")[2] == same]
        own.sort(key=lambda name: name.startswith("mean/"))
        return own * (len(own) > 1)

    def to_csv(self, path: str | Path) -> None:
        """Write the rows in full precision, with empty cells for undefined values.

        Names are not escaped: spreadsheets may read a name that begins with ``=`` as a formula, so
        import results of others as text.

        Args:
            path: The file to write.
        """
        records, table = self.records(), StringIO()
        writer = csv.DictWriter(table, fieldnames=records[0])
        writer.writeheader()
        writer.writerows(records)
        write_text(path, encodable(table.getvalue()))

    def records(self) -> list[dict[str, object]]:
        """Return the rows in full precision, with `None` for undefined values."""
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
            "n": _count(score),
            "failed": row.failed,
            "mean": score and score.mean,
            "low": score and score.low,
            "high": score and score.high,
            "baseline": self.baseline,
            "pairs": _count(difference),
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
        chosen = f"chosen by {self.objective} ({self.mode})"
        words = f"mean ± 95 % t-interval over n seeds; median strength, {chosen}"
        if self.pruned:
            words += f"; not compared, as a search or a race pruned them: {self.pruned}"
        caption = _literal(words)
        table = Table(box=SIMPLE_HEAD, padding=0, caption=caption, caption_justify="left")
        settings = [setting_of(row.tried[0]) for row in self.rows]
        differing = varying(settings)
        # Overrides can be many, so they have a single column.
        groups = [key for key in differing if key in COLUMNS]
        others = [key for key in differing if key not in COLUMNS]
        names = [*groups, "strategy"]
        if others:
            names.insert(-1, "overrides")
        for name in names:
            table.add_column(name, overflow="fold", no_wrap=True)
        names = ["n", "failed", self.metric, f"− {self.baseline}"]
        for name in [*names, "strength", "distance", "unique", "seconds"]:
            # In a narrow terminal, these two columns are wrapped before the scores are.
            keep = name not in ("strength", "distance")
            table.add_column(_literal(name), justify="right", overflow="fold", no_wrap=keep)
        if self.is_tuned:
            table.add_column("tuned", overflow="fold")
        for row, setting in zip(self.rows, settings, strict=True):
            texts = [setting.get(name, UNDEFINED) for name in groups]
            if others:
                texts.append(label(setting, others) or UNDEFINED)
            texts += [row.strategy, *cells(row)]
            if self.is_tuned:
                texts.append(row.tuned or UNDEFINED)
            table.add_row(*map(_literal, texts))
        after = self._models_table()
        if any(row.at_end for row in self.rows):
            ends = "max, min: most seeds chose the end of the strengths tried: try others beyond it"
            after.append(_literal(ends))
        lines = self._failure_lines()
        # The keys that all rows have in common need no column.
        for setting in settings[:1]:
            common = label(setting, [key for key in setting if key not in differing])
            if common:
                lines.append(_literal(f"all with {common}"))
        return Group(*lines, table, *after)

    def _models_table(self) -> list[RenderableType]:
        """Return a table of the metric of all models; no table if there is only one model."""
        names = self.of_all_models
        if not names:
            return []
        _, _, same = self.metric.partition("/")
        caption = _literal(
            f"{same} of all models; ↑ ↓: the interval of the difference to {self.baseline} excludes"
            " 0"
        )
        table = Table(box=SIMPLE_HEAD, padding=0, caption=caption, caption_justify="left")
        rows = [row for row in self.rows if row.runs]
        settings = [setting_of(row.tried[0]) for row in rows]
        keys = varying(settings)
        if keys:
            table.add_column("setting", overflow="fold")
        table.add_column("strategy", overflow="fold", no_wrap=True)
        for name in names:
            table.add_column(_literal(name.partition("/")[0]), justify="right", no_wrap=True)
        for row, setting in zip(rows, settings, strict=True):
            texts = [row.strategy]
            if keys:
                texts = [label(setting, keys) or UNDEFINED, row.strategy]
            for name in names:
                scores = row.scores[name]
                texts.append(f"{_format(scores.mean)} {ARROWS[scores.direction] or ' '}")
            table.add_row(*map(_literal, texts))
        return [table]

    def _failure_lines(self) -> list[Text]:
        # A mistake in a config fails all cells of a sweep, so each reason is printed once.
        paths = defaultdict(list)
        for result in self.failures:
            paths[(result.failure or "").partition("\n")[0]].append(str(result.path.parent))
        return [
            _literal(f"{len(paths[why])} failed: {why} ({', '.join(paths[why])})") for why in paths
        ]


def _literal(text: str) -> Text:
    # Names may contain Rich's markup, or control characters, which terminals obey.
    return Text(visible(text))


def _count(estimated: Estimate | None) -> int:
    return estimated.n if estimated else 0


def default_metric(objective: str) -> str:
    """Return the objective's name with `test` in place of `val`."""
    # Other words that contain "val", such as "interval", are kept.
    return re.sub(r"(?<![a-z])val(?![a-z])", "test", objective)


def cells(row: Row) -> list[str]:
    """Format the numbers of a row, from n to seconds."""
    n = _count(row.score)
    difference = _format(row.difference)
    # The baseline may lack some seeds.
    if row.difference and row.difference.n < n:
        difference += f" (n={row.difference.n})"
    return [
        str(n),
        str(row.failed),
        _format(row.score),
        difference,
        f"{_format(row.strength, '.4g')} {row.at_end}".strip(),
        _format(row.distance, ".4g"),
        _format(row.unique, ",.0f"),
        _format(row.seconds, ",.1f"),
    ]


def _format(value: object, spec: str = "") -> str:
    return UNDEFINED if value is None else format(value, spec)
