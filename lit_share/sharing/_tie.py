"""A tie: the tensors of a module that ought to be alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

# What torch.compile, activation checkpointing and FSDP1 put into parameter names.
_WRAPPERS = ("_orig_mod.", "_checkpoint_wrapped_module.", "_fsdp_wrapped_module.")


@dataclass(frozen=True, eq=False)
class Slot:
    """A place in a module that holds a parameter: looked up each time, as the parameter in it may be replaced."""

    name: str
    owner: nn.Module
    attribute: str

    @property
    def parameter(self) -> nn.Parameter:
        """The parameter that the slot holds now."""
        parameter = self.owner._parameters[self.attribute]
        assert parameter is not None
        return parameter

    def put(self, parameter: nn.Parameter) -> None:
        """Replace the parameter that the slot holds."""
        self.owner._parameters[self.attribute] = parameter


@dataclass(frozen=True, eq=False)
class Member:
    """A tensor of a tie: a parameter, its transpose, or one of its slices along dim 0."""

    slot: Slot
    transposed: bool = False
    index: int | None = None

    @property
    def name(self) -> str:
        """The parameter's name, with ``.T`` or ``[3]`` after it where the member is not all of it."""
        return f"{self.slot.name}{'.T' if self.transposed else ''}{'' if self.index is None else f'[{self.index}]'}"

    @property
    def is_whole(self) -> bool:
        """Whether the member is a whole parameter as it stands."""
        return not self.transposed and self.index is None

    @property
    def parameter(self) -> nn.Parameter:
        """The parameter that the member is, or is a part of."""
        return self.slot.parameter

    def view(self, tensor: Tensor) -> Tensor:
        """The member's part of a tensor of its parameter's shape."""
        return tensor.T if self.transposed else tensor if self.index is None else tensor[self.index]


@dataclass(frozen=True, eq=False)
class Tie:
    """N ≥ 1 tensors of one shape in a module, its *members*.

    Attributes:
        name: What the stars stand for, or the first member's name; where ties that were found together would have one
            name, all their members' names.
        members: The members, in the order of the patterns.
    """

    name: str
    members: tuple[Member, ...]

    @property
    def shape(self) -> torch.Size:
        """The shape of each member."""
        return self.tensors()[0].shape

    @property
    def numel(self) -> int:
        """The number of elements of one member."""
        return self.shape.numel()

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The members' parameters, one entry per member."""
        return [member.parameter for member in self.members]

    def tensors(self) -> list[Tensor]:
        """The members' values now, outside of autograd; writing to them writes to the parameters."""
        return [member.view(member.parameter.detach()) for member in self.members]


def distinctly_named(ties: Sequence[Tie]) -> list[Tie]:
    """The ties, those of one name renamed after their members."""
    counts = Counter(tie.name for tie in ties)
    return [
        tie if counts[tie.name] == 1 else replace(tie, name=" = ".join(m.name for m in tie.members)) for tie in ties
    ]


def slots(module: nn.Module) -> Iterator[Slot]:
    """All places of ``module`` that hold a parameter, under the names that its unwrapped modules give them."""
    module = _unwrapped(module)
    for prefix, owner in module.named_modules(remove_duplicate=False):
        for attribute, parameter in owner._parameters.items():
            if parameter is not None:
                yield Slot(unwrapped_name(f"{prefix}.{attribute}".lstrip(".")), owner, attribute)


def unwrapped_name(name: str) -> str:
    """A parameter's name without what wrappers put into it."""
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    return name


def _unwrapped(module: nn.Module) -> nn.Module:
    """The user's module in what Fabric and data parallelism make of it."""
    inner = module._modules.get("_original_module") or module._modules.get("module")
    if type(module).__name__ in ("_FabricModule", "DistributedDataParallel", "DataParallel") and inner is not None:
        return _unwrapped(inner)
    return module
