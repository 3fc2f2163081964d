"""Members that FSDP2 shards: their local slices, and sums over their ranks."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, distributed, nn

from lit_share.functional import Ranks, Shard
from lit_share.ties._distributed import is_dtensor, is_fsdp_module

if TYPE_CHECKING:
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor, Placement


@dataclass(frozen=True)
class MeshRanks:
    """The ranks along one dimension of a device mesh."""

    group: distributed.ProcessGroup
    device_type: str

    def sum(self, tensor: Tensor) -> Tensor:
        """All-reduce a tensor over these ranks, and return the sum."""
        # NCCL needs the device of the mesh, but parameters may have been moved to another one.
        message = tensor.to(self.device_type)
        distributed.all_reduce(message, group=self.group)
        return message


class LocalShards:
    """How the members of a tie are sharded, and their local slices.

    Args:
        tensors: The members, as DTensors.

    Raises:
        ValueError: If some members are not sharded, or their meshes differ.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        sharded = [tensor for tensor in tensors if is_dtensor(tensor)]
        first = sharded[0]
        if len(sharded) < len(tensors):
            raise ValueError(
                "some of these members are sharded, and others are not: give all of them to "
                "fully_shard"
            )
        if any(tensor.device_mesh != first.device_mesh for tensor in sharded):
            raise ValueError(
                "these members are sharded over different meshes: give all of them to fully_shard "
                "with one mesh"
            )
        from torch.distributed.tensor import Replicate
        from torch.distributed.tensor import Shard as ShardPlacement

        self.mesh, self.shard = first.device_mesh, None
        # All members get the placements of the first: transposes are sharded along the other
        # dimension. The algebra knows one sharded dimension, so others of the mesh are replicated.
        placements: list[Placement] = [Replicate()] * len(first.placements)
        for axis, placement in enumerate(first.placements):
            if type(placement) is not ShardPlacement:
                continue
            placements[axis] = placement
            length = first.shape[placement.dim]
            # FSDP2 shards like `torch.chunk`: the last ranks may have a shorter slice, or none.
            chunk = -(-length // self.mesh.size(axis))
            begin = min(self.mesh.get_local_rank(axis) * chunk, length)
            ranks = MeshRanks(self.mesh.get_group(axis), self.mesh.device_type)
            self.shard = Shard(placement.dim, begin, length, ranks)
            break
        self.placements = tuple(placements)

    def local(self, tensor: Tensor) -> Tensor:
        """Return the local slice of a tensor of the members' shape; a copy unless `is_local`."""
        if not is_dtensor(tensor):
            return tensor
        with torch.no_grad():
            return tensor.redistribute(placements=self.placements).to_local()

    def is_local(self, tensor: Tensor) -> bool:
        """Whether the local slice of a tensor is in the tensor's own memory."""
        return not is_dtensor(tensor) or tensor.placements == self.placements

    def distributed(self, local: Tensor, like: Tensor) -> Tensor:
        """Return the DTensor that has this local slice, with the placements of ``like``."""
        assert is_dtensor(like)
        return self._gather(local, like.shape).redistribute(placements=like.placements)

    def distributed_mask(self, mask: Tensor) -> Tensor:
        """Return the mask of all groups as a DTensor, given the mask of local groups."""
        assert self.shard is not None
        size = list(mask.shape)
        size[self.shard.dim] = self.shard.length
        return self._gather(mask, torch.Size(size))

    def _gather(self, local: Tensor, size: torch.Size) -> DTensor:
        # Without shape and stride, torch would derive them from the local slice, which may be
        # shorter on the last rank; with ``run_check`` it would communicate.
        from torch.distributed.tensor import DTensor

        stride = torch.empty(size, device="meta").stride()
        return DTensor.from_local(
            local.contiguous(),
            self.mesh,
            self.placements,
            run_check=False,
            shape=size,
            stride=stride,
        )


def sum_over_shards(
    function: Callable[[Sequence[Tensor]], Tensor], ties: Sequence[Sequence[Tensor]]
) -> Tensor:
    """Compute numbers of each tie, summed over the shards of its tensors.

    Args:
        function: Return a number or a vector, given the local slices of a tie's tensors. The
            numbers of all slices sum to those of the full tensors.
        ties: The tensors of each tie, which have one shape.

    Returns:
        A row for each tie, the same on every rank. Sums over the same ranks take one all-reduce.

    Example:
        >>> ties = [[torch.ones(2), torch.zeros(2)], [torch.ones(3)]]
        >>> sum_over_shards(lambda tensors: sum(t.sum() for t in tensors), ties)
        tensor([2., 3.])
    """
    rows = sums_over_shards(function, ties)
    # Ties may be on several devices.
    return torch.stack([row.to(rows[0].device) for row in rows])


def sums_over_shards(
    function: Callable[[Sequence[Tensor]], Tensor], ties: Sequence[Sequence[Tensor]]
) -> list[Tensor]:
    """Return the rows of `sum_over_shards`, which may have a different shape for each tie."""
    rows: list[Tensor] = []
    by_ranks: dict[Ranks, list[int]] = {}
    for i, tensors in enumerate(ties):
        local, shard = local_slices(tensors)
        rows.append(function(local))
        if shard is not None:
            by_ranks.setdefault(shard.ranks, []).append(i)
    for ranks, indices in by_ranks.items():
        message = torch.cat([rows[i].flatten() for i in indices])
        summed = ranks.sum(message).split([rows[i].numel() for i in indices])
        for i, row in zip(indices, summed, strict=True):
            rows[i] = row.view_as(rows[i])
    return rows


def local_slices(tensors: Sequence[Tensor]) -> tuple[list[Tensor], Shard | None]:
    """Return the local slices of tensors, or full tensors (``None``) if their shards differ."""
    meshes = {tensor.device_mesh for tensor in tensors if is_dtensor(tensor)}
    if len(meshes) == 1 and all(is_dtensor(tensor) for tensor in tensors):
        shards = LocalShards(tensors)
        return [shards.local(tensor) for tensor in tensors], shards.shard
    return [full_tensor(tensor) for tensor in tensors], None


def full_tensor(tensor: Tensor) -> Tensor:
    """Gather a sharded tensor; return other tensors as they are."""
    return tensor.full_tensor() if is_dtensor(tensor) else tensor


def full_on_host(tensor: Tensor) -> Tensor:
    """Gather a sharded tensor to the host; return other tensors as they are."""
    # All starting values together are as large as the model, which a rank's device cannot hold.
    return tensor.full_tensor().cpu() if is_dtensor(tensor) else tensor


def reshard(module: nn.Module) -> list[FSDPModule]:
    """Reshard the parameters of FSDP2 modules, so that members are those that optimizers own.

    Returns:
        The FSDP2 modules inside and around ``module``, to be resharded before every step.
    """
    # After a forward pass without gradients, as in validation, FSDP2 modules still hold their full
    # parameters; what is written to these is lost.
    if not _is_distributed():
        return []
    sharded: list[Any] = [inner for inner in module.modules() if is_fsdp_module(inner)]
    # A submodule of an FSDP2 module is marked, but does not know its parent.
    if getattr(module, "_is_fsdp_managed_module", False) and module not in sharded:
        for outer in _fsdp_modules():
            if any(inner is module for inner in outer.modules()):
                sharded.append(outer)
    for outer in sharded:
        outer.reshard()
    return sharded


def sharded_modules(module: nn.Module) -> set[int]:
    """Return the ``id`` of each FSDP2 module and of each module inside an FSDP2 module."""
    fsdp: list[Any] = [inner for inner in module.modules() if is_fsdp_module(inner)]
    # The FSDP2 module may be around ``module``, which does not know its parents.
    if _is_distributed():
        fsdp += _fsdp_modules()
    sharded: set[int] = set()
    for outer in fsdp:
        sharded.update(map(id, outer.modules()))
    return sharded


def like_parameter(saved: Tensor, now: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Return a saved tensor on the device and with the shards of ``now``.

    Args:
        saved: A full tensor, the same on all ranks, or a shard like that of ``now``.
        now: A parameter, or a tensor that is sharded like it.
        dtype: The dtype of the result; that of ``now`` if ``None``.
    """
    saved = saved.to(device=now.device, dtype=dtype or now.dtype)
    if is_dtensor(now) and not is_dtensor(saved):
        from torch.distributed.tensor import DTensor, Replicate

        # Every rank has loaded the full tensor, so each takes its slice without a message.
        full = [Replicate()] * len(now.placements)
        copies = DTensor.from_local(saved, now.device_mesh, full, run_check=False)
        return copies.redistribute(placements=now.placements)
    return saved


def _is_distributed() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def _fsdp_modules() -> Iterator[Any]:
    """Yield all modules in this process that were given to ``fully_shard``."""
    loaded = sys.modules.get("torch.distributed.fsdp")
    if loaded is None:
        return
    # torch keeps no list of these modules, so all live objects are searched.
    for found in gc.get_objects():
        # `isinstance` would read `__class__`, which runs code in lazy proxies.
        if issubclass(type(found), loaded.FSDPModule):
            yield found
