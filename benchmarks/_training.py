"""Train in full, and keep what is best on validation data."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

import lit_share as ls

Result = TypeVar("Result")


class Plan(NamedTuple):
    """Steps of a training.

    Attributes:
        steps: Their number.
        validated: Steps from one validation to the next.
        stored: The step at which the penalty ends and equal members are stored once; the optimizer
            begins anew there, and validation begins. ``None`` keeps the penalty to the end.
    """

    steps: int
    validated: int
    stored: int | None = None


def train_to_best(
    module: nn.Module,
    ties: ls.Ties,
    plan: Plan,
    *,
    penalty: ls.PenaltySteps | None,
    optimizer_of: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer],
    loss: Callable[[], Tensor],
    validate: Callable[[], float],
    measure: Callable[[float], Result],
) -> Result:
    """Train, and return what was measured at the best validation.

    Args:
        module: The module.
        ties: The members that the penalty acts on.
        plan: The steps.
        penalty: The penalty, if there is one.
        optimizer_of: Makes the optimizer of parameters.
        loss: Computes the loss of a step.
        validate: Computes the accuracy on validation data.
        measure: Is called whenever the accuracy on validation data is the best until then, with it.
    """
    optimizer = optimizer_of(module.parameters())
    if penalty is not None:
        penalty.attach(module, optimizer)
    best, result = -1.0, None
    for step in range(plan.steps):
        if step == plan.stored:
            if penalty is not None:
                ls.share(module, ties, where="equal")
            # All trainings begin anew, so that they differ in nothing else.
            optimizer, penalty = optimizer_of(module.parameters()), None
        optimizer.zero_grad()
        loss().backward()
        if penalty is not None:
            penalty.before_step()
        optimizer.step()
        if penalty is not None:
            penalty.after_step()
        if (step + 1) % plan.validated == 0 and step >= (plan.stored or 0):
            validation = validate()
            if validation > best:
                best, result = validation, measure(validation)
    if result is None:
        raise ValueError(f"{plan} has no validation: write fewer steps between validations")
    return result
