"""Choose a strategy from the rows of one setting, and find what cannot be told apart from it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import TypeAlias

from lit_share.lab.report._comparison import Row
from lit_share.lab.report._estimate import Estimate, estimate
from lit_share.lab.report._power import seeds_needed
from lit_share.lab.results import Result

# The variance of two values says next to nothing.
FEWEST_SEEDS = 3
# A strategy with more of another one's parameters is not called smaller.
SMALLER = 0.9

# A score of a run, of which large values are better.
Score: TypeAlias = Callable[[Result], float]


@dataclass(frozen=True)
class Contrast:
    """How much better a row is than another one.

    Attributes:
        row: The row.
        gains: For each seed that both rows have, by how much the row's score is better.
        comparisons: The number of contrasts that are read together, by which intervals are wider.
    """

    row: Row
    gains: tuple[float, ...]
    comparisons: int

    @property
    def gain(self) -> Estimate:
        """The mean gain with its simultaneous interval, which is undefined for equal gains."""
        # A standard deviation of 0 is that of rounded scores, not of chance.
        if self.is_even:
            return Estimate(len(self.gains), self.gains[0], None)
        found = estimate(self.gains, self.comparisons)
        # Contrasts have at least three seeds.
        assert found is not None
        return found

    @property
    def is_even(self) -> bool:
        """Whether the gains of all seeds are equal, so that nothing says how much they vary."""
        return math.isclose(min(self.gains), max(self.gains), rel_tol=1e-9)

    @property
    def sign(self) -> int:
        """1 if the row is better, −1 if it is worse, 0 if the seeds do not tell."""
        gain = self.gain
        if gain.margin is None or abs(gain.mean) <= gain.margin:
            return 0
        return int(math.copysign(1, gain.mean))

    def more_seeds(self, most: int) -> int | None:
        """Return how many more seeds would tell, if the observed gains are typical.

        It is the number with which the test has a power of 80 %, minus those that exist; `None` if
        it would need more than ``most`` in all, or if there is nothing to judge by.
        """
        if self.is_even:
            return None
        effect = fmean(self.gains) / stdev(self.gains)
        needed = seeds_needed(effect, self.comparisons, most=most)
        return needed and max(needed - len(self.gains), 1)


@dataclass(frozen=True)
class Choice:
    """What the rows of one setting say.

    Attributes:
        row: The row to use: the baseline's if no other is better.
        baseline: The baseline's row.
        contrasts: Each other strategy against the baseline.
        others: Each other strategy against ``row``.
        contenders: Those that are better than the baseline, and not worse than another of these.
        best: The contender that is best on validation data; any strategy if there is no contender.
    """

    row: Row
    baseline: Row
    contrasts: tuple[Contrast, ...]
    others: tuple[Contrast, ...]
    contenders: tuple[Contrast, ...]
    best: Contrast

    @property
    def of_row(self) -> Contrast | None:
        """The contrast of ``row`` and the baseline; `None` if it is the baseline."""
        return next((contrast for contrast in self.contrasts if contrast.row is self.row), None)

    @property
    def small(self) -> Contrast | None:
        """The smallest of those that are smaller than ``row`` and not shown to be worse."""
        small = [o for o in self.others if o.sign >= 0 and is_smaller(o.row, self.row)]
        return _smallest(small, lambda contrast: contrast.gain.mean)


def is_smaller(row: Row, than: Row) -> bool:
    """Return whether a row has clearly fewer unique parameters; `False` if they are unknown."""
    return (
        row.unique is not None and than.unique is not None and row.unique <= SMALLER * than.unique
    )


def contrast_all(
    rows: Iterable[Row], control: Callable[[Row], Iterable[Result]], score: Score
) -> tuple[Contrast, ...]:
    """Contrast rows with a control each; rows with fewer than three seeds of both are left out."""
    gains = [(row, _gains(row.runs, control(row), score)) for row in rows]
    known = [(row, values) for row, values in gains if len(values) >= FEWEST_SEEDS]
    return tuple(Contrast(row, values, len(known)) for row, values in known)


def choose(baseline: Row, contrasts: Sequence[Contrast], test: Score, validation: Score) -> Choice:
    """Choose the row to use.

    It is the baseline unless some strategies are better on test data, by simultaneous intervals. Of
    these, the contenders are not worse than another on test data. The row is the contender that is
    best on validation data, or the smallest within one standard error of it.

    Args:
        baseline: The baseline's row.
        contrasts: The other strategies against the baseline, at least one.
        test: The score that strategies are compared by.
        validation: The score that chooses.
    """

    def validated(contrast: Contrast) -> float:
        row = contrast.row
        # Rows may lack different seeds, and scores differ more between seeds than strategies do.
        return fmean(_gains(row.runs, row.control, validation))

    rows = [contrast.row for contrast in contrasts]
    better = [contrast for contrast in contrasts if contrast.sign > 0]
    if not better:
        best = max(contrasts, key=validated)
        return Choice(baseline, baseline, tuple(contrasts), tuple(contrasts), (), best)
    contenders = [c for c in better if not _is_worse(c, better, test, len(rows) - 1)]
    # Over different seeds, each may be worse than another.
    contenders = contenders or better
    best = max(contenders, key=validated)
    enough = [c for c in contenders if _is_enough(c.row, best.row, validation)]
    row = (_smallest(enough, validated) or best).row
    others = contrast_all([other for other in rows if other is not row], lambda _: row.runs, test)
    return Choice(row, baseline, tuple(contrasts), others, tuple(contenders), best)


def _smallest(contrasts: Sequence[Contrast], score: Callable[[Contrast], float]) -> Contrast | None:
    """Return the contrast with the best score among those that are about as small as any."""
    if not contrasts:
        return None
    least = min(contrasts, key=lambda contrast: contrast.row.unique or 0.0)
    return max((c for c in contrasts if not is_smaller(least.row, c.row)), key=score)


def _is_worse(
    contrast: Contrast, better: Iterable[Contrast], score: Score, comparisons: int
) -> bool:
    """Return whether a strategy is worse than one of those that are better than the baseline."""
    runs = contrast.row.runs
    gains = [_gains(runs, other.row.runs, score) for other in better if other is not contrast]
    known = [values for values in gains if len(values) >= FEWEST_SEEDS]
    return any(Contrast(contrast.row, values, comparisons).sign < 0 for values in known)


def _is_enough(row: Row, best: Row, validation: Score) -> bool:
    """Return whether a row is smaller than the best, and within one standard error of it."""
    losses = _gains(best.runs, row.runs, validation)
    if len(losses) < FEWEST_SEEDS or not is_smaller(row, best):
        return False
    return fmean(losses) <= stdev(losses) / math.sqrt(len(losses))


def _gains(runs: Iterable[Result], control: Iterable[Result], score: Score) -> tuple[float, ...]:
    """Return the differences of scores by common seed; nothing if one is not finite."""
    known = {run.seed: score(run) for run in control}
    gains = tuple(score(run) - known[run.seed] for run in runs if run.seed in known)
    # A mean of the finite ones would hide what diverged.
    if not all(map(math.isfinite, gains)):
        return ()
    return gains
