"""One optimizer made of the children's own."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from lightning import LightningModule
from lightning.pytorch.core.optimizer import (
    _configure_optimizers,
    _configure_schedulers_automatic_opt,
    _MockOptimizer,
    _validate_optimizers_attached,
    _validate_scheduler_api,
)
from lightning.pytorch.utilities.types import LRSchedulerConfig
from torch.optim import LBFGS, Optimizer


class PairedOptimizer(Optimizer):
    """Steps the optimizers of all children as one.

    Its `param_groups` and `state` are the children's own, so what is written there, by a child's scheduler for
    instance, is what the children's optimizers use, and hooks registered on it fire once for all of them. A
    `GradScaler` unscales it as a whole and skips it as a whole, whether a child's optimizer is fused or not.

    Args:
        parts: Each child's own optimizer, by the child's name.
        schedulers: The children's learning rate schedulers, each of which acts on one of the parts.

    Example:
        >>> a, b = torch.nn.Linear(2, 1), torch.nn.Linear(2, 1)
        >>> parts = {"a": torch.optim.Adam(a.parameters(), lr=0.1), "b": torch.optim.SGD(b.parameters(), lr=0.2)}
        >>> [group["lr"] for group in PairedOptimizer(parts).param_groups]
        [0.1, 0.2]
    """

    def __init__(
        self, parts: Mapping[str, Optimizer], schedulers: Sequence[LRSchedulerConfig] = ()
    ) -> None:
        self.parts = dict(parts)
        self.schedulers = list(schedulers)
        super().__init__([{"params": []}], {})

    # Read from the parts each time: loading a state replaces a part's group dicts. The setters are for
    # `Optimizer.__init__`, which starts both attributes empty.
    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The children's own group dicts, in the order of the children."""
        return [group for part in self.parts.values() for group in part.param_groups]

    @param_groups.setter
    def param_groups(self, groups: list[dict[str, Any]]) -> None: ...

    @property
    def state(self) -> defaultdict[torch.Tensor, Any]:
        """The children's own state dicts, by parameter."""
        return defaultdict(
            dict, {key: value for part in self.parts.values() for key, value in part.state.items()}
        )

    @state.setter
    def state(self, state: defaultdict[torch.Tensor, Any]) -> None: ...

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Refuse: a group belongs to one of the children's optimizers."""
        if param_group["params"]:
            raise ValueError(
                f"a parameter group must be added to one child's optimizer: write"
                f" trainer.optimizers[0].parts[{next(iter(self.parts))!r}].add_param_group(...)"
            )

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Run `closure` once, then step every child's optimizer."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts.values():
            part.step()
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Reset the gradients of all children."""
        for part in self.parts.values():
            part.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """Each child's optimizer state, by the child's name."""
        return {name: part.state_dict() for name, part in self.parts.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Give each child's optimizer its state back."""
        if state_dict.keys() != self.parts.keys():
            raise ValueError(
                f"the checkpoint has optimizer states of {list(state_dict)}, but the children are"
                f" {list(self.parts)}: name the children as they were when it was saved"
            )
        for name, part in self.parts.items():
            part.load_state_dict(state_dict[name])


def compose(children: Mapping[str, LightningModule]) -> PairedOptimizer:
    """One optimizer made of those that the children configure, with the schedulers' monitors and names prefixed.

    Raises:
        ValueError: If a child has several optimizers, LBFGS, or an optimizer that another child has too.
    """
    parts: dict[str, Optimizer] = {}
    schedulers: list[LRSchedulerConfig] = []
    for name, child in children.items():
        configured: Any = child.configure_optimizers()
        # A child that configures nothing is frozen, as it is for Lightning.
        optimizers, unparsed, monitor = _configure_optimizers(
            _MockOptimizer() if configured is None else configured
        )
        if len(optimizers) != 1:
            raise ValueError(
                f"child {name!r} configures {len(optimizers)} optimizers: return one, with several parameter groups"
            )
        (part,) = optimizers
        if isinstance(part, LBFGS):
            raise ValueError(
                f"child {name!r} uses LBFGS, which evaluates the loss several times in a step: use an optimizer that"
                " evaluates it once"
            )
        for other in parts:
            if parts[other] is part:
                raise ValueError(
                    f"children {other!r} and {name!r} return one and the same optimizer: give each its own"
                )
        configs = _configure_schedulers_automatic_opt(unparsed, monitor)
        _validate_optimizers_attached(optimizers, configs)
        _validate_scheduler_api(configs, child)
        for config in configs:
            config.name = f"{name}/{config.name or 'lr-' + type(part).__name__}"
            config.monitor = config.monitor and f"{name}/{config.monitor}"
        parts[name] = part
        schedulers += configs
    return PairedOptimizer(parts, schedulers)
