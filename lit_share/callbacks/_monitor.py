"""`SharingMonitor`: metrics of sharing, logged during training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from lit_share.callbacks._cluster_heatmap import cluster_heatmap
from lit_share.callbacks._heatmap import distance_heatmap
from lit_share.callbacks._mixture import warn_of_mixture
from lit_share.callbacks._one_trainer import refuse_two_trainers
from lit_share.callbacks._regularize import Regularize
from lit_share.callbacks._share import Share
from lit_share.functional import Comparison
from lit_share.lightnings import Callback, is_a
from lit_share.metrics import compare_found, measure_sharing, metric_name
from lit_share.ties import Tie, Ties, as_ties, cluster_ties, distinctly_named

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

_NAMES = tuple(
    f"sharing/{name}"
    for name in ("penalty", "distance", "tied", "clusters", "sparsity", "unique", "compression")
)
# The prefix is not "sharing/distance/": MLflow stores each metric in a file, and the file
# "sharing/distance" cannot be a folder, too.
_OF_A_TIE, _STRENGTH_OF = "sharing/distance_of/", "sharing/strength_of/"


class SharingMonitor(Callback):
    """Log metrics of sharing at the end of every training epoch, with the module's ``log``.

    =============================  ================================================================
    ``sharing/penalty``            sum over `Regularize` callbacks of penalty times strength
    ``sharing/distance``           `lit_share.overall_distance` of all ties
    ``sharing/distance_of/<tie>``  `lit_share.relative_distance` of a tie's members
    ``sharing/tied``               fraction of elements in which all members are exactly equal
    ``sharing/clusters``           number of clusters of equal members, summed over ties; see
                                   `lit_share.clusters`
    ``sharing/sparsity``           fraction of exact zeros among all parameters
    ``sharing/unique``             count of nonzero numbers; tied ones count once
    ``sharing/compression``        count of all parameters / ``sharing/unique``
    ``sharing/strength_of/<tie>``  strength of a tie or layer that `Learned` has learned
    =============================  ================================================================

    ``sharing/penalty`` needs a `Regularize` callback; distances, ``sharing/tied`` and
    ``sharing/clusters`` need a tie of several members. ``<tie>`` is the tie's name, or the names of
    its members, joined by ``" - "``, if another tie has the same name. For ``[...]``,
    ``sharing/clusters`` is the number of different values, ``sharing/tied`` the fraction of numbers
    that repeat another, and distances are those of the numbers from each other.

    ``ModelCheckpoint`` and ``EarlyStopping`` can monitor these metrics. Unless validation runs once
    per epoch, they need ``save_on_train_epoch_end=True`` and ``check_on_train_epoch_end=True``.

    At the end of a run, W&B gets a heat map of the distances, ties × epochs: ``sharing/distances``;
    and for ties of three or more members the clusters, ties × members: ``sharing/cluster_map``.

    Args:
        ties: The parameters to compare, a list of several `Ties`, or of patterns for one. ``None``:
            those of the Trainer's `Regularize` and `Share` callbacks.
        per_tie: Whether each tie's distance is logged.
        heatmap: Whether these figures are logged.
        prog_bar: The metrics that the progress bar shows, such as ``["sharing/distance"]``. Put
            the progress bar after this callback, or it shows the values of the epoch before.

    Raises:
        ValueError: If ``prog_bar`` names a metric that is not logged.
        TieError: Before training starts, if the patterns do not fit the module; see `Ties.find`.

    Example:
        >>> monitor = SharingMonitor(Ties("encoder_a.*", "encoder_b.*"))
        >>> trainer = Trainer(callbacks=[monitor])  # doctest: +SKIP
    """

    def __init__(
        self,
        ties: Ties | Sequence[Ties] | Sequence[str] | None = None,
        per_tie: bool = True,
        heatmap: bool = True,
        prog_bar: Sequence[str] = (),
    ) -> None:
        if ties is not None:
            ties = as_ties(ties)
        prog_bar = (prog_bar,) if isinstance(prog_bar, str) else tuple(prog_bar)
        for name in prog_bar:
            if name not in _NAMES and not (per_tie and name.startswith((_OF_A_TIE, _STRENGTH_OF))):
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
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        refuse_two_trainers(self, trainer)
        warn_of_mixture(trainer)

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.ties is not None:
            # A wrong pattern raises now, rather than after the first epoch.
            self.ties.find(pl_module)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step == 0:
            self.history = {}
        # A checkpoint of an epoch's last batch is saved before `on_train_epoch_end`, a hook that
        # Lightning skips after resuming: the epoch's distances are measured now.
        epoch = trainer.current_epoch
        ties = self._compared_ties(trainer, pl_module)
        missing = [tie for tie in ties if len(self.history.get(tie.name, [])) <= epoch]
        self._append(_compare(missing), epoch)

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        ties = self._compared_ties(trainer, pl_module)
        comparisons = _compare(ties)
        self._append(comparisons, trainer.current_epoch + 1)
        for name, value in self.measure(trainer, pl_module, ties, comparisons).items():
            # All ranks measure the same parameters, so the mean over ranks changes nothing; without
            # `sync_dist`, Lightning warns.
            pl_module.log(name, value, prog_bar=name in self.prog_bar, sync_dist=True)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        loggers: list[Any] = [own for own in trainer.loggers if is_a(own, "WandbLogger")]
        if not (self.heatmap and self.history and loggers):
            return
        figures = {"sharing/distances": distance_heatmap(self.history)}
        # Pairs are equal or not, which the last column of the distances shows.
        ties = self._compared_ties(trainer, pl_module)
        several = [tie for tie in ties if len(tie.members) > 2]
        if several:
            figures["sharing/cluster_map"] = cluster_heatmap(cluster_ties(several).as_dict())
        for logger in loggers:
            logger.experiment.log({**figures, "trainer/global_step": trainer.global_step})

    def measure(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        tied: Sequence[Tie],
        comparisons: Mapping[str, Comparison],
    ) -> dict[str, float]:
        """Return the metrics to log, by name."""
        values = measure_sharing(pl_module, tied, self.per_tie, comparisons)
        penalties = [c for c in _callbacks(trainer) if isinstance(c, Regularize)]
        if penalties:
            now = (trainer.global_step, trainer.current_epoch)
            values["sharing/penalty"] = sum(c.value(pl_module, *now) for c in penalties)
        if self.per_tie:
            for number, penalty in enumerate(penalties):
                prefix = f"{number}/" if len(penalties) > 1 else ""
                for name, strength in penalty.learned.items():
                    values[metric_name(_STRENGTH_OF + prefix + name)] = strength
        return values

    def _compared_ties(self, trainer: Trainer, pl_module: LightningModule) -> list[Tie]:
        # Ties are looked up at each call, as `Share` may replace members during training.
        if self.ties is None:
            return _ties_of_callbacks(trainer)
        return [tie for tie in self.ties.find(pl_module) if tie.compares]

    def _append(self, comparisons: Mapping[str, Comparison], epochs: int) -> None:
        """Set the distance at index `epochs` of each tie's history, with NaN in gaps before it."""
        for name, comparison in comparisons.items():
            history = self.history.setdefault(name, [])
            history += [math.nan] * (epochs - len(history))
            history[epochs:] = [comparison.distance]


def _compare(ties: Sequence[Tie]) -> dict[str, Comparison]:
    comparisons = compare_found(ties)
    return {tie.name: own for tie, own in zip(ties, comparisons, strict=True)}


def _callbacks(trainer: Trainer) -> Sequence[Callback]:
    return trainer.callbacks  # type: ignore[attr-defined,no-any-return]


def _ties_of_callbacks(trainer: Trainer) -> list[Tie]:
    # The key drops duplicates: several callbacks often have the same ties.
    found: dict[tuple[str, ...], Tie] = {}
    for callback in _callbacks(trainer):
        if isinstance(callback, (Regularize, Share)):
            for tie in callback.found:
                found[tuple(member.name for member in tie.members)] = tie
    return distinctly_named([tie for tie in found.values() if tie.compares])
