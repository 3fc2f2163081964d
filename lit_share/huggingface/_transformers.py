"""What of transformers the callbacks need, which is an extra."""

from __future__ import annotations

from typing import Any

try:
    from transformers import PreTrainedModel, TrainerCallback
except ImportError as error:
    raise ImportError(
        "lit_share.huggingface needs transformers and accelerate: pip install "
        "'lit-share[huggingface]'"
    ) from error

__all__ = [
    "PreTrainedModel",
    "TrainerCallback",
    "epochs_done",
    "refuse_strategy",
    "torch_optimizer",
]

_REFUSED = ("DEEPSPEED", "FSDP", "MEGATRON_LM", "TP", "XLA")


def torch_optimizer(optimizer: Any) -> Any:
    """Return the optimizer inside the wrapper of accelerate."""
    return getattr(optimizer, "optimizer", optimizer)


def epochs_done(state: Any) -> int:
    """Return the number of finished epochs of a `transformers.TrainerState`."""
    # The state's epoch is a fraction of batches, whose sum is exact only at the end of an epoch.
    return int(state.epoch or 0.0)


def refuse_strategy(callback: TrainerCallback, optimizer: Any) -> None:
    """Raise `ValueError` if accelerate shards parameters, or trains on a TPU."""
    kind = getattr(getattr(optimizer, "accelerator_state", None), "distributed_type", None)
    name = getattr(kind, "name", "")
    if name in _REFUSED:
        raise ValueError(
            f"{type(callback).__name__} of lit_share.huggingface cannot serve {name}: train in one "
            "process or with DDP, or use lit_share.Regularize and lit_share.Share with Lightning's "
            "ModelParallelStrategy"
        )
