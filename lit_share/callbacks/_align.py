"""`Align`: units that correspond, in a Trainer."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from lightning_utilities.core.rank_zero import rank_zero_info
from torch import Tensor, nn
from typing_extensions import override

from lit_share.alignment import (
    AlignError,
    AlignReport,
    By,
    Inputs,
    Reference,
    align,
    check_dense,
    member_names,
)
from lit_share.callbacks._capture import capture_inputs, refuse_unsupported_step
from lit_share.callbacks._mixture import warn_of_mixture
from lit_share.callbacks._one_trainer import refuse_two_trainers
from lit_share.callbacks._random_state import same_random_state
from lit_share.callbacks._share import Share
from lit_share.callbacks._strategies import refuse_strategy
from lit_share.lightnings import Callback, fabric_module, is_a
from lit_share.text import check_choice
from lit_share.ties import Tie, Ties, as_ties

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer


@runtime_checkable
class DependsOnUnits(Protocol):
    """A callback that may store tensors whose units are those of parameters."""

    def frozen_ties(self) -> list[Tie]:
        """Return the ties that have frozen groups, which cannot be permuted."""

    def move_units(self, move: Callable[[nn.Parameter, Tensor], Tensor]) -> None:
        """Permute the tensors that are stored for parameters."""


class Align(Callback):
    """Permute the units of tied submodules once, so that they correspond.

    Models that were trained apart have their units in different orders; see `align`. The callback
    calls it in the first batch of training, or of a later epoch, before the batch is trained on.
    The states of optimizers move along, and so do the starting values of penalties. After
    resuming from a checkpoint in which it was done, nothing is done again.

    **Inputs.** If none are given, the callback runs `training_step` with the batch, in evaluation
    mode and without gradients, until all submodules have been called, and takes what they were
    called with. Nothing is logged meanwhile, and random state, buffers, metrics and attributes of
    the LightningModule are restored; what the step appends to lists or writes elsewhere stays.
    With ``by="activations"`` all members get the inputs of the first, as samples must correspond.

    **Several processes.** All processes use the inputs of rank 0, so that they find the same
    permutations. Parameters sharded by ``fully_shard`` are refused: align before.

    **With** `Share`. Parameters that are shared already stay as they are. `Share` without an epoch
    shares before this callback aligns, which a warning says: give it ``epoch=1``, or call `align`
    and `share` yourself.

    **With averages of weights.** `WeightAveraging` follows an alignment before training, not one
    at an ``epoch``; `StochasticWeightAveraging` follows none: call `align` before the fit.

    Args:
        ties: The ties, or a list of patterns for `Ties`. The members are the submodules before the
            first star of each pattern.
        by: What units are matched by: their ``"weights"``, or their ``"activations"``.
        reference: The order that members are brought into: that of the ``"first"``, or the one
            nearest to the ``"mean"`` of all.
        seed: The seed of the order in which layers are matched.
        epoch: The epoch at whose start members are aligned; ``None``: before training, and not in
            a run that resumes.
        inputs: What the submodules are called with, as an example; see `align`. ``None``: what
            `training_step` calls them with in the first batch.

    Attributes:
        report: What was changed; ``None`` until then. Its text is printed, and its numbers of moved
            units and mean cosines are logged as ``align/moved``, ``align/cosine_before`` and
            ``align/cosine_after``.

    Raises:
        AlignError: If a pattern names no submodule. Before training, if parameters are sharded, or
            if inputs are needed and the module has manual optimization. In the first batch, if
            inputs cannot be noted, groups are frozen, or members cannot be aligned (see `align`);
            nothing is changed then.
        TieError: Before training starts, if the ties do not fit the module.
        ValueError: If an argument is unknown, or the strategy is FSDP1 or DeepSpeed.

    Example:
        >>> before = Align(Ties("a.net.*", "b.net.*"))
        >>> callbacks = [before, Regularize("layer_tie", before.ties, 0.5)]  # doctest: +SKIP
        >>> trainer = Trainer(callbacks=callbacks)  # doctest: +SKIP
    """

    def __init__(
        self,
        ties: Ties | Sequence[str],
        by: By = "weights",
        reference: Reference = "first",
        seed: int = 0,
        epoch: int | None = None,
        inputs: Inputs | Mapping[str, Inputs] | None = None,
    ) -> None:
        ties = as_ties(ties)
        check_choice("by", by, By)
        check_choice("reference", reference, Reference)
        if epoch is not None and (not isinstance(epoch, int) or epoch < 0):
            raise ValueError(f"epoch must be a whole number >= 0 or None, got {epoch!r}")
        self.ties, self.by, self.reference = ties, by, reference
        self.seed, self.epoch, self.inputs = seed, epoch, inputs
        self.names = member_names(ties)
        self.report: AlignReport | None = None
        self._is_done = False
        self._module: LightningModule | None = None

    @property
    @override
    def state_key(self) -> str:
        """The key in checkpoints, distinct for the ties of one Trainer."""
        return self._generate_state_key(ties=repr(self.ties), epoch=self.epoch)

    def __repr__(self) -> str:
        return f"Align({self.ties!r}, by={self.by!r}, epoch={self.epoch})"

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"is_done": self._is_done}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._is_done = state_dict["is_done"]

    def includes(self, tie: Tie) -> bool:
        """Whether all members of a tie are in the submodules that are aligned."""
        return all(
            any(member.name.startswith(f"{name}.") for name in self.names) for member in tie.members
        )

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        refuse_two_trainers(self, trainer)
        if stage != "fit":
            return
        refuse_strategy(self, trainer.strategy, "align checkpoints, with lit-share align")
        warn_of_mixture(trainer)
        if trainer.global_step == 0 or pl_module is not self._module:
            # `fit` starts a new training; resuming loads a checkpoint only after `setup`.
            self._is_done, self.report = False, None
        self._module = pl_module
        self._refuse_averages(trainer)

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._is_done:
            return
        self.ties.find(pl_module)
        self._warn_of_shared(trainer)
        for name in self.names:
            check_dense(name, pl_module.get_submodule(name))
        if self.inputs is None:
            refuse_unsupported_step(pl_module)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.epoch is None and not self._is_done and trainer.global_step > 0:
            warnings.warn(
                f"{self!r} aligns before training only, and this training resumes after "
                f"{trainer.global_step} steps without it: nothing is aligned unless you write "
                f"epoch={trainer.current_epoch}",
                stacklevel=2,
            )

    @override
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        # Lightning skips `on_train_epoch_start` after resuming from a checkpoint of an epoch's last
        # batch, and it has no batch.
        if self._is_due(trainer):
            self._align(trainer, pl_module, batch, batch_idx)
            self._is_done = True

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.epoch is not None and not self._is_done:
            warnings.warn(
                f"training ended before epoch {self.epoch}, so {self!r} aligned nothing",
                stacklevel=2,
            )

    def _is_due(self, trainer: Trainer) -> bool:
        if self._is_done:
            return False
        if self.epoch is None:
            return trainer.global_step == 0
        return trainer.current_epoch >= self.epoch

    def _align(self, trainer: Trainer, module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._refuse_frozen(trainer, module)
        inputs = _of_first_rank(
            trainer, module, lambda: self._inputs(trainer, module, batch, batch_idx)
        )
        with same_random_state():
            report = align(
                module,
                self.ties,
                inputs,
                by=self.by,
                reference=self.reference,
                seed=self.seed,
                optimizers=trainer.optimizers,
            )
        _check_ranks_agree(trainer, report)
        names = dict(_moved_parameters(module, self.names))

        def move(parameter: nn.Parameter, tensor: Tensor) -> Tensor:
            name = names.get(parameter)
            if name is None:
                return tensor
            return report.move({name: tensor})[name]

        for callback in _callbacks(trainer):
            if isinstance(callback, DependsOnUnits):
                callback.move_units(move)
        self.report = report
        _log(trainer, report)

    def _inputs(
        self, trainer: Trainer, module: LightningModule, batch: Any, batch_idx: int
    ) -> Inputs | Mapping[str, Inputs]:
        if self.inputs is not None:
            return self.inputs
        if self.by == "weights":
            return capture_inputs(trainer, module, self.names, batch, batch_idx)
        # Samples of different batches do not correspond, so activations could not be compared.
        first = self.names[0]
        noted = capture_inputs(trainer, module, [first], batch, batch_idx)
        return dict.fromkeys(self.names, noted[first])

    def _refuse_averages(self, trainer: Trainer) -> None:
        for callback in _callbacks(trainer):
            averages = f"{type(callback).__name__} cannot follow {self!r}, as averages of weights"
            # It may add weights to its average before the first batch.
            if is_a(callback, "StochasticWeightAveraging"):
                raise AlignError(
                    f"{averages} keep the order of units: call lit_share.align before the fit"
                )
            if is_a(callback, "WeightAveraging") and self.epoch is not None:
                raise AlignError(
                    f"{averages} keep the order of units: write epoch=None, which aligns before "
                    "training"
                )

    def _warn_of_shared(self, trainer: Trainer) -> None:
        first = (self.epoch or 0) + 1
        for callback in _callbacks(trainer):
            if not isinstance(callback, Share) or callback.where == "equal":
                continue
            names = [tie.name for tie in callback.found if self.includes(tie)]
            if names and callback.epoch < first:
                warnings.warn(
                    f"{callback!r} shares {names[0]!r} before {self!r} aligns it, so members whose "
                    f"units may not correspond are averaged: write epoch={first} in Share",
                    stacklevel=2,
                )

    def _refuse_frozen(self, trainer: Trainer, module: LightningModule) -> None:
        moved = dict(_moved_parameters(module, self.names))
        for callback in _callbacks(trainer):
            if not isinstance(callback, DependsOnUnits):
                continue
            for tie in callback.frozen_ties():
                for member in tie.members:
                    if member.parameter in moved:
                        raise AlignError(
                            f"a penalty has frozen groups of {member.name!r}, whose units {self!r} "
                            "would permute: align before training, with epoch=None, or leave out "
                            "keep_zeros and keep_tied"
                        )


def _callbacks(trainer: Trainer) -> Sequence[Callback]:
    return trainer.callbacks  # type: ignore[attr-defined,no-any-return]


def _moved_parameters(
    module: nn.Module, names: Iterable[str]
) -> Iterator[tuple[nn.Parameter, str]]:
    """Yield the parameters of all members but the first, which is not permuted, with names."""
    _, *others = names
    for name in others:
        for own, parameter in module.get_submodule(name).named_parameters():
            yield parameter, f"{name}.{own}"


def _of_first_rank(trainer: Trainer, module: LightningModule, make: Callable[[], Any]) -> Any:
    """Return what rank 0 makes, on the module's device; raise its error on all ranks."""
    move_data_to_device = fabric_module("utilities.apply_func").move_data_to_device
    if trainer.world_size == 1:
        return move_data_to_device(make(), module.device)
    made, problem = None, None
    # Each rank runs the step, which may communicate before it calls the submodules.
    try:
        made = move_data_to_device(make(), "cpu")
    except AlignError as error:
        problem = str(error)
    made, problem = trainer.strategy.broadcast((made, problem))
    if problem is not None:
        raise AlignError(problem)
    return move_data_to_device(made, module.device)


def _check_ranks_agree(trainer: Trainer, report: AlignReport) -> None:
    if trainer.world_size == 1:
        return
    # The same weights and inputs give the same permutations, unless devices round differently.
    agrees = trainer.strategy.broadcast(report.axes) == report.axes
    if not trainer.strategy.reduce_boolean_decision(agrees):
        raise AlignError(
            "the processes found different permutations: align in a single process, with "
            "lit_share.align, and train from a checkpoint"
        )


def _log(trainer: Trainer, report: AlignReport) -> None:
    if not report.axes:
        warnings.warn(str(report), stacklevel=2)
        return
    rank_zero_info(str(report))
    metrics = {
        "align/moved": float(report.moved),
        "align/cosine_before": report.before,
        "align/cosine_after": report.after,
    }
    for logger in trainer.loggers:
        logger.log_metrics(metrics, step=trainer.global_step)
