"""The mean of each metric over several models: a callback."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean

from lightning.pytorch import LightningModule, Trainer
from typing_extensions import override

from lit_share.lightnings import Callback
from lit_share.paired import Paired

__all__ = ["LogMeans"]


class LogMeans(Callback):
    """Log the mean over the models of a `Paired` of each metric that all of them log.

    The mean of ``a/val/acc``, ``b/val/acc``, … is ``mean/val/acc``, so that
    ``objective=mean/val/acc`` chooses what is best for all models. It is the mean of the models,
    whatever their numbers of examples. `train.py` adds this callback if the objective is such a
    mean.

    Raises:
        TypeError: Before training, if the module is no `Paired`.

    Example:
        >>> trainer = Trainer(callbacks=[LogMeans()])  # doctest: +SKIP
    """

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        _models(pl_module)

    @override
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        _log(trainer, pl_module)

    @override
    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        _log(trainer, pl_module)


def _log(trainer: Trainer, pl_module: LightningModule) -> None:
    # In the sanity check, `trainer.callback_metrics` is still empty if there are several loaders.
    # Means without values are logged there, because a misspelt objective is looked for then.
    assert trainer._results is not None
    names = dict.fromkeys(metric.meta.name for metric in trainer._results.values())
    values = {name: float(trainer.callback_metrics.get(name, math.nan)) for name in names}
    for suffix, mean in _means(_models(pl_module), values).items():
        # Values are of all ranks already, so that nothing is left to reduce.
        pl_module.log(f"mean/{suffix}", mean)


def _means(models: Sequence[str], metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the mean over models of each metric that all of them have, without their names.

    Example:
        >>> _means(["a", "b"], {"a/val/acc": 0.5, "b/val/acc": 1.0, "b/val/loss": 0.1})
        {'val/acc': 0.75}
    """
    means = {}
    for name in metrics:
        suffix = name.removeprefix(f"{models[0]}/")
        own = [f"{model}/{suffix}" for model in models]
        if name == own[0] and metrics.keys() >= set(own):
            means[suffix] = fmean(metrics[metric] for metric in own)
    return means


def _models(pl_module: LightningModule) -> tuple[str, ...]:
    if not isinstance(pl_module, Paired):
        raise TypeError(
            f"LogMeans compares the models of a lit_share.Paired, and {type(pl_module).__name__} "
            "is a single model: leave the callback out"
        )
    return tuple(pl_module.child_names)
