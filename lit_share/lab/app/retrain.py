"""The second phase of training, after penalties that make rows zero."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import rich
from lightning.pytorch import LightningModule
from omegaconf import DictConfig

from lit_share.callbacks import Regularize, Share, TieRows
from lit_share.codebooks import row_weights, tie_rows
from lit_share.lab.app._figures import log_clusters, weights_to_draw
from lit_share.lab.app.build import Job, callbacks_of, trainer_of, without_monitors
from lit_share.paired import Paired


def wants_retraining(job: Job, config: DictConfig) -> bool:
    """Whether there is a second phase: by default after penalties that make weights zero."""
    regularizers = job.regularizers.values()
    if config.retrain.when != "auto":
        return bool(config.retrain.when == "always")
    if any(isinstance(regularizer, (Share, TieRows)) for regularizer in regularizers):
        # Layers that several models share keep their rows, and those of codebooks are tied.
        return False
    return any(map(_makes_zeros, regularizers))


def check_retraining(job: Job, config: DictConfig) -> None:
    """Raise before the first phase what would stop the second.

    Raises:
        TieError: If there is no layer whose rows could be tied.
        ValueError: If ``retrain.lr`` is set, but a model has no ``lr``.
    """
    if not wants_retraining(job, config):
        return
    row_weights(job.model).find(job.model)
    lr = config.retrain.lr
    for child in _children(job.model):
        if lr is not None and not hasattr(child, "lr"):
            name = type(child).__name__
            raise ValueError(f"retrain.lr={lr} has no effect: {name} has no attribute lr")


def retrain(job: Job, config: DictConfig) -> tuple[Job, list[dict[str, Any]]]:
    """Tie the rows of linear layers and convolutions, and train with a new optimizer.

    Returns:
        The job with the trainer of the second phase, and the number of rows tied in each layer.

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
    callbacks = without_monitors(callbacks_of(config, job.model, folder="retrained"))
    options = {}
    if config.retrain.max_epochs is not None:
        options["max_epochs"] = config.retrain.max_epochs
    trainer = trainer_of(config, job.model, callbacks, job.trainer.loggers, **options)
    trainer.fit(job.model, datamodule=job.data)
    return replace(job, trainer=trainer, regularizers={}), [asdict(layer) for layer in report]


def _makes_zeros(regularizer: object) -> bool:
    # Ties of several patterns, as those of joint_lasso, make the same inputs of all members zero;
    # only zeros of single parameters are followed by a second phase.
    return (
        isinstance(regularizer, Regularize)
        and regularizer.steps.uses_prox
        and regularizer.penalty.centering.is_zero
        and len(regularizer.ties.patterns) == 1
    )


def _children(model: LightningModule) -> list[Any]:
    if isinstance(model, Paired):
        return [*model.by_name().values()]
    return [model]
