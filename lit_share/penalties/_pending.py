"""Step sizes of optimizer steps whose proximal step is not taken yet."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import chain
from typing import Any

from torch import nn

from lit_share.penalties._optimizers import LearningRates
from lit_share.ties import Tie


class PendingSteps:
    """Sums of step sizes for each tie, optimizer and member."""

    # Sums are kept per optimizer, because a tie's proximal step is taken when all of its optimizers
    # have stepped: members that moved at different times would be compared otherwise.

    def __init__(self, sums: Mapping[str, Mapping[int, Sequence[float]]] | None = None) -> None:
        self._sums: dict[str, dict[int, list[float]]] = {
            name: {number: list(steps) for number, steps in own.items()}
            for name, own in (sums or {}).items()
        }

    @property
    def names(self) -> list[str]:
        return list(self._sums)

    def state(self) -> dict[str, dict[int, list[float]]]:
        """Return a copy of the sums, by tie name and optimizer index, for a checkpoint."""
        return PendingSteps(self._sums)._sums

    def keep(self, names: Collection[str]) -> None:
        self._sums = {name: own for name, own in self._sums.items() if name in names}

    def add(self, name: str, number: int, steps: Sequence[float]) -> None:
        own = self._sums.setdefault(name, {})
        before = own.get(number, [0.0] * len(steps))
        own[number] = [x + y for x, y in zip(before, steps, strict=True)]

    def take(self, name: str, owners: Collection[int]) -> list[float] | None:
        """Remove and return a tie's step sizes; ``None`` until all ``owners`` have stepped."""
        own = self._sums.get(name)
        if own is None or not all(owner in own for owner in owners):
            return None
        del self._sums[name]
        return [sum(column) for column in zip(*own.values(), strict=True)]


class MemberSteps:
    """Step sizes of members, from their learning rates in several optimizers."""

    def __init__(self, rates: Sequence[LearningRates]) -> None:
        self.rates = rates
        # Lightning's `toggle_optimizer` freezes the parameters of other optimizers for a step, so
        # `requires_grad` must be read before it: the ids of members that require a gradient.
        self.trainable: set[int] | None = None

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Forget ids, as the parameters of a copy have others."""
        self.__dict__.update(state, trainable=None)

    def is_trainable(self, parameter: nn.Parameter) -> bool:
        """Whether a parameter requires a gradient, or did in `note_trainable`."""
        if self.trainable is None:
            return parameter.requires_grad
        return id(parameter) in self.trainable

    def moving(self, ties: Sequence[Tie]) -> set[int]:
        """Return the ids of trainable members that an optimizer owns at a learning rate above 0."""
        moving: set[int] = set()
        for own in self.rates:
            rates = own.rates()
            for tie in ties:
                for _, parameter, group in own.of_tie(tie):
                    if rates[group] > 0.0 and self.is_trainable(parameter):
                        moving.add(id(parameter))
        return moving

    def note_trainable(self, ties: Sequence[Tie]) -> None:
        """Remember which members require a gradient."""
        parameters = chain.from_iterable(tie.parameters for tie in ties)
        self.trainable = {id(p) for p in parameters if p.requires_grad}

    def owners(self, tie: Tie) -> list[int]:
        """Return the indices of the optimizers that move a member."""
        # With a single optimizer no tie waits, so this saves a search at every step.
        if len(self.rates) == 1:
            return [0]
        moving = [p for p in tie.parameters if self.is_trainable(p)]
        return [i for i, own in enumerate(self.rates) if any(id(p) in own.groups for p in moving)]

    def sizes(
        self, ties: Sequence[Tie], number: int, strengths: float | Sequence[float]
    ) -> list[list[float] | None]:
        """Return the members' step sizes in an optimizer; ``None`` for ties it does not own."""
        rates = self.rates[number]
        of_groups = rates.rates()
        if isinstance(strengths, float):
            strengths = [strengths] * len(ties)
        sizes: list[list[float] | None] = []
        for tie, strength in zip(ties, strengths, strict=True):
            owned = rates.of_tie(tie)
            if not owned:
                sizes.append(None)
                continue
            own = [0.0] * len(tie.members)
            for i, parameter, group in owned:
                if self.is_trainable(parameter):
                    own[i] = strength * of_groups[group]
            sizes.append(own)
        return sizes
