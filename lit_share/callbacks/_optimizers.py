"""What the callbacks need to know of optimizers."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer
from torch.utils.hooks import RemovableHandle

from lit_share.sharing import Tie
from lit_share.sharing._tie import Slot, slots


def learning_rates(optimizer: Optimizer) -> dict[nn.Parameter, float]:
    """The learning rate of every parameter that the optimizer owns."""
    return {p: float(group["lr"]) for group in optimizer.param_groups if "lr" in group for p in group["params"]}


def has_gradients(optimizer: Optimizer) -> bool:
    """Whether there is anything to step with: there is not where `training_step` returned ``None``."""
    return any(p.grad is not None for group in optimizer.param_groups for p in group["params"])


def loss_scale(trainer: Trainer, optimizer: Optimizer) -> float:
    """The factor of the gradients at hand: fused optimizers under fp16 unscale them only within their step."""
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    if scaler is None or not getattr(optimizer, "_step_supports_amp_scaling", False):
        return 1.0
    return float(scaler.get_scale())


def skipped_its_step(optimizer: Optimizer) -> bool:
    """Whether a fused optimizer under fp16 found infinite gradients and left the weights as they are."""
    found_inf = getattr(optimizer, "found_inf", None)
    return found_inf is not None and bool(found_inf.item())


def refuse_unsupported(optimizers: Sequence[Optimizer], ties: Sequence[Tie]) -> None:
    """Raise if the penalty of these ties cannot be brought into the optimizers' steps.

    Raises:
        ValueError: If an optimizer is L-BFGS or has no learning rate, or an embedding of a tie has sparse gradients.
    """
    members = [member for tie in ties for member in tie.members]
    for optimizer in optimizers:
        if isinstance(optimizer, LBFGS):
            raise ValueError(
                "Regularize cannot serve LBFGS, whose line search needs the penalty in the loss: add "
                "strength * penalty.value([...]) to the loss in training_step instead"
            )
        without = {p for group in optimizer.param_groups if "lr" not in group for p in group["params"]}
        if any(member.parameter in without for member in members):
            raise ValueError(f'the parameter groups of {type(optimizer).__name__} have no learning rate "lr"')
    for member in members:
        if getattr(member.slot.owner, "sparse", False):
            raise ValueError(
                f"{member.name!r} belongs to an embedding with sparse gradients: make it with sparse=False, or "
                "exclude it from the ties"
            )


def remove_duplicate_parameters(optimizers: Sequence[Optimizer]) -> set[nn.Parameter]:
    """Leave every parameter only in the first group that has it, so that it is stepped once.

    Returns:
        The parameters that were removed from an optimizer because another one has them.
    """
    owners: dict[nn.Parameter, Optimizer] = {}
    lost: set[nn.Parameter] = set()
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            lost |= {p for p in group["params"] if owners.get(p, optimizer) is not optimizer}
            group["params"] = [p for p in dict.fromkeys(group["params"]) if p not in owners]
            owners |= dict.fromkeys(group["params"], optimizer)
    return lost


def warn_of_lost_gradients(optimizers: Sequence[Optimizer], names: Mapping[nn.Parameter, str]) -> list[RemovableHandle]:
    """Warn when the gradient of a shared parameter is cleared before the one optimizer that has it was stepped.

    That happens under manual optimisation with a backward pass for each of several optimizers.

    Returns:
        The hooks, to be removed after training.
    """
    waiting: dict[nn.Parameter, Tensor | None] = {}

    def accumulated(parameter: nn.Parameter) -> None:
        before = waiting.get(parameter)
        if before is not None and before is not parameter.grad:
            warnings.warn(
                f"a gradient of {names[parameter]!r} was lost: it is shared, its optimizer had stepped before the "
                "backward pass, and cleared it before its next step; step all optimizers after one backward pass of "
                "the sum of the losses",
                stacklevel=2,
            )
            for handle in handles:
                handle.remove()
        waiting[parameter] = parameter.grad

    def stepped(optimizer: Optimizer, *_: object) -> None:
        for parameter in learning_rates(optimizer):
            waiting.pop(parameter, None)

    handles = [parameter.register_post_accumulate_grad_hook(accumulated) for parameter in names]
    handles += [optimizer.register_step_post_hook(stepped) for optimizer in optimizers]
    return handles


class OptimizerStates:
    """The optimizers' states as they were, for the parameters that a module has after some of them were shared.

    Args:
        optimizers: The optimizers.
        module: The module, before parameters are shared.
    """

    def __init__(self, optimizers: Sequence[Optimizer], module: nn.Module) -> None:
        self.module = module
        self.optimizers = [part for o in optimizers for part in getattr(o, "parts", {"": o}).values()]
        self.stored = {slot.name: slot.stored for slot in slots(module)}
        self.states = {slot.name: self._state(slot) for slot in slots(module)}

    def hand_over(self) -> None:
        """Replace, in all groups, the parameters that the module had by those that it has.

        What is new takes over its part of the state of what was in its place.
        """
        new: dict[nn.Parameter, Slot] = {}
        kept = {slot.stored for slot in slots(self.module)}
        had = set(self.stored.values())
        for slot in slots(self.module):
            before = self.stored[slot.name]
            if before is not None and before not in kept and slot.stored is not None and slot.stored not in had:
                new[before] = slot
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                before = group["params"]
                group["params"] = [
                    new[p].parameter if p in new else p for p in before if p in new or p in kept or p not in had
                ]
                for parameter in before:
                    if parameter in new:
                        optimizer.state[new[parameter].parameter] = self._part(new[parameter])
                    if parameter in had - kept:
                        optimizer.state.pop(parameter, None)

    def _state(self, slot: Slot) -> dict[str, Any]:
        """The state of a place's parameter, what has its shape in the shape of the place."""
        states = {p: state for optimizer in self.optimizers for p, state in optimizer.state.items()}
        return {
            key: slot.full(lambda p, key=key: states[p][key]) if _is_like(value, slot.parameter) else value  # type: ignore[misc]
            for key, value in states.get(slot.parameter, {}).items()
        }

    def _part(self, slot: Slot) -> dict[str, Any]:
        how = slot.derived
        shape = slot.full().shape
        return {
            key: how.own_part(value) if how and isinstance(value, Tensor) and value.shape == shape else value
            for key, value in self.states[slot.name].items()
        }


def _is_like(value: object, parameter: nn.Parameter) -> bool:
    return isinstance(value, Tensor) and value.shape == parameter.shape
