"""`SharingMonitor`: how alike the tied parameters are, logged during training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from typing_extensions import override

from lit_share.callbacks._heatmap import distance_heatmap
from lit_share.callbacks._regularize import Regularize
from lit_share.callbacks._share import Share
from lit_share.metrics import count_numbers, count_tied, overall_distance, relative_distance
from lit_share.ties import Tie, Ties, as_ties, distinctly_named

_NAMES = tuple(
    f"sharing/{what}"
    for what in ("penalty", "distance", "tied", "sparsity", "unique", "compression")
)
# Not below "sharing/distance", as MLflow's folders have a file for each metric, and one of that name.
_OF_A_TIE = "sharing/distance_of/"


class SharingMonitor(Callback):
    """Logs what sharing does to the parameters, through the module's ``log`` and so to every logger.

    At the end of every training epoch:

    =============================  ====================================================================
    ``sharing/penalty``            the penalties of all `Regularize` callbacks, times their strengths
    ``sharing/distance``           relative distance of all members: `lit_share.overall_distance`
    ``sharing/distance_of/<tie>``  that of the members of each tie: `lit_share.relative_distance`
    ``sharing/tied``               fraction of positions in which all members are exactly equal
    ``sharing/sparsity``           fraction of exact zeros among all parameters
    ``sharing/unique``             numbers that are different: not zero, tied ones counted once
    ``sharing/compression``        all parameters / unique ones
    =============================  ====================================================================

    ``sharing/penalty`` is there with `Regularize` callbacks, and those of distances and ``sharing/tied`` where a tie
    has several members. ``<tie>`` is the tie's name; of two that would be named alike, the names of its members, joined
    by ``" - "``.

    Lightning's ``ModelCheckpoint`` and ``EarlyStopping`` can monitor them. Where validation does not come once per
    epoch, they need ``save_on_train_epoch_end=True`` and ``check_on_train_epoch_end=True``.

    Once per run, a heat map of the distances, ties × epochs, goes to W&B as ``sharing/distances``.

    Args:
        ties: Which parameters are watched, or a list of patterns for `Ties`; those of the Trainer's `Regularize` and
            `Share` callbacks if ``None``.
        per_tie: Whether each tie's distance is logged.
        heatmap: Whether the heat map is logged.
        prog_bar: Which of these names the progress bar shows, such as ``["sharing/distance"]``. A progress bar in the
            list of callbacks has to come after this one, or it is an epoch behind at the end of each.

    Raises:
        ValueError: If a name for the progress bar is none of these.
        TieError: Before training starts, if the patterns do not fit the module; see `Ties.find`.

    Example:
        >>> trainer = Trainer(callbacks=[SharingMonitor(Ties("encoder_a.*", "encoder_b.*"))])  # doctest: +SKIP
    """

    def __init__(
        self,
        ties: Ties | Sequence[str] | None = None,
        per_tie: bool = True,
        heatmap: bool = True,
        prog_bar: Sequence[str] = (),
    ) -> None:
        if ties is not None:
            ties = as_ties(ties)
        prog_bar = (prog_bar,) if isinstance(prog_bar, str) else tuple(prog_bar)
        for name in prog_bar:
            if name not in _NAMES and not (per_tie and name.startswith(_OF_A_TIE)):
                raise ValueError(
                    f"prog_bar: {name!r} is not logged: write one of {', '.join(_NAMES)}"
                )
        self.ties, self.per_tie, self.heatmap, self.prog_bar = ties, per_tie, heatmap, prog_bar
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
        self._remember(
            {name: value for name, value in distances if len(self.history.get(name, [])) <= epoch},
            epoch,
        )

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        watched = self._watched(trainer, pl_module)
        distances = _distances(watched)
        self._remember(distances, trainer.current_epoch + 1)
        for name, value in self.measure(trainer, pl_module, watched, distances).items():
            # All ranks have the same parameters, so the mean over ranks is each one's own value.
            pl_module.log(name, value, prog_bar=name in self.prog_bar, sync_dist=True)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not (self.heatmap and self.history):
            return
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                figure = distance_heatmap(self.history)
                logger.experiment.log(
                    {"sharing/distances": figure, "trainer/global_step": trainer.global_step}
                )

    def measure(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        tied: Sequence[Tie],
        distances: Mapping[str, float],
    ) -> dict[str, float]:
        """What is logged, by its name."""
        stats = count_numbers(pl_module, tied)
        values = {
            "sharing/sparsity": stats.sparsity,
            "sharing/unique": float(stats.unique),
            "sharing/compression": stats.compression,
        }
        penalties = [
            callback for callback in _callbacks(trainer) if isinstance(callback, Regularize)
        ]
        if penalties:
            now = (trainer.global_step, trainer.current_epoch)
            values["sharing/penalty"] = sum(
                callback.value(pl_module, *now) for callback in penalties
            )
        if tied:
            values["sharing/distance"] = overall_distance([tie.tensors() for tie in tied])
            positions = sum(tie.numel for tie in tied)
            values["sharing/tied"] = sum(count_tied(tie.tensors()) for tie in tied) / positions
        if self.per_tie:
            # MLflow takes no "=" in names.
            values |= {
                f"{_OF_A_TIE}{name.replace(' = ', ' - ')}": distance
                for name, distance in distances.items()
            }
        return values

    def _watched(self, trainer: Trainer, pl_module: LightningModule) -> list[Tie]:
        """The ties of several members; looked for each time, as sharing in the middle of training replaces members."""
        if self.ties is None:
            return _ties_of_callbacks(trainer)
        return [tie for tie in self.ties.find(pl_module) if len(tie.members) > 1]

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
    """The ties of several members of all callbacks, those with the same members once."""
    found = [
        tie for c in _callbacks(trainer) if isinstance(c, (Regularize, Share)) for tie in c.found
    ]
    found = [tie for tie in found if len(tie.members) > 1]
    return distinctly_named(
        list({tuple(member.name for member in tie.members): tie for tie in found}.values())
    )
