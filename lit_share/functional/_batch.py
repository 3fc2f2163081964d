"""Add gradients and take proximal steps in place, for all ties of a penalty at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

from lit_share.functional import _along_edges, _deviations, _plain
from lit_share.functional._edges import adaptive_weights
from lit_share.functional._fused import FusedGradient, FusedProx, Layout, is_fusable
from lit_share.functional._fused_graph import FusedGraphProx, is_fusable_graph
from lit_share.functional._penalty import Penalty
from lit_share.functional._tie_tensors import Ranks, TieTensors, block_size, float64_on


@torch.no_grad()
def add_gradient_(penalty: Penalty, ties: Sequence[TieTensors], strength: float) -> None:
    """Add ``strength`` times the gradient of the penalty to the buffers of ties.

    Args:
        penalty: The penalty.
        ties: The ties, with their ``grads``.
        strength: Finite factor ≥ 0.

    Raises:
        ValueError: If members do not fit the penalty; see `Penalty.check`.

    Example:
        >>> l2 = Penalty(norm="squared", groups="element", center="zero")
        >>> tie = TieTensors([torch.tensor([1.0, -2.0])], grads=[torch.zeros(2)])
        >>> add_gradient_(l2, [tie], strength=0.5)
        >>> tie.grads
        [tensor([ 0.5000, -1.0000])]
    """
    TieBatch(penalty, ties).add_gradient_(float(strength))


@torch.no_grad()
def prox_(penalty: Penalty, ties: Sequence[TieTensors]) -> None:
    """Take the proximal step of ties, writing to their members.

    Args:
        penalty: The penalty.
        ties: The ties, with their ``steps``; members of step 0 are not written to.

    Raises:
        ValueError: If members do not fit the penalty; see `Penalty.prox`.

    Example:
        >>> lasso = Penalty(norm="l1", groups="element", center="zero")
        >>> tie = TieTensors([torch.tensor([1.0, -2.0])], steps=[1.5])
        >>> prox_(lasso, [tie])
        >>> tie.members
        [tensor([ 0.0000, -0.5000])]
    """
    for tie in ties:
        penalty.check([w.shape for w in tie.members], tie.steps, inside=tie.inside)
    TieBatch(penalty, ties).prox_()


class TieBatch:
    """Ties of one penalty whose gradients and proximal steps are computed together, repeatedly.

    Args:
        penalty: The penalty.
        ties: The ties. Their members must stay the same tensors; ``grads`` and ``steps`` may
            change, and steps must pass `Penalty.check_prox`.

    Raises:
        ValueError: If members do not fit the penalty; see `Penalty.check`.
    """

    def __init__(self, penalty: Penalty, ties: Sequence[TieTensors]) -> None:
        for tie in ties:
            shapes = [w.shape for w in tie.members]
            penalty.check(shapes, start=tie.start, inside=tie.inside)
            penalty.check_start(tie.start)
            if tie.precision is not None:
                penalty.check_precision(tie.precision, [w.shape for w in tie.members])
            _check_buffers(penalty, tie)
        self.penalty, self.ties = penalty, list(ties)

    def __getstate__(self) -> dict[str, object]:
        """Leave out what holds addresses, which are others in a copy."""
        return {"penalty": self.penalty, "ties": self.ties}

    @cached_property
    def _gradients(self) -> tuple[list[FusedGradient], list[TieTensors]]:
        """A fused gradient per dtype, and ties left to torch; raises if ``grads`` are too few."""
        for tie in self.ties:
            if len(tie.grads) != len(tie.members):
                raise ValueError(
                    f"a tie of {len(tie.members)} members needs as many grads, got {len(tie.grads)}"
                )
        fusable, others = self._by_fusability(as_gradient=True)
        # A loop is compiled for one dtype.
        by_dtype: dict[object, list[TieTensors]] = {}
        for tie in fusable:
            by_dtype.setdefault(tie.members[0].dtype, []).append(tie)
        return [FusedGradient(self.penalty, own) for own in by_dtype.values()], others

    @cached_property
    def _proxes(self) -> tuple[Sequence[FusedProx | FusedGraphProx], list[TieTensors]]:
        """A fused step per dtype and `Layout.prox_type`, and the ties left to plain torch."""
        fusable, others = self._by_fusability(as_gradient=False)
        if self.penalty.centering.has_edges:
            by_count: dict[object, list[TieTensors]] = {}
            for tie in fusable:
                key = tie.members[0].dtype, len(tie.members)
                by_count.setdefault(key, []).append(tie)
            return [FusedGraphProx(self.penalty, own) for own in by_count.values()], others
        by_kind: dict[tuple[object, type[FusedProx]], list[TieTensors]] = {}
        for tie in fusable:
            prox_type = Layout.of(self.penalty, tie.shape).prox_type
            by_kind.setdefault((tie.members[0].dtype, prox_type), []).append(tie)
        return [prox_type(self.penalty, own) for (_, prox_type), own in by_kind.items()], others

    def _by_fusability(self, as_gradient: bool) -> tuple[list[TieTensors], list[TieTensors]]:
        fusable: list[TieTensors] = []
        others: list[TieTensors] = []
        seen: set[int] = set()
        for tie in self.ties:
            addresses = {member.data_ptr() for member in tie.members}
            # Ties may have aliases in common, which two threads would write to at once. The plain
            # path takes such ties one after the other.
            is_fused = is_fusable(self.penalty, tie, as_gradient)
            if not as_gradient:
                is_fused = is_fused or is_fusable_graph(self.penalty, tie)
            if is_fused and seen.isdisjoint(addresses):
                fusable.append(tie)
            else:
                others.append(tie)
            seen |= addresses
        return fusable, others

    @torch.no_grad()
    def value(self) -> float:
        """Return the penalty, summed over ties and their shards."""
        local: dict[Ranks | None, list[Tensor]] = {}
        with _full_precision(self.ties):
            # The weights of edges are kept from the first step on, not from the first value.
            weights = _edge_weights(self.penalty, self.ties)
            pairs = zip(self.ties, weights, strict=True)
            ties = [replace(tie, edge_weights=own) for tie, own in pairs]
            statistics = _all_reduce_statistics(self.penalty, ties)
            for tie, own in zip(ties, statistics, strict=True):
                ranks = None
                # Without statistics of all shards, the value is that of local groups.
                if tie.shard is not None and own is None:
                    ranks = tie.shard.ranks
                # A long sum of float32 values would lose digits.
                value = _plain.value(self.penalty, tie, own).to(float64_on(tie.members[0].device))
                local.setdefault(ranks, []).append(value)
        total = 0.0
        for ranks, values in local.items():
            summed = torch.stack([value.to(values[0].device) for value in values]).sum()
            if ranks is not None:
                summed = ranks.sum(summed)
            total += float(summed)
        return total

    # The loops need no `no_grad`, which would take as long as a small tie.
    def add_gradient_(self, strength: float | Sequence[float]) -> None:
        """Add ``strength`` times the gradient, one number or one per tie; see `add_gradient_`."""
        fused, others = self._gradients
        of_tie: dict[int, float] = {}
        if not isinstance(strength, float):
            of_tie = {id(tie): own for tie, own in zip(self.ties, strength, strict=True)}
            strength = 1.0
        # Buffers may change between calls, so the loops return the ties whose buffers they decline.
        for ties in fused:
            others = [*others, *ties.add(strength, of_tie)]
        if others:
            with torch.no_grad(), _full_precision(others):
                self._add_plain_gradient_(others, strength, of_tie)

    def _add_plain_gradient_(
        self, ties: Sequence[TieTensors], strength: float, of_tie: Mapping[int, float]
    ) -> None:
        if self.penalty.is_adaptive:
            self._keep_edge_weights(ties)
        statistics = _all_reduce_statistics(self.penalty, ties)
        for tie, own in zip(ties, statistics, strict=True):
            alpha = strength * of_tie.get(id(tie), 1.0)
            for block in _blocks(self.penalty, tie):
                accumulate_(block.grads, _plain.gradient(self.penalty, block, own), alpha)

    def prox_(self) -> None:
        """Take the proximal step; see `prox_`."""
        fused, others = self._proxes
        if self.penalty.is_adaptive:
            self._keep_edge_weights([tie for tie in self.ties if any(tie.steps)])
        for ties in fused:
            ties.take()
        moving = [tie for tie in others if any(tie.steps)]
        for run in _without_common_members(moving):
            with torch.no_grad(), _full_precision(run):
                self._take_plain_prox_(run)

    def _take_plain_prox_(self, ties: Sequence[TieTensors]) -> None:
        statistics = _all_reduce_statistics(self.penalty, ties, _plain.prox_statistics)
        blocks: list[tuple[TieTensors, Tensor | None]] = []
        for tie, own in zip(ties, statistics, strict=True):
            blocks += [(block, own) for block in _blocks(self.penalty, tie)]
        # Only OWL gains from a batch of all ties, which it copies to the host at once. Blocks of
        # other norms are processed one by one, so that their temporaries are freed early.
        batches = [[block] for block in blocks]
        if self.penalty.omega.weighted:
            batches = [blocks]
        for batch in batches:
            own_ties, own_statistics = zip(*batch, strict=True)
            moved = _plain.prox(self.penalty, own_ties, own_statistics)
            for tie, new in zip(own_ties, moved, strict=True):
                write_(tie.members, new, tie.steps)

    def _keep_edge_weights(self, ties: Sequence[TieTensors]) -> None:
        for tie, own in zip(ties, _edge_weights(self.penalty, ties), strict=True):
            tie.edge_weights = own

    @torch.no_grad()
    def restore_frozen_(self) -> None:
        """Move frozen groups of members of step > 0 back to their center."""
        for tie in self.ties:
            if tie.frozen is not None:
                values = _deviations.with_frozen_at_center(self.penalty, tie, tie.frozen)
                write_(tie.members, values, tie.steps)


@torch.no_grad()
def accumulate_(
    buffers: Sequence[Tensor | None], increments: Sequence[Tensor], alpha: float
) -> None:
    """Add ``alpha`` times each increment to its buffer, unless that is ``None``."""
    for buffer, increment in zip(buffers, increments, strict=True):
        if buffer is not None:
            buffer.add_(increment, alpha=alpha)


@torch.no_grad()
def write_(
    members: Sequence[Tensor], values: Sequence[Tensor], steps: Sequence[float] | None = None
) -> None:
    """Write new values to members, except to those of step 0."""
    for i, (member, value) in enumerate(zip(members, values, strict=True)):
        if steps is None or steps[i] > 0.0:
            member.copy_(value)


def empty_group_mask(penalty: Penalty, members: Sequence[Tensor]) -> Tensor:
    """Return a mask for ``TieTensors(frozen=...)`` with no group marked.

    Args:
        penalty: The penalty.
        members: The members of a tie.

    Returns:
        New bool tensor of ``False``, with a shape that broadcasts over the members.

    Raises:
        ValueError: If groups are not sets of elements, as with ``groups="spectrum"``.

    Example:
        >>> lasso = Penalty(norm="l1", groups="input", center="zero")
        >>> w = torch.tensor([[3.0, 1.0], [4.0, 1.0]])
        >>> tie = TieTensors([w], steps=[2.0], frozen=empty_group_mask(lasso, [w]))
        >>> prox_(lasso, [tie])
        >>> tie.frozen
        tensor([[False,  True]])
    """
    shape = penalty.grouping.mask_shape(members[0].shape)
    if shape is None:
        raise ValueError(
            f'groups="{penalty.groups}" are not made of elements, so none can be frozen'
        )
    return torch.zeros(shape, dtype=torch.bool, device=members[0].device)


def _check_buffers(penalty: Penalty, tie: TieTensors) -> None:
    """Raise `ValueError` if a buffer or the mask has another shape than members need."""
    for grad in tie.grads:
        if grad is not None and grad.shape != tie.shape:
            raise ValueError(
                f"a buffer of grads must have the shape of members, {tuple(tie.shape)}, got "
                f"{tuple(grad.shape)}"
            )
    if tie.frozen is not None and tie.frozen.shape != penalty.grouping.mask_shape(tie.shape):
        raise ValueError(
            f"frozen has shape {tuple(tie.frozen.shape)}: make it with empty_group_mask"
        )


def _without_common_members(ties: Sequence[TieTensors]) -> Iterator[list[TieTensors]]:
    """Split ties into runs, in order, whose members have no memory in common."""
    run: list[TieTensors] = []
    seen: set[int] = set()
    for tie in ties:
        addresses = {member.data_ptr() for member in tie.members}
        # Shards are never split, as all ranks must send the same messages, and a rank that holds
        # empty shards cannot see that others have memory in common.
        if tie.shard is None and not seen.isdisjoint(addresses):
            yield run
            run, seen = [], set()
        run.append(tie)
        seen |= addresses
    if run:
        yield run


def _full_precision(ties: Sequence[TieTensors]) -> torch.autocast:
    # Under autocast, matrix products would be computed in half precision.
    return torch.autocast(ties[0].members[0].device.type, enabled=False)


def _edge_weights(penalty: Penalty, ties: Sequence[TieTensors]) -> list[Tensor | None]:
    """Return each tie's adaptive weights, computed of ties that have none; ``None`` if not used."""
    weights = [tie.edge_weights for tie in ties]
    if penalty.is_adaptive:
        unset = [i for i, own in enumerate(weights) if own is None]
        own_ties = [ties[i] for i in unset]
        squares: list[Tensor | None] = [
            _along_edges.squared_distances(penalty, t) for t in own_ties
        ]
        for i, own in zip(unset, _all_reduce(own_ties, squares), strict=True):
            assert own is not None
            weights[i] = adaptive_weights(own)
    return weights


def _all_reduce_statistics(
    penalty: Penalty,
    ties: Sequence[TieTensors],
    compute: Callable[[Penalty, TieTensors], Tensor | None] = _plain.statistics,
) -> list[Tensor | None]:
    """Return each tie's statistics summed over its ranks; ``None`` if it needs no other shards."""
    if all(tie.shard is None for tie in ties):
        return [None] * len(ties)
    # Deviations are computed again when members move, as keeping those of all ties would take as
    # much memory as the members.
    return _all_reduce(ties, [compute(penalty, tie) for tie in ties])


def _all_reduce(ties: Sequence[TieTensors], local: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Return each tie's tensor summed over its ranks; those of full members as they are."""
    totals = list(local)
    by_ranks: dict[object, list[int]] = {}
    for i, (tie, own) in enumerate(zip(ties, totals, strict=True)):
        if own is not None and tie.shard is not None:
            by_ranks.setdefault(tie.shard.ranks, []).append(i)
    for indices in by_ranks.values():
        own_totals = [t for i in indices if (t := totals[i]) is not None]
        shard = ties[indices[0]].shard
        assert shard is not None
        # All ties of the same ranks share one all-reduce, as small messages cost mostly latency.
        wide = float64_on(own_totals[0].device)
        message = torch.cat([total.flatten().to(wide) for total in own_totals])
        received = shard.ranks.sum(message).split([total.numel() for total in own_totals])
        for i, total, summed in zip(indices, own_totals, received, strict=True):
            totals[i] = summed.view(total.shape).to(total.device)
    return totals


def _blocks(penalty: Penalty, tie: TieTensors) -> Iterator[TieTensors]:
    """Yield a tie as flat blocks of elements (views), or as a whole if it cannot be cut."""
    size = block_size(tie.members[0])
    grouping, ndim = penalty.grouping, len(tie.shape)
    # Singular values are not sets of elements, so a matrix cannot be cut for them. Nor can a tensor
    # whose numbers are compared with each other.
    separable = grouping.is_elementwise(ndim) or (
        penalty.omega.quadratic and grouping.kept(ndim) is not None
    )
    if tie.inside or penalty.omega.weighted or not separable or tie.shape.numel() <= size:
        yield tie
        return
    tensors = [*tie.members, *(g for g in tie.grads if g is not None), *(tie.start or ())]
    tensors += tie.precision or ()
    mask = tie.frozen
    # A mask with fewer entries than elements, or a strided tensor, cannot be cut as flat vectors.
    is_coarse = mask is not None and mask.numel() != tie.shape.numel()
    if is_coarse or not all(tensor.is_contiguous() for tensor in tensors):
        yield tie
        return
    for begin in range(0, tie.shape.numel(), size):
        end = begin + size
        block = tie.map(lambda tensor, a=begin, b=end: tensor.view(-1)[a:b])  # type: ignore[misc]
        # Elements need nothing of other shards, and a block has no dimension of the shard.
        yield replace(block, shard=None)
