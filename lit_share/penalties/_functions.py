"""Penalties in plain training loops and Fabric: one call for each step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from lit_share.functional import Penalty
from lit_share.penalties._recipes import as_penalty
from lit_share.ties import Tie, Ties, TieViews, check_ties, full_tensor, reshard

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

    Call it between ``loss.backward()`` and ``optimizer.step()``; it equals adding the penalty to the
    loss. In long loops `PenaltySteps` does the same faster, as it keeps the ties open.

    Under fp16 with a ``GradScaler`` gradients are scaled until the optimizer steps: call
    ``scaler.unscale_(optimizer)`` before, or with Fabric ``fabric.clip_gradients(module, optimizer,
    max_norm=float("inf"), error_if_nonfinite=False)``, which unscales them and clips nothing.
    `Regularize` unscales by itself.

    Args:
        module: The module that holds the members.
        penalty: The penalty, or the name of one of `RECIPES`.
        ties: Which parameters are tied. ``ties.find(module)``, called once, saves the search in every
            step.
        strength: Number ≥ 0; for the ``l2`` recipe it means what PyTorch calls ``weight_decay``.
        start: For ``center="start"``, what `starting_values` returned before training.

    Raises:
        TieError: If the patterns do not fit the module; see `Ties.find`.
        ValueError: If the strength is not a finite number ≥ 0, members do not fit the penalty (see
            `Penalty.check`), ``start`` is missing, there is no such recipe, or a gradient is sparse.

    Example:
        >>> pair = nn.ModuleDict({"a": nn.Linear(3, 2), "b": nn.Linear(3, 2)})
        >>> add_penalty_gradient(pair, "soft_tie", Ties("a.*", "b.*"), strength=0.1)
        >>> torch.allclose(pair["a"].weight.grad, 0.1 * (pair["a"].weight - pair["b"].weight))
        True
    """
    if not (math.isfinite(strength) and strength >= 0.0):
        raise ValueError(f"strength must be a finite number >= 0, got {strength}")
    views = _views(module, as_penalty(penalty), ties, start)
    views.add_gradient(strength)


def apply_prox(
    module: nn.Module,
    penalty: Penalty | str,
    ties: Ties | Sequence[Tie],
    step: float,
    *,
    start: Start | None = None,
) -> None:
    """Take the proximal step of tied parameters, which makes groups *exactly* equal to their center.

    Call it after ``optimizer.step()``. Parameters that do not require a gradient stay as they are. In
    long loops `PenaltySteps` does the same faster, as it keeps the ties open.

    Args:
        module: The module that holds the members.
        penalty: The penalty, or the name of one of `RECIPES`.
        ties: Which parameters are tied. ``ties.find(module)``, called once, saves the search in every
            step.
        step: Learning rate times strength, at least 0.
        start: For ``center="start"``, what `starting_values` returned before training.

    Raises:
        TieError: If the patterns do not fit the module; see `Ties.find`.
        ValueError: If members do not fit the penalty (see `Penalty.check` and `Penalty.prox`),
            ``start`` is missing, or there is no such recipe.

    Example:
        >>> pair = nn.ModuleDict({"a": nn.Linear(3, 2), "b": nn.Linear(3, 2)})
        >>> apply_prox(pair, "layer_tie", Ties("a.*", "b.*"), step=100.0)
        >>> torch.equal(pair["a"].weight, pair["b"].weight)
        True
    """
    views = _views(module, as_penalty(penalty), ties, start)
    for view in views.views:
        own = [step if parameter.requires_grad else 0.0 for parameter in view.tie.parameters]
        view.set_steps(own)
    views.take_prox()


def starting_values(ties: Sequence[Tie]) -> dict[str, Tensor]:
    """Copy the members' present values, for ``center="start"``.

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
        member.name: tensor.clone()
        for tie in ties
        for member, tensor in zip(tie.members, tie.tensors(), strict=True)
    }


def penalty_value(penalty: Penalty, ties: Sequence[Tie], start: Start | None) -> float:
    """Sum the penalty's values over ties, of full members where they are sharded."""
    # Not of shards: FSDP2 modules hold full parameters after validation.
    values = []
    device = ties[0].members[0].parameter.device.type
    with torch.no_grad(), torch.autocast(device, enabled=False):
        for tie in ties:
            members = [full_tensor(tensor) for tensor in tie.tensors()]
            own = None
            if penalty.centering.needs_start and start is not None:
                own = [full_tensor(start[member.name]) for member in tie.members]
            values.append(penalty.value(members, own).double())
    return float(torch.stack(values).sum())


def _views(
    module: nn.Module, penalty: Penalty, ties: Ties | Sequence[Tie], start: Start | None
) -> TieViews:
    if penalty.centering.needs_start and start is None:
        raise ValueError(
            f'center="{penalty.center}" pulls members to what they were before training: take then '
            "start = lit_share.starting_values(ties.find(module)), and pass start=start in every step"
        )
    if not isinstance(ties, Sequence) or not all(isinstance(tie, Tie) for tie in ties):
        check_ties(ties)
    reshard(module)
    found = ties.find(module) if isinstance(ties, Ties) else ties
    return TieViews(penalty, found, start)
