"""The proximal steps of a training: their sizes, when they are taken, and the zeros that are kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from torch import Tensor, nn
from torch.optim import Optimizer

from lit_share.callbacks._optimizers import learning_rates
from lit_share.functional import Penalty
from lit_share.sharing import Tie
from lit_share.sharing._loops import take_prox, zero_again
from lit_share.sharing._shards import Division, in_the_form_of
from lit_share.sharing._tie import whole

Every = Literal["step", "epoch"]


class ProxSteps:
    """What the members' proximal steps have added up to since the last one was taken, and which groups stay zero.

    Args:
        penalty: The penalty.
        every: When proximal steps are taken.
        keep_zeros: Whether groups that a proximal step has made zero stay so.

    Raises:
        ValueError: If groups of this penalty cannot be kept at zero.
    """

    def __init__(self, penalty: Penalty, every: Every, keep_zeros: bool) -> None:
        if keep_zeros and (
            penalty.is_smooth or penalty.center != "zero" or penalty.groups == "spectrum"
        ):
            raise ValueError(
                'keep_zeros=True is for norm="l1" or "owl", center="zero" and groups of elements, which the proximal '
                f'step makes exactly zero: this is norm="{penalty.norm}", center="{penalty.center}", '
                f'groups="{penalty.groups}"'
            )
        self.penalty, self.every, self.keep_zeros = penalty, every, keep_zeros
        # By the tie's name and the optimizer's number, one per member.
        self._pending: dict[str, dict[int, list[float]]] = {}
        # By the tie's name, one bool per group.
        self._zeros: dict[str, Tensor] = {}

    @property
    def pending(self) -> list[str]:
        """The names of the ties that wait for a proximal step."""
        return list(self._pending)

    def state_dict(self) -> dict[str, Any]:
        """What a training that goes on needs, of numbers and tensors."""
        pending = {name: dict(sums) for name, sums in self._pending.items()}
        # Of sharded groups all: a checkpoint has one state of a callback, that of the first process.
        zeros = {name: whole(zero) for name, zero in self._zeros.items()}
        return {
            "pending": pending,
            "zeros": {name: zero for name, zero in zeros.items() if zero.any()},
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned, or start from nothing if that is empty."""
        # Copies, as training changes them.
        self._pending = {name: dict(sums) for name, sums in state_dict.get("pending", {}).items()}
        zeros = state_dict.get("zeros", {}) if self.keep_zeros else {}
        self._zeros = {name: zero.clone() for name, zero in zeros.items()}

    def begin(self, ties: Sequence[Tie]) -> None:
        """Make ready for the training of these ties."""
        names = {tie.name for tie in ties}
        self._pending = {name: sums for name, sums in self._pending.items() if name in names}
        found = {tie.name: tie.tensors() for tie in ties if tie.name in self._zeros}
        none = {
            name: Division(tensors).nothing_held(self.penalty, tensors)
            for name, tensors in found.items()
        }
        # Rows may have been tied since, so that there are others.
        fit = {
            name: zero
            for name, zero in self._zeros.items()
            if name in none and none[name].shape == zero.shape
        }
        self._zeros = {name: in_the_form_of(none[name], zero) for name, zero in fit.items()}

    def after_step(
        self,
        ties: Sequence[Tie],
        optimizers: Sequence[Optimizer],
        optimizer: Optimizer,
        strength: float,
        trainable: set[nn.Parameter],
        start: Mapping[str, Tensor] | None,
    ) -> None:
        """Do what follows a step of one of the optimizers."""
        number, rates = optimizers.index(optimizer), learning_rates(optimizer)
        for tie in ties if strength > 0.0 else ():
            parameters = tie.parameters
            if rates.keys().isdisjoint(parameters):
                continue
            steps = [strength * rates.get(p, 0.0) if p in trainable else 0.0 for p in parameters]
            sums = self._pending.setdefault(tie.name, {})
            before = sums.get(number)
            sums[number] = (
                steps if before is None else [x + y for x, y in zip(before, steps, strict=True)]
            )
        taken = self._take(ties, optimizers, trainable, start) if self.every == "step" else set()
        if self._zeros:
            zero_again([tie for tie in ties if tie not in taken], self._zeros)

    def end_epoch(
        self,
        ties: Sequence[Tie],
        optimizers: Sequence[Optimizer],
        trainable: set[nn.Parameter],
        start: Mapping[str, Tensor] | None,
    ) -> None:
        """Do what follows the last step of an epoch."""
        if self.every == "epoch" and self._take(ties, optimizers, trainable, start):
            # Then nothing is done in the steps of the next epoch where nothing is zero.
            self._zeros = {name: zero for name, zero in self._zeros.items() if whole(zero).any()}

    def _take(
        self,
        ties: Sequence[Tie],
        optimizers: Sequence[Optimizer],
        trainable: set[nn.Parameter],
        start: Mapping[str, Tensor] | None,
    ) -> set[Tie]:
        """Take the pending steps of the ties whose optimizers have all stepped, and return these ties."""
        waiting = [tie for tie in ties if tie.name in self._pending]
        # Of one optimizer, all that is pending is ready.
        owned = (
            [learning_rates(optimizer).keys() for optimizer in optimizers]
            if len(optimizers) > 1
            else []
        )
        ready: dict[Tie, list[float]] = {}
        for tie in waiting:
            sums = self._pending[tie.name]
            moving = trainable.intersection(tie.parameters) if owned else set()
            owners = [i for i, parameters in enumerate(owned) if not moving.isdisjoint(parameters)]
            if all(owner in sums for owner in owners):
                del self._pending[tie.name]
                steps = [sum(column) for column in zip(*sums.values(), strict=True)]
                if any(steps):
                    ready[tie] = steps
        if ready:
            take_prox(
                self.penalty,
                list(ready),
                list(ready.values()),
                start,
                self._zeros if self.keep_zeros else None,
            )
        return set(ready)
