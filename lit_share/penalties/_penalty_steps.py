"""A penalty in a training loop: gradients before optimizer steps, proximal steps after them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NoReturn

from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.optim import Optimizer

from lit_share.functional import Penalty
from lit_share.penalties._checks import (
    check_arguments,
    check_finite,
    check_weights,
    warn_of_unowned,
)
from lit_share.penalties._functions import penalty_value, starting_values
from lit_share.penalties._optimizers import (
    LearningRates,
    refuse_unsupported,
    skipped_its_step,
)
from lit_share.penalties._pending import MemberSteps, PendingSteps
from lit_share.penalties._ramp import Schedule
from lit_share.penalties._recipes import as_penalty
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
        >>> import torch
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
        self.penalty, self.ties = as_penalty(penalty), as_ties(ties)
        self.strength, self.schedule, self.apply, self.every = strength, schedule, apply, every
        self.keep_zeros, self.keep_tied = keep_zeros, keep_tied
        # Whether the penalty is applied as a proximal step.
        self.uses_prox = apply == "prox" or (apply == "auto" and not self.penalty.is_smooth)
        check_arguments(self)
        self.steps_done = self.epochs_done = 0
        self.found: list[Tie] = []
        self.module: nn.Module | None = None
        self.optimizers: list[Optimizer] = []
        # The numbers of optimizers; that of `None` if there is only one.
        self._numbers: dict[Optimizer | None, int] = {}
        self._steps = MemberSteps([])
        self.views = TieViews(self.penalty, [])
        # Modules that FSDP2 shards.
        self._sharded: list[FSDPModule] = []
        self._pending = PendingSteps()
        # By members' names: their starting values.
        self._start: dict[str, Tensor] = {}
        # By ties' names: masks of the groups that stay at their center.
        self._frozen: dict[str, Tensor] = {}
        # Ties with any frozen group, as far as can be known without waiting for the device.
        self._with_frozen: set[str] = set()
        # With several optimizers: the penalty's gradients since the last backward pass, and the
        # optimizers that they were added for.
        self._increments: list[list[Tensor]] | None = None
        self._added: set[int] = set()

    @property
    def keeps_frozen(self) -> bool:
        """Whether groups that a proximal step put to their center stay there."""
        return self.keep_zeros or self.keep_tied

    @property
    def remembers_numbers(self) -> bool:
        """Whether starting values or masks are kept, which belong to present shapes."""
        return self.penalty.centering.needs_start or self.keeps_frozen

    @property
    def pending(self) -> list[str]:
        """The names of the ties whose proximal step is not taken yet."""
        return self._pending.names

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
        self._steps = MemberSteps([LearningRates(optimizer) for optimizer in self.optimizers])
        self._numbers = {optimizer: i for i, optimizer in enumerate(self.optimizers)}
        if len(self.optimizers) == 1:
            self._numbers[None] = 0
        self._find()
        refuse_unsupported(self.optimizers, self.found)
        start = starting_values(self.found) if self.penalty.centering.needs_start else None
        views = TieViews(self.penalty, self.found, start)
        check_weights(self.penalty, self.found)
        self.strength_at(self.steps_done, self.epochs_done)  # raises for what is no schedule
        if self.uses_prox:
            self._check_steps(views)
        warn_of_unowned(self.penalty, self.ties, self.found, self.optimizers)

    def attach(self, module: nn.Module, optimizers: Optimizer | Sequence[Optimizer]) -> None:
        """Check as `check` does, and take the present values as those that training starts from.

        After `load_state_dict`, what was loaded is kept in their place.
        """
        self.check(module, optimizers)
        self.begin()

    def begin(self) -> None:
        """Open the views of the module that was checked, and note the starting values."""
        assert self.module is not None
        self._sharded = reshard(self.module)
        self._open()

    def detach(self) -> None:
        """Forget the module, but not what `state_dict` has."""
        self._steps, self.found, self.optimizers, self._numbers = MemberSteps([]), [], [], {}
        self.views = TieViews(self.penalty, [])
        self.new_gradients()

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
        found = self.found
        if not found:
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
        number = self._stepping(optimizer)
        strength = scale * self.strength_at(self.steps_done, self.epochs_done)
        if number is None or self.uses_prox or strength == 0.0:
            return
        if len(self.optimizers) == 1:
            self.views.add_gradient(strength, self._steps.rates[number].groups)
        else:
            self._add_increments(number, strength)

    def after_step(self, optimizer: Optimizer | None = None) -> None:
        """Take the proximal step that follows a step of an optimizer, and keep frozen groups.

        Does nothing if the penalty is applied as a gradient, or the step was skipped.

        Args:
            optimizer: The optimizer; may be left out if there is only one.
        """
        number = self._stepping(optimizer)
        if number is not None and self.uses_prox and not skipped_its_step(self.optimizers[number]):
            self._add_to_pending(number)
            taken = self._take() if self.every == "step" else set()
            if self._with_frozen:
                self.views.restore_frozen(self._with_frozen - taken)
        self.steps_done += 1

    def end_epoch(self) -> None:
        """Take the proximal step of an epoch, with ``every="epoch"``, and check the parameters.

        Raises:
            ValueError: If training has made a member NaN or infinite.
        """
        if self.every == "epoch" and self.pending:
            self._refresh()
            self._take()
            self._note_frozen()
        check_finite(self.found, self.steps_done)
        self.epochs_done += 1

    def new_gradients(self) -> None:
        """Note that there was a backward pass, after which gradients are of the present weights."""
        self._increments = None
        self._added.clear()

    def note_trainable(self) -> None:
        """Note which members require a gradient, before parameters are frozen for one optimizer."""
        for part in self._sharded:
            part.reshard()
        self._steps.note_trainable(self.found)

    def find_unaligned(self) -> list[Tie]:
        """Return the ties whose members start from unrelated weights."""
        assert self.module is not None
        return find_unaligned(self.found, self.module) if self.penalty.compares_members else []

    def reset(self) -> None:
        """Forget what belongs to an earlier training: starting values, masks and pending steps."""
        self._start, self._frozen, self._pending = {}, {}, PendingSteps()
        self.steps_done = self.epochs_done = 0

    def state_dict(self) -> dict[str, Any]:
        """Return the state needed to resume training: tensors and numbers."""
        # Full tensors, as a checkpoint has the state of one rank only.
        masks = {name: full_tensor(mask) for name, mask in self._frozen.items()}
        return {
            "starting_values": {name: full_tensor(value) for name, value in self._start.items()},
            "pending": self._pending.state(),
            "frozen": {name: mask for name, mask in masks.items() if mask.any()},
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Load what `state_dict` returned; also in the middle of training."""
        self._start = dict(state_dict.get("starting_values", {}))
        self._pending = PendingSteps(state_dict.get("pending"))
        masks = state_dict.get("frozen", {}) if self.keeps_frozen else {}
        # Copies, as training changes them.
        self._frozen = {name: mask.clone() for name, mask in masks.items()}
        if self.views.views:
            self._open()

    def _find(self) -> None:
        assert self.module is not None
        self.found = self.ties.find(self.module)
        names = {member.name for tie in self.found for member in tie.members}
        self._start = {name: value for name, value in self._start.items() if name in names}
        self._pending.keep({tie.name for tie in self.found})

    def _open(self) -> None:
        """Open the views; what is remembered gets the device, dtype and shards of the parameters."""
        if self.penalty.centering.needs_start:
            now = starting_values(self.found)
            self._start = {
                name: like_parameter(self._start.get(name, value), value)
                for name, value in now.items()
            }
        frozen = self._frozen if self.keeps_frozen else None
        self.views = TieViews(self.penalty, self.found, self._start or None, frozen)
        self._note_frozen()
        for rates in self._steps.rates:
            rates.look_up()

    def _note_frozen(self) -> None:
        names = set(self._frozen)
        if self.every == "epoch":  # else masks fill at every step, and a look waits for the device
            names = {name for name, mask in self._frozen.items() if mask.any()}
        self._with_frozen = names

    def _refresh(self) -> None:
        """Bring the views up to date; if a parameter was replaced, find the ties again."""
        for part in self._sharded:
            part.reshard()
        if not self.views.refresh():
            self._find()
            self.new_gradients()
            self._open()

    def _stepping(self, optimizer: Optimizer | None) -> int | None:
        """Return the number of an optimizer; ``None`` if it has no gradient to step with."""
        number = self._numbers.get(optimizer)
        if number is None:
            self._raise_unknown(optimizer)
        rates, groups = self._steps.rates[number], self.optimizers[number].param_groups
        if rates.sizes != [len(group["params"]) for group in groups]:
            rates.look_up()
        if not any(p.grad is not None for group in groups for p in group["params"]):
            return None
        self._refresh()
        return number

    def _raise_unknown(self, optimizer: Optimizer | None) -> NoReturn:
        if not self.optimizers:
            raise ValueError(f"the penalty of {self.ties} is not attached: call attach first")
        if optimizer is None:
            raise ValueError(f"there are {len(self.optimizers)} optimizers: say which one steps")
        raise ValueError(f"this {type(optimizer).__name__} was not given to attach")

    def _check_steps(self, views: TieViews) -> None:
        """Raise if learning rates within a tie have no proximal step in closed form."""
        totals = [[0.0] * len(tie.members) for tie in self.found]
        for number, rates in enumerate(self._steps.rates):
            rates.look_up()
            for total, own in zip(totals, self._steps.sizes(self.found, number, 1.0), strict=True):
                for i, step in enumerate(own or ()):
                    total[i] += step
        for view, total in zip(views.views, totals, strict=True):
            view.set_steps(total)

    def _add_increments(self, number: int, strength: float) -> None:
        """Add the gradient for one of several optimizers.

        When another one has stepped since the backward pass, the loss had still seen its old weights.
        So the increments of all ties are computed at the first step after a backward pass, and kept
        for the others.
        """
        if number in self._added:
            self.new_gradients()
        self._added.add(number)
        if self._increments is None:
            self._increments = self.views.increments()
        self.views.add_increments(self._increments, strength, self._steps.rates[number].groups)

    def _add_to_pending(self, number: int) -> None:
        """Add the step sizes of an optimizer's step to those that are not taken yet."""
        strength = self.strength_at(self.steps_done, self.epochs_done)
        if strength > 0.0:
            sizes = self._steps.sizes(self.found, number, strength)
            for tie, steps in zip(self.found, sizes, strict=True):
                if steps is not None:
                    self._pending.add(tie.name, number, steps)

    def _take(self) -> set[str]:
        """Take the steps of ties whose optimizers have all stepped; return the ties' names."""
        taken: set[str] = set()
        for view in self.views.views:
            steps = self._pending.take(view.tie.name, self._steps.owners(view.tie))
            if steps is not None and any(steps):
                taken.add(view.tie.name)
            view.set_steps(steps or [0.0] * len(view.tie.members))
        if taken:
            self.views.take_prox()
        return taken
