"""Building what a config describes: the only place that calls `hydra.utils.instantiate`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hydra.utils import instantiate
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from omegaconf import DictConfig

from lit_share.sharing import Ties


@dataclass(frozen=True)
class Job:
    """All objects of one training run."""

    trainer: Trainer
    model: LightningModule
    data: LightningDataModule
    ties: Ties
    regularizers: dict[str, Callback]


def build(config: DictConfig) -> Job:
    """Build the data, model, regularizers, callbacks, loggers and trainer of a prepared config."""
    data = _make(config.data)
    model = _make(config.model)
    if not isinstance(model, LightningModule):
        model = model(data)
    regularizers = {str(name): _make(node) for name, node in config.regularizer.items()}
    callbacks = [_make(node) for node in config.callbacks.values()]
    loggers = [_make(node) for node in config.logger.values()]
    trainer = _make(config.trainer, _partial_=True)(
        callbacks=[*regularizers.values(), *callbacks], logger=loggers or False
    )
    ties = Ties(*config.ties.patterns, exclude=config.ties.exclude)
    return Job(trainer, model, data, ties, regularizers)


def evaluator(job: Job, config: DictConfig) -> Trainer:
    """A trainer on one device: several would evaluate some examples twice, to have equally many each."""
    if job.trainer.world_size == 1:
        return job.trainer
    make: Any = _make(config.trainer, _partial_=True, devices=1, strategy="auto")
    return make(logger=job.trainer.loggers)  # type: ignore[no-any-return]


def _make(node: DictConfig, **keywords: Any) -> Any:
    return instantiate(node, _convert_="all", **keywords)
