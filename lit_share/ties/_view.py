"""Views: the seam between the parameters of a module and the algebra.

A view answers every question of storage: whole parameters, transposes, slices, aliases, shards. It
gives the algebra local, dense tensors, and is the only reader and writer of parameters and gradients.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, MutableMapping, Sequence

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from lit_share.functional import (
    Penalty,
    Shard,
    TieBatch,
    TieTensors,
    accumulate_,
    empty_group_mask,
    mean,
    write_,
)
from lit_share.ties._shards import LocalShards, like_parameter
from lit_share.ties._tie import Tie


class TieView:
    """The members of one tie as local tensors; what is written to them is written to the parameters.

    Args:
        penalty: The penalty that is to be applied.
        tie: The tie.
        start: For a center that needs them, starting values by the members' names.
        frozen: For groups that stay at their center, their masks by the ties' names; a missing one is
            added. ``None`` if no groups do.
    """

    def __init__(
        self,
        penalty: Penalty,
        tie: Tie,
        start: Mapping[str, Tensor] | None,
        frozen: MutableMapping[str, Tensor] | None,
    ) -> None:
        self.penalty, self.tie = penalty, tie
        try:
            penalty.check([tie.shape] * len(tie.members))
        except ValueError as error:
            raise ValueError(f"{names_of(tie)}: {error}") from None
        self._runs = [(run, run.first.parameter, run.is_whole) for run in tie.runs]
        # N members that are one parameter move it as one, by N times the step.
        self.multiplicity = len(tie.members) if tie.is_shared else 1
        self._stored = tie.tensors()
        self.tensors = TieTensors(
            [self.local(tensor) for tensor in self._stored], shard=self._shard()
        )
        if penalty.centering.needs_start and start is not None:
            self.tensors.start = [self.local(value) for value in self._starts(start)]
        if frozen is not None:
            none = self.full_mask(empty_group_mask(penalty, self.tensors.members))
            saved = frozen.get(tie.name, none)
            # Groups may be others than those of a checkpoint, as where rows were tied since.
            frozen[tie.name] = like_parameter(saved if saved.shape == none.shape else none, none)
            self.tensors.frozen = self.local(frozen[tie.name])

    def set_steps(self, steps: Sequence[float]) -> None:
        """Set the size of the members' proximal steps.

        Args:
            steps: One ≥ 0 for each member.

        Raises:
            ValueError: Naming the members, if there is no proximal step in closed form with these.
        """
        try:
            self.penalty.check_prox(steps, len(self.tie.members))
        except ValueError as error:
            raise ValueError(f"{names_of(self.tie)}: {error}") from None
        self.tensors.steps = [self.multiplicity * t for t in steps]

    def open_grads(self, owned: Container[int] | None = None) -> None:
        """Give the algebra the ``.grad`` of trained parameters to add to; zeros where it is missing.

        Args:
            owned: The ``id`` of each parameter that gets a gradient, if it requires one; all if
                ``None``.

        Raises:
            ValueError: If a gradient is sparse.
        """
        grads: list[Tensor | None] = []
        self.tensors.grads = grads
        for run, parameter, is_whole in self._runs:
            if not parameter.requires_grad or (owned is not None and id(parameter) not in owned):
                grads += [None] * run.length
                continue
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            elif parameter.grad.layout != torch.strided:
                raise ValueError(
                    f"the gradient of {run.first.name!r} is sparse: make it with sparse=False, or exclude "
                    "it from the ties"
                )
            views = [parameter.grad] * run.length if is_whole else run.views(parameter.grad)
            grads.extend(views)

    def close_grads(self) -> None:
        """Store what the algebra added to buffers that are not the gradients' own memory."""

    @property
    def has_copies(self) -> bool:
        """Whether members are copies of the parameters' memory, which are soon out of date."""
        return False

    def close_members(self) -> None:
        """Store what the algebra wrote to members that are not the parameters' own memory."""

    def local(self, tensor: Tensor) -> Tensor:
        """Return the local part of a tensor of the members' shape."""
        return tensor

    def full_mask(self, mask: Tensor) -> Tensor:
        """Return the mask of all groups, given that of local groups."""
        return mask

    def _shard(self) -> Shard | None:
        return None

    def _starts(self, start: Mapping[str, Tensor]) -> list[Tensor]:
        names = [member.name for member in self.tie.members]
        for name in names:
            if name not in start:
                raise ValueError(
                    f"start has no value of {name!r}: take lit_share.starting_values(ties) before "
                    "training, with the same ties"
                )
        own = [start[name] for name in names]
        if self.multiplicity == 1 or all(torch.equal(own[0], other) for other in own[1:]):
            return own
        if not self.penalty.omega.quadratic:
            raise ValueError(
                f"{self.tie.name!r} is one parameter of members that started from different values, to "
                f'which a proximal step with norm="{self.penalty.norm}" has no closed form: use a '
                "squared norm"
            )
        return [mean(own)] * len(own)  # Σ ½‖W − S_i‖² is N · ½‖W − mean S‖² plus a constant


class ShardedTieView(TieView):
    """A view of members that FSDP2 shards: of their local slices."""

    def __init__(
        self,
        penalty: Penalty,
        tie: Tie,
        start: Mapping[str, Tensor] | None,
        frozen: MutableMapping[str, Tensor] | None,
    ) -> None:
        try:
            self.shards = LocalShards(tie.tensors())
        except ValueError as error:
            raise ValueError(f"{names_of(tie)}: {error}") from None
        super().__init__(penalty, tie, start, frozen)

    def open_grads(self, owned: Container[int] | None = None) -> None:
        """Give the algebra local buffers to add to; see `TieView.open_grads`."""
        super().open_grads(owned)
        self._full_grads = self.tensors.grads
        self.tensors.grads = [self._buffer(grad) for grad in self._full_grads]

    def close_grads(self) -> None:
        """Redistribute what was added to buffers of other placements than the gradients'."""
        for buffer, grad in zip(self.tensors.grads, self._full_grads, strict=True):
            if buffer is not None and grad is not None and not self.shards.is_local(grad):
                accumulate_([grad], [self.shards.distributed(buffer, grad)], 1.0)

    def close_members(self) -> None:
        """Redistribute members of other placements than the parameters'."""
        for local, stored in zip(self.tensors.members, self._stored, strict=True):
            if not self.shards.is_local(stored):
                write_([stored], [self.shards.distributed(local, stored)])

    @property
    def has_copies(self) -> bool:
        """Whether members are copies of redistributed ones."""
        return not all(map(self.shards.is_local, self._stored))

    def local(self, tensor: Tensor) -> Tensor:
        """Return the local slice of a tensor."""
        return self.shards.local(tensor)

    def _buffer(self, grad: Tensor | None) -> Tensor | None:
        # The local slice of a gradient, or zeros where that is not its own memory.
        if grad is None or self.shards.is_local(grad):
            return None if grad is None else self.shards.local(grad)
        return torch.zeros_like(self.tensors.members[0], dtype=grad.dtype)

    def full_mask(self, mask: Tensor) -> Tensor:
        """Return the mask of all groups, sharded as the members are unless groups span shards."""
        shard, ndim = self.shards.shard, len(self.tie.shape)
        if shard is None or self.penalty.grouping.spans_shards(ndim, shard.dim):
            return mask
        return self.shards.distributed_mask(mask)

    def _shard(self) -> Shard | None:
        return self.shards.shard


def names_of(tie: Tie) -> str:
    """Return the names of the first members, to begin an error with."""
    return ", ".join(member.name for member in tie.members[:4])


class TieViews:
    """Views of all ties of a penalty, kept open from step to step.

    Args:
        penalty: The penalty.
        ties: The ties.
        start: See `TieView`.
        frozen: See `TieView`.

    Raises:
        ValueError: Naming the members, if they do not fit the penalty, or are sharded differently.
    """

    def __init__(
        self,
        penalty: Penalty,
        ties: Sequence[Tie],
        start: Mapping[str, Tensor] | None = None,
        frozen: MutableMapping[str, Tensor] | None = None,
    ) -> None:
        self.penalty, self.ties, self.start, self.frozen = penalty, ties, start, frozen
        self._open()

    def refresh(self) -> bool:
        """Open the views again if the memory of a parameter was replaced.

        Returns:
            Whether the module still holds the parameters that the views were opened with. If not, the
            ties have to be found again.
        """
        for mapping, key, value in self._entries:
            if mapping.get(key) is not value:
                return False
        is_current = not self._has_copies
        for parameter, address in self._addresses:
            local = parameter._local_tensor if isinstance(parameter, DTensor) else parameter
            is_current = is_current and local.data_ptr() == address
        if not is_current:
            self._open()
        return True

    def add_gradient(self, strength: float, owned: Container[int] | None = None) -> None:
        """Add ``strength`` times the penalty's gradient to the ``.grad`` of trained parameters.

        Args:
            strength: Finite number ≥ 0.
            owned: See `TieView.open_grads`.
        """
        for view in self.views:
            view.open_grads(owned)
        self.batch.add_gradient_(strength)
        if self._is_sharded:
            for view in self.views:
                view.close_grads()

    def add_increments(
        self, increments: Sequence[Sequence[Tensor]], alpha: float, owned: Container[int]
    ) -> None:
        """Add ``alpha`` times local increments, one for each member of each tie, to ``.grad``."""
        for view, own in zip(self.views, increments, strict=True):
            view.open_grads(owned)
            accumulate_(view.tensors.grads, own, alpha)
            view.close_grads()

    def increments(self) -> list[list[Tensor]]:
        """Return the penalty's gradient of local members, without adding it."""
        increments = []
        for view in self.views:
            own = [torch.zeros_like(member) for member in view.tensors.members]
            view.tensors.grads = own
            increments.append(own)
        self.batch.add_gradient_(1.0)
        return increments

    def take_prox(self) -> None:
        """Take the proximal step, of the sizes that `TieView.set_steps` has set."""
        self.batch.prox_()
        for view in self.views:
            view.close_members()

    def restore_frozen(self, names: Container[str]) -> None:
        """Put frozen groups of these ties to their center again."""
        own = [view for view in self.views if view.tie.name in names]
        TieBatch(self.penalty, [view.tensors for view in own]).restore_frozen_()
        for view in own:
            view.close_members()

    def _open(self) -> None:
        self.views = [self._view(tie) for tie in self.ties]
        self.batch = TieBatch(self.penalty, [view.tensors for view in self.views])
        self._has_copies = any(view.has_copies for view in self.views)
        self._is_sharded = any(isinstance(view, ShardedTieView) for view in self.views)
        # What `refresh` compares: one look at a dict for each module and parameter on the way.
        refs = {run.first.ref for tie in self.ties for run in tie.runs}
        entries = [entry for ref in refs for entry in ref.entries()]
        self._entries = list({(id(entry[0]), entry[1]): entry for entry in entries}.values())
        parameters = {id(p): p for tie in self.ties for p in tie.parameters}
        self._addresses = [(p, _address(p)) for p in parameters.values()]

    def _view(self, tie: Tie) -> TieView:
        is_sharded = any(isinstance(parameter, DTensor) for parameter in tie.parameters)
        kind = ShardedTieView if is_sharded else TieView
        return kind(self.penalty, tie, self.start, self.frozen)


def _address(parameter: nn.Parameter) -> int:
    local = parameter._local_tensor if isinstance(parameter, DTensor) else parameter
    return local.data_ptr()
