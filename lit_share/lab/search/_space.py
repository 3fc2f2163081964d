"""What a search may choose: ranges and lists, as Hydra's override grammar writes them."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override

from lit_share.lab.search._optuna import load_optuna
from lit_share.lab.sweeps import Cell

# Ranges of fewer whole numbers are lists.
MOST_LISTED = 100


@dataclass(frozen=True)
class Range:
    """All numbers from `low` to `high`.

    Attributes:
        key: The key, with the `+` of an override that adds it.
        low: The least number.
        high: The greatest number.
        log: Whether the logarithm is uniform.
        whole: Whether the numbers are whole.
    """

    key: str
    low: float
    high: float
    log: bool = False
    whole: bool = False

    def __str__(self) -> str:
        """Return the range as in an override.

        Example:
            >>> print(Range("strength", 0.001, 1.0, log=True))
            tag(log,interval(0.001,1))
        """
        text = f"interval({self.low:.12g},{self.high:.12g})"
        if self.whole:
            text = f"int({text})"
        if self.log:
            text = f"tag(log,{text})"
        return text

    def distribution(self) -> Any:
        """Return Optuna's distribution."""
        optuna = load_optuna()
        if self.whole:
            return optuna.distributions.IntDistribution(int(self.low), int(self.high), self.log)
        return optuna.distributions.FloatDistribution(self.low, self.high, self.log)

    def write(self, value: float) -> str:
        """Return an override; four digits are enough of a number that was drawn.

        Example:
            >>> Range("strength", 0.001, 1.0).write(0.0123456)
            'strength=0.01235'
        """
        if self.whole:
            return f"{self.key}={int(value)}"
        rounded = min(max(float(f"{value:.4g}"), self.low), self.high)
        return f"{self.key}={rounded:.12g}"

    def read(self, text: str) -> float | None:
        """Return the number of an override's text; `None` if it is outside of the range."""
        try:
            value = float(text)
        except ValueError:
            return None
        if not self.low <= value <= self.high or (self.whole and value != int(value)):
            return None
        return value

    def ends(self) -> tuple[str, ...]:
        """Return the overrides of both ends."""
        return self.write(self.low), self.write(self.high)

    def middle(self) -> str:
        """Return the override in the middle, of logarithms if `log`.

        Example:
            >>> Range("strength", 0.001, 1.0, log=True).middle()
            'strength=0.03162'
        """
        if self.log:
            return self.write(math.sqrt(self.low * self.high))
        return self.write((self.low + self.high) / 2)

    def every(self) -> tuple[str, ...] | None:
        """Return the overrides of all values; `None` if there are too many to list them."""
        if not self.whole or self.high - self.low >= MOST_LISTED:
            return None
        return tuple(map(self.write, range(int(self.low), int(self.high) + 1)))


@dataclass(frozen=True)
class Choices:
    """A list of values, which are written as in overrides."""

    key: str
    values: tuple[str, ...]

    def __str__(self) -> str:
        return ",".join(self.values)

    def distribution(self) -> Any:
        """Return Optuna's distribution."""
        return load_optuna().distributions.CategoricalDistribution(self.values)

    def write(self, value: str) -> str:
        """Return an override."""
        return f"{self.key}={value}"

    def read(self, text: str) -> str | None:
        """Return the text if it is one of the values."""
        if text in self.values:
            return text
        return None

    def ends(self) -> tuple[str, ...]:
        """Return the overrides of all values."""
        return tuple(map(self.write, self.values))

    def middle(self) -> str:
        """Return the override in the middle."""
        return self.write(self.values[(len(self.values) - 1) // 2])

    def every(self) -> tuple[str, ...]:
        """Return the overrides of all values."""
        return self.ends()


Space: TypeAlias = dict[str, Range | Choices]


def searched(overrides: Iterable[Override], tune: Collection[str]) -> Space:
    """Find what a search is to choose, by the key elements of overrides.

    That is every range, written `interval(low, high)`, and each list of values of `strength` or of
    a key in `tune`. Other lists are compared, so that they make studies of their own.

    Raises:
        ValueError: If there is nothing to choose, or a range is wrong or of a key that is compared.
    """
    overrides = list(overrides)
    space: Space = {}
    for override in overrides:
        refuse_range_in_list(override)
        key, name = override.get_key_element(), override.key_or_group
        is_tuned = name == "strength" or name in tune
        if override.is_interval_sweep():
            space[key] = _range(override, is_tuned)
        elif override.is_discrete_sweep() and is_tuned:
            values = tuple(dict.fromkeys(override.sweep_string_iterator()))
            space[key] = Choices(key, values)
        else:
            space.pop(key, None)
    if not space:
        raise ValueError(
            "hydra/sweeper=optuna has nothing to choose: write a range, as in "
            "'strength=tag(log,interval(0.001,1))', or several values of strength or of a key in "
            "tune; or leave hydra/sweeper out"
        )
    return space


def refuse_range_in_list(override: Override) -> None:
    """Raise `ValueError` if a list of values has a range among them."""
    value = override.value()
    if isinstance(value, ChoiceSweep) and any(isinstance(v, IntervalSweep) for v in value.list):
        raise ValueError(
            f"{override.input_line}: a range stands alone: write interval(...) without other "
            "values, or values without interval(...)"
        )


def split_by_way(
    space: Sequence[Range | Choices],
) -> list[tuple[Cell, tuple[Range | Choices, ...]]]:
    """Split a list of strengths by the way in which they are found, as ``0.1,1,learned``.

    Comparisons have rows of their own for learned strengths and for paths.

    Args:
        space: What is to be chosen.

    Returns:
        For each way, the overrides that are given and what is left to choose.

    Example:
        >>> for given, chosen in split_by_way([Choices("strength", ("0.1", "1", "learned"))]):
        ...     print(given, *chosen)
        () 0.1,1
        ('strength=learned',)
    """
    for i, choice in enumerate(space):
        if choice.key.lstrip("+") != "strength" or not isinstance(choice, Choices):
            continue
        ways: dict[str, list[str]] = {}
        for value in choice.values:
            ways.setdefault(_way(value), []).append(value)
        if len(ways) == 1:
            break
        found = []
        for values in ways.values():
            own = Choices(choice.key, tuple(values))
            before, after = space[:i], space[i + 1 :]
            if len(values) == 1:
                found.append((own.ends(), (*before, *after)))
            else:
                found.append(((), (*before, own, *after)))
        return found
    return [((), tuple(space))]


def _way(value: str) -> str:
    """Return the name in a strength such as ``{learned:{start:0.01}}``; "" of a number."""
    try:
        float(value)
    except ValueError:
        # Interpolations are not resolved yet, and count as numbers.
        return "".join(re.findall(r"^[{'\"\s]*([A-Za-z]\w*)", value))
    return ""


def _range(override: Override, is_tuned: bool) -> Range:
    from lit_share.lab.report import not_to_be_tuned

    key, interval = override.get_key_element(), override.value()
    assert isinstance(interval, IntervalSweep)
    written = override.input_line
    low, high = interval.start, interval.end
    # Hydra's grammar leaves one of the ends open only where `interval` has keywords.
    if low is None or high is None or not low < high:
        raise ValueError(f"{written}: write the smaller end first, as in interval(0.001,1)")
    if others := sorted({*interval.tags} - {"log"}):
        raise ValueError(f"{written}: unknown tag {others[0]!r}: the only one is log")
    if "log" in interval.tags and low <= 0:
        raise ValueError(f"{written}: a range with the tag log begins above 0")
    name = override.key_or_group
    if problem := not_to_be_tuned(name):
        raise ValueError(f"{written}: {problem.partition(': ')[2].partition(';')[0]}: list values")
    if not is_tuned:
        # Otherwise each drawn value would be a row of its own in the comparison.
        raise ValueError(f"{written}: a range is chosen on validation data: write tune=[{name}]")
    whole = isinstance(low, int) and isinstance(high, int)
    return Range(key, low, high, log="log" in interval.tags, whole=whole)
