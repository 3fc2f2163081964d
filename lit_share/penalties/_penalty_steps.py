"""A penalty in a training loop: gradients before optimizer steps, proximal steps after them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lit_share.functional import Penalty
from lit_share.penalties._functions import (
    check_weights,
    full_precision,
    penalty_value,
    starting_values,
    take_prox,
)
from lit_share.penalties._optimizers import (
    LearningRates,
    find_unowned,
    has_gradients,
    refuse_unsupported,
    skipped_its_step,
)
from lit_share.penalties._ramp import Schedule
from lit_share.penalties._recipes import as_penalty
from lit_share.text import check_choice
from lit_share.ties import (
    Tie,
    Ties,
    TieViews,
    as_ties,
    find_unaligned,
    full_tensor,
    like_parameter,
    reshard,
)

Apply = Literal["auto", "gradient", "prox"]
Every = Literal["step", "epoch"]


class PenaltySteps:
    r"""A penalty on tied parameters, applied around the steps of optimizers in any training loop.

    `Regularize` does this in a Trainer, and its docstring says what the steps compute. In a plain loop
    or Fabric:

    .. code-block:: python

        steps = PenaltySteps("group_lasso", Ties("*.weight"), strength=0.1, keep_zeros=True)
        steps.attach(model, optimizer)
        for epoch in range(epochs):
            for batch in loader:
                optimizer.zero_grad()
                loss(model, batch).backward()
                steps.before_step()
                optimizer.step()
                steps.after_step()
            steps.end_epoch()

    Args:
        penalty: What is penalised, or the name of one of `RECIPES`.
        ties: Which parameters are tied, or a list of patterns for `Ties`.
        strength: Finite number ≥ 0.
        schedule: Factor of the strength over time, a `Ramp` or any function of (steps, epochs) done;
            constant if ``None``.
        apply: ``"gradient"``, ``"prox"``, or ``"auto"``: gradient for smooth penalties, else prox.
        every: When the proximal step is taken: after every optimizer ``"step"``, or once per
            ``"epoch"``, with the sum of the epoch's step sizes.
        keep_zeros: Whether groups that a proximal step has made exactly zero stay so, for centers that
            are zero.
        keep_tied: Whether groups that a proximal step has made exactly equal to their center stay so,
            for centers that compare members: units that became equal are then trained as one.

    Attributes:
        steps_done: Optimizer steps done, for the schedule; counted by `after_step`.
        epochs_done: Epochs done, for the schedule; counted by `end_epoch`.
        found: The ties of the module, once `check` or `attach` has found them.

    Raises:
        TypeError: If an argument is of another type.
        ValueError: If an argument is out of its range, or arguments do not go together.

    Example:
        >>> pair = nn.ModuleDict({"a": nn.Linear(3, 2), "b": nn.Linear(3, 2)})
        >>> optimizer = torch.optim.SGD(pair.parameters(), lr=0.1)
        >>> steps = PenaltySteps("layer_tie", Ties("a.*", "b.*"), strength=100.0)
        >>> steps.attach(pair, optimizer)
        >>> sum(p.sum() for p in pair.parameters()).backward()
        >>> steps.before_step(), optimizer.step(), steps.after_step()
        (None, None, None)
        >>> torch.equal(pair["a"].weight, pair["b"].weight)
        True
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
        self.penalty = penalty = as_penalty(penalty)
        self.ties = as_ties(ties)
        if isinstance(strength, bool) or not isinstance(strength, (int, float)):
            raise TypeError(f"strength must be a number, got {strength!r}")
        if schedule is not None and not callable(schedule):
            raise TypeError(
                f"schedule must be a function of (steps, epochs), got {schedule!r}: write "
                "lit_share.Ramp(duration=1000)"
            )
        check_choice("apply", apply, Apply)
        check_choice("every", every, Every)
        if not (math.isfinite(strength) and strength >= 0.0):
            raise ValueError(f"strength must be a finite number >= 0, got {strength}")
        self.strength, self.schedule, self.every = strength, schedule, every
        self.uses_prox = apply == "prox" or (apply == "auto" and not penalty.is_smooth)
        self.keep_zeros, self.keep_tied = keep_zeros, keep_tied
        self._check_arguments()
        self.steps_done = self.epochs_done = 0
        self.found: list[Tie] = []
        self.module: nn.Module | None = None
        self.optimizers: list[Optimizer] = []
        self._rates: list[LearningRates] = []
        self._views: TieViews | None = None
        # By members' names: their starting values.
        self._start: dict[str, Tensor] = {}
        # By ties' names: masks of the groups that stay at their center.
        self._frozen: dict[str, Tensor] = {}
        self._with_frozen: set[str] = set()
        # By ties' names and the optimizers' numbers: steps that are not taken yet, one per member.
        self._pending: dict[str, dict[int, list[float]]] = {}
        # With several optimizers: the penalty's gradients since the last backward pass, and which
        # optimizers they were added for.
        self._increments: list[list[Tensor]] | None = None
        self._added: set[int] = set()
        self._trainable: set[int] | None = None

    @property
    def is_attached(self) -> bool:
        """Whether views of the module's parameters are open."""
        return self._views is not None

    @property
    def remembers_numbers(self) -> bool:
        """Whether starting values or masks are kept, which belong to present shapes."""
        return self.penalty.centering.needs_start or self.keep_zeros or self.keep_tied

    def check(self, module: nn.Module, optimizers: Optimizer | Sequence[Optimizer]) -> None:
        """Find the ties, and raise for what could not be trained.

        Args:
            module: The module that holds the members.
            optimizers: Those that step its parameters.

        Raises:
            TieError: If the patterns do not fit the module; see `Ties.find`.
            ValueError: If members do not fit the penalty (see `Penalty.check`), an optimizer is not
                supported (L-BFGS, no learning rates, sparse gradients), or learning rates within a tie
                have no closed form.

        Warns:
            UserWarning: If no optimizer owns a member that requires a gradient.
        """
        self.module = module
        self.optimizers = [optimizers] if isinstance(optimizers, Optimizer) else list(optimizers)
        self._rates = [LearningRates(optimizer) for optimizer in self.optimizers]
        self._find()
        refuse_unsupported(self.optimizers, self.found)
        start = starting_values(self.found) if self.penalty.centering.needs_start else None
        views = TieViews(self.penalty, self.found, start)
        check_weights(self.penalty, self.found)
        self.strength_at(self.steps_done, self.epochs_done)  # raises for what is no schedule
        for rates in self._rates:
            rates.look_up()
        owns_any = False
        for view in views.views:
            own = [self._steps_of(view.tie, rates, 1.0) for rates in self._rates]
            steps = [sum(column) for column in zip(*own, strict=True)]
            owns_any |= any(
                rates.owns(p) for rates in self._rates for p in view.parameters if p.requires_grad
            )
            if self.uses_prox:
                view.set_steps(steps)
        self._warn_of_unowned(owns_any)

    def attach(self, module: nn.Module, optimizers: Optimizer | Sequence[Optimizer]) -> None:
        """Check as `check` does, and take the present values as those that training starts from.

        After `load_state_dict`, what was loaded is kept in their place.
        """
        self.check(module, optimizers)
        self.begin()

    def begin(self) -> None:
        """Open the views of the module that was checked, and note the starting values."""
        assert self.module is not None
        reshard(self.module)
        self._open()

    def detach(self) -> None:
        """Forget the module, but not what `state_dict` has."""
        self._views, self._increments, self._trainable = None, None, None
        self._added.clear()
        self.found = []

    def strength_at(self, step: int, epoch: int) -> float:
        """Return the strength after so many optimizer steps and epochs.

        Raises:
            ValueError: If the schedule's factor is not a finite number ≥ 0.
        """
        factor = self.schedule(step, epoch) if self.schedule else 1.0
        if not (math.isfinite(factor) and factor >= 0.0):
            raise ValueError(
                f"the schedule of {self.ties} must return finite factors >= 0, got {factor} after "
                f"{step} steps and {epoch} epochs"
            )
        return self.strength * factor

    def value(self, module: nn.Module | None = None) -> float:
        """Compute the penalty times the strength, of the parameters as they are now.

        Args:
            module: The module that is, or was, trained; the attached one if ``None``.
        """
        if self.found:
            found = self.found
        else:
            assert module is not None
            found = self.ties.find(module)
        strength = self.strength_at(self.steps_done, self.epochs_done)
        return strength * penalty_value(self.penalty, found, self._start or None)

    def before_step(self, optimizer: Optimizer | None = None, scale: float = 1.0) -> None:
        """Add the gradient of the penalty to the ``.grad`` that an optimizer will step with.

        Does nothing if the penalty is applied as a proximal step, or there are no gradients.

        Args:
            optimizer: The optimizer; may be left out if there is only one.
            scale: The factor of the gradients at hand, as of a ``GradScaler`` that has not unscaled.
        """
        number = self._number(optimizer)
        if self.uses_prox or not has_gradients(self.optimizers[number]):
            return
        strength = self.strength_at(self.steps_done, self.epochs_done)
        if strength == 0.0:
            return
        views, rates = self._refreshed(), self._rates[number]
        rates.refresh()
        if len(self.optimizers) > 1:
            self._add_increments(views, number, scale * strength)
            return
        for view in views.views:
            view.open_grads(rates.owns)
        with full_precision(self.found):
            views.batch.add_gradient_(scale * strength)
        for view in views.views:
            view.close_grads()

    def after_step(self, optimizer: Optimizer | None = None) -> None:
        """Take the proximal step that follows a step of an optimizer, and keep frozen groups.

        Does nothing if the penalty is applied as a gradient, or the step was skipped.

        Args:
            optimizer: The optimizer; may be left out if there is only one.
        """
        number = self._number(optimizer)
        own = self.optimizers[number]
        if self.uses_prox and not skipped_its_step(own) and has_gradients(own):
            self._follow(number, self.strength_at(self.steps_done, self.epochs_done))
        self.steps_done += 1

    def end_epoch(self) -> None:
        """Take the proximal step of an epoch, with ``every="epoch"``, and check the parameters.

        Raises:
            ValueError: If training has made a member NaN or infinite.
        """
        if self.every == "epoch" and self._pending:
            self._take(self._refreshed())
            self._note_frozen()
        self._check_finite()
        self.epochs_done += 1

    def new_gradients(self) -> None:
        """Note that there was a backward pass, after which gradients are of the present weights."""
        self._increments = None
        self._added.clear()

    def note_trainable(self) -> None:
        """Note which members require a gradient, before parameters are frozen for one optimizer."""
        assert self.module is not None
        reshard(self.module)
        self._trainable = {id(p) for tie in self.found for p in tie.parameters if p.requires_grad}

    @property
    def pending(self) -> list[str]:
        """The names of the ties whose proximal step is not taken yet."""
        return list(self._pending)

    def find_unaligned(self) -> list[Tie]:
        """Return the ties whose members start from unrelated weights."""
        assert self.module is not None
        return find_unaligned(self.found, self.module) if self.penalty.compares_members else []

    def reset(self) -> None:
        """Forget what belongs to an earlier training: starting values, masks and pending steps."""
        self._start, self._frozen, self._pending = {}, {}, {}
        self.steps_done = self.epochs_done = 0

    def state_dict(self) -> dict[str, Any]:
        """Return the state needed to resume training: tensors and numbers."""
        # Full tensors, as a checkpoint has the state of one rank only.
        masks = {name: full_tensor(mask) for name, mask in self._frozen.items()}
        return {
            "starting_values": {name: full_tensor(value) for name, value in self._start.items()},
            "pending": {name: dict(steps) for name, steps in self._pending.items()},
            "frozen": {name: mask for name, mask in masks.items() if mask.any()},
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Load what `state_dict` returned; also in the middle of training."""
        self._start = dict(state_dict.get("starting_values", {}))
        # Copies, as training changes them.
        pending = state_dict.get("pending", {})
        self._pending = {name: dict(steps) for name, steps in pending.items()}
        masks = state_dict.get("frozen", {}) if self._keeps_frozen else {}
        self._frozen = {name: mask.clone() for name, mask in masks.items()}
        if self.is_attached:
            self._open()

    @property
    def _keeps_frozen(self) -> bool:
        return self.keep_zeros or self.keep_tied

    def _check_arguments(self) -> None:
        penalty = self.penalty
        if not self.uses_prox:
            if self.every == "epoch":
                raise ValueError(
                    'every="epoch" is for proximal steps, and this penalty is a gradient, which is part '
                    'of every step: write apply="prox", or every="step"'
                )
            for name in ("keep_zeros", "keep_tied"):
                if getattr(self, name):
                    raise ValueError(
                        f"{name}=True is for proximal steps, as gradients make nothing exact: write "
                        'apply="prox"'
                    )
        described = (
            f'this is norm="{penalty.norm}", center="{penalty.center}", groups="{penalty.groups}"'
        )
        if self.keep_zeros and not penalty.makes_zeros:
            raise ValueError(
                'keep_zeros=True is for norm="l1" or "owl", center="zero" and groups of elements, which '
                f"the proximal step makes exactly zero: {described}"
            )
        if self.keep_tied and not penalty.makes_equal:
            raise ValueError(
                'keep_tied=True is for norm="l1" or "owl", center="mean" or "first" and groups of '
                f"elements, which the proximal step makes exactly equal: {described}"
            )

    def _find(self) -> None:
        assert self.module is not None
        self.found = self.ties.find(self.module)
        names = {member.name for tie in self.found for member in tie.members}
        self._start = {name: value for name, value in self._start.items() if name in names}
        ties = {tie.name for tie in self.found}
        self._pending = {name: steps for name, steps in self._pending.items() if name in ties}

    def _open(self) -> None:
        """Open the views; what is remembered gets the device, dtype and shards of the parameters."""
        if self.penalty.centering.needs_start:
            now = starting_values(self.found)
            self._start = {
                name: like_parameter(self._start.get(name, value), value)
                for name, value in now.items()
            }
        frozen = self._frozen if self._keeps_frozen else None
        self._views = TieViews(self.penalty, self.found, self._start or None, frozen)
        for rates in self._rates:
            rates.look_up()
        self._note_frozen()

    def _note_frozen(self) -> None:
        """Note which ties have groups to be kept at their center where no proximal step does it."""
        if self.every == "step":
            self._with_frozen = set(self._frozen)
        else:
            masks = self._frozen.items()
            self._with_frozen = {name for name, mask in masks if full_tensor(mask).any()}

    def _refreshed(self) -> TieViews:
        """Return the views, after the ties were found again if a parameter was replaced."""
        assert self.module is not None
        if self._views is None:
            raise ValueError(
                f"the penalty of {self.ties} is not attached: call attach before steps"
            )
        reshard(self.module)
        if self._views.hold_parameters():
            self._views.refresh()
        else:
            self._find()
            self.new_gradients()
            self._open()
        return self._views

    def _number(self, optimizer: Optimizer | None) -> int:
        if optimizer is None:
            if len(self.optimizers) != 1:
                raise ValueError(
                    f"there are {len(self.optimizers)} optimizers: say which one steps"
                )
            return 0
        for i, own in enumerate(self.optimizers):
            if own is optimizer:
                return i
        raise ValueError(f"this {type(optimizer).__name__} was not given to attach")

    def _steps_of(self, tie: Tie, rates: LearningRates, strength: float) -> list[float]:
        """Return the step sizes of a tie's members in one optimizer; 0 for those it does not move."""
        of_group = [strength * rate for rate in rates.rates()]
        steps = []
        for parameter in tie.parameters:
            group = rates.group_of(parameter)
            moves = group is not None and self._is_trainable(parameter)
            steps.append(of_group[group] if moves and group is not None else 0.0)
        return steps

    def _is_trainable(self, parameter: nn.Parameter) -> bool:
        if self._trainable is None:
            return parameter.requires_grad
        return id(parameter) in self._trainable

    def _add_increments(self, views: TieViews, number: int, strength: float) -> None:
        """Add the gradient for one of several optimizers.

        When another one has stepped since the backward pass, the loss had still seen its old weights.
        So the increments of all ties are computed at the first step after a backward pass, and kept
        for the others.
        """
        if number in self._added:
            self.new_gradients()
        self._added.add(number)
        if self._increments is None:
            for view in views.views:
                view.tensors.grads = [torch.zeros_like(w) for w in view.tensors.members]
            with full_precision(self.found):
                views.batch.add_gradient_(1.0)
            self._increments = [list(view.tensors.grads) for view in views.views]  # type: ignore[arg-type]
        for view, increments in zip(views.views, self._increments, strict=True):
            view.add_to_grads(increments, self._rates[number].owns, strength)

    def _follow(self, number: int, strength: float) -> None:
        """Add a step of one optimizer to what is pending, and take what is due."""
        views, rates = self._refreshed(), self._rates[number]
        rates.refresh()
        for tie in self.found if strength > 0.0 else ():
            steps = self._steps_of(tie, rates, strength)
            if not any(rates.owns(parameter) for parameter in tie.parameters):
                continue
            pending = self._pending.setdefault(tie.name, {})
            before = pending.get(number)
            if before is not None:
                steps = [x + y for x, y in zip(before, steps, strict=True)]
            pending[number] = steps
        taken = self._take(views) if self.every == "step" else set()
        if self._frozen:
            views.restore_frozen(self._with_frozen - taken)

    def _take(self, views: TieViews) -> set[str]:
        """Take the steps of ties whose optimizers have all stepped; return the ties' names."""
        taken: set[str] = set()
        for view in views.views:
            pending = self._pending.get(view.tie.name)
            steps = [0.0] * len(view.tie.members)
            if pending is not None and all(owner in pending for owner in self._owners(view.tie)):
                del self._pending[view.tie.name]
                for own in pending.values():
                    steps = [x + y for x, y in zip(steps, own, strict=True)]
                if any(steps):
                    taken.add(view.tie.name)
            view.set_steps(steps)
        if taken:
            take_prox(views)
        return taken

    def _owners(self, tie: Tie) -> list[int]:
        """Return the numbers of the optimizers that move a member."""
        if len(self._rates) == 1:
            return [0]
        moving = [p for p in tie.parameters if self._is_trainable(p)]
        return [i for i, rates in enumerate(self._rates) if any(rates.owns(p) for p in moving)]

    def _check_finite(self) -> None:
        for tie in self.found:
            for member, _ in tie.runs:
                parameter = member.parameter
                # Counts of sharded members are summed, so that all ranks raise.
                if parameter.requires_grad and full_tensor(_not_finite(parameter)) > 0:
                    raise ValueError(
                        f"{member.name!r} has NaN or infinite numbers after {self.steps_done} steps, so "
                        "training has diverged: resume from an earlier checkpoint with a smaller "
                        "learning rate or strength, or with gradient_clip_val"
                    )

    def _warn_of_unowned(self, owns_any: bool) -> None:
        if not owns_any:
            warnings.warn(
                f"no optimizer owns a parameter of {self.ties}: nothing is regularised for now",
                stacklevel=4,
            )
            return
        follows_first = self.penalty.centering.follows_first
        leading = {tie.members[0].name for tie in self.found} if follows_first else set()
        missing = [n for n in find_unowned(self.optimizers, self.found) if n not in leading]
        if missing:
            warnings.warn(
                f"{missing[0]!r} requires a gradient, but no optimizer owns it, so the penalty of "
                f"{self.ties} leaves it as it is: give the optimizers self.parameters(), or freeze it",
                stacklevel=4,
            )


def _not_finite(parameter: nn.Parameter) -> Tensor:
    return (~torch.isfinite(parameter.detach())).sum()
