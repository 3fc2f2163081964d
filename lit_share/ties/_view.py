"""Views: parameters and gradients of a module as the local, dense tensors of the algebra.

Only views read and write parameters and gradients. They know about whole parameters, transposes,
slices, aliases and shards, so that no other code has to.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Mapping, MutableMapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from lit_share.functional import (
    Penalty,
    Shard,
    TieBatch,
    TieTensors,
    accumulate_,
    empty_group_mask,
    mean,
    weighted_mean,
    write_,
)
from lit_share.ties._distributed import is_dtensor
from lit_share.ties._shards import LocalShards, like_parameter
from lit_share.ties._tie import Tie

Precisions = Mapping[str, Tensor]


class TieView:
    """The members of a tie as local tensors; writing to them writes to the parameters.

    Args:
        penalty: The penalty.
        tie: The tie.
        start: Starting values by the members' names, for a center that needs them.
        frozen: Masks of frozen groups by the ties' names, to which a missing mask is added;
            ``None`` if groups are not frozen.
        precision: The precision of members by their names, sharded like them; ``None`` without.
        edge_weights: Adaptive weights of edges by the ties' names.

    Raises:
        ValueError: Naming the members, if they do not fit the penalty.
    """

    def __init__(
        self,
        penalty: Penalty,
        tie: Tie,
        start: Mapping[str, Tensor] | None,
        frozen: MutableMapping[str, Tensor] | None,
        precision: Precisions | None,
        edge_weights: Mapping[str, Tensor],
    ) -> None:
        self.penalty, self.tie = penalty, tie
        self._has_prox = True
        shapes = [tie.shape] * len(tie.members)
        weights: list[Tensor] | None = None
        if precision is not None:
            weights = self._of_members(precision)
        try:
            penalty.check(shapes, precision=weights, inside=tie.inside)
            if any(parameter.is_complex() for parameter in tie.parameters):
                penalty.check_complex(inside=tie.inside)
        except ValueError as error:
            raise ValueError(f"{names_of(tie)}: {error}") from None
        self._runs = [(run, run.first.parameter, run.is_whole) for run in tie.runs]
        # A Parameter that is several members takes the steps of all of them.
        self._aliases = tie.first_aliases
        counts = Counter(self._aliases)
        self.multiplicities = [counts[first] for first in self._aliases]
        self._stored = tie.tensors()
        self.tensors = TieTensors(
            [self.local(tensor) for tensor in self._stored],
            shard=self._shard(),
            aliases=self._aliases,
            inside=tie.inside,
        )
        if precision is not None:
            self.set_precision(precision)
        if penalty.centering.needs_start and start is not None:
            self.tensors.start = [self.local(value) for value in self._starts(start)]
        if precision is not None:
            self._merge_aliases()
        if frozen is not None:
            empty = self.full_mask(empty_group_mask(penalty, self.tensors.members))
            saved = frozen.get(tie.name)
            # Shapes differ if a layer was replaced since the checkpoint, as by tied rows.
            if saved is None or saved.shape != empty.shape:
                saved = empty
            frozen[tie.name] = like_parameter(saved, empty)
            self.tensors.frozen = self.local(frozen[tie.name])
        own_weights = edge_weights.get(tie.name)
        # A checkpoint may be that of a run with another number of members.
        edges = 0
        if penalty.is_adaptive:
            edges = len(penalty.edging.pairs(len(tie.members)))
        if own_weights is not None and len(own_weights) == edges:
            self.tensors.edge_weights = own_weights

    def set_steps(self, steps: Sequence[float]) -> None:
        """Set the step sizes of the members' proximal steps.

        Args:
            steps: A step size ≥ 0 for each member.

        Raises:
            ValueError: Naming the members, if these step sizes have no closed form.
        """
        if not self._has_prox and any(steps):
            raise ValueError(
                f"the members of {self.tie.name!r} share a parameter, but started from different "
                f'values, for which the proximal step of norm="{self.penalty.norm}" has no closed '
                'form: write apply="gradient", or use a squared norm'
            )
        try:
            self.penalty.check_prox(steps, len(self.tie.members))
        except ValueError as error:
            raise ValueError(f"{names_of(self.tie)}: {error}") from None
        together = [k * t for k, t in zip(self.multiplicities, steps, strict=True)]
        if self.penalty.centering.has_edges:
            # The first alias has the edges of all; see `TieTensors.aliases`.
            firsts = [first == i for i, first in enumerate(self._aliases)]
            together = [t * is_first for t, is_first in zip(steps, firsts, strict=True)]
        self.tensors.steps = list(steps)
        # If some members are one Parameter and others are not, steps differ. Where that has no
        # closed form, aliases move as members that are equal, but stored separately, do.
        with suppress(ValueError):
            self.penalty.check_prox(together, len(together))
            self.tensors.steps = together

    def set_precision(self, precision: Precisions) -> None:
        """Set ``tensors.precision``, given that of all members by their names."""
        self.tensors.precision = [self.local(own) for own in self._of_members(precision)]

    def _of_members(self, by_name: Mapping[str, Tensor]) -> list[Tensor]:
        return [by_name[member.name] for member in self.tie.members]

    def open_grads(self, owned: Container[int] | None = None) -> None:
        """Set ``tensors.grads`` to the gradients of parameters that require one, else to ``None``.

        Args:
            owned: The ``id`` of each parameter that gets a gradient; all if ``None``.

        Raises:
            ValueError: If a gradient is sparse.
        """
        grads: list[Tensor | None] = []
        self.tensors.grads = grads
        for run, parameter, is_whole in self._runs:
            if not parameter.requires_grad or (owned is not None and id(parameter) not in owned):
                grads += [None] * run.length
                continue
            grad = parameter.grad
            # A member without a gradient is pulled as well, as if the loss had a gradient of zero.
            if grad is None:
                grad = parameter.grad = torch.zeros_like(parameter)
            elif grad.layout is not torch.strided:
                raise ValueError(
                    f"the gradient of {run.first.name!r} is sparse: make it with sparse=False, or "
                    "exclude it from the ties"
                )
            if is_whole:
                grads += [grad] * run.length
            else:
                grads += run.views(grad)

    def close_grads(self) -> None:
        """Add the buffers of ``tensors.grads`` that are copies to their gradients."""

    def of_parameters(self, tensors: Mapping[int, Tensor]) -> list[Tensor | None]:
        """Return the local members of tensors like parameters, given by the ``id`` of these."""
        members: list[Tensor | None] = []
        for run, parameter, _ in self._runs:
            tensor = tensors.get(id(parameter))
            if tensor is None:
                members += [None] * run.length
            else:
                members += [self.local(own) for own in run.views(tensor)]
        return members

    @property
    def has_copies(self) -> bool:
        """Whether members are copies, which are out of date once the parameters change."""
        return False

    def close_members(self) -> None:
        """Write members that are copies to the parameters."""

    def local(self, tensor: Tensor) -> Tensor:
        """Return the local slice of a tensor of the members' shape."""
        return tensor

    def full_mask(self, mask: Tensor) -> Tensor:
        """Return the mask of all groups, given the mask of local groups."""
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
        # A precision decides which mean aliases meet at; see `_merge_aliases`.
        if self.tensors.precision is not None:
            return own
        for aliases in self._groups_of_aliases():
            values = [own[i] for i in aliases]
            if all(torch.equal(values[0], other) for other in values[1:]):
                continue
            if not self.penalty.omega.quadratic:
                self._has_prox = False
                break
            # Σ ½‖W − S_i‖² over k aliases is k · ½‖W − mean S‖² plus a constant.
            average = mean(values)
            for i in aliases:
                own[i] = average
        return own

    def _merge_aliases(self) -> None:
        """Set starting values and precision of aliases to those of the one Parameter that they are.

        Σ ½ F_i ‖W − S_i‖² over k aliases is k · ½ mean(F) ‖W − Σ F_i S_i / Σ F_i‖² plus a constant.
        With a center that they have in common, it is k · ½ mean(F) ‖W − c‖².
        """
        weights, starts = list(self.tensors.precision or ()), list(self.tensors.start or ())
        for aliases in self._groups_of_aliases():
            own = [weights[i] for i in aliases]
            if starts:
                average = weighted_mean([starts[i] for i in aliases], own)
                for i in aliases:
                    starts[i] = average
            for i in aliases:
                weights[i] = mean(own)
        self.tensors.precision, self.tensors.start = weights, starts or None

    def _groups_of_aliases(self) -> list[list[int]]:
        """Return the members of each Parameter that is several members."""
        groups: dict[int, list[int]] = {}
        for i, first in enumerate(self._aliases):
            groups.setdefault(first, []).append(i)
        return [aliases for aliases in groups.values() if len(aliases) > 1]


class ShardedTieView(TieView):
    """The local slices of members that FSDP2 shards."""

    def __init__(
        self,
        penalty: Penalty,
        tie: Tie,
        start: Mapping[str, Tensor] | None,
        frozen: MutableMapping[str, Tensor] | None,
        precision: Precisions | None,
        edge_weights: Mapping[str, Tensor],
    ) -> None:
        try:
            self.shards = LocalShards(tie.tensors())
        except ValueError as error:
            raise ValueError(f"{names_of(tie)}: {error}") from None
        super().__init__(penalty, tie, start, frozen, precision, edge_weights)

    def open_grads(self, owned: Container[int] | None = None) -> None:
        """Pass local buffers to the algebra; see `TieView.open_grads`."""
        super().open_grads(owned)
        self._full_grads = self.tensors.grads
        self.tensors.grads = [self._buffer(grad) for grad in self._full_grads]

    def close_grads(self) -> None:
        """Redistribute buffers whose gradients have other placements, and add them."""
        for buffer, grad in zip(self.tensors.grads, self._full_grads, strict=True):
            if buffer is not None and grad is not None and not self.shards.is_local(grad):
                accumulate_([grad], [self.shards.distributed(buffer, grad)], 1.0)

    def close_members(self) -> None:
        """Redistribute members whose parameters have other placements, and write them."""
        for local, stored in zip(self.tensors.members, self._stored, strict=True):
            if not self.shards.is_local(stored):
                write_([stored], [self.shards.distributed(local, stored)])

    @property
    def has_copies(self) -> bool:
        """Whether parameters have other placements than the members."""
        return not all(map(self.shards.is_local, self._stored))

    def local(self, tensor: Tensor) -> Tensor:
        """Return the local slice of a tensor."""
        return self.shards.local(tensor)

    def _buffer(self, grad: Tensor | None) -> Tensor | None:
        if grad is None:
            return None
        if self.shards.is_local(grad):
            return self.shards.local(grad)
        # The local slice would be a copy; increments are added to the gradient in `close_grads`.
        return torch.zeros_like(self.tensors.members[0], dtype=grad.dtype)

    def full_mask(self, mask: Tensor) -> Tensor:
        """Return the mask of all groups; it is sharded unless groups span shards."""
        # Groups that span shards have the same mask on every rank, as their statistics are summed.
        shard, ndim = self.shards.shard, len(self.tie.shape)
        if shard is None or self.penalty.grouping.spans_shards(ndim, shard.dim):
            return mask
        return self.shards.distributed_mask(mask)

    def _shard(self) -> Shard | None:
        return self.shards.shard


def names_of(tie: Tie) -> str:
    """Return the names of the first members, for the beginning of an error."""
    return ", ".join(member.name for member in tie.members[:4])


class TieViews:
    """The views of all ties of a penalty, kept from step to step.

    Args:
        penalty: The penalty.
        ties: The ties.
        start: See `TieView`.
        frozen: See `TieView`.
        precision: See `TieView`.
        edge_weights: See `TieView`; weights are added when the penalty first acts on a tie.

    Raises:
        ValueError: Naming the members, if they do not fit the penalty or are sharded differently.
    """

    def __init__(
        self,
        penalty: Penalty,
        ties: Sequence[Tie],
        start: Mapping[str, Tensor] | None = None,
        frozen: MutableMapping[str, Tensor] | None = None,
        precision: Precisions | None = None,
        edge_weights: MutableMapping[str, Tensor] | None = None,
    ) -> None:
        self.penalty, self.ties, self.start, self.frozen = penalty, ties, start, frozen
        self.precision = precision
        self.edge_weights: MutableMapping[str, Tensor] = {}
        if edge_weights is not None:
            self.edge_weights = edge_weights
        self._is_adaptive = penalty.is_adaptive
        # What `set_steps` was given, and the names of the ties that move.
        self._sizes: list[Sequence[float] | None] | None = None
        self._moving: set[str] = set()
        self._open()

    def refresh(self) -> bool:
        """Open the views again if the memory of a parameter was replaced.

        Returns:
            Whether the module still holds the parameters of the views. If not, the ties have to be
            found again.
        """
        # This runs before every step, so it compares entries and addresses instead of looking every
        # parameter up from the root.
        for mapping, key, value in self._entries:
            if mapping.get(key) is not value:
                return False
        # `module.to` and FSDP2 replace the memory of a Parameter, but keep the object.
        tensors = self._parameters
        if self._is_sharded:
            tensors = self._local_tensors()
        memory = [(t.data_ptr(), t.shape, t.stride()) for t in tensors]
        if self._has_copies or memory != self._memory:
            if [shape for _, shape, _ in memory] != self._shapes:
                return False
            self._open()
        return True

    def set_precision(self, precision: Precisions) -> None:
        """Replace the precision of members, by their names; see `TieView`."""
        self.precision = precision
        for view in self.views:
            view.set_precision(precision)

    def add_gradient(
        self, strength: float | Sequence[float], owned: Container[int] | None = None
    ) -> None:
        """Add ``strength`` times the penalty's gradient to the ``.grad`` of parameters.

        Args:
            strength: Finite number, or one for each tie.
            owned: See `TieView.open_grads`.
        """
        for view in self.views:
            view.open_grads(owned)
        self.batch.add_gradient_(strength)
        if self._is_adaptive:
            self._keep_edge_weights()
        if self._is_sharded:
            for view in self.views:
                view.close_grads()

    def add_increments(
        self,
        increments: Sequence[Sequence[Tensor]],
        alphas: Sequence[float],
        owned: Container[int],
    ) -> None:
        """Add ``alphas[tie]`` times the local increments of each member to ``.grad``."""
        for view, own, alpha in zip(self.views, increments, alphas, strict=True):
            view.open_grads(owned)
            accumulate_(view.tensors.grads, own, alpha)
            view.close_grads()

    def moved_by(self, step: Callable[[], None]) -> list[list[Tensor]]:
        """Call a step that writes to members; return what it adds to each local member."""
        before = [[w.clone() for w in view.tensors.members] for view in self.views]
        step()
        pairs = zip(self.views, before, strict=True)
        return [
            [w - old for w, old in zip(view.tensors.members, own, strict=True)]
            for view, own in pairs
        ]

    def products(
        self, gradients: Mapping[int, Tensor], moves: Sequence[Sequence[Tensor] | None]
    ) -> Tensor:
        """Return inner products of gradients and moves.

        Args:
            gradients: By the ``id`` of parameters, sharded like these; 0 for others.
            moves: For each tie, a tensor like each local member; ``None`` if it has not moved.

        Returns:
            For each tie, ⟨gradient, move⟩, ‖gradient‖² and ‖move‖², summed over members and shards;
            of shape ``(ties, 3)`` in float32 on the host.
        """
        rows: list[Tensor] = []
        for view, own in zip(self.views, moves, strict=True):
            members = view.tensors.members
            products = [torch.zeros(3, device=members[0].device)]
            # Not strict, as there may be no moves.
            for gradient, move in zip(view.of_parameters(gradients), own or (), strict=False):
                if gradient is not None:
                    g, m = gradient.flatten().float(), move.flatten().float()
                    products.append(torch.stack([g.dot(m), g.dot(g), m.dot(m)]))
            row = torch.stack(products).sum(0)
            if view.tensors.shard is not None:
                row = view.tensors.shard.ranks.sum(row)
            rows.append(row)
        # The host waits once, for all ties.
        return torch.stack([row.to(rows[0].device) for row in rows]).cpu()

    def increments(self) -> list[list[Tensor]]:
        """Return the penalty's gradient of local members, for each tie."""
        increments = []
        for view in self.views:
            own = [torch.zeros_like(member) for member in view.tensors.members]
            view.tensors.grads = own
            increments.append(own)
        self.batch.add_gradient_(1.0)
        if self._is_adaptive:
            self._keep_edge_weights()
        return increments

    def set_steps(self, sizes: Sequence[Sequence[float] | None]) -> set[str]:
        """Set the step sizes of proximal steps, and return the names of the ties that move.

        Args:
            sizes: For each tie a step size for each member; ``None`` if it does not move.

        Raises:
            ValueError: See `TieView.set_steps`.
        """
        # Learning rates mostly stay, and the checks take longer than the step of a small tie.
        if sizes != self._sizes:
            self._moving = set()
            for view, steps in zip(self.views, sizes, strict=True):
                if steps is not None and any(steps):
                    self._moving.add(view.tie.name)
                # The proximal step skips ties whose step sizes are all zero.
                view.set_steps(steps or [0.0] * len(view.tie.members))
            self._sizes = list(sizes)
        return self._moving

    def take_prox(self) -> None:
        """Take the proximal step with the step sizes of `set_steps`."""
        self.batch.prox_()
        if self._is_adaptive:
            self._keep_edge_weights()
        if self._is_sharded:
            for view in self.views:
                view.close_members()

    def restore_frozen(self, names: Container[str], owned: Container[int] | None = None) -> None:
        """Move the frozen groups of these ties back to their center.

        Args:
            names: The names of the ties.
            owned: The ``id`` of each parameter that may be written to; all if ``None``.
        """
        own = [view for view in self.views if view.tie.name in names]
        ties: list[TieTensors] = []
        for view in own:
            parameters = view.tie.parameters
            steps = [float(owned is None or id(p) in owned) for p in parameters]
            ties.append(replace(view.tensors, steps=steps))
        TieBatch(self.penalty, ties).restore_frozen_()
        for view in own:
            view.close_members()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Open the views anew at the next `refresh`, as a copy has other addresses."""
        self.__dict__.update(state, _memory=[])

    def _keep_edge_weights(self) -> None:
        # Views are opened again when memory is replaced, and weights must stay those of the start.
        for view in self.views:
            own = view.tensors.edge_weights
            if own is not None:
                self.edge_weights[view.tie.name] = own

    def _open(self) -> None:
        self._sizes = None
        self.views = [self._view(tie) for tie in self.ties]
        self.batch = TieBatch(self.penalty, [view.tensors for view in self.views])
        self._has_copies = any(view.has_copies for view in self.views)
        self._is_sharded = any(isinstance(view, ShardedTieView) for view in self.views)
        # Members have most of their path in common, so each entry is kept once.
        entries: dict[tuple[int, str], tuple[Mapping[str, object], str, object]] = {}
        parameters: dict[int, nn.Parameter] = {}
        for tie in self.ties:
            for ref in dict.fromkeys(run.first.ref for run in tie.runs):
                for mapping, key, value in ref.entries():
                    entries[id(mapping), key] = mapping, key, value
            parameters.update((id(parameter), parameter) for parameter in tie.parameters)
        self._entries = list(entries.values())
        self._parameters: list[Tensor] = list(parameters.values())
        tensors = self._local_tensors()
        self._memory = [(t.data_ptr(), t.shape, t.stride()) for t in tensors]
        self._shapes = [t.shape for t in tensors]

    def _local_tensors(self) -> list[Tensor]:
        return [getattr(p, "_local_tensor", p) for p in self._parameters]

    def _view(self, tie: Tie) -> TieView:
        kind = TieView
        if any(is_dtensor(parameter) for parameter in tie.parameters):
            kind = ShardedTieView
        kept = self.start, self.frozen, self.precision, self.edge_weights
        return kind(self.penalty, tie, *kept)
