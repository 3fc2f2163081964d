"""What the callbacks need to know of a Trainer's strategy and precision."""

from __future__ import annotations

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, Strategy
from torch.optim import Optimizer


def loss_scale(trainer: Trainer, optimizer: Optimizer) -> float:
    """Return the factor of the gradients at hand.

    Fused optimizers under fp16 unscale them only within their step.
    """
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    if scaler is None or not getattr(optimizer, "_step_supports_amp_scaling", False):
        return 1.0
    return float(scaler.get_scale())


def refuse_strategy(callback: Callback, strategy: Strategy) -> None:
    """Raise if the strategy flattens parameters, so that they have no shape.

    Raises:
        ValueError: If the strategy is FSDP1 or DeepSpeed.
    """
    if isinstance(strategy, (FSDPStrategy, DeepSpeedStrategy)):
        raise ValueError(
            f"{type(callback).__name__} cannot serve {type(strategy).__name__}, which flattens "
            "parameters and cuts them into pieces that do not fit each other: use "
            "ModelParallelStrategy, with fully_shard in configure_model"
        )
