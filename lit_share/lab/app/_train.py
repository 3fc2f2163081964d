"""Train a job, in one phase or two."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from lightning.pytorch import Callback
from omegaconf import DictConfig

from lit_share.callbacks import Regularize, Share, SharingMonitor, TieRows
from lit_share.lab.app._figures import filters_to_draw, log_positions
from lit_share.lab.app._path import walked_path
from lit_share.lab.app._search import course_of
from lit_share.lab.app.build import Job
from lit_share.lab.app.retrain import retrain, wants_retraining
from lit_share.lab.app.tracking import read_csv_columns
from lit_share.lab.search import Course
from lit_share.metrics import count_numbers
from lit_share.sharing import share


@dataclass(frozen=True)
class Trained:
    """A job after training.

    Attributes:
        job: The job, with the trainer of the last phase.
        checkpoint: The path of the best checkpoint, or `None` if none was saved.
        step: The number of optimizer steps at the checkpoint, or at the end of training.
        epoch: The number of epochs at the same time.
        states: The states of callbacks in the checkpoint, by their keys.
        seconds: The duration of training.
        training_bytes: Bytes of parameters, gradients and optimizer state in the first phase;
            `None` if only spawned processes had optimizers.
        distances: For each monitored tie, the distances between its members.
        strengths: For each tie whose strength was learned, the strengths.
        rows: How the rows of each layer were tied; `None` if they were not.
        epochs: The number of epochs of all phases; `None` if only spawned processes trained.
        course: How the objective went, in a search.
        strength_path: The knots of a path of strengths and the choice; see `walked_path`.
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
    strengths: dict[str, list[float]] = field(default_factory=dict)
    epochs: int | None = None
    course: Course = field(default_factory=Course)
    strength_path: dict[str, Any] | None = None


def train(job: Job, config: DictConfig, passed_on: Mapping[str, Any]) -> Trained:
    """Train a job, and train it again with tied rows if the config has a second phase.

    Args:
        job: The job, after `check_job`.
        config: The config that it was built from.
        passed_on: The same for loggers, without values of the environment.
    """
    trainer, model = job.trainer, job.model
    for regularizer in job.regularizers.values():
        if isinstance(regularizer, Share) and regularizer.is_before_training:
            # The callback would share, too, but only in the processes that train, and only after
            # the parameters have been counted below.
            share(model, regularizer.ties, regularizer.init, buffers=regularizer.buffers)
    for logger in trainer.loggers:
        logger.log_hyperparams({**passed_on, **_parameter_counts(job)})
    filters = filters_to_draw(trainer.loggers, model)
    begin = time.perf_counter()
    trainer.fit(model, datamodule=job.data, ckpt_path=config.ckpt_path)
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    monitors = [callback for callback in callbacks if isinstance(callback, SharingMonitor)]
    distances: dict[str, list[float]] = {}
    if monitors:
        # Evaluation restores the monitor's state of the best checkpoint, which lacks later epochs.
        distances = monitors[0].history
    training_bytes, strengths = _training_bytes(job), _learned_strengths(job)
    walked = walked_path(job)
    rows, epochs, course = _tied_rows(job), trainer.current_epoch, course_of(trainer)
    if wants_retraining(job, config) and not course.is_pruned:
        read_csv_columns(trainer.loggers)
        job, rows = retrain(job, config)
        epochs += job.trainer.current_epoch
    seconds = time.perf_counter() - begin
    log_positions(trainer.loggers, model, filters, job.trainer.global_step)
    read_csv_columns(trainer.loggers)
    best = getattr(job.trainer.checkpoint_callback, "best_model_path", "") or None
    if walked is not None and rows is None:
        # The best checkpoint of all epochs may be of any strength.
        best = walked["knots"][walked["chosen"]]["checkpoint"]
    step, epoch, states = job.trainer.global_step, job.trainer.current_epoch, {}
    if best is not None:
        # Spawned processes do not return their progress and the states of their callbacks.
        saved = torch.load(best, map_location="cpu", weights_only=True)
        step, epoch = saved["global_step"], saved["epoch"]
        # ModelCheckpoint(save_weights_only=True) saves no states.
        states = saved.get("callbacks", {})
    if monitors and not distances:
        distances = states.get(monitors[0].state_key, {}).get("history", {})
    if not strengths:
        strengths = _learned_strengths(job, states)
    return Trained(
        job,
        best,
        step,
        epoch,
        states,
        seconds,
        training_bytes,
        distances,
        rows,
        strengths,
        epochs or None,
        course,
        walked,
    )


def _tied_rows(job: Job) -> list[dict[str, Any]] | None:
    reports = [r.report for r in job.regularizers.values() if isinstance(r, TieRows)]
    return [asdict(layer) for report in reports for layer in report or ()] or None


def _parameter_counts(job: Job) -> dict[str, int]:
    stats = count_numbers(job.model)
    trainable = sum(p.numel() for p in job.model.parameters() if p.requires_grad)
    return {
        "parameters/total": stats.total,
        "parameters/unique": stats.unique,
        "parameters/trainable": trainable,
    }


def _learned_strengths(job: Job, states: Mapping[str, Any] | None = None) -> dict[str, list[float]]:
    """Return the course of learned strengths, with the regularizer's name if there are several."""
    courses: dict[str, dict[str, list[float]]] = {}
    for name, regularizer in job.regularizers.items():
        if isinstance(regularizer, Regularize) and (learned := regularizer.steps.learned):
            own = learned.course
            if states is not None:
                own = states.get(regularizer.state_key, {}).get("strengths", {}).get("course", {})
            start = learned.start
            courses[name] = {tie: [start, *strengths] for tie, strengths in own.items()}
    if len(courses) == 1:
        return next(iter(courses.values()))
    return {
        f"{name}: {tie}": strengths
        for name, own in courses.items()
        for tie, strengths in own.items()
    }


def _training_bytes(job: Job) -> int | None:
    optimizers = job.trainer.optimizers
    if not optimizers:
        return None
    parameters = set(job.model.parameters())
    gradients = [p for p in parameters if p.requires_grad]
    # Optimizers may keep one tensor for several parameters, such as a step count.
    slots = {}
    for optimizer in optimizers:
        for state in optimizer.state.values():
            slots.update({id(slot): slot for slot in state.values() if torch.is_tensor(slot)})
    return sum(t.numel() * t.element_size() for t in (*parameters, *gradients, *slots.values()))
