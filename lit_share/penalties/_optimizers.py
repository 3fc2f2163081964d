"""Learning rates of optimizers, and checks that penalties support them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from torch import nn
from torch.distributed.tensor import DTensor
from torch.optim import LBFGS, Optimizer

from lit_share.ties import Tie


def skipped_its_step(optimizer: Optimizer) -> bool:
    """Whether a fused optimizer found infinite gradients under fp16, and moved no weights."""
    # A GradScaler sets this attribute of fused optimizers, which skip the step themselves. It does
    # not call the step of other optimizers at all, so these need no such check.
    found_inf = getattr(optimizer, "found_inf", None)
    return found_inf is not None and bool(found_inf.item())


def parts_of(optimizer: Optimizer) -> list[Optimizer]:
    """Return the optimizers of the children that the optimizer of a pair steps, or itself."""
    # `paired` is above this folder, so its class is known by this attribute.
    parts = getattr(optimizer, "parts", None)
    if isinstance(parts, Mapping):
        return [inner for part in parts.values() for inner in parts_of(part)]
    return [optimizer]


def parameters_of(optimizers: Iterable[Optimizer]) -> Iterator[nn.Parameter]:
    """Yield the parameters of optimizers."""
    for group in chain.from_iterable(optimizer.param_groups for optimizer in optimizers):
        yield from group["params"]


def find_unowned(optimizers: Sequence[Optimizer], ties: Sequence[Tie]) -> list[str]:
    """Return the names of members that require a gradient but that no optimizer owns."""
    owned = set(parameters_of(optimizers))
    # FSDP2 replaces sharded parameters by full parameters and back, so that members may be other
    # objects than those that optimizers own.
    if any(isinstance(parameter, DTensor) for parameter in owned):
        return []
    names: dict[nn.Parameter, str] = {}
    for tie in ties:
        for member in tie.members:
            names.setdefault(member.parameter, member.name)
    return [name for p, name in names.items() if p.requires_grad and p not in owned]


def refuse_unsupported(optimizers: Sequence[Optimizer], ties: Sequence[Tie]) -> None:
    """Raise `ValueError` for L-BFGS, missing learning rates and sparse gradients."""
    members = [member for tie in ties for member in tie.members]
    for optimizer in optimizers:
        if isinstance(optimizer, LBFGS):
            raise ValueError(
                "Regularize cannot serve LBFGS, whose line search needs the penalty in the loss: "
                "add strength * penalty.value([...]) to the loss in training_step instead"
            )
        without: set[nn.Parameter] = set()
        for group in optimizer.param_groups:
            if "lr" not in group:
                without.update(group["params"])
        if any(member.parameter in without for member in members):
            kind = type(optimizer).__name__
            raise ValueError(f'the parameter groups of {kind} have no learning rate "lr"')
    for member in members:
        if getattr(member.ref.owner, "sparse", False):
            raise ValueError(
                f"{member.name!r} belongs to an embedding with sparse gradients: make it with "
                "sparse=False, or exclude it from the ties"
            )


class LearningRates:
    """The learning rates of an optimizer's parameters.

    Attributes:
        sizes: The number of parameters in each group, when `look_up` was called.
        groups: The index of a parameter's group, by the parameter's ``id``.
    """

    # Loading an optimizer's state replaces its group dicts, and groups may be added in training.
    # So callers compare `sizes` and look up again, and `rates` reads the present dicts.

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self.look_up()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Make callers look up again, as the parameters of a copy have other ids."""
        self.__dict__.update(state, sizes=[])

    def look_up(self) -> None:
        """Look up which group each parameter belongs to."""
        groups: list[dict[str, Any]] = self.optimizer.param_groups
        self.sizes = [len(group["params"]) for group in groups]
        # Ids, because `hash(tensor)` is slow; they stay valid as the groups keep parameters alive.
        self.groups = {id(p): i for i, group in enumerate(groups) for p in group["params"]}
        self._of_ties: dict[str, list[tuple[int, nn.Parameter, int]]] = {}

    def of_tie(self, tie: Tie) -> list[tuple[int, nn.Parameter, int]]:
        """Return (member, parameter, group) for the members of a tie that the optimizer owns."""
        own = self._of_ties.get(tie.name)
        if own is None:
            own = [
                (i, parameter, self.groups[id(parameter)])
                for i, parameter in enumerate(tie.parameters)
                if id(parameter) in self.groups
            ]
            self._of_ties[tie.name] = own
        return own

    def rates(self) -> list[float]:
        """Return the learning rate of every group; 0 for groups without members that have none."""
        return [float(group.get("lr", 0.0)) for group in self.optimizer.param_groups]
