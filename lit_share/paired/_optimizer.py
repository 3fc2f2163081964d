"""A single optimizer that steps those of all children."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch.optim import LBFGS, Optimizer

from lit_share.lightnings import module_of

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule
    from lightning.pytorch.utilities.types import LRSchedulerConfig


class PairedOptimizer(Optimizer):
    """Step the optimizers of all children together.

    `param_groups` and `state` refer to the dicts of the children's optimizers, so writes to them,
    such as those of schedulers, take effect. Hooks registered on this optimizer run once for all
    children. A `GradScaler` unscales or skips all children together, fused or not.

    Args:
        parts: Each child's optimizer, by the child's name.
        schedulers: The children's learning rate schedulers, each for one of `parts`.

    Example:
        >>> a, b = torch.nn.Linear(2, 1), torch.nn.Linear(2, 1)
        >>> adam, sgd = torch.optim.Adam(a.parameters(), 0.1), torch.optim.SGD(b.parameters(), 0.2)
        >>> [group["lr"] for group in PairedOptimizer({"a": adam, "b": sgd}).param_groups]
        [0.1, 0.2]
    """

    def __init__(
        self, parts: Mapping[str, Optimizer], schedulers: Sequence[LRSchedulerConfig] = ()
    ) -> None:
        self.parts = dict(parts)
        self.schedulers = list(schedulers)
        super().__init__([{"params": []}], {})

    # Both properties are collected at each access, because `load_state_dict` replaces the dicts of
    # a child's optimizer. `Optimizer.__init__` assigns empty values, which the setters ignore.
    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The children's parameter groups, in the order of the children."""
        return list(chain.from_iterable(part.param_groups for part in self.parts.values()))

    @param_groups.setter
    def param_groups(self, groups: list[dict[str, Any]]) -> None: ...

    @property
    def state(self) -> defaultdict[torch.Tensor, Any]:
        """The children's optimizer states, by parameter."""
        state: defaultdict[torch.Tensor, Any] = defaultdict(dict)
        for part in self.parts.values():
            state.update(part.state)
        return state

    @state.setter
    def state(self, state: defaultdict[torch.Tensor, Any]) -> None: ...

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Raise `ValueError`, as the group must be added to one child's optimizer."""
        # `Optimizer.__init__` adds the empty group that it requires.
        if param_group["params"]:
            raise ValueError(
                "a parameter group must be added to one child's optimizer: write "
                f"trainer.optimizers[0].parts[{next(iter(self.parts))!r}].add_param_group(...)"
            )

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Call `closure` once, then step every child's optimizer."""
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
        """Return each child's optimizer state, by the child's name."""
        return {name: part.state_dict() for name, part in self.parts.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore each child's optimizer state."""
        if state_dict.keys() != self.parts.keys():
            raise ValueError(
                f"the checkpoint has optimizer states of {list(state_dict)}, but the children are "
                f"{list(self.parts)}: name the children as they were when it was saved"
            )
        for name, part in self.parts.items():
            part.load_state_dict(state_dict[name])


def compose(children: Mapping[str, LightningModule]) -> PairedOptimizer:
    """Configure the children's optimizers and schedulers, and combine them.

    Names and monitors of schedulers get the child's name as a prefix.

    Raises:
        ValueError: If a child has several optimizers, LBFGS, or another child's optimizer.
    """
    parts: dict[str, Optimizer] = {}
    schedulers: list[LRSchedulerConfig] = []
    for name, child in children.items():
        configured: Any = child.configure_optimizers()
        lightning = module_of(child, "core.optimizer")
        # As in Lightning, a child without an optimizer runs, but is not trained.
        if configured is None:
            configured = lightning._MockOptimizer()
        optimizers, unparsed, monitor = lightning._configure_optimizers(configured)
        if len(optimizers) != 1:
            raise ValueError(
                f"child {name!r} configures {len(optimizers)} optimizers: return one, with several "
                "parameter groups"
            )
        (part,) = optimizers
        if isinstance(part, LBFGS):
            raise ValueError(
                f"child {name!r} uses LBFGS, which evaluates the loss several times in a step: use "
                "an optimizer that evaluates it once"
            )
        for other in parts:
            if parts[other] is part:
                raise ValueError(
                    f"children {other!r} and {name!r} return one and the same optimizer: give each "
                    "its own"
                )
        configs = lightning._configure_schedulers_automatic_opt(unparsed, monitor)
        lightning._validate_optimizers_attached(optimizers, configs)
        lightning._validate_scheduler_api(configs, child)
        for config in configs:
            config.name = f"{name}/{config.name or 'lr-' + type(part).__name__}"
            config.monitor = config.monitor and f"{name}/{config.monitor}"
        parts[name] = part
        schedulers += configs
    return PairedOptimizer(parts, schedulers)
