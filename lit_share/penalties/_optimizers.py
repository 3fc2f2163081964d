"""What penalties need to know of optimizers: learning rates, and which of them are supported."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn
from torch.distributed.tensor import DTensor
from torch.optim import LBFGS, Optimizer

from lit_share.ties import Tie


def skipped_its_step(optimizer: Optimizer) -> bool:
    """Whether a fused optimizer under fp16 found infinite gradients and did not move the weights."""
    found_inf = getattr(optimizer, "found_inf", None)
    return found_inf is not None and bool(found_inf.item())


def find_unowned(optimizers: Sequence[Optimizer], ties: Sequence[Tie]) -> list[str]:
    """Return the names of members that require a gradient and belong to no optimizer."""
    owned = {
        p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]
    }
    # FSDP2 replaces sharded parameters by full ones and back.
    if any(isinstance(parameter, DTensor) for parameter in owned):
        return []
    names: dict[nn.Parameter, str] = {}
    for tie in ties:
        for member in tie.members:
            names.setdefault(member.parameter, member.name)
    return [name for p, name in names.items() if p.requires_grad and p not in owned]


def refuse_unsupported(optimizers: Sequence[Optimizer], ties: Sequence[Tie]) -> None:
    """Raise if the penalty of these ties cannot be brought into the optimizers' steps.

    Raises:
        ValueError: If an optimizer is L-BFGS or has no learning rate, or an embedding of a tie has
            sparse gradients.
    """
    members = [member for tie in ties for member in tie.members]
    for optimizer in optimizers:
        if isinstance(optimizer, LBFGS):
            raise ValueError(
                "Regularize cannot serve LBFGS, whose line search needs the penalty in the loss: add "
                "strength * penalty.value([...]) to the loss in training_step instead"
            )
        without = {
            p for group in optimizer.param_groups if "lr" not in group for p in group["params"]
        }
        if any(member.parameter in without for member in members):
            kind = type(optimizer).__name__
            raise ValueError(f'the parameter groups of {kind} have no learning rate "lr"')
    for member in members:
        if getattr(member.ref.owner, "sparse", False):
            raise ValueError(
                f"{member.name!r} belongs to an embedding with sparse gradients: make it with "
                "sparse=False, or exclude it from the ties"
            )


class LearningRates:
    """The learning rates of parameters, in one optimizer.

    Group dicts are replaced when an optimizer's state is loaded, and groups may be added in training,
    so parameters have to be looked up again when the sizes of groups have changed.

    Attributes:
        optimizer: The optimizer.
        sizes: The number of parameters of each group, when they were looked up.
        groups: The number of a parameter's group, by its ``id``.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self.look_up()

    def look_up(self) -> None:
        """Look up which group each parameter belongs to."""
        groups: list[dict[str, Any]] = self.optimizer.param_groups
        self.sizes = [len(group["params"]) for group in groups]
        # By id, as the hash of a tensor takes long; the groups keep the parameters alive.
        self.groups = {id(p): i for i, group in enumerate(groups) for p in group["params"]}

    def rates(self) -> list[float]:
        """Return the learning rate of every group."""
        return [float(group["lr"]) for group in self.optimizer.param_groups]
