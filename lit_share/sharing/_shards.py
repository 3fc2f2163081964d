"""Members that FSDP2 has divided over processes: what is here of them, and sums over all of it."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from lit_share.functional import Part, Penalty, Shards, no_groups_held


class Division:
    """How the members of a tie are divided over processes; here they are plain tensors.

    Those that are divided in another way than the first one, as transposed ones are, are sent around, and so are those
    that are divided along several dimensions of a mesh.

    Args:
        tensors: The members.

    Raises:
        ValueError: If only some members are divided, or they are not over the same processes.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.part: Part | None = None
        self._first: DTensor | None = None
        divided = [tensor for tensor in tensors if isinstance(tensor, DTensor)]
        if not divided:
            return
        self._first = first = divided[0]
        if len(divided) < len(tensors):
            raise ValueError(
                "some of these members are sharded, and others are not: give all of them to fully_shard"
            )
        if any(tensor.device_mesh != first.device_mesh for tensor in divided):
            raise ValueError(
                "these members are sharded over different meshes: give all of them to fully_shard with one"
            )
        shards = [i for i, placement in enumerate(first.placements) if type(placement) is Shard]
        self._placements = tuple(
            p if i in shards[:1] else Replicate() for i, p in enumerate(first.placements)
        )
        if shards:
            self._axis = shards[0]
            dim, mesh = first.placements[self._axis].dim, first.device_mesh  # type: ignore[attr-defined]
            length = first.shape[dim]
            each = -(-length // mesh.size(self._axis))
            self.part = Part(dim, min(mesh.get_local_rank(self._axis) * each, length), length)

    @property
    def is_whole(self) -> bool:
        """Whether the members are plain tensors as they are."""
        return self._first is None

    @property
    def group(self) -> distributed.ProcessGroup:
        """The processes that have the other parts."""
        assert self._first is not None
        return self._first.device_mesh.get_group(self._axis)

    @property
    def device(self) -> str:
        """The kind of device that these processes talk from, which parameters may have been moved away from."""
        assert self._first is not None
        return self._first.device_mesh.device_type

    def here(self, tensor: Tensor) -> Tensor:
        """What is here of a member, or of another tensor of its shape; writing to it may need `write`, or `add`."""
        if not isinstance(tensor, DTensor):
            return tensor
        with torch.no_grad():
            if self._first is None:
                return tensor.full_tensor()
            return tensor.redistribute(placements=self._placements).to_local()

    def all_here(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        """What is `here` of each of several tensors."""
        return tensors if self.is_whole else [self.here(tensor) for tensor in tensors]

    def is_held_here(self, tensor: Tensor) -> bool:
        """Whether what is `here` of a tensor is its own memory."""
        return not isinstance(tensor, DTensor) or tensor.placements == self._placements

    def room_for(
        self, tensors: Sequence[Tensor | None], members: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        """What is `here` of tensors of the members' shape, to be added to: zeros where that is not their own memory.

        Args:
            tensors: One or ``None`` for each member.
            members: What is here of the members.
        """
        if self.is_whole:
            return tensors
        return [
            None
            if t is None
            else self.here(t)
            if self.is_held_here(t)
            else torch.zeros_like(w, dtype=t.dtype)
            for t, w in zip(tensors, members, strict=True)
        ]

    def write(self, here: Sequence[Tensor], tensors: Sequence[Tensor]) -> None:
        """Write what is here into tensors."""
        for part, tensor in () if self.is_whole else zip(here, tensors, strict=True):
            if not self.is_held_here(tensor):
                tensor.copy_(self._spread(part, tensor))

    def add(self, here: Sequence[Tensor | None], tensors: Sequence[Tensor | None]) -> None:
        """Add what is here to tensors."""
        for part, tensor in () if self.is_whole else zip(here, tensors, strict=True):
            if part is not None and tensor is not None and not self.is_held_here(tensor):
                tensor.add_(self._spread(part, tensor))

    def nothing_held(self, penalty: Penalty, tensors: Sequence[Tensor]) -> Tensor:
        """`no_groups_held` of the members, divided as they are if that divides no group."""
        held = no_groups_held(penalty, self.all_here(tensors))
        if self.part is None or penalty.crosses(tensors[0].ndim, self.part.dim):
            return held
        size = list(held.shape)
        size[self.part.dim] = self.part.length
        return self._of_all(held, torch.Size(size))

    def _spread(self, here: Tensor, like: Tensor) -> DTensor:
        assert isinstance(like, DTensor)
        return self._of_all(here, like.shape).redistribute(placements=like.placements)

    def _of_all(self, here: Tensor, size: torch.Size) -> DTensor:
        assert self._first is not None
        stride = torch.empty(size, device="meta").stride()
        return DTensor.from_local(
            here.contiguous(),
            self._first.device_mesh,
            self._placements,
            run_check=False,
            shape=size,
            stride=stride,
        )


def shards(divisions: Sequence[Division]) -> Shards | None:
    """What the algebra needs to know of them: sums of all ties are one message, if they have the same processes."""
    if all(division.part is None for division in divisions):
        return None

    def total(sums: Sequence[Tensor | None]) -> list[Tensor | None]:
        totals = list(sums)
        of_group: dict[str, list[tuple[int, Tensor]]] = {}
        for i, own in enumerate(sums):
            if own is not None:
                of_group.setdefault(divisions[i].group.group_name, []).append((i, own))
        for own_of_ties in of_group.values():
            first = divisions[own_of_ties[0][0]]
            message = torch.cat([own.flatten() for _, own in own_of_ties]).to(first.device)
            distributed.all_reduce(message, group=first.group)
            received = message.split([own.numel() for _, own in own_of_ties])
            for (i, own), summed in zip(own_of_ties, received, strict=True):
                totals[i] = summed.view(own.shape).to(own.device)
        return totals

    return Shards([division.part for division in divisions], total)


def shard_again(module: nn.Module) -> None:
    """Give FSDP2 modules the parameters that optimizers have, where they have whole ones.

    That is so after a forward pass without gradients, as in validation. What is written to whole ones is lost.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return
    parts = [part for part in module.modules() if isinstance(part, FSDPModule)]
    if getattr(module, "_is_fsdp_managed_module", False) and module not in parts:
        parts += [outer for outer in _sharded() if any(part is module for part in outer.modules())]
    for part in parts:
        part.reshard()


def sharded_parts(module: nn.Module) -> set[int]:
    """The ``id`` of each module that FSDP2 has divided or is a part of such a one, even if it is whole for now.

    They need not be parts of ``module``: a module does not know what it is a part of itself.
    """
    initialized = distributed.is_available() and distributed.is_initialized()
    around = [*module.modules(), *_sharded()] if initialized else list(module.modules())
    sharded = [
        outer for outer in around if isinstance(outer, nn.Module) and isinstance(outer, FSDPModule)
    ]
    return {id(part) for outer in sharded for part in outer.modules()}


def _sharded() -> list[Any]:
    """All modules that were given to ``fully_shard``."""
    # Not `isinstance`, which asks some objects for more than their class.
    return [found for found in gc.get_objects() if issubclass(type(found), FSDPModule)]


def in_the_form_of(now: Tensor, before: Tensor) -> Tensor:
    """A value of before with the device and dtype, and the shards if any, of the value now."""
    before = before.to(device=now.device, dtype=now.dtype)
    if isinstance(now, DTensor) and not isinstance(before, DTensor):
        return distribute_tensor(before, now.device_mesh, now.placements)
    return before
