"""The mean of each metric over several models: a callback."""

from __future__ import annotations

import math
from statistics import fmean
from typing import Literal

from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from lit_share.paired import Paired

__all__ = ["LogMeans"]


class LogMeans(Callback):
    """Log the mean over the models of a `Paired` of each metric that all of them log.

    The mean of ``a/val/acc``, ``b/val/acc``, … is ``mean/val/acc``, so that
    ``objective=mean/val/acc`` chooses what is best for all models. It is the mean of the models,
    whatever their numbers of examples.

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
        _log(trainer, pl_module, "val")

    @override
    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        _log(trainer, pl_module, "test")


def _log(trainer: Trainer, pl_module: LightningModule, stage: Literal["val", "test"]) -> None:
    models = _models(pl_module)
    head = f"{models[0]}/{stage}/"
    assert trainer._results is not None
    logged = {metric.meta.name for metric in trainer._results.values()}
    for name in sorted(logged):
        own = [f"{model}/{name.removeprefix(f'{models[0]}/')}" for model in models]
        if name.startswith(head) and logged.issuperset(own):
            # The sanity check has no values yet, and its results are discarded: only names matter.
            values = [float(trainer.callback_metrics.get(metric, math.nan)) for metric in own]
            # They are of all ranks already, so that nothing is left to reduce.
            pl_module.log(f"mean/{own[0].removeprefix(f'{models[0]}/')}", fmean(values))


def _models(pl_module: LightningModule) -> tuple[str, ...]:
    if not isinstance(pl_module, Paired):
        raise TypeError(
            f"LogMeans compares the models of a lit_share.Paired, and {type(pl_module).__name__} "
            "is a single model: leave the callback out"
        )
    return tuple(pl_module.child_names)
