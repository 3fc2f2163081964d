"""Ask Optuna for the next trial of a study."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any
from zlib import crc32

from lit_share.lab.search._optuna import load_optuna
from lit_share.lab.search._space import Choices, Range
from lit_share.lab.search._trial import Trial
from lit_share.lab.sweeps import Cell

# How often a sampler is asked for a trial that differs from all others.
REPEATS = 20


@dataclass(frozen=True)
class Study:
    """The search of one strategy, seed and other setting.

    Attributes:
        fixed: The overrides that all trials have.
        space: What is chosen.
        mode: Whether a large or a small objective is better.
        budget: The largest number of trials; lists may have fewer combinations.
    """

    fixed: Cell
    space: tuple[Range | Choices, ...]
    mode: str
    budget: int

    @property
    def name(self) -> str:
        """A name that tells the study apart from all others in a sweep's directory."""
        return " ".join([*sorted(self.fixed), *(f"{c.key}={c}" for c in self.space)])

    @property
    def trials(self) -> int:
        """The number of trials: the budget, or fewer if lists have fewer combinations."""
        combinations = self._combinations()
        if combinations is None:
            return self.budget
        return min(self.budget, len(combinations))

    def corners(self) -> list[Cell]:
        """Return the cells at the ends of ranges and of all values of lists, as a sample."""
        most = max((len(choice.ends()) for choice in self.space), default=1)
        cells = []
        for i in range(most):
            chosen = [choice.ends()[i % len(choice.ends())] for choice in self.space]
            cells.append((*self.fixed, *chosen))
        return cells

    def ask(
        self, number: int, ended: Sequence[Trial], sampler: Callable[[int], Any], seed: int
    ) -> Cell:
        """Return the cell of a trial.

        The same question has the same answer, whether a search was interrupted or not.

        Args:
            number: The trial's number.
            ended: The trials before it.
            sampler: Makes an `optuna.samplers.BaseSampler` from a seed.
            seed: The seed of the search.
        """
        # A first trial at the end of a list of strengths is seldom good, so that few others are
        # stopped early: of 360 cells, a quarter of the epochs more were trained.
        combinations = self._combinations()
        if combinations is not None and len(combinations) <= self.budget:
            return (*self.fixed, *combinations[number])
        if number == 0:
            return (*self.fixed, *(choice.middle() for choice in self.space))
        distributions = {choice.key: choice.distribution() for choice in self.space}
        known = {trial.overrides for trial in ended}
        for i in range(REPEATS):
            # A sampler of its own for each question, because its random state is not stored.
            own_seed = crc32(f"{seed} {self.name} {number} {i}".encode())
            study = _study_of(self.name, self.mode, ended, self.space, sampler(own_seed))
            params = study.ask(distributions).params
            cell = (*self.fixed, *(choice.write(params[choice.key]) for choice in self.space))
            if cell not in known:
                return cell
        # A sampler may return the same combination of lists again and again.
        others = [(*self.fixed, *combination) for combination in combinations or ()]
        return next((other for other in others if other not in known), cell)

    def _combinations(self) -> list[Cell] | None:
        """Return all combinations of lists, those in the middle first; `None` with a range."""
        lists = []
        for choice in self.space:
            values = choice.every()
            if values is None:
                return None
            lists.append(values)
        found = []
        for places in product(*(range(len(values)) for values in lists)):
            off = sum(abs(2 * i - len(v) + 1) for i, v in zip(places, lists, strict=True))
            found.append((off, tuple(v[i] for i, v in zip(places, lists, strict=True))))
        return [combination for _, combination in sorted(found, key=lambda entry: entry[0])]


def _study_of(
    name: str,
    mode: str,
    trials: Sequence[Trial],
    space: Sequence[Range | Choices],
    sampler: Any,
) -> Any:
    """Build a study in memory from trials that have ended.

    Args:
        name: The study's name.
        mode: Whether a large or a small objective is better.
        trials: The trials.
        space: What they have chosen.
        sampler: An `optuna.samplers.BaseSampler`.
    """
    study = load_optuna().create_study(study_name=name, direction=f"{mode}imize", sampler=sampler)
    for trial in trials:
        values = dict(override.split("=", 1) for override in trial.overrides if "=" in override)
        params, distributions = {}, {}
        for choice in space:
            value = choice.read(values.get(choice.key, ""))
            if value is not None:
                params[choice.key], distributions[choice.key] = value, choice.distribution()
        # Trials of another range, which the user has changed, tell about their own values.
        study.add_trial(trial.frozen(distributions, params))
    return study
