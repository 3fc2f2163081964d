"""`Regularize`: a penalty on ties in a Trainer."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Sequence
from functools import partial
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle
from typing_extensions import override

from lit_share.callbacks._strategies import refuse_strategy
from lit_share.functional import Penalty
from lit_share.penalties import Apply, Every, PenaltySteps, Schedule
from lit_share.ties import Tie, TieError, Ties, unaligned_remark


class Regularize(Callback):
    r"""Adds a penalty on tied parameters to training.

    As a *gradient*, ``strength`` times the penalty's closed-form gradient is added to ``.grad`` once
    per optimizer step: after gradients are accumulated, reduced over ranks and unscaled, and before
    they are clipped. That equals ``strength * penalty`` in the loss, whatever the batch size,
    accumulation, precision and number of devices.

    As a *prox*, each optimizer step is followed by the proximal step of size ``lr * strength``, which
    makes groups exactly equal to their center. With an adaptive optimizer this is the usual
    approximation: its own per-parameter scaling is not applied to the penalty.

    With ``every="epoch"`` the proximal step is taken once, after the last batch of each training epoch
    and before its validation. Its size is the sum of those that ``every="step"`` would have taken in
    this epoch,

    .. math::
        t = \sum_{k \in \text{epoch}} \text{lr}_k \cdot \text{strength}_k

    over the steps k of the optimizer, each with the learning rate and the strength of its time. So the
    strength means the same, whatever the number of batches. (Code that takes one step of size
    lr · strength per epoch, as that of the GrOWL paper, has the effect of a strength that is smaller by
    the number of steps per epoch: divide by it.)

    Parameters that ``fully_shard`` has sharded stay so. Where groups span shards, one message per step
    is all-reduced, of the statistics that group norms are computed from; it is as large as the
    parameters only for ``"owl"`` with groups of elements, and at most so for the singular values of a
    single matrix.

    Only parameters that an optimizer owns and that require a gradient are moved. One that requires a
    gradient and that no optimizer owns is warned of, as its tie is one-sided then: freeze it if it is
    to stay. Where the members of a tie belong to several optimizers, their proximal step is taken once
    all of these have stepped.

    Args:
        penalty: What is penalised, or the name of one of `lit_share.RECIPES`.
        ties: Which parameters are tied, or a list of patterns for `Ties`, as in a config of
            LightningCLI.
        strength: Finite number ≥ 0; for the ``l2`` recipe it means what PyTorch calls
            ``weight_decay``.
        schedule: Factor of the strength over time, a `Ramp` or any function of (steps, epochs) done;
            constant if ``None``.
        apply: ``"gradient"``, ``"prox"``, or ``"auto"``: gradient for smooth penalties, else prox.
        every: When the proximal step is taken: after every optimizer ``"step"``, or once per
            ``"epoch"``.
        keep_zeros: Whether groups that a proximal step has made exactly zero stay so for the rest of
            training: they are set to zero again after every optimizer step, whatever gradients or
            momentum make of them. For ``center="zero"``. Checkpoints have which groups these are.
        keep_tied: Whether groups that a proximal step has made exactly equal in all members stay so
            for the rest of training: they are set to the members' center again after every optimizer
            step. For ``center="mean"`` and ``"first"``.

    Raises:
        TypeError: If an argument is of another type.
        ValueError: If there is no such recipe, or arguments do not go together. Before training
            starts, if the ties do not fit the module (see `Ties.find`) or the penalty (see
            `Penalty.check`), or an optimizer is not supported: L-BFGS, sparse gradients, or learning
            rates within a tie for which the prox has no closed form; or the strategy: FSDP1 and
            DeepSpeed. At the end of an epoch, if training has made a member NaN or infinite: before
            the validation and the checkpoints that come then.

    Example:
        >>> soft_tie = Regularize("soft_tie", Ties("encoder_a.*", "encoder_b.*"), strength=0.1)
        >>> soft_tie.penalty
        Penalty(norm='squared', groups='element', center='mean', weights=None)
        >>> trainer = Trainer(callbacks=[soft_tie], logger=False)  # doctest: +SKIP
    """

    def __init__(
        self,
        penalty: Penalty | str,
        ties: Ties | Sequence[str],
        strength: float,
        schedule: Schedule | None = None,
        apply: Apply = "auto",
        every: Every = "step",
        keep_zeros: bool = False,
        keep_tied: bool = False,
    ) -> None:
        self.steps = PenaltySteps(
            penalty, ties, strength, schedule, apply, every, keep_zeros, keep_tied
        )
        self._module: LightningModule | None = None
        self._handles: list[RemovableHandle] = []
        # The optimizers that Lightning said it would step, and those that never stepped.
        self._announced: set[Optimizer] = set()
        self._idle: set[Optimizer] = set()

    @property
    def penalty(self) -> Penalty:
        """What is penalised."""
        return self.steps.penalty

    @property
    def ties(self) -> Ties:
        """Which parameters are tied."""
        return self.steps.ties

    @property
    def strength(self) -> float:
        """The strength, before the schedule's factor."""
        return self.steps.strength

    @property
    def found(self) -> list[Tie]:
        """The ties of the module in training."""
        return self.steps.found

    @property
    @override
    def state_key(self) -> str:
        """Tells apart the penalties of one Trainer in its checkpoints."""
        p = self.penalty
        return self._generate_state_key(
            norm=p.norm, groups=p.groups, center=p.center, ties=repr(self.ties)
        )

    @override
    def state_dict(self) -> dict[str, Any]:
        return self.steps.state_dict()

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.steps.load_state_dict(state_dict)

    def strength_at(self, step: int, epoch: int) -> float:
        """Return the strength after so many optimizer steps and epochs.

        Raises:
            ValueError: If the schedule's factor is not a finite number ≥ 0.
        """
        return self.steps.strength_at(step, epoch)

    def value(self, module: nn.Module, step: int, epoch: int) -> float:
        """Compute the penalty times the strength, of the module's parameters as they are now.

        Args:
            module: The module that is, or was, trained.
            step: Optimizer steps done, for the strength.
            epoch: Epochs done, for the strength.

        Returns:
            What the penalty adds to the loss.
        """
        self.steps.steps_done, self.steps.epochs_done = step, epoch
        return self.steps.value(module)

    def refuse_new_shapes(self, module: nn.Module, names: Collection[str], by: str) -> None:
        """Raise `TieError` if numbers are remembered of parameters that get other shapes.

        Args:
            module: The module in training.
            names: The parameters that get other shapes.
            by: What gives them other shapes.
        """
        if not self.steps.remembers_numbers:
            return
        own = {member.name for tie in self.ties.find(module) for member in tie.members}
        both = own & set(names)
        if both:
            name = min(both)
            raise TieError(
                f"a penalty remembers the numbers of {name!r} from its start, and they are those of "
                f"one position when {by} shares all: give it the pattern '{name}[:]'"
            )

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        refuse_strategy(self, trainer.strategy)
        if stage != "fit":
            return
        if trainer.global_step == 0 or pl_module is not self._module:
            # A new training, unless a checkpoint that is loaded after this says otherwise.
            self.steps.reset()
        self._module = pl_module

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.steps.steps_done, self.steps.epochs_done = trainer.global_step, trainer.current_epoch
        self.steps.check(pl_module, trainer.optimizers)
        if trainer.global_step == 0 and trainer.ckpt_path is None:
            unaligned = self.steps.find_unaligned()
            if unaligned:
                rank_zero_info(unaligned_remark([tie.name for tie in unaligned]))

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._remove_hooks()
        # Not in `on_fit_start`, which comes before the checkpoint where it is loaded into shards.
        self.steps.begin()
        after_step = partial(self._after_step, trainer)
        self._handles = [o.register_step_post_hook(after_step) for o in trainer.optimizers]
        self._idle = set(trainer.optimizers)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pending = self.steps.pending
        if pending and self._idle:
            optimizers = enumerate(trainer.optimizers)
            idle = ", ".join(f"optimizer {i}" for i, o in optimizers if o in self._idle)
            warnings.warn(
                f"{idle} never stepped, so the proximal step of {', '.join(pending)}, which waits for "
                "it, was never taken: freeze its parameters, or exclude them from the ties",
                stacklevel=2,
            )

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if len(trainer.optimizers) > 1:
            # Before an optimizer is toggled, which freezes the parameters of the others for a while.
            self.steps.note_trainable()

    @override
    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        # Not as late as the end of the epoch: validation and its checkpoints come before that.
        if trainer.is_last_batch:
            self._end_epoch(trainer)

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # For an epoch that ended before its last batch.
        self._end_epoch(trainer)

    @override
    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: Tensor
    ) -> None:
        self.steps.new_gradients()

    @override
    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        self._announced.add(optimizer)
        self.steps.steps_done, self.steps.epochs_done = trainer.global_step, trainer.current_epoch
        # Fused optimizers under fp16 unscale their gradients only within their step.
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        unscales = getattr(optimizer, "_step_supports_amp_scaling", False)
        self.steps.before_step(optimizer, scaler.get_scale() if scaler and unscales else 1.0)

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._remove_hooks()
        self.steps.detach()

    @override
    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._remove_hooks()

    def _after_step(self, trainer: Trainer, optimizer: Optimizer, *_: Any) -> None:
        if self not in trainer.callbacks:  # type: ignore[attr-defined]
            return  # a Tuner tries something out without callbacks, and puts the weights back
        if optimizer not in self._announced:
            raise RuntimeError(
                f"{type(optimizer).__name__} was stepped without Lightning knowing, which penalties and "
                "schedules depend on: step what self.optimizers() returns, not "
                "self.optimizers(use_pl_optimizer=False)"
            )
        self._announced.discard(optimizer)
        self._idle.discard(optimizer)
        self.steps.after_step(optimizer)

    def _end_epoch(self, trainer: Trainer) -> None:
        self.steps.steps_done, self.steps.epochs_done = trainer.global_step, trainer.current_epoch
        self.steps.end_epoch()

    def _remove_hooks(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._announced.clear()
        self._idle.clear()
        self.steps.new_gradients()
