"""Proximal steps that optimizer steps have added up to, and that are not taken yet."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from torch import nn

from lit_share.penalties._optimizers import LearningRates
from lit_share.ties import Tie


class PendingSteps:
    """Sums of step sizes by tie and optimizer, one for each member."""

    def __init__(self, sums: Mapping[str, Mapping[int, Sequence[float]]] | None = None) -> None:
        self._sums: dict[str, dict[int, list[float]]] = {
            name: {number: list(steps) for number, steps in own.items()}
            for name, own in (sums or {}).items()
        }

    @property
    def names(self) -> list[str]:
        """The names of the ties whose step is not taken yet."""
        return list(self._sums)

    def state(self) -> dict[str, dict[int, list[float]]]:
        """Return the sums by the ties' names and the optimizers' numbers, as plain data."""
        return PendingSteps(self._sums)._sums

    def keep(self, names: Collection[str]) -> None:
        """Forget all ties but these."""
        self._sums = {name: own for name, own in self._sums.items() if name in names}

    def add(self, name: str, number: int, steps: Sequence[float]) -> None:
        """Add the steps of a tie's members in one optimizer."""
        own = self._sums.setdefault(name, {})
        before = own.get(number, [0.0] * len(steps))
        own[number] = [x + y for x, y in zip(before, steps, strict=True)]

    def take(self, name: str, owners: Collection[int]) -> list[float] | None:
        """Return and forget the steps of a tie's members, once all of its optimizers have stepped.

        Args:
            name: The tie's name.
            owners: The numbers of the optimizers that move a member.

        Returns:
            One step for each member; ``None`` if the tie waits for an optimizer, or none stepped.
        """
        own = self._sums.get(name)
        if own is None or not all(owner in own for owner in owners):
            return None
        del self._sums[name]
        return [sum(column) for column in zip(*own.values(), strict=True)]


class MemberSteps:
    """The step sizes of members in several optimizers, from the learning rates of their groups."""

    def __init__(self, rates: Sequence[LearningRates]) -> None:
        self.rates = rates
        self.trainable: set[int] | None = None

    def is_trainable(self, parameter: nn.Parameter) -> bool:
        """Whether a parameter requires a gradient, or did when that was noted."""
        if self.trainable is None:
            return parameter.requires_grad
        return id(parameter) in self.trainable

    def note_trainable(self, ties: Sequence[Tie]) -> None:
        """Note which members require a gradient, before some are frozen for a while."""
        self.trainable = {id(p) for tie in ties for p in tie.parameters if p.requires_grad}

    def owners(self, tie: Tie) -> list[int]:
        """Return the numbers of the optimizers that move a member."""
        if len(self.rates) == 1:
            return [0]
        moving = [p for p in tie.parameters if self.is_trainable(p)]
        return [i for i, own in enumerate(self.rates) if any(id(p) in own.groups for p in moving)]

    def sizes(self, ties: Sequence[Tie], number: int, strength: float) -> list[list[float] | None]:
        """Return the members' steps in one optimizer; ``None`` for a tie that it has no part of.

        Args:
            ties: The ties.
            number: The optimizer's number.
            strength: What learning rates are multiplied by.
        """
        rates = self.rates[number]
        of_group = [strength * rate for rate in rates.rates()]
        sizes: list[list[float] | None] = []
        for tie in ties:
            parameters = tie.parameters
            groups = [rates.groups.get(id(parameter)) for parameter in parameters]
            if all(group is None for group in groups):
                sizes.append(None)
                continue
            own = []
            for parameter, group in zip(parameters, groups, strict=True):
                moves = group is not None and self.is_trainable(parameter)
                own.append(of_group[group] if moves and group is not None else 0.0)
            sizes.append(own)
        return sizes
