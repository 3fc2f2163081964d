"""Optimizer groups and states when parameters are shared during training."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from lit_share.sharing._duplicates import set_parameters
from lit_share.ties import parameter_refs


class OptimizerTransfer:
    """Adapts optimizers to a module in which `share` replaces parameters after construction.

    The first member of a tie keeps its group and optimizer state; the others leave their groups,
    and their state is dropped. Parameters that replace those of all positions, or all rows, start
    without state.
    """

    def __init__(self, optimizers: Sequence[Optimizer], module: nn.Module) -> None:
        self.module = module
        # A combined optimizer has the optimizers of its children as `parts`.
        self.optimizers: list[Any] = []
        for optimizer in optimizers:
            self.optimizers += getattr(optimizer, "parts", {"": optimizer}).values()
        self.before = {ref.name: ref.stored for ref in parameter_refs(module)}

    def finish(self) -> None:
        """Replace or remove parameters that the module has lost; warn of states that are reset."""
        after = {ref.name: ref.stored for ref in parameter_refs(self.module)}
        lost = set(self.before.values()) - set(after.values())
        gained = set(after.values()) - set(self.before.values())
        # The parameter of a convolution replaces those of all positions, and a codebook a weight.
        # It joins their group, but their state has another shape, so it is reset.
        successors: dict[nn.Parameter, tuple[str, nn.Parameter]] = {}
        for name, parameter in self.before.items():
            successor = after.get(name)
            if parameter in lost and successor in gained and successor is not None:
                successors[parameter] = name, successor  # type: ignore[index]
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                # Lost parameters without a successor are aliases of a member in some group now.
                stay = [p for p in group["params"] if p not in lost or p in successors]
                set_parameters(group, [successors.get(p, ("", p))[1] for p in stay], stay)
            for parameter in lost & optimizer.state.keys():
                if optimizer.state.pop(parameter) and parameter in successors:
                    name = successors[parameter][0]
                    warnings.warn(
                        f"the optimizer's state of {name!r} has another shape, so it is reset",
                        stacklevel=2,
                    )
