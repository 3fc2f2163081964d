"""`Share`: hard sharing in a Trainer."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from lightning_utilities.core.rank_zero import rank_zero_info
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle
from typing_extensions import override

from lit_share.aliases import (
    aliases_from_data,
    aliases_that_agree,
    aliases_to_data,
    keep_aliases,
    verify_shared,
)
from lit_share.callbacks._mixture import warn_of_mixture
from lit_share.callbacks._one_trainer import is_of, refuse_two_trainers
from lit_share.callbacks._strategies import refuse_strategy, unwrap_methods, wrap_methods
from lit_share.lightnings import Callback, is_a
from lit_share.penalties import find_unowned
from lit_share.sharing import (
    CANNOT_SHARE_NUMBERS,
    Init,
    OptimizerTransfer,
    Where,
    check_positions,
    remove_duplicate_parameters,
    share,
    warn_of_lost_gradients,
)
from lit_share.text import check_choice, counted
from lit_share.ties import Member, Tie, TieError, Ties, as_ties, cluster_ties, is_fsdp_module

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

# Methods of the strategy that a Trainer calls at times without a callback hook: before
# `configure_model`, before it loads weights, before it wraps the complete module, and when it
# restores optimizer states.
_WRAPPED = ("tensor_init_context", "load_model_state_dict", "setup", "load_optimizer_state_dict")


@runtime_checkable
class DependsOnShapes(Protocol):
    """A callback that may store tensors in the shapes of parameters."""

    def refuse_new_shapes(self, module: LightningModule, names: Collection[str], by: str) -> None:
        """Raise `TieError` if tensors in shapes of ``names``, which ``by`` changes, are stored."""


class Share(Callback):
    """Make the members of each tie one Parameter, before training or before a later epoch.

    Modules built in ``__init__`` are shared in ``setup``. Modules built in the LightningModule's
    ``setup`` or ``configure_model`` are shared before the strategy wraps them and creates
    optimizers; a ``configure_model`` that calls ``fully_shard`` must call `share` before it. A
    parameter that an optimizer was given several times is stepped once, in its first group. The
    callback verifies after the strategy's setup, at every epoch and before every evaluation that
    shared parameters are still shared.

    If the loss is a sum over models, the gradient of a shared parameter is the sum of the models'
    gradients: with plain SGD and equal members, the step is the sum of the members' steps.

    With ``where="equal"`` and an ``epoch``, members that a penalty made equal before that epoch are
    stored once afterwards: each cluster of equal members as one Parameter, with the value and
    optimizer state of its first member. The penalty continues on ties whose members are still
    different. Members are also shared if they are equal because they were never trained, such as
    biases that start at zero and have no gradient.

    A checkpoint from before that epoch is also loaded into a module that is shared by now, as by
    ``trainer.test(ckpt_path="best")``: the module gets the aliases that it had at that time.

    Args:
        ties: Which parameters are shared, a list of several `Ties`, or of patterns for one.
        init: The shared value: the ``"mean"`` of the members, or the ``"first"`` member.
        where: Share ``"all"`` members, or only clusters of ``"equal"`` ones; see `share`.
        buffers: Whether buffers whose names match the patterns are shared, too.
        epoch: The epoch before which parameters are shared; 0 is before training. A later epoch
            needs training in a single process.

    Raises:
        TieError: At once, if a pattern ends in ``[...]``. Before training starts, if the ties do
            not fit the module or cannot be shared (see `share`); if a checkpoint's values or
            optimizer state do not fit; if shared parameters are no longer shared.
        ValueError: If the strategy is FSDP1 or DeepSpeed.

    Example:
        >>> trainer = Trainer(  # doctest: +SKIP
        ...     callbacks=[Share(Ties("encoder_a.*", "encoder_b.*"))]
        ... )
    """

    def __init__(
        self,
        ties: Ties | Sequence[Ties] | Sequence[str],
        init: Init = "mean",
        where: Where = "all",
        buffers: bool = False,
        epoch: int = 0,
    ) -> None:
        ties = as_ties(ties)
        ties.refuse_numbers(CANNOT_SHARE_NUMBERS)
        check_choice("init", init, Init)
        check_choice("where", where, Where)
        if not isinstance(epoch, int) or epoch < 0:
            raise ValueError(f"epoch must be a whole number >= 0, got {epoch!r}")
        self.ties, self.init, self.where = ties, init, where
        self.buffers, self.epoch = buffers, epoch
        self.found: list[Tie] = []
        # The aliases as plain data for checkpoints; None until `share` was called.
        self._shared: list[dict[str, Any]] | None = None
        self._module: LightningModule | None = None
        self._all_are_trained = False
        # The number of parameters in each group of the optimizers, at the last look.
        self._sizes: list[list[int]] = []
        self._handles: list[RemovableHandle] = []

    @property
    @override
    def state_key(self) -> str:
        """The key in checkpoints, distinct for the ties of one Trainer."""
        return self._generate_state_key(ties=repr(self.ties), where=self.where, epoch=self.epoch)

    def __repr__(self) -> str:
        return f"Share({self.ties!r}, where={self.where!r}, epoch={self.epoch})"

    @override
    def state_dict(self) -> dict[str, Any]:
        if self._module is not None and self._shared is not None:
            # Another callback may have shared more parameters, which the checkpoint must include.
            self._shared = aliases_to_data(self._module)
        aliases = self._shared
        if self._module is not None and self._shared is None:
            aliases = aliases_to_data(self._module)
        return {"shared": self._shared, "aliases": aliases}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._shared = state_dict["shared"]

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        refuse_strategy(self, trainer.strategy)
        refuse_two_trainers(self, trainer)
        warn_of_mixture(trainer)
        if pl_module is not self._module or (stage == "fit" and trainer.global_step == 0):
            # `fit` starts a new training; resuming loads a checkpoint only after `setup`.
            self._shared = None
        self._module = pl_module
        if stage == "fit":
            self._refuse_early_averages(trainer)
            if self.epoch > 0:
                self._refuse_during_training(trainer)
        if self.is_before_training:
            self._share_if_complete(pl_module)
        wrap_methods(trainer.strategy, _WRAPPED, partial(self._wrapped, trainer, pl_module))

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        verify_shared(pl_module)
        names = {p: name for name, p in pl_module.named_parameters()}
        lost = remove_duplicate_parameters(trainer.optimizers, names)
        self._sizes = _group_sizes(trainer.optimizers)
        if lost and not pl_module.automatic_optimization:
            self._handles = warn_of_lost_gradients(
                trainer.optimizers, {p: names[p] for p in lost if p in names}
            )
        missing = find_unowned(trainer.optimizers, self.found)
        self._all_are_trained = not missing
        if missing:
            warnings.warn(
                f"{missing[0]!r} is shared and requires a gradient, but no optimizer has its "
                "parameter: give the optimizers self.parameters(), or freeze it",
                stacklevel=2,
            )
        if self.is_before_training:
            return
        # Sharing positions replaces a layer's weights by those of a convolution, of another shape.
        positions = {member.ref.name for member in self._sliced_members()}
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if positions and isinstance(callback, DependsOnShapes):
                callback.refuse_new_shapes(pl_module, positions, repr(self))

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._share_when_due(trainer, pl_module)
        verify_shared(pl_module)
        # Another callback may have replaced members by sharing them at this epoch.
        self.find_ties(pl_module)
        missing = find_unowned(trainer.optimizers, self.found)
        if missing and self._all_are_trained:
            raise TieError(
                f"{missing[0]!r} was replaced during training, so that the optimizer does not have "
                "it: write to it in place, with copy_"
            )

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        # Lightning skips `on_train_epoch_start` after resuming from a checkpoint of an epoch's last
        # batch.
        self._share_when_due(trainer, pl_module)

    @override
    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        # Callbacks for finetuning add groups in training, in which each name has its parameter.
        if self._sizes != _group_sizes(trainer.optimizers):
            names = {p: name for name, p in pl_module.named_parameters()}
            remove_duplicate_parameters(trainer.optimizers, names)
            self._sizes = _group_sizes(trainer.optimizers)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._shared is None:
            warnings.warn(
                f"training ended before epoch {self.epoch}, so {self!r} shared nothing",
                stacklevel=2,
            )

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        verify_shared(pl_module)

    @override
    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        verify_shared(pl_module)

    @override
    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        verify_shared(pl_module)

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.found = []
        self._clean_up(trainer)

    @override
    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        if is_of(self, trainer):
            self._clean_up(trainer)

    @property
    def is_before_training(self) -> bool:
        """Whether all members are shared before training, whatever their values."""
        return self.where == "all" and self.epoch == 0

    def find_ties(self, module: LightningModule) -> None:
        """Set ``found`` to the ties of the module, anew if parameters were shared in training."""
        self.found = self.ties.find(module)

    def _share(self, module: LightningModule) -> None:
        shared = share(module, self.ties, self.init, where=self.where, buffers=self.buffers)
        self.find_ties(module)
        self._shared = aliases_to_data(module)
        if not shared:
            reason = "no members are equal"
            if self._sliced_members():
                reason = "in no layer all parameters of all positions are equal"
            warnings.warn(f"{self!r} shared nothing: {reason}", stacklevel=2)
        elif not self.is_before_training:
            members = sum(len(tie.members) for tie in self.found)
            stored = sum(len(set(tie.first_aliases)) for tie in self.found)
            compared = cluster_ties([tie for tie in self.found if tie.compares])
            rank_zero_info(
                f"{self!r}: {counted(members, 'member')} are stored as "
                f"{counted(stored, 'Parameter')}:\n{compared}"
            )

    def _share_when_due(self, trainer: Trainer, module: LightningModule) -> None:
        if self._shared is not None or trainer.current_epoch < self.epoch:
            return
        # The optimizer's state is keyed by Parameter objects, some of which `share` replaces.
        transfer = OptimizerTransfer(trainer.optimizers, module)
        self._share(module)
        transfer.finish()

    def _sliced_members(self) -> list[Member]:
        return [m for tie in self.found for m in tie.members if m.slice is not None]

    def _share_if_complete(self, module: LightningModule) -> None:
        # Until the module is complete, patterns may match nothing; `_share_when_complete` shares
        # again, and raises for wrong patterns.
        with suppress(TieError):
            share(module, self.ties, self.init, buffers=self.buffers)

    def _share_when_complete(self, trainer: Trainer, module: LightningModule) -> None:
        # At this time, weights are restored from the checkpoint, the module is not wrapped yet, and
        # there are no optimizers.
        sharded = any(is_fsdp_module(child) for child in module.modules())
        if sharded and not self.is_before_training:
            raise TieError(
                f"{self!r} compares values, which fully_shard has distributed over processes: call "
                'lit_share.share(self, ties, where="equal") before fully_shard instead'
            )
        if self._shared is not None and not self.is_before_training:
            aliases_from_data(module, self._shared)
            self.find_ties(module)
        elif self.is_before_training or (self.epoch == 0 and trainer.state.fn == "fit"):
            self._share(module)
        else:
            self.find_ties(module)
            sliced = [tie for tie in self.found if tie.members[0].slice is not None]
            check_positions(module, sliced)

    def _undo_later_sharing(
        self, module: LightningModule, checkpoint: Mapping[str, Any], **_: Any
    ) -> None:
        """Give a shared module the aliases of a checkpoint that may be from before its epoch."""
        # Neither weights alone nor version 0.1 say which parameters were aliases.
        state = checkpoint.get("callbacks", {}).get(self.state_key, {})
        aliases = state.get("aliases", state.get("shared"))
        if aliases is None:
            aliases = aliases_that_agree(module, checkpoint["state_dict"])
        names = {member.ref.name for tie in self.ties.find(module) for member in tie.members}
        if self.buffers:
            names.update(ref.name for refs in self.ties.buffers(module) for ref in refs)
        try:
            is_undone = keep_aliases(module, aliases, names)
        except TieError as error:
            raise TieError(
                f"the checkpoint is of epoch {checkpoint['epoch']}, before {self!r}, and {error}: "
                "load it into a new module, with load_from_checkpoint"
            ) from None
        if is_undone:
            self._shared = None
            rank_zero_info(
                f"{self!r}: the checkpoint is of epoch {checkpoint['epoch']}, when fewer "
                "parameters were shared, so the module has separate Parameters again"
            )

    def _wrapped(
        self,
        trainer: Trainer,
        module: LightningModule,
        name: str,
        method: Callable,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Share the module if it is due, then return ``method(*args, **kwargs)``.

        Raise `TieError` instead of the `ValueError`s of optimizers that sharing causes.
        """
        if name == "setup":
            self._share_when_complete(trainer, module)
        elif self.is_before_training:
            self._share_if_complete(module)
        elif name == "load_model_state_dict":
            self._undo_later_sharing(module, *args, **kwargs)
        try:
            return method(*args, **kwargs)
        except ValueError as error:
            if "more than one parameter group" in str(error):
                # torch's message does not say that sharing is the cause.
                raise TieError(
                    "some parameters appear in more than one parameter group, as they are shared: "
                    "in configure_optimizers, give the optimizer lit_share.unique_parameters([...])"
                ) from error
            if name == "load_optimizer_state_dict":
                raise TieError(
                    "the checkpoint's optimizer state does not fit the parameters as "
                    f"{self!r} shares them ({error}): start a new training from its weights, with "
                    "load_from_checkpoint and without ckpt_path"
                ) from error
            raise

    def _clean_up(self, trainer: Trainer) -> None:
        unwrap_methods(trainer.strategy, _WRAPPED)
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _refuse_during_training(self, trainer: Trainer) -> None:
        if trainer.world_size > 1:
            raise TieError(
                f"Share(epoch={self.epoch}) works in one process, but the Trainer has "
                f"{trainer.world_size}: share after training, with lit_share.share, and continue "
                "training"
            )

    def _refuse_early_averages(self, trainer: Trainer) -> None:
        """Raise `TieError` for callbacks whose averages are of parameters that are not shared yet.

        They go through the parameters in their order, which sharing changes.
        """
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        for callback in callbacks:
            if not is_a(callback, "WeightAveraging", "StochasticWeightAveraging"):
                continue
            name = type(callback).__name__
            if not self.is_before_training:
                own = 'Share(where="equal")'
                if self.epoch > 0:
                    own = f"Share(epoch={self.epoch})"
                raise TieError(
                    f"{name} cannot follow {own}, as it goes through the parameters in their "
                    "order: share before training, or after it"
                )
            if callbacks.index(callback) < callbacks.index(self):
                raise TieError(
                    f"{name} copies the parameters before {self!r} shares them: list Share first "
                    "in the Trainer's callbacks"
                )


def _group_sizes(optimizers: Sequence[Optimizer]) -> list[list[int]]:
    return [[len(group["params"]) for group in optimizer.param_groups] for optimizer in optimizers]
