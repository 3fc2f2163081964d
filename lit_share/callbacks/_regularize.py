"""`Regularize`: a penalty on ties in a Trainer."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle
from typing_extensions import override

from lit_share.callbacks._optimizers import (
    has_gradients,
    learning_rates,
    loss_scale,
    refuse_strategy,
    refuse_unsupported,
    skipped_its_step,
    untrained,
)
from lit_share.callbacks._prox_steps import Every, ProxSteps
from lit_share.callbacks._schedule import Schedule
from lit_share.functional import Penalty, as_penalty
from lit_share.sharing import Tie, Ties, starting_values
from lit_share.sharing._arguments import as_ties, check_choice
from lit_share.sharing._loops import (
    add_gradients,
    check_finite,
    check_penalty,
    check_weights,
    gradients,
    pass_on_gradients,
    penalty_value,
)
from lit_share.sharing._shards import in_the_form_of, shard_again
from lit_share.sharing._starts import remark_on, starting_apart
from lit_share.sharing._tie import stored_parameters, whole

Apply = Literal["auto", "gradient", "prox"]


class Regularize(Callback):
    r"""Adds a penalty on tied parameters to training.

    As a *gradient*, ``strength`` times the penalty's closed-form gradient is added to ``.grad`` once per optimizer
    step: after gradients are accumulated, reduced over ranks and unscaled, and before they are clipped. That equals
    ``strength * penalty`` in the loss, whatever the batch size, accumulation, precision and number of devices.

    As a *prox*, each optimizer step is followed by the proximal step of size ``lr * strength``, which is what makes
    groups exactly equal to their center. With an adaptive optimizer this is the usual approximation: its own
    per-parameter scaling is not applied to the penalty.

    With ``every="epoch"`` the proximal step is taken once, after the last batch of each training epoch and before its
    validation. Its size is the sum of those that ``every="step"`` would have taken in this epoch,

    .. math::
        t = \sum_{k \in \text{epoch}} \text{lr}_k \cdot \text{strength}_k

    over the steps k of the optimizer, each with the learning rate and the strength of its time. So the strength means
    the same, whatever the number of batches. (Code that takes one step of size lr · strength per epoch, as that of the
    GrOWL paper, has the effect of a strength that is smaller by the number of steps per epoch: divide by it.)

    Parameters that ``fully_shard`` has divided over processes stay so. Where groups are divided, too, one message per
    step goes around, of the numbers that their norms are made of; it is as large as the parameters only for ``"owl"``
    with groups of elements, and at most so for the singular values of a single matrix.

    Only parameters that an optimizer owns and that require a gradient are moved. One that requires a gradient and that
    no optimizer owns is warned of, as its tie is one-sided then: freeze it if it is to stay. Where the members of a tie
    belong to several optimizers, their proximal step is taken once all of these have stepped.

    Args:
        penalty: What is penalised, or the name of one of `lit_share.RECIPES`.
        ties: Which parameters are tied, or a list of patterns for `Ties`, as in a config of LightningCLI.
        strength: Finite number ≥ 0; for the ``l2`` recipe it means what PyTorch calls ``weight_decay``.
        schedule: Factor of the strength over time, a `Ramp` or any function of (steps, epochs) done; constant if
            ``None``.
        apply: ``"gradient"``, ``"prox"``, or ``"auto"``: gradient for ``norm="squared"``, prox for the others.
        every: When the proximal step is taken: after every optimizer ``"step"``, or once per ``"epoch"``.
        keep_zeros: Whether groups that a proximal step has made exactly zero stay so for the rest of training: they are
            set to zero again after every optimizer step, whatever gradients or momentum make of them. For
            ``center="zero"``. Checkpoints have which groups these are.

    Raises:
        TypeError: If an argument is of another type.
        ValueError: If there is no such recipe. Before training starts, if the strength is not a finite number ≥ 0,
            ``every`` or ``keep_zeros`` do not fit the penalty, the ties do not fit the module (see `Ties.find`) or the
            penalty (see `Penalty.check`), or an optimizer is not supported: L-BFGS, sparse gradients, or learning rates
            within a tie for which the prox has no closed form; or the strategy: FSDP1 and DeepSpeed. At the end of an
            epoch, if training has made a member NaN or infinite: before the validation and the checkpoints that come
            then.

    Example:
        >>> soft_tie = Regularize("soft_tie", Ties("encoder_a.*", "encoder_b.*"), strength=0.1)
        >>> soft_tie.penalty
        Penalty(norm='squared', groups='element', center='mean', weights=None)
        >>> trainer = Trainer(callbacks=[soft_tie], logger=False, enable_checkpointing=False)  # doctest: +SKIP
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
    ) -> None:
        penalty = as_penalty(penalty)
        ties = as_ties(ties)
        if isinstance(strength, bool) or not isinstance(strength, (int, float)):
            raise TypeError(f"strength must be a number, got {strength!r}")
        if schedule is not None and not callable(schedule):
            raise TypeError(
                f"schedule must be a function of (steps, epochs), got {schedule!r}: write lit_share.Ramp(duration=1000)"
            )
        check_choice("apply", apply, Apply)
        check_choice("every", every, Every)
        if not (math.isfinite(strength) and strength >= 0.0):
            raise ValueError(f"strength must be a finite number >= 0, got {strength}")
        self.penalty, self.ties, self.strength, self.schedule = penalty, ties, strength, schedule
        self.uses_prox = apply == "prox" or (apply == "auto" and not penalty.is_smooth)
        if every == "epoch" and not self.uses_prox:
            raise ValueError(
                'every="epoch" is for proximal steps, and this penalty is a gradient, which is part of every step: '
                'write apply="prox", or every="step"'
            )
        if keep_zeros and not self.uses_prox:
            raise ValueError(
                'keep_zeros=True is for proximal steps, as gradients make no zeros: write apply="prox"'
            )
        self._steps = ProxSteps(penalty, every, keep_zeros)
        self.found: list[Tie] = []
        self._module: LightningModule | None = None
        self._start: dict[str, Tensor] = {}
        self._trainable: set[nn.Parameter] = set()
        self._handles: list[RemovableHandle] = []
        self._announced: set[Optimizer] = set()
        self._idle: set[Optimizer] = set()
        self._pulls: dict[Tie, list[Tensor]] = {}

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
        # Of sharded parameters the whole: a checkpoint has one state of a callback, that of the first process.
        start = {name: whole(s) for name, s in self._start.items()}
        return {"start": start} | self._steps.state_dict()

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._start = state_dict["start"]
        self._steps.load_state_dict(state_dict)
        if self._handles:
            self._begin()  # a Tuner puts back what there was before it, in the middle of training

    def strength_at(self, step: int, epoch: int) -> float:
        """The strength after so many optimizer steps and epochs.

        Raises:
            ValueError: If the schedule's factor is not a finite number ≥ 0.
        """
        factor = self.schedule(step, epoch) if self.schedule else 1.0
        if not (math.isfinite(factor) and factor >= 0.0):
            raise ValueError(
                f"the schedule of {self.ties} must return finite factors >= 0, got {factor} after {step} steps and "
                f"{epoch} epochs"
            )
        return self.strength * factor

    def find_ties(self, module: nn.Module) -> None:
        """Find the ties: before training, and again when parameters have become one in the middle of it."""
        self.found = self.ties.find(module)
        names = {member.name for tie in self.found for member in tie.members}
        self._start = {name: start for name, start in self._start.items() if name in names}
        self._note_trainable()
        self._pulls.clear()

    @property
    def keeps_zeros(self) -> bool:
        """Whether groups that became zero stay so."""
        return self._steps.keep_zeros

    def value(self, module: nn.Module, step: int, epoch: int) -> float:
        """The penalty times the strength, of the module's parameters as they are now.

        Args:
            module: The module that is, or was, trained.
            step: Optimizer steps done, for the strength.
            epoch: Epochs done, for the strength.

        Returns:
            What the penalty adds to the loss.
        """
        found = self.found or self.ties.find(module)
        return self.strength_at(step, epoch) * penalty_value(
            self.penalty, found, self._start or None
        )

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        refuse_strategy(self, trainer.strategy)
        if stage != "fit":
            return
        if trainer.global_step == 0 or pl_module is not self._module:
            # A new training starts from nothing, unless a checkpoint that is loaded after this has something.
            self._start = {}
            self._steps.load_state_dict({})
        self._module = pl_module

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.find_ties(pl_module)
        refuse_unsupported(trainer.optimizers, self.found)
        rates = {
            p: lr
            for o in trainer.optimizers
            for p, lr in learning_rates(o).items()
            if p in self._trainable
        }
        steps = [[rates.get(p, 0.0) for p in tie.parameters] for tie in self.found]
        check_penalty(self.penalty, self.found, steps if self.uses_prox else None)
        check_weights(self.penalty, self.found)
        self.strength_at(
            trainer.global_step, trainer.current_epoch
        )  # raises for what is no schedule
        leading = {tie.members[0].name for tie in self.found if self.penalty.center == "first"}
        begins = trainer.global_step == 0 and trainer.ckpt_path is None
        if (
            begins
            and self.penalty.center in ("mean", "first")
            and (apart := starting_apart(self.found, pl_module))
        ):
            rank_zero_info(remark_on([tie.name for tie in apart]))
        if not any(p in rates for tie in self.found for p in tie.parameters):
            warnings.warn(
                f"no optimizer owns a parameter of {self.ties}: nothing is regularised for now",
                stacklevel=2,
            )
        elif missing := [
            name for name in untrained(trainer.optimizers, self.found) if name not in leading
        ]:
            warnings.warn(
                f"{missing[0]!r} requires a gradient, but no optimizer owns it, so the penalty of {self.ties} leaves "
                "it as it is: give the optimizers self.parameters(), or freeze it",
                stacklevel=2,
            )

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._forget()
        shard_again(pl_module)
        # Not in `on_fit_start`, which comes before the checkpoint where that is loaded into shards.
        self._begin()
        after_step = partial(self._after_step, trainer)
        self._handles = [
            optimizer.register_step_post_hook(after_step) for optimizer in trainer.optimizers
        ]
        self._idle = set(trainer.optimizers)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._steps.pending and self._idle:
            names = ", ".join(self._steps.pending)
            idle = ", ".join(
                f"optimizer {i}" for i, o in enumerate(trainer.optimizers) if o in self._idle
            )
            warnings.warn(
                f"{idle} never stepped, so the proximal step of {names}, which waits for it, was never taken: freeze "
                "its parameters, or exclude them from the ties",
                stacklevel=2,
            )

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if len(trainer.optimizers) > 1:
            # Before an optimizer is toggled, and the parameters of others are frozen for a while.
            shard_again(pl_module)
            self._note_trainable()

    @override
    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        # Not as late as the end of the epoch: validation and its checkpoints come before that.
        if trainer.is_last_batch:
            self._end_epoch(trainer)

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Of an epoch that ended before its last batch.
        self._end_epoch(trainer)

    @override
    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: Tensor
    ) -> None:
        # New gradients are of the weights as they are now.
        self._pulls.clear()

    @override
    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        self._announced.add(optimizer)
        if self.uses_prox or not has_gradients(optimizer):
            return
        strength = self.strength_at(trainer.global_step, trainer.current_epoch)
        if strength == 0.0:
            return
        shard_again(pl_module)
        strength *= loss_scale(trainer, optimizer)
        own = learning_rates(optimizer)
        if len(trainer.optimizers) > 1:
            self._add_gradients_one_by_one(own, strength)
        else:
            into = [gradients(tie, own.__contains__) for tie in self.found]
            add_gradients(self.penalty, self.found, into, strength, self._start or None)
            pass_on_gradients(self.found, into)

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._forget()
        self.found = []
        self._trainable = set()

    @override
    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._forget()

    def _add_gradients_one_by_one(self, own: dict[Any, float], strength: float) -> None:
        """Add the gradients of one of several optimizers.

        When another one stepped after the last backward pass, the loss had still seen its old weights: so the pulls
        of a tie are computed at the first step after a backward pass, and kept for the others.
        """
        ties = [tie for tie in self.found if not own.keys().isdisjoint(stored_parameters(tie))]
        new = {
            tie: [torch.zeros_like(t) for t in tie.tensors()]
            for tie in ties
            if tie not in self._pulls
        }
        add_gradients(self.penalty, list(new), list(new.values()), 1.0, self._start or None)
        self._pulls |= new
        for tie in ties:
            for member, grad, pull in zip(
                tie.members, gradients(tie, own.__contains__), self._pulls[tie], strict=True
            ):
                if member.slot.is_partial:
                    pull = strength * (pull.T if member.transposed else pull)
                    member.slot.add_to_gradient(pull, own.__contains__)
                elif grad is not None:
                    grad.add_(pull, alpha=strength)

    def _after_step(self, trainer: Trainer, optimizer: Optimizer, *_: Any) -> None:
        if self not in trainer.callbacks:  # type: ignore[attr-defined]
            return  # a Tuner tries something out without callbacks, and puts the weights back
        if optimizer not in self._announced:
            raise RuntimeError(
                f"{type(optimizer).__name__} was stepped without Lightning knowing, which penalties and schedules "
                "depend on: step what self.optimizers() returns, not self.optimizers(use_pl_optimizer=False)"
            )
        self._announced.discard(optimizer)
        self._idle.discard(optimizer)
        if not self.uses_prox or skipped_its_step(optimizer) or not has_gradients(optimizer):
            return
        strength = self.strength_at(trainer.global_step, trainer.current_epoch)
        shard_again(trainer.lightning_module)
        if len(trainer.optimizers) == 1:
            self._note_trainable()
        self._steps.after_step(
            self.found,
            trainer.optimizers,
            optimizer,
            strength,
            self._trainable,
            self._start or None,
        )

    def _end_epoch(self, trainer: Trainer) -> None:
        shard_again(trainer.lightning_module)
        self._steps.end_epoch(self.found, trainer.optimizers, self._trainable, self._start or None)
        check_finite(self.found, trainer.global_step)

    def _begin(self) -> None:
        """Give what is remembered the form of the parameters, and remember where they start."""
        self._steps.begin(self.found)
        now = starting_values(self.found) if self.penalty.center == "start" else {}
        self._start = {
            name: in_the_form_of(value, self._start.get(name, value)) for name, value in now.items()
        }

    def _note_trainable(self) -> None:
        self._trainable = {p for tie in self.found for p in tie.parameters if p.requires_grad}

    def _forget(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._announced.clear()
        self._idle.clear()
        self._pulls.clear()
