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
    callbacks = [_make(node) for node in config.callbacks.values() if node is not None]
    loggers = [_make(node) for node in config.logger.values() if node is not None]
    trainer = _make(config.trainer, _partial_=True)(
        callbacks=[*regularizers.values(), *callbacks], logger=loggers or False
    )
    ties = Ties(*config.ties.patterns, exclude=config.ties.exclude)
    return Job(trainer, model, data, ties, regularizers)


def _make(node: DictConfig, **keywords: Any) -> Any:
    return instantiate(node, _convert_="all", **keywords)
