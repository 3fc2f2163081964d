"""Checks before training with a penalty, and after each epoch."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lit_share.functional import CENTERS, NORMS, Penalty, either
from lit_share.penalties._learned import Learned
from lit_share.penalties._optimizers import find_unowned, parameters_of
from lit_share.penalties._path import Path
from lit_share.text import check_choice, described
from lit_share.ties import Tie, Ties, names_of, sum_over_shards

if TYPE_CHECKING:
    from lit_share.penalties._penalty_steps import PenaltySteps


def check_arguments(steps: PenaltySteps) -> None:
    """Raise `TypeError` or `ValueError` for wrong or conflicting arguments of `PenaltySteps`."""
    strength, schedule, penalty = steps.strength, steps.schedule, steps.penalty
    # A bool is an int, but strength=True is a mistake, as of an argument in the wrong position.
    if isinstance(strength, bool) or not isinstance(strength, (int, float, Learned, Path)):
        raise TypeError(
            "strength must be a number, a lit_share.Learned or a lit_share.Path, got "
            f"{described(strength)}"
        )
    # A class is callable, too, but returns no factor.
    if schedule is not None and (not callable(schedule) or isinstance(schedule, type)):
        raise TypeError(
            f"schedule must be a function of (steps, epochs), got {described(schedule)}: write "
            "lit_share.Ramp(duration=1000)"
        )
    check_choice("apply", steps.apply, Literal["auto", "gradient", "prox"])
    check_choice("every", steps.every, Literal["step", "epoch"])
    if isinstance(strength, (int, float)) and not 0.0 <= strength < math.inf:
        raise ValueError(f"strength must be a finite number >= 0, got {strength}")
    if steps.every == "epoch" and not steps.uses_prox:
        raise ValueError(
            'every="epoch" is for proximal steps, and this penalty is a gradient, which is part of '
            'every step: write apply="prox", or every="step"'
        )
    if penalty.needs_inside and not steps.ties.inside:
        pattern = steps.ties.patterns[0]
        raise ValueError(
            f"{pattern.text!r} compares members, and this penalty the numbers of a tensor: write "
            f"'{pattern.name}[...]', or exact_tie, which makes members equal"
        )
    # The tables list what would fit, so that messages also name rows that users have added.
    norms = either(NORMS, lambda norm: norm.makes_exact)
    zeros = either(CENTERS, lambda center: center.is_zero)
    comparing = either(CENTERS, lambda c: c.compares_members and not c.has_edges)
    for name, is_kept, fits, centers, exact in (
        ("keep_zeros", steps.keep_zeros, penalty.makes_zeros, zeros, "exactly zero"),
        ("keep_tied", steps.keep_tied, penalty.makes_equal, comparing, "exactly equal"),
    ):
        if is_kept and not steps.uses_prox:
            raise ValueError(
                f"{name}=True is for proximal steps, as gradients make nothing exact: write "
                'apply="prox"'
            )
        if is_kept and not fits:
            instead = ""
            if name == "keep_tied" and penalty.centering.has_edges:
                instead = ': write Share(ties, where="equal", epoch=...), which keeps clusters'
            raise ValueError(
                f"{name}=True is for norm={norms}, center={centers} and groups of elements, which "
                f'the proximal step makes {exact}: this is norm="{penalty.norm}", '
                f'center="{penalty.center}", groups="{penalty.groups}"{instead}'
            )


def check_dtypes(penalty: Penalty, ties: Sequence[Tie]) -> None:
    """Raise `ValueError`, naming the members, if a proximal step cannot make them equal."""
    if not penalty.compares_members:
        return
    for tie in ties:
        dtypes = {member.name: member.parameter.dtype for member in tie.members}
        if len(set(dtypes.values())) > 1:
            listed = ", ".join(f"{name} is {dtype}" for name, dtype in dtypes.items())
            raise ValueError(
                f"{listed}: a proximal step would round each member by itself, so that they never "
                "become equal. Give them one dtype, or take a penalty that is added as a gradient"
            )


def check_weights(penalty: Penalty, ties: Sequence[Tie]) -> None:
    """Raise `ValueError`, naming the members, if ``weights`` do not fit the groups of a tie."""
    if penalty.weights is None:
        return
    for tie in ties:
        # Weights may be a function of the user, so only a call with members of the full shape
        # proves a fit. Zeros do as well as their values, which FSDP2 would have to gather.
        first = tie.members[0].parameter
        zero = torch.zeros((), dtype=first.dtype, device=first.device)
        members = [zero.expand(tie.shape)] * len(tie.members)
        start = None
        if penalty.centering.needs_start:
            start = members
        try:
            penalty.value(members, start)
        except TypeError as error:
            raise ValueError(
                f"{names_of(tie)}: weights= must give a number for each group: {error}"
            ) from None
        except ValueError as error:
            raise ValueError(f"{names_of(tie)}: {error}") from None


class DivergedError(ValueError):
    """A trained member has become NaN or infinite."""


def check_finite(ties: Sequence[Tie], steps: int) -> None:
    """Raise `DivergedError`, naming the member, if a trained member has become NaN or infinite."""
    trained: dict[nn.Parameter, str] = {}
    for tie in ties:
        for member, _ in tie.runs:
            if member.parameter.requires_grad:
                trained.setdefault(member.parameter, member.name)
    if not trained:
        return
    # Counts of sharded members are summed over ranks: if a single rank raised, the others would
    # wait for it in the next collective. The host waits once, for all counts.
    counts = sum_over_shards(_count_not_finite, [[parameter.detach()] for parameter in trained])
    for name, count in zip(trained.values(), counts.tolist(), strict=True):
        if count > 0:
            raise DivergedError(
                f"{name!r} has NaN or infinite numbers after {steps} steps, so training has "
                "diverged: resume from an earlier checkpoint with a smaller learning rate or "
                "strength, or with gradient_clip_val"
            )


def warn_of_unowned(
    penalty: Penalty, patterns: Ties, ties: Sequence[Tie], optimizers: Sequence[Optimizer]
) -> None:
    """Warn of members that require a gradient but that no optimizer owns."""
    owned = {id(parameter) for parameter in parameters_of(optimizers)}
    trained = [p for tie in ties for p in tie.parameters if p.requires_grad]
    if not any(id(parameter) in owned for parameter in trained):
        warnings.warn(
            f"no optimizer owns a parameter of {patterns}: nothing is regularised for now",
            stacklevel=5,
        )
        return
    unowned = find_unowned(optimizers, ties)
    # A first member that the others follow may be a trained model, which no optimizer needs to own.
    if penalty.centering.follows_first:
        first = {tie.members[0].name for tie in ties}
        unowned = [name for name in unowned if name not in first]
    if unowned:
        warnings.warn(
            f"{unowned[0]!r} requires a gradient, but no optimizer owns it, so the penalty of "
            f"{patterns} leaves it as it is: give the optimizers self.parameters(), or freeze it",
            stacklevel=5,
        )


def _count_not_finite(tensors: Sequence[Tensor]) -> Tensor:
    (tensor,) = tensors
    return (~torch.isfinite(tensor)).sum()
