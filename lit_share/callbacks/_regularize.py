"""`Regularize`: a penalty on ties in a Trainer."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from lightning_utilities.core.rank_zero import rank_zero_info
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle
from typing_extensions import override

from lit_share.callbacks._align import Align
from lit_share.callbacks._mixture import warn_of_mixture
from lit_share.callbacks._one_trainer import is_of, refuse_two_trainers
from lit_share.callbacks._path_walk import PathWalk, join_walk
from lit_share.callbacks._strategies import refuse_strategy
from lit_share.callbacks._validation_loss import ValidationLoss
from lit_share.functional import Penalty
from lit_share.lightnings import Callback
from lit_share.penalties import (
    Apply,
    DivergedError,
    Every,
    Learned,
    Path,
    PenaltySteps,
    Precision,
    Schedule,
    register_after_step,
)
from lit_share.ties import (
    Tie,
    TieError,
    Ties,
    find_unlike_transposes,
    unaligned_remark,
    unlike_remark,
)

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer


class Regularize(Callback):
    r"""Add a penalty on tied parameters to training.

    As a *gradient*, ``strength`` times the penalty's closed-form gradient is added to ``.grad``
    once per optimizer step: after gradients are accumulated, reduced over ranks and unscaled, and
    before they are clipped. That equals ``strength * penalty`` in the loss, whatever the batch
    size, accumulation, precision and number of devices.

    As a *prox*, a proximal step of size ``lr * strength`` follows each optimizer step and makes
    groups exactly equal to their center. With an adaptive optimizer this is the usual
    approximation: its per-parameter scaling is not applied to the penalty.

    With ``every="epoch"`` a single proximal step follows the last batch of each training epoch,
    before validation. Its size is the sum over the epoch's optimizer steps k,

    .. math::
        t = \sum_{k \in \text{epoch}} \text{lr}_k \cdot \text{strength}_k

    so that the same strength suits any number of batches. (The GrOWL paper's code takes one step of
    size lr · strength per epoch: divide its strength by the number of steps per epoch.)

    Parameters sharded by ``fully_shard`` stay sharded. If groups span shards, their statistics are
    all-reduced in one message per step. Only for ``"owl"`` with groups of elements is it as large
    as the parameters; for the singular values of a single matrix it is at most as large.

    The penalty moves only parameters that require a gradient and belong to an optimizer. If a
    parameter requires a gradient but belongs to no optimizer, its tie is one-sided, and a warning
    asks to freeze it. If the members of a tie belong to several optimizers, their proximal step
    follows the last of these optimizers' steps.

    Checkpoints know the callbacks of a Trainer by their penalty and ties, so that Lightning refuses
    two that are equal: "Found more than one stateful callback". Write one with the sum of their
    strengths; of two ramps, a function that adds them up:
    ``schedule=lambda step, epoch: first(step, epoch) + second(step, epoch)``.

    Args:
        penalty: A penalty, or the name of one of `lit_share.RECIPES`.
        ties: Which parameters are tied, a list of several `Ties`, or of patterns for one.
        strength: A finite number ≥ 0; for the ``l2`` recipe it equals PyTorch's ``weight_decay``.
            `lit_share.Learned` learns one for each tie from validation data. `lit_share.Path` walks
            from 0 upward and chooses on validation data: after training, the module has the weights
            of the chosen knot, as later callbacks and whoever reads the module expect of a trained
            model, and ``path`` has all knots, with their checkpoints. `ModelCheckpoint` knows
            nothing of it: test with ``ckpt_path=regularize.path.best_path``, or no ``ckpt_path``.
        schedule: A factor of the strength: a `Ramp`, or a function of the numbers of optimizer
            steps and epochs done. ``None``: constant.
        apply: ``"gradient"``, ``"prox"``, or ``"auto"``: gradient for smooth penalties, else prox.
        every: When to take the proximal step: after every optimizer ``"step"``, or once per
            ``"epoch"``.
        keep_zeros: Whether groups that a proximal step made exactly zero stay zero for the rest of
            training: every optimizer step is followed by resetting them. Checkpoints include these
            groups. For ``center="zero"``.
        keep_tied: Whether groups that a proximal step made exactly equal in all members stay equal
            in the same way. For ``center="mean"`` and ``"first"``.
        precision: The weights F ≥ 0 of elements, for squared penalties of elements:
            :math:`\tfrac{s^2}{2} \sum_i F_i (W_i - c_i)^2`, in which a mean is weighted, too. A
            mapping from names of parameters to tensors, as `lit_share.fisher` and
            `lit_share.second_moments` return; a ``.safetensors`` or ``.pt`` file of it; or
            ``"adam"``, the second moments of this training's ``Adam`` or ``AdamW`` at each step,
            which leaves the first step without a penalty. With ``center="start"``, ``"adam"`` is
            what the optimizers have when training begins, which `configure_optimizers` has to load.
            It must be the same on all ranks, such as that of a file. Checkpoints include it.

    Raises:
        TypeError: If an argument has the wrong type, or ``precision="adam"`` and an optimizer is
            neither ``Adam`` nor ``AdamW``.
        ValueError: If the recipe does not exist or arguments conflict. Before training starts, if
            the ties do not fit the module (see `Ties.find`) or the penalty (see `Penalty.check`);
            if an optimizer is L-BFGS, has sparse gradients, or has learning rates within a tie for
            which the prox has no closed form; or if the strategy is FSDP1 or DeepSpeed. At the end
            of an epoch, before validation and checkpoints, if a member is NaN or infinite; a `Path`
            ends then, and chooses from its knots if it has finished any.

    Example:
        >>> soft_tie = Regularize("soft_tie", Ties("encoder_a.*", "encoder_b.*"), strength=0.1)
        >>> soft_tie.penalty.norm
        'squared'
        >>> trainer = Trainer(callbacks=[soft_tie], logger=False)  # doctest: +SKIP
    """

    def __init__(
        self,
        penalty: Penalty | str,
        ties: Ties | Sequence[Ties] | Sequence[str],
        strength: float | Learned | Path,
        schedule: Schedule | None = None,
        apply: Apply = "auto",
        every: Every = "step",
        keep_zeros: bool = False,
        keep_tied: bool = False,
        precision: Precision | None = None,
    ) -> None:
        self.steps = PenaltySteps(
            penalty, ties, strength, schedule, apply, every, keep_zeros, keep_tied, precision
        )
        self._module: LightningModule | None = None
        self._handles: list[RemovableHandle] = []
        # Optimizers between `on_before_optimizer_step` and their step: without that hook, the
        # penalty's gradient is missing in a step.
        self._announced: set[Optimizer] = set()
        # Optimizers that have not stepped: the proximal steps of their ties never became due.
        self._idle: set[Optimizer] = set()
        # The first epoch with a batch: a resumed one may have none left.
        self._first_epoch: int | None = None
        # The steps and epochs done when an epoch was last ended.
        self._ended: tuple[int, int] | None = None
        self._validation: ValidationLoss | None = None
        self._path: PathWalk | None = None
        # Batches of validation data that a checkpoint's training has drawn.
        self._drawn: list[int] = []

    @property
    def penalty(self) -> Penalty:
        """The penalty, without its strength."""
        return self.steps.penalty

    @property
    def ties(self) -> Ties:
        """Which parameters are tied."""
        return self.steps.ties

    @property
    def strength(self) -> float | Learned | Path:
        """The strength, before the schedule's factor, or how it is found."""
        return self.steps.strength

    @property
    def path(self) -> PathWalk | None:
        """The knots of a `Path` and the choice, from the beginning of training; else ``None``."""
        return self._path

    @property
    def found(self) -> list[Tie]:
        """The ties of the module in training."""
        return self.steps.found

    @property
    @override
    def state_key(self) -> str:
        """The key in checkpoints, distinct for the penalties of one Trainer."""
        return self._generate_state_key(**self.steps.identity)

    @override
    def state_dict(self) -> dict[str, Any]:
        if self._validation is not None:
            self._drawn = self._validation.batches.drawn
        state = {**self.steps.state_dict(), "drawn": self._drawn}
        if self._path is not None:
            state["path"] = self._path.state()
        return state

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.steps.load_state_dict(state_dict)
        self._drawn = state_dict.get("drawn", [])
        # Tests restore callbacks, too: those of a knot know nothing of later ones.
        if self._path is not None and self._path.chosen is None:
            self._path.restore(state_dict.get("path", {}))

    @property
    def learned(self) -> dict[str, float]:
        """The learned strengths by the names of ties or layers; empty if they are given."""
        learned = self.steps.learned
        if learned is None:
            return {}
        if self.found:
            return learned.by_name(self.found)
        # After training, the ties are released with the module.
        return {name: course[-1] for name, course in learned.course.items()}

    def strength_at(self, step: int, epoch: int) -> float:
        """Return the strength after `step` optimizer steps and `epoch` epochs.

        Raises:
            ValueError: If the schedule's factor is not a finite number ≥ 0.
        """
        return self.steps.strength_at(step, epoch)

    def value(self, module: nn.Module, step: int, epoch: int) -> float:
        """Return strength times penalty of the module's current parameters.

        Args:
            module: The module that is, or was, trained.
            step: The number of optimizer steps done, for the strength.
            epoch: The number of epochs done, for the strength.
        """
        self.steps.steps_done, self.steps.epochs_done = step, epoch
        return self.steps.value(module)

    def refuse_new_shapes(self, module: nn.Module, names: Collection[str], by: str) -> None:
        """Raise `TieError` if starting values, masks or a precision of them are stored.

        Args:
            module: The module in training.
            names: The parameters whose shapes will change.
            by: The callback that changes them, for the message.
        """
        if not self.steps.remembers_numbers:
            return
        own = {member.name for tie in self.ties.find(module) for member in tie.members}
        both = own & set(names)
        if both:
            name = min(both)
            raise TieError(
                f"a penalty stores starting values, masks or a precision of {name!r}, whose shape "
                f"changes when {by} shares its positions: give it the pattern '{name}[:]'"
            )

    def frozen_ties(self) -> list[Tie]:
        """Return the ties that have frozen groups."""
        return self.steps.frozen_ties()

    def move_units(self, move: Callable[[nn.Parameter, Tensor], Tensor]) -> None:
        """Permute starting values and precision, after the units of parameters were permuted.

        Args:
            move: Return a tensor of a parameter's shape with its units in their new order, given
                the parameter and the tensor.
        """
        self.steps.move_units(move)

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        refuse_strategy(self, trainer.strategy)
        refuse_two_trainers(self, trainer)
        warn_of_mixture(trainer)
        if stage != "fit":
            return
        is_new = trainer.global_step == 0 or pl_module is not self._module
        if is_new:
            # `fit` starts a new training; resuming loads a checkpoint only after `setup`.
            self.steps.reset()
            self._drawn = []
        self._module = pl_module
        if isinstance(self.strength, Path):
            before = self._path
            self._path = join_walk(self.strength, self._earlier_walks(trainer))
            if before is not None and not is_new:
                self._path.restore({**before.state(), "chosen": None})

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.steps.steps_done, self.steps.epochs_done = trainer.global_step, trainer.current_epoch
        self.steps.check(pl_module, trainer.optimizers)
        if self._path is not None and self._leads(trainer):
            self._path.check(trainer)
        if trainer.global_step == 0 and trainer.ckpt_path is None:
            callbacks: Sequence[Callback] = trainer.callbacks  # type: ignore[attr-defined]
            aligned = [callback for callback in callbacks if isinstance(callback, Align)]
            unaligned = [
                tie
                for tie in self.steps.find_unaligned()
                if not any(callback.includes(tie) for callback in aligned)
            ]
            if unaligned:
                rank_zero_info(unaligned_remark([tie.name for tie in unaligned]))
            if self.penalty.compares_members and (unlike := find_unlike_transposes(self.found)):
                rank_zero_info(unlike_remark([tie.name for tie in unlike]))

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._remove_hooks()
        # `on_fit_start` would be too early for starting values: Lightning loads a checkpoint into
        # shards after it.
        self.steps.begin()
        if self.steps.precision.is_live and trainer.global_step == 0:
            rank_zero_info(
                f"the penalty of {self.ties} begins with the second step, as Adam has no second "
                "moments before its first"
            )
        after_step = partial(self._after_step, trainer)
        self._handles = [register_after_step(o, after_step) for o in trainer.optimizers]
        self._idle = set(trainer.optimizers)
        self._first_epoch = None
        self._ended = None
        if isinstance(self.strength, Learned):
            self._validation = self._validation_loss(trainer, pl_module, self.strength)
            # Before the first gradient, so that all penalties learn from the same batches.
            self._validation.want([p for tie in self.found for p in tie.parameters])
        if self._path is not None and self._leads(trainer):
            self._path.begin(trainer, pl_module)

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._path is not None and self._leads(trainer):
            self._path.end_validation(trainer)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pending = self.steps.pending
        if pending and self._idle:
            idle = [f"optimizer {i}" for i, o in enumerate(trainer.optimizers) if o in self._idle]
            warnings.warn(
                f"{', '.join(idle)} never stepped, so the proximal step of {', '.join(pending)}, "
                "which waits for it, was never taken: freeze its parameters, or exclude them from "
                "the ties",
                stacklevel=2,
            )
        learned = self.steps.learned
        if learned is not None and not learned.is_moved and trainer.global_step:
            warnings.warn(
                f"no strength was learned in {trainer.global_step} steps, so that all are what "
                f"they were at the start: write a smaller Learned(every=...)",
                stacklevel=2,
            )
        self._finish_path(trainer)

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Without an epoch left, as of a resumed training that had ended, no training ends.
        self._finish_path(trainer)

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if len(trainer.optimizers) > 1:
            # `toggle_optimizer` freezes the parameters of the other optimizers for a while, so the
            # trainable members are noted before `training_step`.
            self.steps.note_trainable()

    @override
    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if self._first_epoch is None:
            self._first_epoch = trainer.current_epoch
        if trainer.is_last_batch:
            self._take_steps_of_epoch(trainer)
        self._learn(trainer)
        # `on_train_epoch_end` would be too late: validation and its checkpoints come before it.
        if trainer.is_last_batch:
            self._end_epoch(trainer)
            self._end_epoch_of_path(trainer)

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # An epoch that `max_steps` or `on_train_batch_start` ends early has no last batch.
        self._take_steps_of_epoch(trainer)
        # Steps of batches are learned from after each batch.
        if self.steps.every == "epoch":
            self._learn(trainer)
        self._end_epoch(trainer)
        # A GradScaler skips steps that were announced.
        none_stepped = self._idle == set(trainer.optimizers) and not self._announced
        if trainer.current_epoch == self._first_epoch and none_stepped:
            warnings.warn(
                "the penalty did not act in this epoch, because no optimizer called step(): ties "
                f"of {self.ties} need optimizers that move weights by step(), not by methods of "
                "other names",
                stacklevel=2,
            )
        is_cut = trainer.should_stop or trainer.global_step == trainer.max_steps
        if not is_cut:
            self._end_epoch_of_path(trainer)
        if self._path is not None and self._leads(trainer):
            self._path.save(trainer)

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
        # Only schedules need them here, and they take longer to read than most of the hook.
        if self.steps.schedule is not None or self._path is not None:
            now = trainer.global_step, trainer.current_epoch
            self.steps.steps_done, self.steps.epochs_done = now
        # Under fp16, fused optimizers unscale gradients inside their step, so `.grad` is still
        # scaled, and the penalty's gradient has to be scaled, too.
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        unscales = getattr(optimizer, "_step_supports_amp_scaling", False)
        self.steps.before_step(optimizer, scaler.get_scale() if scaler and unscales else 1.0)

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._remove_hooks()
        self.steps.detach()
        if self._validation is not None:
            self._drawn = self._validation.batches.drawn
        self._validation = None
        if self._path is not None:
            self._path.end()

    @override
    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        # A Trainer that was refused tells its callbacks, too, which serve another one.
        if is_of(self, trainer):
            self._remove_hooks()

    def _validation_loss(
        self, trainer: Trainer, module: LightningModule, learned: Learned
    ) -> ValidationLoss:
        """Return the validation loss of an earlier callback if it is the same, or a new one."""
        for penalty in self._earlier(trainer):
            other = penalty.strength
            if not isinstance(other, Learned):
                continue
            if other.loader is learned.loader and other.loss == learned.loss:
                assert penalty._validation is not None
                return penalty._validation
        validation = ValidationLoss(trainer, module, learned.loader, learned.loss)
        if self._drawn:
            validation.batches.drawn = self._drawn
        return validation

    def _after_step(self, trainer: Trainer, optimizer: Optimizer, *_: Any) -> None:
        if self not in trainer.callbacks:  # type: ignore[attr-defined]
            # A Tuner removes the callbacks for its trial steps, then restores the weights.
            return
        if optimizer not in self._announced:
            raise RuntimeError(
                f"{type(optimizer).__name__} was stepped without Lightning knowing, which "
                "penalties and schedules depend on: step what self.optimizers() returns, not "
                "self.optimizers(use_pl_optimizer=False); where a library steps its own, give it "
                "trainer.strategy._lightning_optimizers: docs/howto/third_party.md has the callback"
            )
        self._announced.discard(optimizer)
        self._idle.discard(optimizer)
        self.steps.after_step(optimizer)

    def _learn(self, trainer: Trainer) -> None:
        """Update learned strengths if that is due."""
        steps = self.steps
        if steps.can_learn(trainer.global_step):
            assert self._validation is not None
            steps.steps_done, steps.epochs_done = trainer.global_step, trainer.current_epoch
            parameters = [p for tie in self.found for p in tie.parameters]
            steps.learn(self._validation.gradients(parameters))

    def _take_steps_of_epoch(self, trainer: Trainer) -> None:
        """End the epoch of all penalties that take a proximal step then."""
        # Checkpoints do not have these steps, from which strengths are learned at once; and all
        # penalties learn from one gradient, at the weights that all of them have moved.
        penalties = _penalties_of(trainer)
        pending = [p for p in penalties if p.steps.every == "epoch" and p.steps.pending]
        for penalty in penalties:
            if penalty.steps.every == "epoch":
                penalty._end_epoch(trainer)
            # If the epoch was cut off, others have learned from this step already.
            if pending and penalty._validation is not None:
                penalty._validation.forget()

    def _end_epoch(self, trainer: Trainer) -> None:
        now = trainer.global_step, trainer.current_epoch
        # After a last batch, the epoch has ended already, and no weight has moved since.
        if now == self._ended:
            return
        self._ended = now
        self.steps.steps_done, self.steps.epochs_done = now
        try:
            self.steps.end_epoch()
        except DivergedError as error:
            walking = [each for each in _penalties_of(trainer) if each.path is not None]
            if not walking or not walking[0]._leave_path(trainer, error):
                raise

    def _end_epoch_of_path(self, trainer: Trainer) -> None:
        if self._path is None or not self._leads(trainer):
            return
        penalties = _penalties_of(trainer)
        for penalty in penalties:
            # A knot ends after the last proximal steps of all penalties.
            penalty._end_epoch(trainer)
        walking = [penalty for penalty in penalties if penalty.path is self._path]
        self._path.end_epoch(trainer, [tie for penalty in walking for tie in penalty.found])

    def _leave_path(self, trainer: Trainer, error: DivergedError) -> bool:
        """End the path at its finished knots; return whether there are any to choose from."""
        assert self._path is not None
        if not self._path.stop(trainer, error):
            return False
        # At once, so that validation and checkpoints of this epoch have finite weights.
        self._finish_path(trainer)
        return True

    def _finish_path(self, trainer: Trainer) -> None:
        if self._path is None or not self._leads(trainer):
            return
        states = self._path.finish(trainer)
        for penalty in _penalties_of(trainer):
            # Masks and pending steps of a larger strength would not fit the chosen weights.
            if penalty.state_key in states:
                penalty.steps.load_state_dict(states[penalty.state_key])

    def _leads(self, trainer: Trainer) -> bool:
        """Whether this is the first of the penalties that walk a path."""
        return not self._earlier_walks(trainer)

    def _earlier_walks(self, trainer: Trainer) -> list[PathWalk]:
        """Return the paths that earlier callbacks of the Trainer walk."""
        return [penalty.path for penalty in self._earlier(trainer) if penalty.path is not None]

    def _earlier(self, trainer: Trainer) -> list[Regularize]:
        """Return the penalties of the Trainer before this one."""
        penalties = _penalties_of(trainer)
        return penalties[: penalties.index(self)]

    def _remove_hooks(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._announced.clear()
        self._idle.clear()
        self.steps.new_gradients()


def _penalties_of(trainer: Trainer) -> list[Regularize]:
    callbacks: Sequence[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return [callback for callback in callbacks if isinstance(callback, Regularize)]
