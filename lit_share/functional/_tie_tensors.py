"""A tie as local, dense tensors, with the information that the algebra needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor


class Ranks(Protocol):
    """The processes that hold the shards of a tie."""

    def sum(self, tensor: Tensor) -> Tensor:
        """Return the all-reduced sum of a tensor over these processes."""


@dataclass(frozen=True)
class Shard:
    """The slice of the full members that a process holds.

    Attributes:
        dim: The dimension along which members are sharded.
        begin: The first index of the slice.
        length: The length of the full members along ``dim``.
        ranks: The processes that hold all slices; ties of equal ranks use one all-reduce.
    """

    dim: int
    begin: int
    length: int
    ranks: Ranks

    def in_full(self, tensor: Tensor) -> Tensor:
        """Return a full tensor, with zeros outside of the slice."""
        shape = list(tensor.shape)
        shape[self.dim] = self.length
        full = tensor.new_zeros(shape, dtype=float64_on(tensor.device))
        self.of_full(full, tensor.shape).copy_(tensor)
        return full

    def of_full(self, full: Tensor, shape: Sequence[int]) -> Tensor:
        """Return the slice of a full tensor, with the length of ``shape`` along ``dim``."""
        return full.narrow(self.dim, self.begin, shape[self.dim])


@dataclass
class TieTensors:
    """The members of a tie, N ≥ 1 tensors of one shape, with their buffers and steps.

    Attributes:
        members: Local, dense tensors, written to in place.
        grads: For each member, the buffer that gradients are added to, or ``None`` to add none.
        steps: For each member, the size of its proximal step, ≥ 0; members of step 0 do not move.
        start: The starting values of the members, if the center needs them.
        precision: The weights F ≥ 0 of the members' elements, for squared penalties; 1 if ``None``.
        frozen: A mask of the groups that stay at their center, which broadcasts over the members. A
            proximal step marks the groups that it makes equal to their center, in place.
        shard: The slice that this process holds; ``None`` if members are full.
        edge_weights: For ``edges="adaptive"``, the weight of each edge, in float64 on the host;
            ``None`` until a penalty first acts on the tie.
        aliases: For each member, the index of the first that is the same tensor, which takes the
            pulls of all their edges in a proximal step; empty if all are different.
        inside: Whether the numbers of the only member are compared with each other.

    Example:
        >>> tie = TieTensors([torch.tensor([1.0, 2.0])], steps=[0.1])
        >>> tie.shape
        torch.Size([2])
    """

    members: Sequence[Tensor]
    grads: Sequence[Tensor | None] = ()
    steps: Sequence[float] = ()
    start: Sequence[Tensor] | None = None
    frozen: Tensor | None = None
    shard: Shard | None = None
    precision: Sequence[Tensor] | None = None
    edge_weights: Tensor | None = None
    aliases: Sequence[int] = ()
    inside: bool = False

    def __post_init__(self) -> None:
        if self.inside and len(self.members) != 1:
            raise ValueError(f"inside=True takes one member, got {len(self.members)}")
        if self.inside and self.shard is not None:
            raise ValueError("inside=True takes no shard: gather the tensor first")
        for name, given in vars(self).items():
            is_list = isinstance(given, Sequence) and not isinstance(given, Tensor)
            if is_list and given and len(given) != len(self.members):
                raise ValueError(
                    f"a tie of {len(self.members)} members needs as many {name}, got {len(given)}"
                )

    @property
    def shape(self) -> torch.Size:
        """The local shape of each member."""
        return self.members[0].shape

    @property
    def full_shape(self) -> torch.Size:
        """The shape of each member, over all shards."""
        shape = list(self.shape)
        if self.shard is not None:
            shape[self.shard.dim] = self.shard.length
        return torch.Size(shape)

    def wide(self) -> list[Tensor]:
        """Return the members in the dtype of computation, which is float32 for half precision."""
        return [as_wide(member) for member in self.members]

    def map(self, function: Callable[[Tensor], Tensor]) -> TieTensors:
        """Return the tie with ``function`` applied to all tensors of the members' shape."""
        members = [function(member) for member in self.members]
        grads = [None if grad is None else function(grad) for grad in self.grads]
        start, frozen, precision = self.start, self.frozen, self.precision
        if start is not None:
            start = [function(value) for value in start]
        if precision is not None:
            precision = [function(weights) for weights in precision]
        if frozen is not None:
            frozen = function(frozen)
        return replace(
            self, members=members, grads=grads, start=start, frozen=frozen, precision=precision
        )


def block_size(tensor: Tensor) -> int:
    """Return how many elements the plain path processes at a time."""
    # Smaller blocks add calls, larger ones temporary memory.
    if tensor.is_cpu:
        return 2**19
    return 2**21


def as_wide(tensor: Tensor) -> Tensor:
    """Return a tensor in the dtype of computation, which is float32 for half precision."""
    if tensor.dtype in (torch.bfloat16, torch.float16):
        return tensor.float()
    return tensor


def float64_on(device: torch.device) -> torch.dtype:
    """Return float64, or float32 for a device without float64."""
    # Apple's GPUs have no float64.
    if device.type == "mps":
        return torch.float32
    return torch.float64
