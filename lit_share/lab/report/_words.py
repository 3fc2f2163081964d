"""Names of strategies, and amounts in the unit of the metric."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from lit_share.lab.report._choice import Contrast
from lit_share.lab.report._comparison import Comparison, Row
from lit_share.lab.report._estimate import Estimate


@dataclass(frozen=True)
class Words:
    """The names and the unit of the rows of a setting.

    Attributes:
        metric: The test metric.
        strategy: The baseline, which the others are compared with.
        is_lower: Whether a small metric is better.
        factor: The factor from scores to amounts: 100 for accuracies.
        unit: What follows an amount: " points", or nothing.
        names_ties: Whether strategies were run with different ties.
    """

    metric: str
    strategy: str
    is_lower: bool
    factor: float
    unit: str
    names_ties: bool

    @property
    def baseline(self) -> str:
        """The baseline's name."""
        return f"`{self.strategy}`"

    def name(self, row: Row) -> str:
        """Name a row's strategy, with its ties if others have others."""
        if self.names_ties and row.ties is not None and row.strategy != self.strategy:
            return f"`{row.strategy}` with `ties={row.ties}`"
        return f"`{row.strategy}`"

    def change(self, contrast: Contrast) -> str:
        """Say how the metric changes: a direction only if the seeds tell it."""
        gain = self._scaled(contrast.gain)
        if self.is_lower:
            gain = _negative(gain)
        if contrast.is_even and gain.mean == 0:
            return f"leaves `{self.metric}` as it is"
        if contrast.is_even:
            sign = "-+"[gain.mean > 0]
            return f"changes `{self.metric}` by {sign}{self.amount(abs(contrast.gain.mean))}"
        if contrast.sign == 0:
            return f"changes `{self.metric}` by {'+' * (gain.mean > 0)}{gain}{self.unit}"
        if gain.mean < 0:
            return f"lowers `{self.metric}` by {_negative(gain)}{self.unit}"
        return f"raises `{self.metric}` by {gain}{self.unit}"

    def gain(self, gain: Estimate) -> str:
        """Say by how much a row is better or worse."""
        scaled = self._scaled(gain)
        word = "better"
        if gain.mean < 0:
            word, scaled = "worse", _negative(scaled)
        if gain.margin is None:
            return f"{word} by {self.amount(abs(gain.mean))}"
        text = f"{scaled}{self.unit}"
        # What is rounded to 0 is neither.
        if float(text.partition(" ")[0]) == 0:
            return text
        return f"{word} by {text}"

    def amount(self, value: float) -> str:
        """Format a positive amount with two digits."""
        scaled = self.factor * value
        # The format below would write an exponent.
        if scaled >= 99.5:
            return f"{scaled:,.0f}{self.unit}"
        return f"{scaled:.2g}{self.unit}"

    def _scaled(self, gain: Estimate) -> Estimate:
        margin = gain.margin
        if margin is not None:
            margin *= self.factor
        return Estimate(gain.n, self.factor * gain.mean, margin)


def words_of(comparison: Comparison, rows: Sequence[Row]) -> Words:
    """Return the words for the rows of a setting."""
    metric, baseline = comparison.metric, comparison.baseline
    factor, unit = 1.0, ""
    # Accuracies may be logged in percent, which are points.
    if re.search(r"(?<![a-z])acc(uracy)?(?![a-z])", metric.rpartition("/")[2].lower()):
        scores = [abs(run.test[metric]) for row in rows for run in row.runs]
        factor, unit = 100.0, " points"
        if any(score > 1 for score in scores):
            factor = 1.0
    ties = {row.ties for row in rows if row.strategy != baseline}
    return Words(metric, baseline, comparison.better == "min", factor, unit, len(ties) > 1)


def seeds(contrasts: Sequence[Contrast]) -> str:
    """Say over how many seeds contrasts are.

    Example:
        >>> row = Row(None, None, None, "", "l2", 0, None, None, None, None, None, None)
        >>> seeds([Contrast(row, (0.1, 0.2), 2), Contrast(row, (0.1, 0.2, 0.3), 2)])
        '2 to 3 seeds'
    """
    counts = sorted({len(contrast.gains) for contrast in contrasts})
    return f"{' to '.join(map(str, [*counts[:1], *counts[1:][-1:]]))} seeds"


def all_of(n: int) -> str:
    """Say "all" of a number of things, which are at least two."""
    if n == 2:
        return "both"
    return f"all {n}"


def fraction(row: Row, of: Row) -> str:
    """Say what part of another row's unique parameters a row has; both must be known."""
    assert row.unique is not None
    assert of.unique is not None
    return f"{100 * row.unique / of.unique:.2g} %"


def listed(names: Sequence[str]) -> str:
    """Join names by commas and "and".

    Example:
        >>> listed(["a", "b", "c"]), listed(["a"])
        ('a, b and c', 'a')
    """
    *first, last = names
    return " and ".join(filter(None, [", ".join(first), last]))


def _negative(gain: Estimate) -> Estimate:
    return Estimate(gain.n, -gain.mean, gain.margin)
