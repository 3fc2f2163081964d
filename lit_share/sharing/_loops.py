"""Penalties without a Trainer: for Fabric and plain training loops, and for the callbacks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from lit_share.functional import Penalty, add_gradient_, as_penalty, mean, prox_
from lit_share.sharing._arguments import check_ties
from lit_share.sharing._shards import Division, shard_again, shards
from lit_share.sharing._tie import Tie, whole
from lit_share.sharing._ties import Ties

Start = Mapping[str, Tensor]


def add_penalty_gradient(
    module: nn.Module,
    penalty: Penalty | str,
    ties: Ties | Sequence[Tie],
    strength: float,
    *,
    start: Start | None = None,
) -> None:
    """Add the gradient of ``strength`` times the penalty to the ``.grad`` of the tied parameters.

    To be called between ``loss.backward()`` and ``optimizer.step()``; equal to adding the penalty to the loss.

    Under fp16 with a ``GradScaler`` gradients are many times as large until the optimizer steps: call
    ``scaler.unscale_(optimizer)`` before, or with Fabric ``fabric.clip_gradients(module, optimizer,
    max_norm=float("inf"), error_if_nonfinite=False)``, which unscales them and clips nothing. `Regularize` knows of it
    by itself.

    Args:
        module: The module that holds the members.
        penalty: The penalty, or the name of one of `RECIPES`.
        ties: Which parameters are tied. ``ties.find(module)``, called once, saves the search in every step.
        strength: Number ≥ 0; for the ``l2`` recipe it means what PyTorch calls ``weight_decay``.
        start: With ``center="start"``, what `starting_values` returned before training.

    Raises:
        TieError: If the patterns do not fit the module; see `Ties.find`.
        ValueError: If the strength is not a finite number ≥ 0, members do not fit the penalty (see `Penalty.check`),
            ``start`` is missing, there is no such recipe, or a gradient is sparse.

    Example:
        >>> pair = nn.ModuleDict({"a": nn.Linear(3, 2), "b": nn.Linear(3, 2)})
        >>> add_penalty_gradient(pair, "soft_tie", Ties("a.*", "b.*"), strength=0.1)
        >>> torch.allclose(pair["a"].weight.grad, 0.1 * (pair["a"].weight - pair["b"].weight))
        True
    """
    if not (math.isfinite(strength) and strength >= 0.0):
        raise ValueError(f"strength must be a finite number >= 0, got {strength}")
    penalty = as_penalty(penalty)
    shard_again(module)
    found = _found(module, ties)
    check_penalty(penalty, found)
    _check_start(penalty, start)
    into = [gradients(tie) for tie in found]
    add_gradients(penalty, found, into, strength, start)
    pass_on_gradients(found, into)


def apply_prox(
    module: nn.Module,
    penalty: Penalty | str,
    ties: Ties | Sequence[Tie],
    step: float,
    *,
    start: Start | None = None,
) -> None:
    """Replace the tied parameters by their proximal step, which makes groups *exactly* equal to their center.

    To be called after ``optimizer.step()``. Parameters that do not require a gradient stay as they are.

    Args:
        module: The module that holds the members.
        penalty: The penalty, or the name of one of `RECIPES`.
        ties: Which parameters are tied. ``ties.find(module)``, called once, saves the search in every step.
        step: Learning rate times strength, at least 0.
        start: With ``center="start"``, what `starting_values` returned before training.

    Raises:
        TieError: If the patterns do not fit the module; see `Ties.find`.
        ValueError: If members do not fit the penalty (see `Penalty.check` and `Penalty.prox`), ``start`` is missing, or
            there is no such recipe.

    Example:
        >>> pair = nn.ModuleDict({"a": nn.Linear(3, 2), "b": nn.Linear(3, 2)})
        >>> apply_prox(pair, "layer_tie", Ties("a.*", "b.*"), step=100.0)
        >>> torch.equal(pair["a"].weight, pair["b"].weight)
        True
    """
    penalty = as_penalty(penalty)
    shard_again(module)
    found = _found(module, ties)
    steps = [
        [step if parameter.requires_grad else 0.0 for parameter in tie.parameters] for tie in found
    ]
    check_penalty(penalty, found, steps)
    _check_start(penalty, start)
    take_prox(penalty, found, steps, start)


def starting_values(ties: Sequence[Tie]) -> dict[str, Tensor]:
    """Copies of the members' present values, for ``center="start"``.

    Args:
        ties: What ``ties.find(module)`` returned.

    Returns:
        The values by the members' names.

    Raises:
        TypeError: If they have not been found yet.

    Example:
        >>> layer = nn.Linear(3, 2)
        >>> sorted(starting_values(Ties("*").find(layer)))
        ['bias', 'weight']
    """
    if isinstance(ties, Ties):
        raise TypeError(f"starting_values takes what {ties}.find(module) returns")
    return {
        member.name: t.clone()
        for tie in ties
        for member, t in zip(tie.members, tie.tensors(), strict=True)
    }


def check_penalty(
    penalty: Penalty, ties: Sequence[Tie], steps: Sequence[float | Sequence[float]] | None = None
) -> None:
    """Raise, naming the members, if a tie does not fit the penalty, or its ``steps`` have no closed form."""
    for i, tie in enumerate(ties):
        try:
            penalty.check([tie.shape] * len(tie.members), steps[i] if steps else 0.0)
            Division(tie.parameters)
            if steps is not None:
                _check_partial(penalty, tie)
        except ValueError as error:
            raise ValueError(f"{_names(tie)}: {error}") from None


def check_weights(penalty: Penalty, ties: Sequence[Tie]) -> None:
    """Raise, naming the members, if the ``weights`` of a penalty do not fit the groups of a tie."""
    if penalty.weights is None:
        return
    for tie in ties:
        try:
            members = [whole(tensor) for tensor in tie.tensors()]
            penalty.value(members, members)
        except TypeError as error:
            raise ValueError(
                f"{_names(tie)}: weights= must give a number for each group: {error}"
            ) from None
        except ValueError as error:
            raise ValueError(f"{_names(tie)}: {error}") from None


def check_finite(ties: Sequence[Tie], steps: int) -> None:
    """Raise, naming the member, if so many steps of training have made a number of a trained one NaN or infinite."""
    for tie in ties:
        for member, _ in tie.runs:
            # Of members that are divided, each process counts its own and all hear of it.
            if (
                member.parameter.requires_grad
                and whole((~torch.isfinite(member.parameter.detach())).sum()) > 0
            ):
                raise ValueError(
                    f"{member.name!r} has NaN or infinite numbers after {steps} steps, so training has diverged: go on "
                    "from an earlier checkpoint with a smaller learning rate or strength, or with gradient_clip_val"
                )


def _check_partial(penalty: Penalty, tie: Tie) -> None:
    """Raise if a prox would move units that another parameter of the module stores."""
    partial = [member.name for member in tie.members if member.slot.is_partial]
    if partial and penalty.center not in ("mean", "first"):
        raise ValueError(
            f'{partial[0]} shares some of its units, for which a proximal step with center="{penalty.center}" has no '
            'closed form: use apply="gradient", or exclude it from the ties'
        )


def gradients(
    tie: Tie, wanted: Callable[[nn.Parameter], bool] = lambda _: True
) -> list[Tensor | None]:
    """The members' parts of the ``.grad`` of those parameters that require one and are wanted, ``None`` for others.

    A ``.grad`` that is missing is made, of zeros. Where only some units of a member are shared, the part is a tensor of
    zeros, for `pass_on_gradients`.
    """
    parts: list[Tensor | None] = []
    for member, count in tie.runs:
        parameter = member.parameter
        if not (parameter.requires_grad and wanted(parameter)):
            parts += [None] * count
            continue
        if member.slot.is_partial:
            parts += [torch.zeros_like(member.value()) for _ in range(count)]
            continue
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        elif parameter.grad.layout != torch.strided:
            raise ValueError(
                f"the gradient of {member.name!r} is sparse: make it with sparse=False, or exclude it from the ties"
            )
        parts += (
            [member.part_of(parameter.grad)] * count
            if member.part is None
            else parameter.grad.unbind()
        )
    return parts


def pass_on_gradients(ties: Sequence[Tie], into: Sequence[Sequence[Tensor | None]]) -> None:
    """Add the gradients of members of which only some units are shared to those of all that they are made of."""
    for tie, parts in zip(ties, into, strict=True):
        if not tie.is_partial:
            continue
        for member, part in zip(tie.members, parts, strict=True):
            if part is not None and member.slot.is_partial:
                member.slot.add_to_gradient(part.T if member.transposed else part)


def add_gradients(
    penalty: Penalty,
    ties: Sequence[Tie],
    into: Sequence[Sequence[Tensor | None]],
    strength: float,
    start: Start | None,
) -> None:
    """`lit_share.functional.add_gradient_` for the members of ties."""
    found = [tie.tensors() for tie in ties]
    divisions = [Division(tensors) for tensors in found]
    with _full_precision(ties):
        members = [
            division.all_here(tensors) for division, tensors in zip(divisions, found, strict=True)
        ]
        starts = _starts_here(divisions, _starts(ties, start))
        room = [
            d.room_for(grads, own) for d, grads, own in zip(divisions, into, members, strict=True)
        ]
        add_gradient_(penalty, members, room, strength, starts, shards(divisions))
    for division, pulls, grads in zip(divisions, room, into, strict=True):
        division.add(pulls, grads)


def take_prox(
    penalty: Penalty,
    ties: Sequence[Tie],
    steps: Sequence[Sequence[float]],
    start: Start | None,
    held: dict[str, Tensor] | None = None,
) -> None:
    """`lit_share.functional.prox_` for the members of ties; ``held`` has, or gets, the held groups by ties' names."""
    own = [_own_steps(tie, step) for tie, step in zip(ties, steps, strict=True)]
    found = [tie.tensors() for tie in ties]
    divisions = [Division(tensors) for tensors in found]
    if held is not None:
        for tie, tensors, division in zip(ties, found, divisions, strict=True):
            if tie.name not in held:
                held[tie.name] = division.nothing_held(penalty, tensors)
    with _full_precision(ties):
        groups = (
            None
            if held is None
            else [d.here(held[tie.name]) for tie, d in zip(ties, divisions, strict=True)]
        )
        members = [
            division.all_here(tensors) for division, tensors in zip(divisions, found, strict=True)
        ]
        starts = _starts_here(divisions, _starts_of_one(penalty, ties, start))
        prox_(penalty, members, own, starts, groups, shards(divisions))
    for tie, tensors, division, parts in zip(ties, found, divisions, members, strict=True):
        division.write(parts, tensors)
        if not tie.is_partial:
            continue
        for member, tensor in zip(tie.members, tensors, strict=True):
            if member.slot.is_partial:
                # What other members store has moved by itself.
                with torch.no_grad():
                    member.slot.write(tensor.T if member.transposed else tensor)


@torch.no_grad()
def zero_again(ties: Sequence[Tie], held: Mapping[str, Tensor]) -> None:
    """Set the groups that are held at zero to zero."""
    for tie in ties:
        if tie.name in held:
            tensors = tie.tensors()
            division = Division(tensors)
            parts = division.all_here(tensors)
            for part in parts:
                part.masked_fill_(division.here(held[tie.name]), 0.0)
            division.write(parts, tensors)


def penalty_value(penalty: Penalty, ties: Sequence[Tie], start: Start | None = None) -> float:
    """The sum of the penalty's values over ties."""
    starts = _starts(ties, start) or [None] * len(ties)
    with torch.no_grad(), _full_precision(ties):
        # Whole, as a sum over shards is not one over processes, and FSDP2 has whole parameters after validation.
        values = [
            penalty.value([whole(t) for t in tie.tensors()], s and [whole(t) for t in s])
            for tie, s in zip(ties, starts, strict=True)
        ]
        return float(torch.stack([value.double() for value in values]).sum())


def _check_start(penalty: Penalty, start: Start | None) -> None:
    if penalty.center == "start" and start is None:
        raise ValueError(
            'center="start" pulls members to what they were before training: take then '
            "start = lit_share.starting_values(ties.find(module)), and pass start=start in every step"
        )


def _names(tie: Tie) -> str:
    return ", ".join(member.name for member in tie.members[:4])


def _found(module: nn.Module, ties: Ties | Sequence[Tie]) -> Sequence[Tie]:
    if not isinstance(ties, Sequence) or not all(isinstance(tie, Tie) for tie in ties):
        check_ties(ties)
    return ties.find(module) if isinstance(ties, Ties) else ties


def _own_steps(tie: Tie, steps: Sequence[float]) -> Sequence[float]:
    """The members' steps; N members that are one parameter move it as one, so by N times the step."""
    return [len(tie.members) * t for t in steps] if tie.is_one else steps


def _starts_here(
    divisions: Sequence[Division], starts: Sequence[Sequence[Tensor] | None] | None
) -> list[list[Tensor] | None] | None:
    if starts is None:
        return None
    return [
        None if own is None else [d.here(tensor) for tensor in own]
        for d, own in zip(divisions, starts, strict=True)
    ]


def _starts(ties: Sequence[Tie], start: Start | None) -> list[list[Tensor] | None] | None:
    if start is None:
        return None
    missing = [member.name for tie in ties for member in tie.members if member.name not in start]
    if missing:
        raise ValueError(
            f"start has no value of {missing[0]!r}: take lit_share.starting_values(ties) before training, with "
            "the same ties"
        )
    return [[start[member.name] for member in tie.members] for tie in ties]


def _starts_of_one(
    penalty: Penalty, ties: Sequence[Tie], start: Start | None
) -> list[list[Tensor] | None] | None:
    """The members' starting values; those of members that are one by now are one as well."""
    starts = _starts(ties, start)
    for i, tie in enumerate(ties):
        own = None if starts is None else starts[i]
        if (
            own is None
            or len(own) == 1
            or not tie.is_one
            or all(torch.equal(own[0], other) for other in own[1:])
        ):
            continue
        if not penalty.is_smooth:
            raise ValueError(
                f"{tie.name!r} is one parameter of members that started apart, to which a proximal step with "
                f'norm="{penalty.norm}" has no closed form: use norm="squared"'
            )
        assert starts is not None
        starts[i] = [mean(own)] * len(own)  # Σ ½‖W − S_i‖² is N · ½‖W − mean S‖² and a constant
    return starts


def _full_precision(ties: Sequence[Tie]) -> torch.autocast:
    device = ties[0].parameters[0].device.type if ties else "cpu"
    return torch.autocast(device, enabled=False)
