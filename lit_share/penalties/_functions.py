"""Penalties in plain training loops and Fabric, by a single call in each step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from lit_share.functional import Penalty, TieBatch, TieTensors
from lit_share.penalties._checks import check_dtypes
from lit_share.penalties._numbers import plain_number
from lit_share.penalties._precision import like_members, precision_of_members
from lit_share.penalties._recipes import as_penalty
from lit_share.ties import Tie, Ties, TieViews, find_ties, local_slices, reshard

Start = Mapping[str, Tensor]


def add_penalty_gradient(
    module: nn.Module,
    penalty: Penalty | str,
    ties: Ties | Sequence[Ties] | Sequence[Tie],
    strength: float,
    *,
    start: Start | None = None,
    precision: Mapping[str, Tensor] | None = None,
) -> None:
    """Add the gradient of ``strength`` times the penalty to the ``.grad`` of the tied parameters.

    Call it between ``loss.backward()`` and ``optimizer.step()``; the result is the same as with the
    penalty added to the loss. `PenaltySteps` is faster in long loops, as it looks ties up once.

    Under fp16 a ``GradScaler`` keeps gradients scaled until the optimizer steps. Unscale them
    first, as `Regularize` does: with ``scaler.unscale_(optimizer)``, or in Fabric with
    ``fabric.clip_gradients(module, optimizer, max_norm=float("inf"), error_if_nonfinite=False)``,
    which unscales and clips nothing.

    Args:
        module: The module that holds the members.
        penalty: The penalty, or the name of one of `RECIPES`.
        ties: Which parameters are tied; ``ties.find(module)`` saves the search at each call.
        strength: Number ≥ 0; for the ``l2`` recipe it means what PyTorch calls ``weight_decay``.
        start: For ``center="start"``, what `starting_values` returned before training.
        precision: The weights of elements, for squared penalties of elements: what `fisher` or
            `second_moments` returned.

    Raises:
        TieError: If the patterns do not fit the module; see `Ties.find`.
        ValueError: If the strength is not a finite number ≥ 0, members do not fit the penalty
            (see `Penalty.check`), ``start``, ``precision`` or the recipe is missing, or a gradient
            is sparse.

    Example:
        >>> import torch
        >>> pair = nn.ModuleDict({"a": nn.Linear(3, 2), "b": nn.Linear(3, 2)})
        >>> add_penalty_gradient(pair, "soft_tie", Ties("a.*", "b.*"), strength=0.1)
        >>> torch.allclose(pair["a"].weight.grad, 0.1 * (pair["a"].weight - pair["b"].weight))
        True
    """
    strength = plain_number("strength", strength)
    if not (math.isfinite(strength) and strength >= 0.0):
        raise ValueError(f"strength must be a finite number >= 0, got {strength}")
    views = _views(module, as_penalty(penalty), ties, start, precision)
    views.add_gradient(strength)


def apply_prox(
    module: nn.Module,
    penalty: Penalty | str,
    ties: Ties | Sequence[Ties] | Sequence[Tie],
    step: float,
    *,
    start: Start | None = None,
    precision: Mapping[str, Tensor] | None = None,
) -> None:
    """Take the proximal step of tied parameters, which puts groups *exactly* at their center.

    Call it after ``optimizer.step()``. Parameters that do not require a gradient are not changed.
    `PenaltySteps` is faster in long loops, as it looks ties up once. It also keeps the weights of
    ``edges="adaptive"`` from its first step on, which are computed at each call here.

    Args:
        module: The module that holds the members.
        penalty: The penalty, or the name of one of `RECIPES`.
        ties: Which parameters are tied; ``ties.find(module)`` saves the search at each call.
        step: Learning rate times strength, at least 0.
        start: For ``center="start"``, what `starting_values` returned before training.
        precision: The weights of elements, for squared penalties of elements: what `fisher` or
            `second_moments` returned.

    Raises:
        TieError: If the patterns do not fit the module; see `Ties.find`.
        ValueError: If members do not fit the penalty (see `Penalty.check` and `Penalty.prox`),
            members have different dtypes, or ``start``, ``precision`` or the recipe is missing.

    Example:
        >>> import torch
        >>> pair = nn.ModuleDict({"a": nn.Linear(3, 2), "b": nn.Linear(3, 2)})
        >>> apply_prox(pair, "layer_tie", Ties("a.*", "b.*"), step=100.0)
        >>> torch.equal(pair["a"].weight, pair["b"].weight)
        True
    """
    step = plain_number("step", step)
    views = _views(module, as_penalty(penalty), ties, start, precision)
    check_dtypes(views.penalty, views.ties)
    # Members whose step size is zero are not written to.
    views.set_steps([[step * p.requires_grad for p in tie.parameters] for tie in views.ties])
    views.take_prox()


def starting_values(ties: Sequence[Tie]) -> dict[str, Tensor]:
    """Copy the members' current values, by the members' names, for ``center="start"``.

    Raises:
        TypeError: If ``ties`` are not what ``ties.find(module)`` returned.

    Example:
        >>> layer = nn.Linear(3, 2)
        >>> sorted(starting_values(Ties("*").find(layer)))
        ['bias', 'weight']
    """
    if isinstance(ties, Ties):
        raise TypeError(f"starting_values takes what {ties}.find(module) returns")
    return {
        member.name: tensor.clone()
        for tie in ties
        for member, tensor in zip(tie.members, tie.tensors(), strict=True)
    }


def penalty_value(
    penalty: Penalty,
    ties: Sequence[Tie],
    start: Start | None,
    precision: Mapping[str, Tensor] | None = None,
    edge_weights: Mapping[str, Tensor] | None = None,
) -> float:
    """Sum the penalty's values over ties, and over the shards of their members."""
    sharded: list[TieTensors] = []
    total = 0.0
    for tie in ties:
        members, own, weights = tie.tensors(), [], []
        if penalty.centering.needs_start and start is not None:
            own = [start[member.name] for member in tie.members]
        if precision is not None:
            weights = [precision[member.name] for member in tie.members]
        # Members are full after validation, as FSDP2 modules hold full parameters then.
        local, shard = local_slices([*members, *own, *weights])
        count, end = len(members), len(members) + len(own)
        tensors = TieTensors(
            local[:count],
            start=local[count:end] or None,
            shard=shard,
            precision=local[end:] or None,
            inside=tie.inside,
        )
        if edge_weights is not None:
            tensors.edge_weights = edge_weights.get(tie.name)
        if shard is None:
            # Gathered starting values are freed before those of the next tie are gathered.
            total += TieBatch(penalty, [tensors]).value()
        else:
            sharded.append(tensors)
    # The sums of all sharded ties share one message.
    if sharded:
        total += TieBatch(penalty, sharded).value()
    return total


def _views(
    module: nn.Module,
    penalty: Penalty,
    ties: Ties | Sequence[Ties] | Sequence[Tie],
    start: Start | None,
    precision: Mapping[str, Tensor] | None,
) -> TieViews:
    penalty.check_precision(None if precision is None else ())
    if penalty.centering.needs_start and start is None:
        raise ValueError(
            f'center="{penalty.center}" pulls members towards their values before training: '
            "compute start = lit_share.starting_values(ties.find(module)), and pass start=start in "
            "every step"
        )
    # FSDP2 modules may still hold full parameters, and what is written to these is lost.
    reshard(module)
    found = find_ties(module, ties)
    if precision is not None:
        precision = like_members(precision_of_members(module, found, precision), found)
    return TieViews(penalty, found, start, precision=precision)
