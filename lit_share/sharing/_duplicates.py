"""Shared parameters that belong to several parameter groups or optimizers."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle


def set_parameters(
    group: dict[str, Any], parameters: Sequence[nn.Parameter], before: Sequence[nn.Parameter]
) -> None:
    """Replace a group's parameters; each gets the name that its counterpart in ``before`` had."""
    # Groups have names only if the optimizer was given named parameters.
    if "param_names" in group:
        names: dict[nn.Parameter, str] = {}
        for parameter, name in zip(group["params"], group["param_names"], strict=True):
            names.setdefault(parameter, name)
        group["param_names"] = [names[old] for old in before]
    group["params"] = list(parameters)


def remove_duplicate_parameters(
    optimizers: Sequence[Optimizer], names: Mapping[nn.Parameter, str]
) -> set[nn.Parameter]:
    """Keep every parameter only in the first group that has it, and warn if options differ.

    Returns:
        The parameters that were removed from an optimizer because an earlier optimizer has them.
    """
    # A parameter in two optimizers would be stepped twice per training step.
    owners: dict[nn.Parameter, tuple[Optimizer, dict[str, Any]]] = {}
    lost: set[nn.Parameter] = set()
    differ: list[nn.Parameter] = []
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                owner, options = owners.get(parameter, (optimizer, group))
                if owner is not optimizer:
                    lost.add(parameter)
                if _options(options) != _options(group):
                    differ.append(parameter)
            # `dict.fromkeys` also removes repetitions within the group.
            kept = [p for p in dict.fromkeys(group["params"]) if p not in owners]
            set_parameters(group, kept, kept)
            owners |= dict.fromkeys(kept, (optimizer, group))
    if differ:
        listed = ", ".join(repr(names.get(p, "?")) for p in differ[:3])
        if differ[3:]:
            listed += " and more"
        warnings.warn(
            f"shared parameters ({listed}) were given to several optimizers, whose options "
            "differ: they are trained with those of the first",
            stacklevel=2,
        )
    return lost


def _options(group: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in group.items() if key not in ("params", "param_names")}


def warn_of_lost_gradients(
    optimizers: Sequence[Optimizer], names: Mapping[nn.Parameter, str]
) -> list[RemovableHandle]:
    """Warn when a shared parameter's gradient is cleared before its optimizer has stepped.

    Returns:
        The handles of the hooks, to be removed after training.
    """
    # Under manual optimisation, each optimizer may have its own backward pass. A shared parameter
    # belongs to the first, and gradients of later passes are cleared before the first steps again.
    waiting: dict[nn.Parameter, Tensor | None] = {}

    def accumulated(parameter: nn.Parameter) -> None:
        before = waiting.get(parameter)
        # Accumulation adds to the same tensor; `zero_grad` makes the next backward pass allocate.
        if before is not None and before is not parameter.grad:
            warnings.warn(
                f"a gradient of {names[parameter]!r} was lost: it is shared, its optimizer had "
                "stepped before the backward pass, and cleared it before its next step; step all "
                "optimizers after one backward pass of the sum of the losses",
                stacklevel=2,
            )
            # A single warning, as every step would repeat it.
            for handle in handles:
                handle.remove()
        waiting[parameter] = parameter.grad

    def stepped(optimizer: Optimizer, *_: object) -> None:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                waiting.pop(parameter, None)

    handles = [parameter.register_post_accumulate_grad_hook(accumulated) for parameter in names]
    handles += [optimizer.register_step_post_hook(stepped) for optimizer in optimizers]
    return handles
