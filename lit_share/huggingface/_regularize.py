"""`Regularize`: a penalty on ties in `transformers.Trainer`."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle
from typing_extensions import override

from lit_share.functional import Penalty
from lit_share.huggingface._optimizer_state import keep_in_state, take_from_state
from lit_share.huggingface._transformers import (
    TrainerCallback,
    epochs_done,
    refuse_strategy,
    torch_optimizer,
)
from lit_share.penalties import Apply, Every, Learned, Path, PenaltySteps, Precision, Schedule
from lit_share.ties import Tie, Ties


class Regularize(TrainerCallback):
    r"""Add a penalty on tied parameters to the training of a `transformers.Trainer`.

    The penalty, its arguments and its numbers are those of `lit_share.Regularize`; see there for
    the formulas. As a *gradient*, it is put into ``.grad`` when an optimizer step begins, so that
    the backward passes add to it, and the Trainer clips the sum. As a *prox*, a proximal step
    follows each optimizer step, or each epoch.

    The state that a resumed training needs travels in the optimizer's state: ``optimizer.pt`` of a
    checkpoint has it.

    Args:
        penalty: A penalty, or the name of one of `lit_share.RECIPES`.
        ties: Which parameters are tied, or a list of patterns for `Ties`.
        strength: A finite number ≥ 0; for the ``l2`` recipe it equals PyTorch's ``weight_decay``.
        schedule: A factor of the strength: a `Ramp`, or a function of the numbers of optimizer
            steps and epochs done. ``None``: constant.
        apply: ``"gradient"``, ``"prox"``, or ``"auto"``: gradient for smooth penalties, else prox.
        every: When to take the proximal step: after every optimizer ``"step"`` or ``"epoch"``.
        keep_zeros: Whether groups that a proximal step made exactly zero stay zero.
        keep_tied: Whether groups that a proximal step made exactly equal stay equal.
        precision: The weights of elements in squared penalties; see `lit_share.Regularize`.

    Attributes:
        steps: The `PenaltySteps` that does the work.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If arguments conflict, or the strength is `Learned` or a `Path`, for which use
            Lightning. When training begins, if the ties do not fit the model or the penalty; if
            parameters are sharded (DeepSpeed, FSDP, tensor parallelism); or if training resumes
            from a checkpoint without the starting values or masks that the penalty needs. At the
            end of an epoch, if a member is NaN or infinite.

    Example:
        >>> soft_tie = Regularize("soft_tie", ["encoder.*", "decoder.*"], strength=0.1)
        >>> soft_tie.steps.penalty.norm
        'squared'
        >>> trainer = Trainer(model, args, callbacks=[soft_tie])  # doctest: +SKIP
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
        precision: Precision | None = None,
    ) -> None:
        if isinstance(strength, (Learned, Path)):
            raise ValueError(
                f"strength={strength} needs validation batches, which transformers.Trainer gives "
                "to no callback: write a number, or use lit_share.Regularize with Lightning"
            )
        self.steps = PenaltySteps(
            penalty, ties, strength, schedule, apply, every, keep_zeros, keep_tied, precision
        )
        self._handles: list[RemovableHandle] = []
        # The number of steps at which an epoch was last ended.
        self._ended: int | None = None
        # The optimizer of the training that began last, which another Trainer's takes the place of.
        self._optimizer: Any = None

    @property
    def found(self) -> list[Tie]:
        """The ties of the model in training."""
        return self.steps.found

    def value(self) -> float:
        """Return strength times penalty of the model in training."""
        return self.steps.value()

    @override
    def on_train_begin(
        self, args: Any, state: Any, control: Any, model: nn.Module, optimizer: Any, **_: Any
    ) -> None:
        refuse_strategy(self, optimizer)
        self._remove_hooks()
        own, key = torch_optimizer(optimizer), repr(sorted(self.steps.identity.items()))
        saved = take_from_state(own, key)
        self.steps.reset()
        if saved is not None and state.global_step > 0:
            self.steps.load_state_dict(saved)
        elif state.global_step > 0:
            self._begin_without_state(state.global_step)
        self._count(state)
        self.steps.attach(model, own)
        self._ended, self._optimizer = None, own
        # Fused optimizers say only within their step whether they skip it.
        self._handles = [
            keep_in_state(own, key, self.steps.state_dict),
            own.register_step_post_hook(self._after_step),
        ]

    @override
    def on_step_begin(self, args: Any, state: Any, control: Any, optimizer: Any, **_: Any) -> None:
        if torch_optimizer(optimizer) is not self._optimizer:
            raise ValueError(
                "another Trainer has used this Regularize since this training began: give each "
                "Trainer callbacks of its own"
            )
        self._count(state)
        strength = self.steps.strength_at(self.steps.steps_done, self.steps.epochs_done)
        if self.steps.uses_prox or strength == 0.0:
            return
        # Gradients have been cleared, and an optimizer without any is taken to stay.
        for tie in self.found:
            for parameter in tie.parameters:
                if parameter.requires_grad and parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
        # The Trainer unscales gradients after the backward passes, before it clips them.
        scaler = getattr(optimizer, "scaler", None)
        scale = 1.0
        if scaler is not None:
            scale = scaler.get_scale()
        self.steps.before_step(scale=scale)

    @override
    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.steps.uses_prox:
            self.steps.before_step()

    @override
    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if float(state.epoch).is_integer():
            self._end_epoch(state)

    @override
    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._end_epoch(state)

    @override
    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._remove_hooks()
        self.steps.detach()

    def _begin_without_state(self, steps: int) -> None:
        what = f"the checkpoint of step {steps} has no state of the penalty of {self.steps.ties}"
        if self.steps.remembers_numbers:
            raise ValueError(
                f"{what}, which needs its starting values, masks or precision: resume a training "
                "that had this callback, or start a new one from the checkpoint's weights"
            )
        warnings.warn(f"{what}, so it begins now", stacklevel=2)

    def _count(self, state: Any) -> None:
        self.steps.steps_done, self.steps.epochs_done = state.global_step, epochs_done(state)

    def _after_step(self, optimizer: Optimizer, *_: Any) -> None:
        self.steps.after_step(optimizer)

    def _end_epoch(self, state: Any) -> None:
        if self._ended == state.global_step:
            return
        self._ended = state.global_step
        self.steps.end_epoch()
        self._count(state)

    def _remove_hooks(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []
