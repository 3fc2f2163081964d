"""`Share`: hard sharing in a Trainer."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Protocol, runtime_checkable

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import StochasticWeightAveraging, WeightAveraging
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from torch.distributed.fsdp import FSDPModule
from torch.utils.hooks import RemovableHandle
from typing_extensions import override

from lit_share.aliases import aliases_from_data, aliases_to_data, verify_shared
from lit_share.callbacks._strategies import refuse_strategy
from lit_share.penalties import find_unowned
from lit_share.sharing import (
    Init,
    OptimizerTransfer,
    Where,
    check_positions,
    remove_duplicate_parameters,
    share,
    warn_of_lost_gradients,
)
from lit_share.text import check_choice
from lit_share.ties import Tie, TieError, Ties, as_ties

# What a Trainer calls on its strategy at times that no callback sees: before `configure_model`, before a checkpoint is
# loaded, when the module is complete and not yet wrapped, and when optimizers get their states back.
_WRAPPED = ("tensor_init_context", "load_model_state_dict", "setup", "load_optimizer_state_dict")


@runtime_checkable
class DependsOnShapes(Protocol):
    """A callback that remembers numbers of parameters, which have their present shapes."""

    def refuse_new_shapes(self, module: LightningModule, names: Collection[str], by: str) -> None:
        """Raise `TieError` if numbers are remembered of parameters that get other shapes.

        Args:
            module: The module in training.
            names: The parameters that get other shapes.
            by: What gives them other shapes.
        """


class Share(Callback):
    """Makes the members of each tie one Parameter, before training or at a later epoch.

    Modules that are built in ``__init__`` are shared in ``setup``; modules that are built later, in the module's own
    ``setup`` or ``configure_model``, before the strategy wraps them and makes optimizers. Where ``configure_model``
    also wraps them with ``fully_shard``, it has to call `share` in between. Parameters that an optimizer was given
    twice are stepped once, in the group that had them first. That they are still shared is verified when the strategy
    has set up the module, at every epoch, and before the module is evaluated.

    A loss that is a sum over models gives shared parameters the sum of the models' gradients: with plain SGD that is,
    from equal members, a step as long as those of all of them together.

    With ``where="equal"`` and an ``epoch``, what a penalty has made equal until then is stored once from then on: the
    first member's parameters and optimizer state stay, those of the others go. The penalty goes on with the rest. What
    is equal because it never was trained, such as biases that start at zero in members without gradients, is stored
    once as well.

    Args:
        ties: Which parameters are shared, or a list of patterns for `Ties`.
        init: The shared value: the ``"mean"`` of the members, or the ``"first"`` member.
        where: ``"all"`` that is tied, or what is ``"equal"``; see `share`.
        buffers: Whether buffers whose names fit the patterns are shared, too.
        epoch: The epoch before which parameters are shared; 0 is before training. A later one is for training in one
            process.

    Raises:
        TieError: Before training starts, if the ties do not fit the module, or cannot be shared (see `share`); if a
            checkpoint has other values or another optimizer state; if what was shared no longer is.
        ValueError: If the strategy is FSDP1 or DeepSpeed.

    Example:
        >>> trainer = Trainer(  # doctest: +SKIP
        ...     callbacks=[Share(Ties("encoder_a.*", "encoder_b.*"))]
        ... )
    """

    def __init__(
        self,
        ties: Ties | Sequence[str],
        init: Init = "mean",
        where: Where = "all",
        buffers: bool = False,
        epoch: int = 0,
    ) -> None:
        ties = as_ties(ties)
        check_choice("init", init, Init)
        check_choice("where", where, Where)
        if not isinstance(epoch, int) or epoch < 0:
            raise ValueError(f"epoch must be a whole number >= 0, got {epoch!r}")
        self.ties, self.init, self.where, self.buffers, self.epoch = (
            ties,
            init,
            where,
            buffers,
            epoch,
        )
        self.found: list[Tie] = []
        # What is shared, as plain data for checkpoints; None as long as nothing was.
        self._shared: list[dict[str, Any]] | None = None
        self._module: LightningModule | None = None
        self._all_are_trained = False
        self._handles: list[RemovableHandle] = []

    @property
    @override
    def state_key(self) -> str:
        """Tells apart the ties of one Trainer in its checkpoints."""
        return self._generate_state_key(ties=repr(self.ties), where=self.where, epoch=self.epoch)

    def __repr__(self) -> str:
        return f"Share({self.ties!r}, where={self.where!r}, epoch={self.epoch})"

    @override
    def state_dict(self) -> dict[str, Any]:
        if self._module is not None and self._shared is not None:
            # Another callback may have shared more since.
            self._shared = aliases_to_data(self._module)
        return {"shared": self._shared}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._shared = state_dict["shared"]

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        refuse_strategy(self, trainer.strategy)
        if pl_module is not self._module or (stage == "fit" and trainer.global_step == 0):
            # A new training starts from nothing, unless a checkpoint that is loaded after this has something.
            self._shared = None
        self._module = pl_module
        if self.epoch > 0 and stage == "fit":
            self._refuse_during_training(trainer)
        if self.is_before_training:
            self._share_what_is_there(pl_module)
        for name in _WRAPPED:
            method = getattr(trainer.strategy, name)
            setattr(
                trainer.strategy, name, partial(self._wrapped, name, trainer, pl_module, method)
            )

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        verify_shared(pl_module)
        names = {p: name for name, p in pl_module.named_parameters()}
        lost = remove_duplicate_parameters(trainer.optimizers, names)
        if lost and not pl_module.automatic_optimization:
            self._handles = warn_of_lost_gradients(
                trainer.optimizers, {p: names[p] for p in lost if p in names}
            )
        missing = find_unowned(trainer.optimizers, self.found)
        self._all_are_trained = not missing
        if missing:
            warnings.warn(
                f"{missing[0]!r} is shared and requires a gradient, but no optimizer has its parameter: give the "
                "optimizers self.parameters(), or freeze it",
                stacklevel=2,
            )
        positions = {m.ref.name for t in self.found for m in t.members if m.slice is not None}
        for callback in trainer.callbacks if positions else ():  # type: ignore[attr-defined]
            if not self.is_before_training and isinstance(callback, DependsOnShapes):
                callback.refuse_new_shapes(pl_module, positions, repr(self))

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._share_when_due(trainer, pl_module)
        verify_shared(pl_module)
        self.find_ties(pl_module)  # another callback may have shared since
        missing = find_unowned(trainer.optimizers, self.found)
        if missing and self._all_are_trained:
            raise TieError(
                f"{missing[0]!r} was replaced during training, so that the optimizer does not have it: write to it "
                "in place, with copy_"
            )

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        # Of an epoch whose start Lightning leaves out: the first one after a checkpoint of an epoch's last batch.
        self._share_when_due(trainer, pl_module)

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
        self._clean_up(trainer)

    @property
    def is_before_training(self) -> bool:
        """Whether members become one whatever their values, before training."""
        return self.where == "all" and self.epoch == 0

    def find_ties(self, module: LightningModule) -> None:
        """Find the ties: before training, and again when parameters have become one in the middle of it."""
        self.found = self.ties.find(module)

    def _share(self, module: LightningModule) -> None:
        shared = share(module, self.ties, self.init, where=self.where, buffers=self.buffers)
        self.find_ties(module)
        self._shared = aliases_to_data(module)
        if not shared:
            positions = any(m.slice is not None for tie in self.found for m in tie.members)
            what = (
                "in no layer all parameters of all positions are" if positions else "no members are"
            )
            warnings.warn(f"{self!r} shared nothing: {what} equal", stacklevel=2)
        elif not self.is_before_training:
            rank_zero_info(
                f"{self!r}: {len(shared)} of {len(self.found)} ties are one parameter now"
            )

    def _share_when_due(self, trainer: Trainer, module: LightningModule) -> None:
        if self._shared is not None or trainer.current_epoch < self.epoch:
            return
        transfer = OptimizerTransfer(trainer.optimizers, module)
        self._share(module)
        transfer.finish()

    def _share_what_is_there(self, module: LightningModule) -> None:
        # The module may not be complete yet: it is shared again when it is, and if the ties are wrong, that raises.
        with suppress(TieError):
            share(module, self.ties, self.init, buffers=self.buffers)

    def _share_when_complete(self, trainer: Trainer, module: LightningModule) -> None:
        # The module is not wrapped yet; a checkpoint is loaded, but there are no optimizers yet.
        if not self.is_before_training and any(
            isinstance(part, FSDPModule) for part in module.modules()
        ):
            raise TieError(
                f"{self!r} looks at values, which fully_shard has spread over processes: call lit_share.share(self, "
                'ties, where="equal") before fully_shard instead'
            )
        if self._shared is not None and not self.is_before_training:
            aliases_from_data(module, self._shared)
            self.find_ties(module)
        elif self.is_before_training or (self.epoch == 0 and trainer.state.fn == TrainerFn.FITTING):
            self._share(module)
        else:
            self.find_ties(module)
            sliced = [tie for tie in self.found if tie.members[0].slice is not None]
            check_positions(module, sliced)

    def _wrapped(
        self,
        name: str,
        trainer: Trainer,
        module: LightningModule,
        method: Callable,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Call a method of the strategy, at a time that no callback sees."""
        if name == "setup":
            self._share_when_complete(trainer, module)
        elif self.is_before_training:
            self._share_what_is_there(module)
        try:
            return method(*args, **kwargs)
        except ValueError as error:
            if "more than one parameter group" in str(error):
                raise TieError(
                    "some parameters appear in more than one parameter group, as they are shared: in "
                    "configure_optimizers, give the optimizer lit_share.unique_parameters([...])"
                ) from error
            if name == "load_optimizer_state_dict":
                raise TieError(
                    f"the checkpoint's optimizer state does not fit the parameters as {self!r} shares them ({error}): "
                    "start anew from its weights, with load_from_checkpoint and without ckpt_path"
                ) from error
            raise

    def _clean_up(self, trainer: Trainer) -> None:
        for name in _WRAPPED:
            vars(trainer.strategy).pop(name, None)
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _refuse_during_training(self, trainer: Trainer) -> None:
        if trainer.world_size > 1:
            raise TieError(
                f"Share(epoch={self.epoch}) works in one process, here are {trainer.world_size}: share after training, "
                "with lit_share.share, and train on"
            )
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, (WeightAveraging, StochasticWeightAveraging)):
                raise TieError(
                    f"{type(callback).__name__} cannot follow Share(epoch={self.epoch}), as it goes through the "
                    "parameters in their order: share before training, or after it"
                )
