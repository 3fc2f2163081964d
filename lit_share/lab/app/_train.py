"""Training, with its second phase."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from lit_share.callbacks import Share, SharingMonitor
from lit_share.lab.app._figures import filters_to_draw, log_positions
from lit_share.lab.app.build import Job
from lit_share.lab.app.retrain import retrain, wants_retraining
from lit_share.lab.app.tracking import read_csv_columns
from lit_share.metrics import count_numbers
from lit_share.sharing import share


@dataclass(frozen=True)
class Trained:
    """A job after training.

    Attributes:
        job: The job; after a second phase, with the trainer of that.
        checkpoint: The best checkpoint, or `None` if none was saved.
        step: Optimizer steps done when the checkpoint was saved, or at the end.
        epoch: Epochs done then.
        states: The states of callbacks in the checkpoint, by their keys.
        seconds: Duration of training.
        training_bytes: Bytes of parameters, gradients and optimizer state of the first phase; `None`
            if only spawned processes had optimizers.
        distances: For each tie that is monitored, the distances between its members.
        rows: How a second phase tied the rows of each layer; `None` without one.
    """

    job: Job
    checkpoint: str | None
    step: int
    epoch: int
    states: dict[str, Any]
    seconds: float
    training_bytes: int | None
    distances: dict[str, list[float]] = field(default_factory=dict)
    rows: list[dict[str, Any]] | None = None


def train(job: Job, config: DictConfig) -> Trained:
    """Train a job, and again with tied rows where the config wants that.

    Args:
        job: What was built, and checked.
        config: What it was built from.
    """
    trainer, model = job.trainer, job.model
    for regularizer in job.regularizers.values():
        if isinstance(regularizer, Share) and regularizer.is_before_training:
            # The callback would share, too, but only in the processes that train, and after
            # parameters are counted here.
            share(model, regularizer.ties, regularizer.init, buffers=regularizer.buffers)
    hyperparameters: Any = OmegaConf.to_container(config)
    for logger in trainer.loggers:
        logger.log_hyperparams({**hyperparameters, **_parameter_counts(job)})
    filters = filters_to_draw(trainer.loggers, model)
    begin = time.perf_counter()
    trainer.fit(model, datamodule=job.data, ckpt_path=config.ckpt_path)
    # Read now: evaluation gives callbacks the state back that they had at the best checkpoint.
    monitors = [c for c in trainer.callbacks if isinstance(c, SharingMonitor)]  # type: ignore[attr-defined]
    distances = monitors[0].history if monitors else {}
    training_bytes = _training_bytes(job)
    rows = None
    if wants_retraining(job, config):
        read_csv_columns(trainer.loggers)
        job, rows = retrain(job, config)
    seconds = time.perf_counter() - begin
    log_positions(trainer.loggers, model, filters, job.trainer.global_step)
    read_csv_columns(trainer.loggers)
    best = getattr(job.trainer.checkpoint_callback, "best_model_path", "") or None
    step, epoch, states = job.trainer.global_step, job.trainer.current_epoch, {}
    if best is not None:
        # Spawned processes do not give their progress and their callbacks' state back.
        saved = torch.load(best, map_location="cpu", weights_only=True)
        step, epoch, states = saved["global_step"], saved["epoch"], saved["callbacks"]
    if monitors and not distances:
        distances = states.get(monitors[0].state_key, {}).get("history", {})
    return Trained(job, best, step, epoch, states, seconds, training_bytes, distances, rows)


def _parameter_counts(job: Job) -> dict[str, int]:
    stats = count_numbers(job.model)
    trainable = sum(p.numel() for p in job.model.parameters() if p.requires_grad)
    return {
        "parameters/total": stats.total,
        "parameters/unique": stats.unique,
        "parameters/trainable": trainable,
    }


def _training_bytes(job: Job) -> int | None:
    optimizers = job.trainer.optimizers
    if not optimizers:
        return None
    parameters = set(job.model.parameters())
    gradients = [p for p in parameters if p.requires_grad]
    states = [state for optimizer in optimizers for state in optimizer.state.values()]
    slots = {
        id(slot): slot
        for state in states
        for slot in state.values()
        if isinstance(slot, torch.Tensor)
    }
    return sum(t.numel() * t.element_size() for t in (*parameters, *gradients, *slots.values()))
