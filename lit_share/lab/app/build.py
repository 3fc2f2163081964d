"""Build the objects of a config: the only place that calls `hydra.utils.instantiate`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from hydra.utils import instantiate
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig
from torch import nn

from lit_share.callbacks import KeepRandomState, SharingMonitor, TieRows
from lit_share.lab.app._checkpoints import WholeCheckpoints
from lit_share.lab.app._lightnings import check_package, in_package
from lit_share.lab.app._processes import spawned
from lit_share.lab.app._stop_again import StopAgain
from lit_share.lab.app._ties import ties_of
from lit_share.lab.means import LogMeans
from lit_share.lightnings import PACKAGES, is_a, is_module, package_of
from lit_share.paired import Paired
from lit_share.ties import Ties


@dataclass(frozen=True)
class Job:
    """All objects of one training run."""

    trainer: Trainer
    model: LightningModule
    data: LightningDataModule
    ties: Ties
    regularizers: dict[str, Callback]


def build(config: DictConfig) -> Job:
    """Build the data, model, regularizers, callbacks, loggers and trainer of a prepared config.

    Callbacks, loggers and the trainer are of the model's Lightning; see `in_package`.

    Raises:
        ValueError: If two regularizers are the same.
        TypeError: If the model is no LightningModule, or the data or the trainer are of the other
            Lightning.
    """
    data = _make(config.data)
    model = _make(config.model)
    if not is_module(model):
        model = _model_for(data, model)
    check_package(model, data, "data", config.data)
    # Penalties and shared parameters are meant for units that correspond.
    aligning = [_make(node) for node in config.align.values()]
    regularizers = {str(name): _make(node) for name, node in config.regularizer.items()}
    _refuse_twins(regularizers)
    loggers = [_make(node, package=package_of(model)) for node in config.logger.values()]
    others = callbacks_of(config, model)
    if any(isinstance(regularizer, TieRows) for regularizer in regularizers.values()):
        others = without_monitors(others)
    callbacks = [*aligning, *regularizers.values(), *others]
    trainer = trainer_of(config, model, callbacks, loggers)
    check_package(model, trainer, "trainer", config.trainer)
    return Job(trainer, model, data, ties_of(config), regularizers)


def _refuse_twins(regularizers: Mapping[str, Callback]) -> None:
    """Raise `ValueError` for two regularizers that checkpoints could not tell apart."""
    # Lightning refuses them, too, but does not know the names of their configs.
    names: dict[str, str] = {}
    for name, regularizer in regularizers.items():
        other = names.setdefault(regularizer.state_key, name)
        if other != name:
            raise ValueError(
                f"regularizer.{other} and regularizer.{name} are the same but for their strength: "
                "write one of them, with the sum of both strengths, or other ties"
            )


def _needs_means(objective: str, model: LightningModule, callbacks: Iterable[Callback]) -> bool:
    """Whether the objective is a mean over the models of a `Paired` that no callback logs."""
    return (
        objective.startswith("mean/")
        and isinstance(model, Paired)
        and "mean" not in model.child_names
        and not any(isinstance(callback, LogMeans) for callback in callbacks)
    )


def callbacks_of(config: DictConfig, model: LightningModule, folder: str = "") -> list[Callback]:
    """Build the callbacks for a model, and those that every run has.

    These keep random states, stop a run that had stopped early, and log the means of the children's
    metrics if the objective is one. If a folder is named, checkpoints go to that subfolder.
    """
    callbacks = []
    for node in config.callbacks.values():
        keywords = {}
        if folder and node.get("dirpath"):
            keywords["dirpath"] = f"{node.dirpath}/{folder}"
        callbacks.append(_make(node, package=package_of(model), **keywords))
    if _needs_means(config.objective, model, callbacks):
        callbacks.append(LogMeans())
    if not any(isinstance(callback, KeepRandomState) for callback in callbacks):
        callbacks.append(KeepRandomState())
    callbacks.append(StopAgain())
    # The last checkpoint has the path and the score of the best one, which is saved before.
    return sorted(callbacks, key=_saves_every_epoch)


def _saves_every_epoch(callback: Callback) -> bool:
    return is_a(callback, "ModelCheckpoint") and getattr(callback, "monitor", None) is None


def without_monitors(callbacks: Iterable[Callback]) -> list[Callback]:
    """Leave out what monitors distances: codebooks of the members of a tie may differ in shape."""
    return [callback for callback in callbacks if not isinstance(callback, SharingMonitor)]


def trainer_of(
    config: DictConfig,
    model: LightningModule,
    callbacks: list[Callback],
    loggers: list[Logger],
    **options: Any,
) -> Trainer:
    """Build a trainer for a model, with options that override the config's."""
    package = package_of(model) or PACKAGES[0]
    if "enable_progress_bar" not in config.trainer:
        # Lightning would add its own progress bar if callbacks contain none.
        options.setdefault("enable_progress_bar", any(is_a(c, "ProgressBar") for c in callbacks))
    if config.trainer.get("strategy") == "ddp_spawn":
        options.setdefault("strategy", spawned(model))
    make: Any = _make(config.trainer, package=package, _partial_=True, **options)
    trainer: Trainer = make(callbacks=callbacks, logger=loggers or False)
    # Plugins of the user or of a strategy for shards keep their own way to write checkpoints.
    if type(trainer.strategy.checkpoint_io).__name__ == "TorchCheckpointIO":
        # Strategies only call its methods, so that its class may be of the other package.
        trainer.strategy.checkpoint_io = WholeCheckpoints()
    return trainer


def evaluator(job: Job, config: DictConfig) -> Trainer:
    """Return a trainer on one device."""
    # Several devices would evaluate some examples twice, so that each has equally many.
    if job.trainer.world_size == 1:
        return job.trainer
    callbacks: list[Callback] = job.trainer.callbacks  # type: ignore[attr-defined]
    kept: list[Callback] = [callback for callback in callbacks if isinstance(callback, LogMeans)]
    return trainer_of(config, job.model, kept, job.trainer.loggers, devices=1, strategy="auto")


def _model_for(data: LightningDataModule, make: Any) -> LightningModule:
    """Return the model that a partial function makes of the data module."""
    model = None
    if callable(make) and not isinstance(make, nn.Module):
        model = make(data)
    if not is_module(model):
        found = make
        if model is not None:
            found = model
        raise TypeError(
            f"model: expected a LightningModule, got a {type(found).__name__}: name a class or "
            "function that returns one, with _partial_: true if it takes the data module"
        )
    return model


def _make(node: DictConfig, package: str | None = None, **keywords: Any) -> Any:
    if package is not None:
        node = in_package(node, package)
    return instantiate(node, _convert_="all", **keywords)
