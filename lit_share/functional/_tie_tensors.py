"""One tie as the algebra sees it: local, dense tensors, and what has to be known of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Ranks(Protocol):
    """The processes that hold the shards of a tie's members."""

    def sum(self, tensor: Tensor) -> Tensor:
        """Return the sum of a tensor over these processes: an all-reduce."""


@dataclass(frozen=True)
class Shard:
    """Which slice of the full members a process holds.

    Attributes:
        dim: The dimension along which members are sharded.
        begin: The first index of the slice.
        length: The length of the full members along ``dim``.
        ranks: The processes that hold the other slices; ties of equal ranks share one message.
    """

    dim: int
    begin: int
    length: int
    ranks: Ranks

    def in_full(self, tensor: Tensor) -> Tensor:
        """Return a full tensor with the slice in its place and zeros around it."""
        shape = list(tensor.shape)
        shape[self.dim] = self.length
        full = tensor.new_zeros(shape, dtype=float64_on(tensor.device))
        self.of_full(full, tensor.shape).copy_(tensor)
        return full

    def of_full(self, full: Tensor, shape: Sequence[int]) -> Tensor:
        """Return the slice of a full tensor; it has ``shape`` along ``dim``."""
        return full.narrow(self.dim, self.begin, shape[self.dim])


@dataclass
class TieTensors:
    """The members of one tie, N ≥ 1 tensors of one shape, and what belongs to them.

    Attributes:
        members: Local, dense tensors that may be written to.
        grads: For each member a buffer that gradients are added to, or ``None`` where nothing is.
        steps: For each member the size of its proximal step, ≥ 0; one of 0 is not written to.
        start: For a center that needs them, the members' values when training began.
        frozen: A mask of the groups that stay at their center whatever their step, of a shape that
            broadcasts over the members; groups that a proximal step puts there are added in place.
        shard: The slice of the full members that this process holds; ``None`` if that is all.

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

    def __post_init__(self) -> None:
        for name, given in vars(self).items():
            is_list = isinstance(given, Sequence) and not isinstance(given, Tensor)
            if is_list and given and len(given) != len(self.members):
                raise ValueError(
                    f"a tie of {len(self.members)} members needs as many {name}, got {len(given)}"
                )

    @property
    def shape(self) -> torch.Size:
        """The shape of each member, as far as it is local."""
        return self.members[0].shape

    def map(self, function: Callable[[Tensor], Tensor]) -> TieTensors:
        """Return the tie with ``function`` applied to all tensors of the members' shape."""
        return TieTensors(
            [function(member) for member in self.members],
            [None if grad is None else function(grad) for grad in self.grads],
            self.steps,
            None if self.start is None else [function(start) for start in self.start],
            None if self.frozen is None else function(self.frozen),
            self.shard,
        )


def float64_on(device: torch.device) -> torch.dtype:
    """Return the widest dtype of a device: float64, which Apple's GPUs lack."""
    return torch.float32 if device.type == "mps" else torch.float64
