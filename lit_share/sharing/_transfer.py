"""Optimizer groups and states when parameters are shared in the middle of training."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from torch import nn
from torch.optim import Optimizer

from lit_share.sharing._duplicates import set_parameters
from lit_share.ties import parameter_refs


class OptimizerTransfer:
    """Brings optimizers up to date with a module in which parameters are shared meanwhile.

    Args:
        optimizers: The optimizers; one that is made of several has them as its ``parts``.
        module: The module, before parameters are shared.
    """

    def __init__(self, optimizers: Sequence[Optimizer], module: nn.Module) -> None:
        self.module = module
        self.optimizers = [
            part
            for optimizer in optimizers
            for part in getattr(optimizer, "parts", {"": optimizer}).values()
        ]
        self.before = {ref.name: ref.stored for ref in parameter_refs(module)}

    def finish(self) -> None:
        """Remove parameters that the module lost, with their states, and add those that it gained.

        A parameter that took the place of another one, as that of a convolution takes the place of
        those of all positions, joins its group, and its state starts anew.
        """
        after = {ref.name: ref.stored for ref in parameter_refs(self.module)}
        lost = set(self.before.values()) - set(after.values())
        gained = set(after.values()) - set(self.before.values())
        successors: dict[nn.Parameter, tuple[str, nn.Parameter]] = {}
        for name, parameter in self.before.items():
            successor = after.get(name)
            if parameter in lost and successor in gained and successor is not None:
                successors[parameter] = name, successor  # type: ignore[index]
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                stay = [p for p in group["params"] if p not in lost or p in successors]
                set_parameters(
                    group, [successors[p][1] if p in successors else p for p in stay], stay
                )
            for parameter in lost & optimizer.state.keys():
                if optimizer.state.pop(parameter) and parameter in successors:
                    name = successors[parameter][0]
                    warnings.warn(
                        f"the optimizer's state of {name!r} is of all positions, and starts anew",
                        stacklevel=2,
                    )
