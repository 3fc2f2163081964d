"""Count what the plain torch path moves, as on GPUs: operation by operation.

Each operation of eager torch is a kernel that reads its inputs and writes its outputs. Their sum is
what a device moves if nothing stays in its cache between two kernels. Tensors on the meta device
run through the same code, and take neither time nor memory.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lit_share import Penalty
from lit_share.functional import accumulate_, write_

# So large that what is computed for each group is next to nothing.
_SHAPE = (4096, 4096)


class Operations(NamedTuple):
    """What a step of one tie takes.

    Attributes:
        traffic: Bytes read and written, for each element of a tie: of N numbers.
        launches: Operations.
        temporaries: The most bytes in temporary tensors at once, for each element of a block: of
            2^21 elements if every element is a group, else of the largest tie.
    """

    traffic: float
    launches: int
    temporaries: float


class Tally(TorchDispatchMode):
    """Add up what operations read and write, and what they allocate."""

    def __init__(self) -> None:
        super().__init__()
        self.traffic = self.launches = self.live = self.peak = 0

    def __torch_dispatch__(
        self,
        function: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        inputs, outputs = _tensors((args, kwargs)), _tensors(result)
        storages = {_storage(tensor) for tensor in inputs}
        new = [tensor for tensor in outputs if _storage(tensor) not in storages]
        # Views neither read nor write; constants of one number take no time on the device.
        if function.namespace != "aten" or not (new or function._schema.is_mutable):
            return result
        if function is torch.ops.aten.copy_.default:
            inputs = inputs[1:]
        elif function.__name__.split(".")[0] in ("new_zeros", "zeros_like", "scalar_tensor"):
            inputs = []
        moved = sum(tensor.nbytes for tensor in [*inputs, *outputs])
        self.traffic += moved
        self.launches += 1
        for tensor in new:
            self._allocate(tensor)
        return result

    def _allocate(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        size = storage.nbytes()
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._free, size)

    def _free(self, size: int) -> None:
        self.live -= size


def count(penalty: Penalty, members: int, dtype: torch.dtype = torch.float32) -> Operations:
    """Count the gradient or the proximal step of a tie of large matrices.

    Of OWL everything but the norm itself is counted, which the host sorts. Along edges it is a step
    to the mean, which a pair takes, and more members nearly.
    """
    if penalty.omega.weighted:
        penalty = Penalty("l1", penalty.groups, penalty.center)
    if penalty.centering.has_edges:
        penalty = Penalty(penalty.norm, penalty.groups, "mean")
    weights, grads, start = (_matrices(members, dtype) for _ in range(3))
    own_start = start if penalty.centering.needs_start else None
    # The precision is float32 for members of half precision, too.
    precision = _matrices(members, torch.float32) if penalty.needs_precision else None

    def step() -> None:
        if penalty.is_smooth:
            accumulate_(grads, penalty.gradient(weights, own_start, precision), 1.0)
        else:
            write_(weights, penalty.prox(weights, 1.0, own_start))

    counted = _tallied(step)
    # What the block before has become is still there.
    before = members * dtype.itemsize
    return counted._replace(temporaries=counted.temporaries + before)


def count_again(penalty: Penalty, members: int, dtype: torch.dtype = torch.float32) -> Operations:
    """Count what is computed twice if groups span shards: the deviations."""
    weights = _matrices(members, dtype)
    return _tallied(lambda: penalty.centering.split(weights, None))


def _tallied(step: Callable[[], object]) -> Operations:
    with Tally() as tally:
        step()
    elements = math.prod(_SHAPE)
    return Operations(tally.traffic / elements, tally.launches, tally.peak / elements)


def _matrices(members: int, dtype: torch.dtype) -> list[Tensor]:
    return [torch.empty(_SHAPE, dtype=dtype, device="meta") for _ in range(members)]


def _tensors(tree: object) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
