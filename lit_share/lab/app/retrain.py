"""The second phase of penalties that make rows zero: rows are tied, and trained again without the penalty."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import rich
from lightning.pytorch import LightningModule
from omegaconf import DictConfig

from lit_share.callbacks import Regularize, Share, SharingMonitor
from lit_share.codebooks import row_weights, tie_rows
from lit_share.lab.app._figures import log_clusters, weights_to_draw
from lit_share.lab.app.build import Job, callbacks_of, trainer_of
from lit_share.paired import Paired


def wants_retraining(job: Job, config: DictConfig) -> bool:
    """Whether there is a second phase: by default after a penalty that makes weights of single models zero."""
    when = config.retrain.when
    if (
        any(isinstance(regularizer, Share) for regularizer in job.regularizers.values())
        and when == "auto"
    ):
        return False  # shared layers keep their rows
    return when == "always" or (
        when == "auto" and any(_makes_zeros(r) for r in job.regularizers.values())
    )


def check_retraining(job: Job, config: DictConfig) -> None:
    """Raise before the first phase for what would end the second one.

    Raises:
        TieError: If there is no layer whose rows could be tied.
        ValueError: If ``retrain.lr`` is for models that have no ``lr``.
    """
    if wants_retraining(job, config):
        row_weights(job.model).find(job.model)
        lr = config.retrain.lr
        for child in _children(job.model) if lr is not None else ():
            if not hasattr(child, "lr"):
                raise ValueError(
                    f"retrain.lr={lr} has no effect: {type(child).__name__} has no attribute lr"
                )


def retrain(job: Job, config: DictConfig) -> tuple[Job, list[dict[str, Any]]]:
    """Tie the rows of all linear layers and convolutions, and train again, with a new optimizer and no penalty.

    Returns:
        The job with the second phase's trainer, and what became of each layer's rows.

    Raises:
        TieError: If there is no such layer.
    """
    ties = row_weights(job.model)
    before = weights_to_draw(job.trainer.loggers, ties.find(job.model))
    report = tie_rows(job.model, ties, config.retrain.similarity)
    rich.print(report)
    log_clusters(job.trainer.loggers, job.model, before, report, job.trainer.global_step)
    if config.retrain.lr is not None:
        for child in _children(job.model):
            child.lr = config.retrain.lr
    # What watches ties would find members of different shapes.
    callbacks = [
        c for c in callbacks_of(config, folder="retrained") if not isinstance(c, SharingMonitor)
    ]
    epochs = {} if config.retrain.max_epochs is None else {"max_epochs": config.retrain.max_epochs}
    trainer = trainer_of(config, callbacks, job.trainer.loggers, **epochs)
    trainer.fit(job.model, datamodule=job.data)
    return replace(job, trainer=trainer, regularizers={}), [asdict(layer) for layer in report]


def _makes_zeros(regularizer: object) -> bool:
    return (
        isinstance(regularizer, Regularize)
        and regularizer.steps.uses_prox
        and regularizer.penalty.centering.is_zero
        and len(regularizer.ties.patterns) == 1
    )


def _children(model: LightningModule) -> list[Any]:
    return [*model.by_name().values()] if isinstance(model, Paired) else [model]
