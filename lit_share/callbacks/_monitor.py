"""`SharingMonitor`: how alike the tied parameters are, logged during training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from typing_extensions import override

from lit_share.callbacks._regularize import Regularize
from lit_share.callbacks._share import Share
from lit_share.plots import distance_heatmap
from lit_share.sharing import Tie, Ties, count_tied, overall_distance, relative_distance
from lit_share.sharing._arguments import as_ties
from lit_share.sharing._stats import count_numbers
from lit_share.sharing._tie import distinctly_named


class SharingMonitor(Callback):
    """Logs what sharing does to the parameters, through the module's ``log`` and so to every logger.

    At the end of every training epoch:

    =============================  ====================================================================
    ``sharing/penalty``            the penalties of all `Regularize` callbacks, times their strengths
    ``sharing/distance``           relative distance of all members, see `relative_distance`
    ``sharing/distance/<tie>``     the same for each tie
    ``sharing/tied``               fraction of positions in which all members are exactly equal
    ``sharing/sparsity``           fraction of exact zeros among all parameters
    ``sharing/unique``             numbers that are different: not zero, tied ones counted once
    ``sharing/compression``        all parameters / unique ones
    =============================  ====================================================================

    Once per run, a heat map of the distances, ties × epochs, goes to W&B as ``sharing/distances``.

    Args:
        ties: Which parameters are watched, or a list of patterns for `Ties`; those of the Trainer's `Regularize` and
            `Share` callbacks if ``None``.
        per_tie: Whether each tie's distance is logged.
        heatmap: Whether the heat map is logged.

    Raises:
        TieError: Before training starts, if the patterns do not fit the module; see `Ties.find`.

    Example:
        >>> trainer = Trainer(callbacks=[SharingMonitor(Ties("encoder_a.*", "encoder_b.*"))])  # doctest: +SKIP
    """

    def __init__(self, ties: Ties | Sequence[str] | None = None, per_tie: bool = True, heatmap: bool = True) -> None:
        if ties is not None:
            ties = as_ties(ties)
        self.ties, self.per_tie, self.heatmap = ties, per_tie, heatmap
        self.history: dict[str, list[float]] = {}

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"history": self.history}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.history = state_dict["history"]

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.ties is not None:
            self.ties.find(pl_module)  # which raises if they do not fit

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step == 0:
            self.history = {}
        # A checkpoint of an epoch's last batch is before its end, which a resumed training leaves out.
        distances = _distances(self._watched(trainer, pl_module)).items()
        epoch = trainer.current_epoch
        self._remember({name: value for name, value in distances if len(self.history.get(name, [])) <= epoch}, epoch)

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        watched = self._watched(trainer, pl_module)
        distances = _distances(watched)
        self._remember(distances, trainer.current_epoch + 1)
        # All ranks have the same parameters, so the mean over ranks is each one's own value.
        pl_module.log_dict(self.measure(trainer, pl_module, watched, distances), sync_dist=True)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not (self.heatmap and self.history):
            return
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                figure = distance_heatmap(self.history)
                logger.experiment.log({"sharing/distances": figure, "trainer/global_step": trainer.global_step})

    def measure(
        self, trainer: Trainer, pl_module: LightningModule, tied: Sequence[Tie], distances: Mapping[str, float]
    ) -> dict[str, float]:
        """What is logged, by its name."""
        stats = count_numbers(pl_module, tied)
        values = {
            "sharing/sparsity": stats.sparsity,
            "sharing/unique": float(stats.unique),
            "sharing/compression": stats.compression,
        }
        penalties = [callback for callback in _callbacks(trainer) if isinstance(callback, Regularize)]
        if penalties:
            now = (trainer.global_step, trainer.current_epoch)
            values["sharing/penalty"] = sum(callback.value(pl_module, *now) for callback in penalties)
        if tied:
            values["sharing/distance"] = overall_distance([tie.tensors() for tie in tied])
            positions = sum(tie.numel for tie in tied)
            values["sharing/tied"] = sum(count_tied(tie.tensors()) for tie in tied) / positions
        if self.per_tie:
            values |= {f"sharing/distance/{name}": distance for name, distance in distances.items()}
        return values

    def _watched(self, trainer: Trainer, pl_module: LightningModule) -> list[Tie]:
        """The ties of several members; looked for each time, as sharing in the middle of training replaces members."""
        found = _ties_of_callbacks(trainer) if self.ties is None else self.ties.find(pl_module)
        return [tie for tie in found if len(tie.members) > 1]

    def _remember(self, distances: Mapping[str, float], epochs: int) -> None:
        """Take down the distances after so many epochs; those of epochs that were not watched are ``nan``."""
        for name, distance in distances.items():
            history = self.history.setdefault(name, [])
            history += [math.nan] * (epochs - len(history))
            history[epochs:] = [distance]


def _distances(ties: Sequence[Tie]) -> dict[str, float]:
    """The relative distance of every tie, by its name."""
    return {tie.name: relative_distance(tie.tensors()) for tie in ties}


def _callbacks(trainer: Trainer) -> Sequence[Callback]:
    return trainer.callbacks  # type: ignore[attr-defined,no-any-return]


def _ties_of_callbacks(trainer: Trainer) -> list[Tie]:
    """The ties of all callbacks, those with the same members once."""
    found = [tie for c in _callbacks(trainer) if isinstance(c, (Regularize, Share)) for tie in c.found]
    return distinctly_named(list({tuple(member.name for member in tie.members): tie for tie in found}.values()))
