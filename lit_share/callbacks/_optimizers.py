"""What the callbacks need to know of optimizers, and of the strategies that step them."""

from __future__ import annotations

from collections.abc import Sequence

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, Strategy
from torch import nn
from torch.distributed.tensor import DTensor
from torch.optim import LBFGS, Optimizer

from lit_share.sharing import Tie


def learning_rates(optimizer: Optimizer) -> dict[nn.Parameter, float]:
    """The learning rate of every parameter that the optimizer owns."""
    return {
        p: float(group["lr"])
        for group in optimizer.param_groups
        if "lr" in group
        for p in group["params"]
    }


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


def untrained(optimizers: Sequence[Optimizer], ties: Sequence[Tie]) -> list[str]:
    """The names of members that require a gradient, and whose parameter no optimizer has."""
    owned = {
        p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]
    }
    # FSDP2 replaces sharded parameters by whole ones and back.
    if any(isinstance(p, DTensor) for p in owned):
        return []
    names: dict[nn.Parameter, str] = {}
    for member in (member for tie in ties for member in tie.members):
        names.setdefault(member.parameter, member.name)
    return [name for p, name in names.items() if p.requires_grad and p not in owned]


def refuse_strategy(callback: Callback, strategy: Strategy) -> None:
    """Raise if the strategy cuts parameters into pieces that have no shape.

    Raises:
        ValueError: If the strategy is FSDP1 or DeepSpeed.
    """
    if isinstance(strategy, (FSDPStrategy, DeepSpeedStrategy)):
        raise ValueError(
            f"{type(callback).__name__} cannot serve {type(strategy).__name__}, which flattens parameters and "
            "cuts them into pieces that do not fit each other: use ModelParallelStrategy, with fully_shard in "
            "configure_model"
        )


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
        without = {
            p for group in optimizer.param_groups if "lr" not in group for p in group["params"]
        }
        if any(member.parameter in without for member in members):
            raise ValueError(
                f'the parameter groups of {type(optimizer).__name__} have no learning rate "lr"'
            )
    for member in members:
        if getattr(member.slot.owner, "sparse", False):
            raise ValueError(
                f"{member.name!r} belongs to an embedding with sparse gradients: make it with sparse=False, or "
                "exclude it from the ties"
            )
