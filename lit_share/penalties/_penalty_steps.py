"""A penalty in a training loop: gradients before optimizer steps, or proximal steps after them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor, nn
from torch.optim import Optimizer

from lit_share.functional import Penalty, curvature
from lit_share.penalties._checks import (
    check_arguments,
    check_dtypes,
    check_finite,
    check_weights,
    warn_of_unowned,
)
from lit_share.penalties._functions import penalty_value, starting_values
from lit_share.penalties._learned import Learned, LearnedStrengths
from lit_share.penalties._member_precision import MemberPrecision
from lit_share.penalties._numbers import plain_number
from lit_share.penalties._optimizers import LearningRates, refuse_unsupported, skipped_its_step
from lit_share.penalties._path import Path
from lit_share.penalties._pending import MemberSteps, PendingSteps
from lit_share.penalties._precision import Precision, moments_of_members
from lit_share.penalties._ramp import Schedule
from lit_share.penalties._recipes import as_penalty
from lit_share.penalties._rescaling import rescaled
from lit_share.text import described
from lit_share.ties import (
    Member,
    Tie,
    Ties,
    TieViews,
    as_ties,
    find_unaligned,
    full_on_host,
    like_parameter,
    reshard,
)

if TYPE_CHECKING:
    from torch.distributed.fsdp import FSDPModule

Apply = Literal["auto", "gradient", "prox"]
Every = Literal["step", "epoch"]


class PenaltySteps:
    r"""A penalty on tied parameters, applied before or after optimizer steps in any training loop.

    `Regularize` does the same in a Trainer; see there for the formulas. In a plain loop or Fabric:

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
        penalty: The penalty, or the name of one of `RECIPES`.
        ties: Which parameters are tied, a list of several `Ties`, or of patterns for one.
        strength: Finite number ≥ 0; `Learned`, whose updates `learn` makes; or `Path`, whose knots
            are those of ``epochs_done``, and among which `Regularize` chooses.
        schedule: Factor of the strength, a `Ramp` or any function of the numbers of finished steps
            and epochs; constant if ``None``.
        apply: ``"gradient"``, ``"prox"``, or ``"auto"``: gradient for smooth penalties, else prox.
        every: When the proximal step is taken: after every optimizer ``"step"``, or once per
            ``"epoch"``, with the sum of the epoch's step sizes.
        keep_zeros: For centers that are zero, whether groups that a proximal step has made exactly
            zero are frozen.
        keep_tied: For centers that compare members, whether groups that a proximal step has made
            exactly equal are frozen at their center, so that members stay equal in them.
        precision: The weights F ≥ 0 of elements, for squared penalties of elements: a mapping from
            names of parameters to tensors, as `fisher` and `second_moments` return; a
            ``.safetensors`` or ``.pt`` file of it; or ``"adam"``, the second moments of the
            optimizers, which must be ``Adam`` or ``AdamW``. With ``center="start"`` they are read
            once, by `attach`, so the optimizer must have trained what was learned before. With
            other centers they are read at each step: the first step, before which there are none,
            is without the penalty. It must be the same on all ranks; `state_dict` includes it.

    Attributes:
        steps_done: Number of finished optimizer steps, counted by `after_step`.
        epochs_done: Number of finished epochs, counted by `end_epoch`.
        found: The ties of the module, after `check` or `attach`.

    Raises:
        TypeError: If an argument has a wrong type.
        ValueError: If an argument is out of its range, or conflicts with another.

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
        ties: Ties | Sequence[Ties] | Sequence[str],
        strength: float | Learned | Path,
        schedule: Schedule | None = None,
        apply: Apply = "auto",
        every: Every = "step",
        keep_zeros: bool = False,
        keep_tied: bool = False,
        precision: Precision | None = None,
    ) -> None:
        self.penalty, self.ties = as_penalty(penalty), as_ties(ties)
        strength = plain_number("strength", strength)
        self.strength, self.schedule, self.apply, self.every = strength, schedule, apply, every
        self.keep_zeros, self.keep_tied = keep_zeros, keep_tied
        self.uses_prox = apply == "prox" or (apply == "auto" and not self.penalty.is_smooth)
        check_arguments(self)
        self.learned: LearnedStrengths | None = None
        if isinstance(strength, Learned):
            self.learned = LearnedStrengths(strength, self.uses_prox)
        # The last proximal step of ties by their names, as learned strengths need it.
        self._moves: dict[str, list[Tensor]] = {}
        # The number of steps at the end of the last epoch, whose proximal step is learned from
        # after it.
        self._ended_at: int | None = None
        self.precision = MemberPrecision(self.penalty, precision)
        self.steps_done = self.epochs_done = 0
        self.found: list[Tie] = []
        self.module: nn.Module | None = None
        self.optimizers: list[Optimizer] = []
        # The module whose training the state is of, once it is attached.
        self._owner: nn.Module | None = None
        # Whether there were gradients in `before_step`, by the optimizers' indices.
        self._had_gradients: dict[int, bool] = {}
        # The strengths for all optimizers of an iteration, and those that have begun their step.
        self._strengths_now: float | list[float] = 0.0
        self._stepped: set[int] = set()
        # The index of each optimizer; `None` stands for the only optimizer.
        self._numbers: dict[Optimizer | None, int] = {}
        self._steps = MemberSteps([])
        self.views = TieViews(self.penalty, [])
        # The FSDP2 modules, which are resharded before every step.
        self._sharded: list[FSDPModule] = []
        self._pending = PendingSteps()
        # Starting values by the members' names.
        self._start: dict[str, Tensor] = {}
        # Masks of frozen groups by the ties' names.
        self._frozen: dict[str, Tensor] = {}
        # Adaptive weights of edges by the ties' names, from the first step of the penalty on.
        self._edge_weights: dict[str, Tensor] = {}
        # Names of ties that may have frozen groups; see `_note_frozen`.
        self._with_frozen: set[str] = set()
        # With several optimizers: the penalty's gradients at the last backward pass, and the
        # indices of the optimizers whose parameters have received them.
        self._increments: list[list[Tensor]] | None = None
        self._added: set[int] = set()

    @property
    def identity(self) -> dict[str, str]:
        """What distinguishes the penalty's state in a checkpoint from that of other penalties."""
        # Strength and schedule are left out: a checkpoint fits a run with another strength.
        p = self.penalty
        key = {"norm": p.norm, "groups": p.groups, "center": p.center, "ties": repr(self.ties)}
        # Keys of other penalties are those of older checkpoints.
        if p.edges is not None:
            key["edges"] = repr(p.edges)
        if not p.scaled:
            key["scaled"] = "False"
        if self.precision.given is not None:
            key["precision"] = "given"
        return key

    @property
    def keeps_frozen(self) -> bool:
        """Whether groups that a proximal step has put at their center are frozen."""
        return self.keep_zeros or self.keep_tied

    @property
    def remembers_numbers(self) -> bool:
        """Whether numbers of members are kept, so that these must keep their shapes."""
        has_start = self.penalty.centering.needs_start
        return has_start or self.keeps_frozen or self.precision.is_kept

    @property
    def pending(self) -> list[str]:
        """The names of ties whose proximal step is not taken yet."""
        return self._pending.names

    def check(self, module: nn.Module, optimizers: Optimizer | Sequence[Optimizer]) -> None:
        """Find the ties, and raise if they cannot be trained with the penalty.

        Args:
            module: The module that holds the members.
            optimizers: The optimizers of its parameters.

        Raises:
            TieError: If the patterns do not fit the module; see `Ties.find`.
            ValueError: If members do not fit the penalty (see `Penalty.check`), an optimizer is not
                supported (L-BFGS, no learning rates, sparse gradients), the proximal step has no
                closed form for the learning rates within a tie, or the precision does not fit.
            TypeError: If an argument is no optimizer, or ``precision="adam"`` and an optimizer is
                neither ``Adam`` nor ``AdamW``.

        Warns:
            UserWarning: If no optimizer owns a member that requires a gradient.
        """
        if isinstance(optimizers, Optimizer):
            optimizers = [optimizers]
        if not isinstance(optimizers, Sequence) or any(isinstance(o, type) for o in optimizers):
            raise TypeError(
                f"optimizers must be those of torch.optim, got {described(optimizers)}: write one, "
                "such as torch.optim.SGD(module.parameters(), lr=0.1), or a list of several"
            )
        self.module, self.optimizers = module, list(optimizers)
        self._steps = MemberSteps([LearningRates(optimizer) for optimizer in self.optimizers])
        self._numbers = {optimizer: i for i, optimizer in enumerate(self.optimizers)}
        if len(self.optimizers) == 1:
            self._numbers[None] = 0
        self._find()
        refuse_unsupported(self.optimizers, self.found, self.uses_prox)
        # These views are for checks only: a checkpoint, which may have other starting values, is
        # loaded between `check` and `begin`.
        start = None
        if self.penalty.centering.needs_start:
            start = starting_values(self.found)
        views = TieViews(self.penalty, self.found, start)
        self.precision.check(module, self.found, self._steps.rates)
        check_weights(self.penalty, self.found)
        # A schedule with wrong values should fail before training rather than at the first step.
        self._strengths_at(self.steps_done, self.epochs_done)
        if self.uses_prox:
            check_dtypes(self.penalty, self.found)
            self._check_steps(views)
        warn_of_unowned(self.penalty, self.ties, self.found, self.optimizers)

    def attach(self, module: nn.Module, optimizers: Optimizer | Sequence[Optimizer]) -> None:
        """Call `check`, and record starting values unless `load_state_dict` has restored them.

        Calls `reset` first if the state is that of a training of another module.
        """
        if self._owner not in (None, module):
            self.reset()
        self._owner = module
        self.check(module, optimizers)
        self.begin()

    def begin(self) -> None:
        """Open the views of the module given to `check`, and record starting values."""
        assert self.module is not None
        self._sharded = reshard(self.module)
        self._open()

    def detach(self) -> None:
        """Release the module and the optimizers, and keep the state that `state_dict` returns."""
        self.precision.keep_moments(self.found, self._steps.rates)
        self._steps, self.found, self.optimizers, self._numbers = MemberSteps([]), [], [], {}
        self.views = TieViews(self.penalty, [])
        self.new_gradients()

    def strength_at(self, step: int, epoch: int) -> float:
        """Return the strength after ``step`` optimizer steps and ``epoch`` epochs.

        Learned strengths are those of now, times the schedule's factor; the mean over ties.

        Raises:
            ValueError: If the schedule's factor is not a finite number ≥ 0.
        """
        strengths = self._strengths_at(step, epoch)
        if isinstance(strengths, float):
            return strengths
        return sum(strengths) / len(strengths)

    def _strengths_at(
        self, step: int, epoch: int, ties: Sequence[Tie] | None = None
    ) -> float | list[float]:
        """Return the strength of all ties, or a list of those of each tie, of which none is 0."""
        factor = 1.0
        if self.schedule:
            factor = self.schedule(step, epoch)
        if not (math.isfinite(factor) and factor >= 0.0):
            raise ValueError(
                f"the schedule of {self.ties} must return finite factors >= 0, got {factor} after "
                f"{step} steps and {epoch} epochs"
            )
        if isinstance(self.strength, Path):
            return factor * self.strength.at(epoch)
        if self.learned is None:
            return factor * float(self.strength)  # type: ignore[arg-type]
        own = self.learned.of(self.found if ties is None else ties)
        return [factor * strength for strength in own] if factor and own else 0.0

    def value(self, module: nn.Module | None = None) -> float:
        """Return strength times penalty.

        Raises:
            ValueError: If no module is given before `check` or after `detach`.
        """
        found, module = self.found, module or self.module
        if not found:
            if module is None:
                raise ValueError(f"the penalty of {self.ties} is not attached: give value a module")
            found = self.ties.find(module)
        assert module is not None
        strengths = self._strengths_at(self.steps_done, self.epochs_done, found)
        start, precision = self._start or None, self.precision.now(module, found, self._steps.rates)
        own = start, precision, self._edge_weights
        if isinstance(strengths, float):
            return strengths * penalty_value(self.penalty, found, *own)
        pairs = zip(strengths, found, strict=True)
        return sum(strength * penalty_value(self.penalty, [tie], *own) for strength, tie in pairs)

    def before_step(self, optimizer: Optimizer | None = None, scale: float = 1.0) -> None:
        """Add the gradient of the penalty to the ``.grad`` of an optimizer's parameters.

        Does nothing if the penalty is applied as a proximal step, or there are no gradients.

        Args:
            optimizer: The optimizer; optional if there is a single optimizer.
            scale: The factor of the gradients, as of a ``GradScaler`` that has not unscaled them.
        """
        number, has_gradients = self._stepping(optimizer)
        # A schedule counts the steps of each optimizer, but members of a tie need one strength.
        if not self._stepped or number in self._stepped:
            self._stepped.clear()
            self._strengths_now = self._strengths_at(self.steps_done, self.epochs_done)
        self._stepped.add(number)
        if self.uses_prox:
            # They may be cleared before `after_step`.
            self._had_gradients[number] = has_gradients
            return
        strengths = self._strengths_now
        if not has_gradients or strengths == 0.0:
            return
        if isinstance(strengths, float):
            strengths *= scale
        else:
            strengths = [scale * own for own in strengths]
        self._refresh(number)
        if self.precision.is_live:
            self._read_moments()
        rates = self._steps.rates[number]
        if rates.maximized:
            strengths = rates.signed(self.found, strengths)
        if len(self.optimizers) == 1:
            self.views.add_gradient(strengths, rates.groups)
        else:
            self._add_increments(number, strengths)

    def after_step(self, optimizer: Optimizer | None = None) -> None:
        """Take the proximal step after an optimizer's step, and restore frozen groups.

        Only counts the step if the penalty is applied as a gradient, or the step was skipped. The
        optimizer is optional if there is a single optimizer.
        """
        number, _ = self._stepping(optimizer)
        if self.uses_prox:
            # Loops may leave it out before proximal steps, if they keep gradients.
            if number not in self._had_gradients:
                self.before_step(optimizer)
            if self._had_gradients.pop(number) and not skipped_its_step(self.optimizers[number]):
                self._move(number)
        self.steps_done += 1

    def end_epoch(self) -> None:
        """Take the proximal step of an epoch if ``every="epoch"``, and check the parameters.

        Raises:
            ValueError: If a trained member has become NaN or infinite.
        """
        if self.every == "epoch" and self.pending:
            self._refresh()
            if self.precision.is_live:
                self._read_moments()
            self._take_pending()
            self._note_frozen()
        # Once per epoch, because the check reads all parameters and waits for the device.
        check_finite(self.found, self.steps_done)
        if self.learned is not None:
            self.learned.end_epoch(self.found)
            self._ended_at = self.steps_done
        self.precision.warn_of_missing_moments(self.found, self._steps.rates)
        self.epochs_done += 1

    def can_learn(self, steps: int) -> bool:
        """Whether `learn` is due after so many optimizer steps, and there is a move to learn from.

        A penalty that does not act yet, or no longer, has no effect to learn from.
        """
        if self.learned is None or not self.learned.is_due(steps):
            return False
        if self.uses_prox:
            return bool(self._moves)
        is_trained = any(p.requires_grad for tie in self.found for p in tie.parameters)
        return is_trained and self._strengths_at(self.steps_done, self.epochs_done) != 0.0

    def learn(self, gradients: Mapping[int, Tensor]) -> None:
        """Update learned strengths, after a step and its `after_step`.

        Args:
            gradients: Those of the validation loss, by the ``id`` of parameters, at the present
                weights; the same on all ranks, or sharded like parameters.

        Raises:
            ValueError: If the strength is a number.
        """
        if self.learned is None:
            raise ValueError(f"strength={self.strength} is given: write strength=Learned()")
        self.learned.steps_at_update = self.steps_done
        self._refresh()
        most = [math.inf] * len(self.found)
        if self.uses_prox:
            # The last step's moves are of no more use, and take as much memory as the members.
            by_name, self._moves = self._moves, {}
            moves = [by_name.get(tie.name) for tie in self.found]
        else:
            if self.precision.is_live:
                self._read_moments()
            moves = [[own.neg_() for own in of_tie] for of_tie in self.views.increments()]
            gradients = rescaled(gradients, self._steps.rates)
            largest = max(rate for own in self._steps.rates for rate in own.rates())
            if self.precision.given is None and largest > 0.0:
                most = [1.0 / (largest * self._curvature(tie)) for tie in self.found]
        self.learned.update(self.found, self.views.products(gradients, moves), most)
        if self._ended_at == self.steps_done:
            self.learned.correct_epoch(self.found)

    def _curvature(self, tie: Tie) -> float:
        """Return the largest eigenvalue of the penalty's Hessian in a tie's parameters, or more."""
        # Other penalties have no Hessian where groups meet: their steps are limited as of a pair.
        if not self.penalty.is_smooth:
            return 2.0
        if tie.inside:
            return curvature(self.penalty, 1, tie.numel)
        # A parameter that is several members receives the gradients of all.
        parameters = Counter(id(parameter) for parameter in tie.parameters)
        sizes = {id(parameter): parameter.numel() for parameter in tie.parameters}
        # Slices cover a part of it each, and a matrix with its transpose covers it twice.
        covered = [math.ceil(n * tie.numel / sizes[key]) for key, n in parameters.items()]
        aliases = Counter(tie.first_aliases).values()
        return max(*covered, *aliases) * curvature(self.penalty, len(tie.members))

    def new_gradients(self) -> None:
        """Discard increments kept for other optimizers; call it at each backward pass."""
        self._increments = None
        self._added.clear()

    def note_trainable(self) -> None:
        """Remember which members require a gradient, before other optimizers' are toggled off."""
        for module in self._sharded:
            module.reshard()
        self._steps.note_trainable(self.found)

    def find_unaligned(self) -> list[Tie]:
        """Return the ties whose members start from unrelated weights."""
        assert self.module is not None
        if not self.penalty.compares_members:
            return []
        return find_unaligned(self.found, self.module)

    def frozen_ties(self) -> list[Tie]:
        """Return the ties that have frozen groups."""
        frozen = {name for name, mask in self._frozen.items() if mask.any()}
        return [tie for tie in self.found if tie.name in frozen]

    def move_units(self, move: Callable[[nn.Parameter, Tensor], Tensor]) -> None:
        """Permute starting values and precision, after the units of parameters were permuted.

        Drop adaptive weights of edges, which are computed of the new distances at the next step.

        Args:
            move: Return a tensor of a parameter's shape with its units in their new order, given
                the parameter and the tensor.
        """
        for kept in (self._start, self.precision.kept):
            members: dict[str, list[Member]] = {}
            for tie in self.found:
                for member in tie.members:
                    if member.name in kept:
                        members.setdefault(member.ref.name, []).append(member)
            for own in members.values():
                parameter = own[0].parameter
                # These are tensors of transposes and slices, so the whole is put together.
                values = parameter.detach().to(kept[own[0].name].dtype, copy=True)
                for member in own:
                    member.view(values).copy_(kept[member.name])
                values = move(parameter, values)
                kept |= {member.name: member.view(values).clone() for member in own}
        # Distances of members are others once their units correspond.
        self._edge_weights = {}
        self.new_gradients()
        if self.views.views:
            self._open()

    def reset(self) -> None:
        """Drop starting values, masks, edge weights, pending steps and counts of a training."""
        self._start, self._frozen, self._pending = {}, {}, PendingSteps()
        self.precision.restore({})
        self._edge_weights, self._moves, self._ended_at = {}, {}, None
        if self.learned is not None:
            self.learned.restore({})
        self.steps_done = self.epochs_done = 0

    def state_dict(self) -> dict[str, Any]:
        """Return the state needed to resume training: tensors and numbers."""
        # Full tensors, because Lightning saves the state of rank 0 only. Gathering is a collective,
        # so every rank gathers every mask, including masks that are empty and not saved.
        masks = {name: full_on_host(mask) for name, mask in self._frozen.items()}
        self.precision.keep_moments(self.found, self._steps.rates)
        return {
            "precision": self.precision.state(),
            "starting_values": {name: full_on_host(value) for name, value in self._start.items()},
            "pending": self._pending.state(),
            "frozen": {name: mask for name, mask in masks.items() if mask.any()},
            "edge_weights": dict(self._edge_weights),
            "strengths": {} if self.learned is None else self.learned.state(),
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore the state of `state_dict`, before or during training."""
        self._start = dict(state_dict.get("starting_values", {}))
        self._pending = PendingSteps(state_dict.get("pending"))
        self.precision.restore(state_dict.get("precision", {}))
        self._edge_weights = dict(state_dict.get("edge_weights", {}))
        # Moves of other weights say nothing of those that are restored.
        self._moves, self._ended_at = {}, None
        if self.learned is not None:
            self.learned.restore(state_dict.get("strengths", {}))
        self._frozen, self._owner = {}, None
        # A run may resume without keep_zeros. Masks are cloned, as training writes to them.
        if self.keeps_frozen:
            masks = state_dict.get("frozen", {})
            self._frozen = {name: mask.clone() for name, mask in masks.items()}
        if self.views.views:
            self._open()

    def _find(self) -> None:
        assert self.module is not None
        self.found = self.ties.find(self.module)

    def _open(self) -> None:
        """Open ``views`` of the ties found; fit pending steps, starting values, rates to them."""
        # A checkpoint may name other ties, and replaced layers may have lost their names.
        self._pending.keep({tie.name for tie in self.found})
        if self.penalty.centering.needs_start:
            current = starting_values(self.found)
            saved = self._start
            self._start = {k: like_parameter(saved.get(k, v), v) for k, v in current.items()}
        frozen = None
        if self.keeps_frozen:
            frozen = self._frozen
        for rates in self._steps.rates:
            rates.look_up()
        assert self.module is not None
        precision = self.precision.open(self.module, self.found, self._steps.rates)
        start = self._start or None
        kept = precision, self._edge_weights
        self.views = TieViews(self.penalty, self.found, start, frozen, *kept)
        self._note_frozen()

    def _note_frozen(self) -> None:
        self._with_frozen = set(self._frozen)
        # Reading a mask waits for the device. Once per epoch that is cheap; masks that may fill at
        # every step are restored without it.
        if self.every == "epoch":
            self._with_frozen = {name for name, mask in self._frozen.items() if mask.any()}

    def _refresh(self, number: int | None = None) -> None:
        """Reshard modules and refresh the views; find ties again if a parameter was replaced.

        Look up the parameter groups again, too, if optimizer ``number`` has got more.
        """
        if number is not None:
            rates, groups = self._steps.rates[number], self.optimizers[number].param_groups
            # Finetuning callbacks add groups in training. Sizes are cheap to compare at each step.
            if rates.sizes != [len(group["params"]) for group in groups]:
                rates.look_up()
        for module in self._sharded:
            module.reshard()
        # `share`, `load_state_dict(assign=True)` and FSDP2 replace parameters during training.
        if not self.views.refresh():
            self._find()
            self.new_gradients()
            self._open()

    def _read_moments(self) -> None:
        # Bias correction makes new tensors at each step, so views cannot refer to the optimizer's.
        self.views.set_precision(moments_of_members(self.found, self._steps.rates))

    def _stepping(self, optimizer: Optimizer | None) -> tuple[int, bool]:
        """Return the optimizer's index, and whether it has gradients, without which it stays.

        Raise `ValueError` if the optimizer was not given to `attach`.
        """
        number = self._numbers.get(optimizer)
        if number is not None:
            groups = self.optimizers[number].param_groups
            parameters = chain.from_iterable(group["params"] for group in groups)
            return number, any(parameter.grad is not None for parameter in parameters)
        if not self.optimizers:
            raise ValueError(f"the penalty of {self.ties} is not attached: call attach first")
        if optimizer is None:
            raise ValueError(f"there are {len(self.optimizers)} optimizers: say which one steps")
        raise ValueError(f"this {type(optimizer).__name__} was not given to attach")

    def _check_steps(self, views: TieViews) -> None:
        """Set ``views``' steps to learning rates; raise `ValueError` if there is no closed form."""
        totals = [[0.0] * len(tie.members) for tie in self.found]
        for number, rates in enumerate(self._steps.rates):
            rates.look_up()
            for total, own in zip(totals, self._steps.sizes(self.found, number, 1.0), strict=True):
                for i, step in enumerate(own or ()):
                    total[i] += step
        views.set_steps(totals)

    def _add_increments(self, number: int, strengths: float | Sequence[float]) -> None:
        # Gradients of the loss belong to the weights at the backward pass. So the increments are
        # computed before the first optimizer steps, and kept for the others.
        if number in self._added:
            self.new_gradients()
        self._added.add(number)
        if self._increments is None:
            self._increments = self.views.increments()
        if isinstance(strengths, float):
            strengths = [strengths] * len(self.found)
        self.views.add_increments(self._increments, strengths, self._steps.rates[number].groups)

    def _move(self, number: int) -> None:
        """Take the proximal steps due after optimizer ``number``'s, and restore frozen groups."""
        self._refresh(number)
        if self.precision.is_live:
            self._read_moments()
        taken = self._take_or_add(number)
        # A proximal step restores the frozen groups of its own ties. The optimizer has moved those
        # of the others, too, which wait for the end of the epoch or another optimizer.
        names = self._with_frozen - taken
        if names:
            self.views.restore_frozen(names, self._steps.moving(self.found))

    def _take_or_add(self, number: int) -> set[str]:
        """Take the proximal steps due after optimizer ``number``'s; return the moved ties' names.

        Steps of ties with other optimizers, or if ``every`` is "epoch", are added to pending.
        """
        sizes: Sequence[list[float] | None] = [None] * len(self.found)
        if self._strengths_now != 0.0:
            sizes = self._steps.sizes(self.found, number, self._strengths_now)
        if self.every == "step" and len(self.optimizers) == 1 and not self.pending:
            # Nothing waits for another optimizer, so pending steps would be taken at once.
            return self._take(sizes)
        for tie, steps in zip(self.found, sizes, strict=True):
            if steps is not None:
                self._pending.add(tie.name, number, steps)
        if self.every == "step":
            return self._take_pending()
        return set()

    def _take_pending(self) -> set[str]:
        """Take and drop pending steps of ties whose optimizers all stepped; return their names."""
        owners = self._steps.owners
        return self._take([self._pending.take(tie.name, owners(tie)) for tie in self.found])

    def _take(self, sizes: Sequence[list[float] | None]) -> set[str]:
        """Take steps of ``sizes[tie][member]``, none for ``None``; return the moved ties' names."""
        moving = self.views.set_steps(sizes)
        if not moving:
            return moving
        # A step is learned from when it is counted: that of an epoch is taken after all are.
        after = self.steps_done
        if self.every == "step":
            # All optimizers of an iteration step before.
            after += len(self.optimizers)
        if self.learned is not None and self.learned.is_due(after):
            moves = self.views.moved_by(self.views.take_prox)
            pairs = zip(self.found, moves, strict=True)
            # Those of other optimizers' ties are kept.
            self._moves |= {tie.name: own for tie, own in pairs if tie.name in moving}
        else:
            self.views.take_prox()
        return moving
