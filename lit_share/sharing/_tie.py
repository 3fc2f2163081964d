"""A tie: the tensors of a module that ought to be alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from lit_share.sharing._derived import Derived, derived, derived_in, full, underive
from lit_share.sharing._positions import position_count

# What torch.compile, activation checkpointing and FSDP1 put into parameter names.
_WRAPPERS = ("_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module")
# Modules that have the user's module under a name of their own.
_WRAPPER_CLASSES = {
    "_FabricModule": "_original_module",
    "DistributedDataParallel": "module",
    "DataParallel": "module",
    "OptimizedModule": "_orig_mod",
}
_SHOWN = 4


@dataclass(frozen=True, eq=False)
class Slot:
    """A place in a module that holds a parameter: looked up each time, as the parameter in it may be replaced."""

    name: str
    owner: nn.Module
    attribute: str

    @property
    def stored(self) -> nn.Parameter | None:
        """What is stored under this name: the parameter, the units of its own, or nothing; see `Derived`."""
        return self.owner._parameters[self.attribute]

    @property
    def derived(self) -> Derived | None:
        """How the tensor is made, where another place stores it."""
        return derived(self.owner, self.attribute)

    @property
    def source(self) -> Slot | None:
        """The place that the tensor is made of, where that is another one."""
        how = self.derived
        return (
            None if how is None else Slot(f"what {self.name} is made of", how.owner, how.attribute)
        )

    @property
    def parameter(self) -> nn.Parameter:
        """The parameter that is trained here: what is stored under this name, or else what it is made of."""
        stored = self.stored
        if stored is not None:  # asked for in every step
            return stored
        source = self.source
        assert source is not None
        return source.parameter

    @property
    def is_partial(self) -> bool:
        """Whether some units are stored here, and others in another place."""
        how = self.derived
        return how is not None and (
            how.apart is not None or Slot(self.name, how.owner, how.attribute).is_partial
        )

    @property
    def is_turned(self) -> bool:
        """Whether the tensor is the transpose of what is stored."""
        how = self.derived
        return (
            how is not None
            and how.transposed != Slot(self.name, how.owner, how.attribute).is_turned
        )

    @property
    def is_replaced(self) -> bool:
        """Whether something else was put here, where the tensor was made of another place's."""
        how, source = self.derived, self.source
        return (
            how is not None and source is not None and how.is_replaced(source.full(), self.stored)
        )

    def full(self, of: Callable[[nn.Parameter], Tensor] = nn.Parameter.detach) -> Tensor:
        """The tensor of the place, outside of autograd; a view of what is stored unless `is_partial`."""
        return full(self.owner, self.attribute, of)

    def write(self, tensor: Tensor) -> None:
        """Store a tensor of the place's shape; units that another place stores are left as they are."""
        how, stored, source = self.derived, self.stored, self.source
        if stored is not None:
            stored.detach().copy_(tensor if how is None else how.own_part(tensor))
        elif how is not None and source is not None:
            source.write(how.shared_part(tensor))

    def add_to_gradient(
        self, tensor: Tensor, wanted: Callable[[nn.Parameter], bool] = lambda _: True
    ) -> None:
        """Add a gradient of the place's shape to those of the parameters that it is made of, if they are wanted."""
        how, stored, source = self.derived, self.stored, self.source
        if stored is not None and stored.requires_grad and wanted(stored):
            part = tensor if how is None else how.own_part(tensor)
            stored.grad = part.clone() if stored.grad is None else stored.grad.add_(part)
        if how is not None and source is not None:
            source.add_to_gradient(how.shared_part(tensor), wanted)

    def put(self, parameter: nn.Parameter) -> None:
        """Store this parameter here."""
        if self.derived is not None:
            underive(self.owner, self.attribute)
        # Not past the module's back: recurrent ones keep a list of their weights.
        setattr(self.owner, self.attribute, parameter)


@dataclass(frozen=True, eq=False)
class BufferSlot:
    """A place in a module that holds a buffer."""

    name: str
    owner: nn.Module
    attribute: str

    @property
    def stored(self) -> Tensor:
        """The buffer."""
        buffer = self.owner._buffers[self.attribute]
        assert buffer is not None
        return buffer

    def put(self, buffer: Tensor) -> None:
        """Hold this buffer here."""
        self.owner._buffers[self.attribute] = buffer


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
    def parameter(self) -> nn.Parameter:
        """The parameter that the member is, or is a part of."""
        return self.slot.parameter

    @property
    def part(self) -> int | None:
        """The slice of the parameter that the member is; ``None`` if it is all of it, as where positions are shared."""
        return None if self.index is None or position_count(self.slot.owner) else self.index

    @property
    def is_turned(self) -> bool:
        """Whether the member is the transpose of what is stored."""
        return self.transposed != self.slot.is_turned

    def value(self, of: Callable[[nn.Parameter], Tensor] = nn.Parameter.detach) -> Tensor:
        """The member's tensor, with ``of`` applied to the parameters that it is made of."""
        tensor = self.slot.full(of)
        return tensor.T if self.transposed else tensor if self.part is None else tensor[self.part]

    def part_of(self, tensor: Tensor) -> Tensor:
        """The member's part of a tensor of its parameter's shape."""
        return tensor.T if self.is_turned else tensor if self.part is None else tensor[self.part]


@dataclass(frozen=True, eq=False, repr=False)
class Tie:
    """N ≥ 1 tensors of one shape in a module, its *members*.

    Attributes:
        name: What the stars stand for, or the first member's name; where ties that were found together would have one
            name, all their members' names.
        members: The members, in the order of the patterns.
    """

    name: str
    members: tuple[Member, ...]

    def __repr__(self) -> str:
        return f"Tie({self.name!r}: {shortened([member.name for member in self.members], ' = ')})"

    @cached_property
    def runs(self) -> list[tuple[Member, int]]:
        """The first of the members that are all slices of one parameter, and how many they are; others alone."""
        grouped = groupby(self.members, key=lambda m: (m.slot, m.index is None, m.transposed))
        runs = [list(members) for _, members in grouped]
        return [(members[0], len(members)) for members in runs]

    @property
    def shape(self) -> torch.Size:
        """The shape of each member."""
        return self.members[0].value().shape

    @property
    def numel(self) -> int:
        """The number of elements of one member."""
        return self.shape.numel()

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The members' parameters, one entry per member."""
        return [parameter for first, count in self.runs for parameter in [first.parameter] * count]

    @property
    def is_one(self) -> bool:
        """Whether all members are one stored parameter."""
        if any(count > 1 and first.part is not None for first, count in self.runs):
            return False
        if (
            len({id(first.parameter) for first, _ in self.runs}) > 1
        ):  # most ties, and asked for in every step
            return False
        stored = {(id(first.parameter), first.is_turned, first.part) for first, _ in self.runs}
        return len(stored) == 1 and not self.is_partial

    @property
    def is_partial(self) -> bool:
        """Whether a member shares only some of its units; see `Slot.is_partial`."""
        return any(first.slot.is_partial for first, _ in self.runs)

    def tensors(self) -> list[Tensor]:
        """The members' values now, outside of autograd.

        Writing to them writes to the parameters, except where a member's slot `is_partial`.
        """
        return [
            tensor
            for first, count in self.runs
            for tensor in (
                [first.value()] * count if first.part is None else first.slot.full().unbind()
            )
        ]


def whole(tensor: Tensor) -> Tensor:
    """The tensor itself, or all of it where each process has a shard."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def stored_parameters(tie: Tie) -> list[nn.Parameter]:
    """All parameters that the members are made of."""
    stored: list[nn.Parameter] = []

    def note(parameter: nn.Parameter) -> Tensor:
        stored.append(parameter)
        return parameter.detach()

    for member in tie.members:
        member.value(note)
    return stored


def distinctly_named(ties: Sequence[Tie]) -> list[Tie]:
    """The ties, those of one name renamed after their members."""
    counts = Counter(tie.name for tie in ties)
    return [
        tie if counts[tie.name] == 1 else replace(tie, name=" = ".join(m.name for m in tie.members))
        for tie in ties
    ]


def shortened(names: Sequence[str], separator: str) -> str:
    """The names in one text; of many, the first few and the last."""
    if len(names) <= _SHOWN:
        return separator.join(names)
    return separator.join([*names[: _SHOWN - 1], f"… {len(names) - _SHOWN} more …", names[-1]])


def slots(module: nn.Module) -> Iterator[Slot]:
    """All places of ``module`` that have a parameter, under the names that its unwrapped modules give them."""
    for prefix, owner in unwrapped(module).named_modules(remove_duplicate=False):
        for attribute, parameter in owner._parameters.items():
            if parameter is not None or attribute in derived_in(owner):
                yield Slot(unwrapped_name(f"{prefix}.{attribute}".lstrip(".")), owner, attribute)


def buffer_slots(module: nn.Module) -> Iterator[BufferSlot]:
    """All places of ``module`` that have a buffer, under the names that its unwrapped modules give them."""
    for prefix, owner in unwrapped(module).named_modules(remove_duplicate=False):
        for attribute, buffer in owner._buffers.items():
            if buffer is not None:
                yield BufferSlot(
                    unwrapped_name(f"{prefix}.{attribute}".lstrip(".")), owner, attribute
                )


def unwrapped_name(name: str) -> str:
    """The name of a parameter or module without what wrappers put into it."""
    # Whole parts only: a user's own `my_orig_mod` is no wrapper.
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def unwrapped(module: nn.Module) -> nn.Module:
    """The user's module in what Fabric, compilation and data parallelism make of it."""
    if not isinstance(module, nn.Module):
        raise TypeError(
            f"module must be a torch.nn.Module, got a {type(module).__name__}: put several models into one, as in "
            "torch.nn.ModuleDict({'a': a, 'b': b})"
        )
    kind = type(module).__name__
    for wrapper, attribute in _WRAPPER_CLASSES.items():
        inner = module._modules.get(attribute)
        if kind == wrapper and inner is not None:
            return unwrapped(inner)
    return module
