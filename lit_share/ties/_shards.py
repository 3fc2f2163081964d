"""Members that FSDP2 shards: their local slices as plain tensors, and reductions over their ranks."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, Replicate, distribute_tensor
from torch.distributed.tensor import Shard as ShardPlacement

from lit_share.functional import Shard


@dataclass(frozen=True)
class MeshRanks:
    """The ranks along one axis of a device mesh, for sums over shards."""

    group: distributed.ProcessGroup
    device_type: str

    def sum(self, tensor: Tensor) -> Tensor:
        """Return the sum of a tensor over these ranks: one all-reduce."""
        # Parameters may have been moved to another device than the ranks talk from.
        message = tensor.to(self.device_type)
        distributed.all_reduce(message, group=self.group)
        return message


class LocalShards:
    """How the members of a tie are sharded, and their local slices.

    Members of other placements than the first, as transposed ones have, are redistributed, and so are
    those that are sharded along several dimensions of a mesh: their local slices are copies then.

    Args:
        tensors: The members, DTensors.

    Raises:
        ValueError: If only some members are sharded, or they are on different meshes.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        sharded = [tensor for tensor in tensors if isinstance(tensor, DTensor)]
        first = sharded[0]
        if len(sharded) < len(tensors):
            raise ValueError(
                "some of these members are sharded, and others are not: give all of them to "
                "fully_shard"
            )
        if any(tensor.device_mesh != first.device_mesh for tensor in sharded):
            raise ValueError(
                "these members are sharded over different meshes: give all of them to fully_shard with "
                "one"
            )
        self.mesh, self.shard = first.device_mesh, None
        axes = [i for i, p in enumerate(first.placements) if type(p) is ShardPlacement]
        self.placements = tuple(
            p if i in axes[:1] else Replicate() for i, p in enumerate(first.placements)
        )
        if axes:
            (axis, *_), dim = axes, self.placements[axes[0]].dim  # type: ignore[attr-defined]
            length = first.shape[dim]
            each = -(-length // self.mesh.size(axis))
            begin = min(self.mesh.get_local_rank(axis) * each, length)
            ranks = MeshRanks(self.mesh.get_group(axis), self.mesh.device_type)
            self.shard = Shard(dim, begin, length, ranks)

    def local(self, tensor: Tensor) -> Tensor:
        """Return the local slice of a tensor of the members' shape; a copy unless `is_local`."""
        if not isinstance(tensor, DTensor):
            return tensor
        with torch.no_grad():
            return tensor.redistribute(placements=self.placements).to_local()

    def is_local(self, tensor: Tensor) -> bool:
        """Whether the local slice of a tensor is its own memory."""
        return not isinstance(tensor, DTensor) or tensor.placements == self.placements

    def distributed(self, local: Tensor, like: Tensor) -> Tensor:
        """Return the DTensor of which this is the local slice, with the placements of another."""
        assert isinstance(like, DTensor)
        return self._gather(local, like.shape).redistribute(placements=like.placements)

    def distributed_mask(self, mask: Tensor) -> Tensor:
        """Return the DTensor mask of groups of all shards, given that of local groups."""
        assert self.shard is not None
        size = list(mask.shape)
        size[self.shard.dim] = self.shard.length
        return self._gather(mask, torch.Size(size))

    def _gather(self, local: Tensor, size: torch.Size) -> DTensor:
        stride = torch.empty(size, device="meta").stride()
        return DTensor.from_local(
            local.contiguous(),
            self.mesh,
            self.placements,
            run_check=False,
            shape=size,
            stride=stride,
        )


def reshard(module: nn.Module) -> list[FSDPModule]:
    """Give FSDP2 modules their sharded parameters again, which the optimizers own.

    They hold full ones after a forward pass without gradients, as in validation; what is written to
    these is lost.

    Returns:
        The modules, to be resharded before every step.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return []
    sharded: list[Any] = [part for part in module.modules() if isinstance(part, FSDPModule)]
    if getattr(module, "_is_fsdp_managed_module", False) and module not in sharded:
        sharded += [o for o in _fsdp_modules() if any(part is module for part in o.modules())]
    for part in sharded:
        part.reshard()
    return sharded


def sharded_modules(module: nn.Module) -> set[int]:
    """Return the ``id`` of each module that FSDP2 shards, also as a part of another one.

    They need not be submodules of ``module``: a module does not know what it is a part of.
    """
    initialized = distributed.is_available() and distributed.is_initialized()
    around = [*module.modules(), *(_fsdp_modules() if initialized else ())]
    sharded: list[Any] = [outer for outer in around if isinstance(outer, FSDPModule)]
    return {id(part) for outer in sharded for part in outer.modules()}


def like_parameter(saved: Tensor, now: Tensor) -> Tensor:
    """Return a saved value on the device, in the dtype and with the shards of a present one."""
    saved = saved.to(device=now.device, dtype=now.dtype)
    if isinstance(now, DTensor) and not isinstance(saved, DTensor):
        return distribute_tensor(saved, now.device_mesh, now.placements)
    return saved


def _fsdp_modules() -> Iterator[Any]:
    """Yield all modules that were given to ``fully_shard``."""
    for found in gc.get_objects():
        # Not `isinstance`, which asks some objects for more than their class.
        if issubclass(type(found), FSDPModule):
            yield found
