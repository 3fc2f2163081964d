"""Members that are divided: each process has a part of them, and some group norms need all parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Part(NamedTuple):
    """Which part of the members of a tie is here: from index ``begin`` on along dimension ``dim``, of ``length``."""

    dim: int
    begin: int
    length: int

    def in_whole(self, tensor: Tensor) -> Tensor:
        """The part in its place among zeros: summed over all parts, these are the whole tensor, in float64."""
        shape = list(tensor.shape)
        shape[self.dim] = self.length
        whole = tensor.new_zeros(shape, dtype=torch.float64)
        self.of_whole(whole, tensor.shape).copy_(tensor)
        return whole

    def of_whole(self, whole: Tensor, size: torch.Size) -> Tensor:
        """The part, of this size, of a whole tensor."""
        return whole.narrow(self.dim, self.begin, size[self.dim])


class Shards(NamedTuple):
    """What the algebra needs to know of the processes that have the other parts of the members.

    Attributes:
        parts: For each tie its part that is here, or ``None`` if all of it is.
        total: Adds up over all parts. Takes for each tie a float64 tensor, of a shape that does not depend on the part,
            or ``None``, and returns the sums; so that one message can carry those of all ties.
    """

    parts: Sequence[Part | None]
    total: Callable[[Sequence[Tensor | None]], list[Tensor | None]]
