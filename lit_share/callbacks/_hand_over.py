"""What becomes of optimizers when parameters are shared in the middle of training."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from lit_share.callbacks._duplicates import set_parameters
from lit_share.sharing._tie import Slot, slots


class OptimizerStates:
    """The optimizers' states as they were, for the parameters that a module has after some of them were shared.

    Args:
        optimizers: The optimizers.
        module: The module, before parameters are shared.
    """

    def __init__(self, optimizers: Sequence[Optimizer], module: nn.Module) -> None:
        self.module = module
        self.optimizers = [
            part for o in optimizers for part in getattr(o, "parts", {"": o}).values()
        ]
        self.stored = {slot.name: slot.stored for slot in slots(module)}
        states = {p: state for optimizer in self.optimizers for p, state in optimizer.state.items()}
        self.states = {slot.name: _state_of(slot, states) for slot in slots(module)}

    def hand_over(self) -> None:
        """Replace, in all groups, the parameters that the module had by those that it has.

        What is new takes over its part of the state of what was in its place.
        """
        new: dict[nn.Parameter, Slot] = {}
        kept = {slot.stored for slot in slots(self.module)}
        had = set(self.stored.values())
        for slot in slots(self.module):
            before = self.stored[slot.name]
            if (
                before is not None
                and before not in kept
                and slot.stored is not None
                and slot.stored not in had
            ):
                new[before] = slot
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                before = group["params"]
                stay = [p for p in before if p in new or p in kept or p not in had]
                set_parameters(group, [new[p].parameter if p in new else p for p in stay], stay)
                for parameter in before:
                    if parameter in new:
                        optimizer.state[new[parameter].parameter] = self._part(new[parameter])
                    if parameter in had - kept:
                        optimizer.state.pop(parameter, None)

    def _part(self, slot: Slot) -> dict[str, Any]:
        how, shape, state = slot.derived, slot.full().shape, self.states[slot.name]
        if any(
            isinstance(value, Tensor) and value.ndim and value.shape != shape
            for value in state.values()
        ):
            warnings.warn(
                f"the optimizer's state of {slot.name!r} cannot be divided into units, and starts anew",
                stacklevel=2,
            )
            return {}
        return {
            key: how.own_part(value) if how and isinstance(value, Tensor) and value.ndim else value
            for key, value in state.items()
        }


def _state_of(slot: Slot, states: Mapping[Tensor, Mapping[str, Any]]) -> dict[str, Any]:
    """The state of a place's parameter, what has its shape in the shape of the place."""
    shape = slot.parameter.shape
    return {
        key: slot.full(lambda p, key=key: states[p][key])  # type: ignore[misc]
        if isinstance(value, Tensor) and value.shape == shape
        else value
        for key, value in states.get(slot.parameter, {}).items()
    }
