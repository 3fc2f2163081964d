"""Compute penalties in plain torch: the specification of the fused loops, and their fallback.

Functions take a penalty and ties that passed `Penalty.check`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lit_share.functional import _free_center, _inside, _precision
from lit_share.functional._centers import MEAN
from lit_share.functional._edges import Graph, Star
from lit_share.functional._fusion import gram_matrices, prox_on_graph
from lit_share.functional._steps import common_step, prox_of_pair, prox_of_squared
from lit_share.functional._tie_tensors import Shard, TieTensors, as_wide, float64_on

if TYPE_CHECKING:
    from lit_share.functional._penalty import Penalty


class Decomposition:
    """The members of a tie as centers plus deviations, with group norms.

    Attributes:
        members: The members in the dtype of computation, which is float32 for half precision.
        points: The center of each member.
        scale: The scale s of the deviations.
        norms: The group norms of the scaled deviations, over all shards; with edges, those of the
            first edge, then those of the second.
    """

    def __init__(self, penalty: Penalty, tie: TieTensors, statistics: Tensor | None = None) -> None:
        self.members, self.points, deviations = _split(penalty, tie)
        self.scale = penalty.scale_of(tie)
        blocks = penalty.centering.blocks(deviations)
        shard = None
        of_blocks: Sequence[Tensor]
        # Without statistics of all shards, no group spans shards, so the local groups are complete.
        if statistics is None:
            of_blocks = _statistics(penalty, tie, blocks, None)
        else:
            shard, of_blocks = tie.shard, statistics.unbind()
        grouping = penalty.grouping
        self._splits = [
            grouping.split(block, own, shard) for block, own in zip(blocks, of_blocks, strict=True)
        ]
        self._counts = [split.norms.numel() for split in self._splits]
        self.norms = self.scale * _joined([split.norms for split in self._splits])

    def local(self, vector: Tensor) -> Tensor:
        """Return the entries of a vector like ``norms`` for local groups."""
        parts = zip(self._splits, vector.split(self._counts), strict=True)
        return _joined([split.local(own) for split, own in parts])

    def multiply(self, factor: Tensor) -> list[Tensor]:
        """Return the *unscaled* deviations, each local group multiplied by a factor."""
        count = len(self._splits)
        parts = factor.view(count, factor.numel() // count)
        products: list[Tensor] = []
        for split, own in zip(self._splits, parts.unbind(), strict=True):
            products += split.multiply(own)
        return products


def value(penalty: Penalty, tie: TieTensors, statistics: Tensor | None = None) -> Tensor:
    """Compute the penalty of a tie: of all shards with their statistics, else of local groups."""
    if tie.inside:
        return _inside.value(penalty, tie)
    if is_weighted(penalty, tie):
        return _precision.value(penalty.centering, tie)
    if penalty.has_free_center(len(tie.members)):
        own = _free_center.value(_wide(tie), penalty.grouping, statistics)
        return penalty.factor_of_groups(tie) * own
    work = Decomposition(penalty, tie, statistics)
    omega = penalty.omega.value(work.norms, penalty.owl_weights(work.norms))
    return omega.to(work.members[0].dtype)


def gradient(penalty: Penalty, tie: TieTensors, statistics: Tensor | None = None) -> list[Tensor]:
    """Compute the gradient of a tie, in the dtype of computation.

    Args:
        penalty: The penalty.
        tie: The tie.
        statistics: The statistics of all shards, if groups span shards.
    """
    if tie.inside:
        return _inside.gradient(penalty, tie)
    if is_weighted(penalty, tie):
        return _precision.gradient(penalty.centering, tie)
    members = len(tie.members)
    if penalty.has_free_center(members):
        factor = penalty.factor_of_groups(tie)
        return [factor * g for g in _free_center.gradient(_wide(tie), penalty.grouping, statistics)]
    adjoint = penalty.center_of(tie).adjoint
    # The gradient of a quadratic norm needs no group norms.
    if penalty.omega.quadratic:
        _, _, deviations = _split(penalty, tie)
        factor = penalty.centering.scale(members) ** 2
        return adjoint([factor * deviation for deviation in deviations], members)
    work = Decomposition(penalty, tie, statistics)
    slope = penalty.omega.derivative(work.norms, penalty.owl_weights(work.norms))
    ratio = _ratio(work.local(slope), work.local(work.norms))
    return adjoint(work.multiply(work.scale**2 * ratio), members)


def prox(
    penalty: Penalty, ties: Sequence[TieTensors], statistics: Sequence[Tensor | None] = (None,)
) -> Iterator[list[Tensor]]:
    """Compute the proximal step of several ties, with one call of the norm's proximal operator.

    Args:
        penalty: The penalty.
        ties: The ties; their masks are updated in place.
        statistics: For each tie, the statistics of all shards, if its groups span shards.

    Yields:
        For each tie, new tensors like its members.
    """
    assert penalty.omega.prox is not None
    if any(tie.inside for tie in ties):
        # A norm that needs a batch of all ties has no steps inside a tensor.
        for tie, own in zip(ties, statistics, strict=True):
            if tie.inside:
                (moved,) = _inside.prox(penalty, tie)
                yield [moved.to(tie.members[0].dtype)]
            else:
                yield from prox(penalty, [tie], [own])
        return
    if any(is_weighted(penalty, tie) for tie in ties):
        for tie in ties:
            new = _precision.prox(penalty.centering, tie)
            yield [v.to(w.dtype) for v, w in zip(new, tie.members, strict=True)]
        return
    if penalty.centering.has_edges:
        for tie, own in zip(ties, statistics, strict=True):
            new = _prox_on_edges(penalty, tie, own)
            yield [v.to(w.dtype) for v, w in zip(new, tie.members, strict=True)]
        return
    commons = [common_step(tie.steps, penalty.centering) for tie in ties]
    works = [Decomposition(penalty, tie, own) for tie, own in zip(ties, statistics, strict=True)]
    norms = [work.norms for work in works]
    weights = [penalty.owl_weights(n) for n in norms]
    steps: list[float] = []
    for tie, work, common in zip(ties, works, commons, strict=True):
        factor = work.scale**2
        if common is None:
            # The difference of a pair with different steps moves by their sum.
            common, factor = sum(tie.steps), factor / penalty.centering.scale(2) ** 2
        steps.append(common * factor)
    # OWL copies the norms of all ties to the host and back at once.
    shrunk = penalty.omega.prox(norms, weights, steps)
    for tie, work, common, r in zip(ties, works, commons, shrunk, strict=True):
        new = _moved(penalty, tie, work, common, r)
        yield [v.to(w.dtype) for v, w in zip(new, tie.members, strict=True)]


def is_weighted(penalty: Penalty, tie: TieTensors) -> bool:
    """Whether elements have a precision; raise `ValueError` if one is needed, but missing."""
    penalty.check_start(tie.start)
    penalty.check_precision(tie.precision)
    return tie.precision is not None


def statistics(penalty: Penalty, tie: TieTensors) -> Tensor | None:
    """Compute the statistics of a shard; ``None`` if no group needs other shards."""
    shard = tie.shard
    if shard is None or not penalty.needs_other_shards(len(tie.shape), shard.dim):
        return None
    if penalty.has_free_center(len(tie.members)):
        return gram_matrices(_wide(tie), penalty.grouping)
    _, _, deviations = _split(penalty, tie)
    blocks = penalty.centering.blocks(deviations)
    return torch.stack(_statistics(penalty, tie, blocks, shard))


def prox_statistics(penalty: Penalty, tie: TieTensors) -> Tensor | None:
    """Compute the statistics that `prox` needs of a shard, which with edges are Gram matrices."""
    if not penalty.centering.has_edges:
        return statistics(penalty, tie)
    if len(tie.members) == 2:
        return statistics(*_at_mean(penalty, tie))
    shard = tie.shard
    if shard is None or not penalty.needs_other_shards(len(tie.shape), shard.dim):
        return None
    return gram_matrices(_wide(tie), penalty.grouping)


def squared_distances(penalty: Penalty, tie: TieTensors) -> Tensor:
    """Compute the squared distance between the local members of each edge, in float64."""
    members = _wide(tie)
    wide = float64_on(members[0].device)
    squares = []
    for i, j in penalty.pairs(len(members)):
        norm = torch.linalg.vector_norm((members[i] - members[j]).detach(), dtype=wide)
        squares.append(norm.square())
    return torch.stack(squares)


def with_frozen_at_center(penalty: Penalty, tie: TieTensors, frozen: Tensor) -> list[Tensor]:
    """Return the members with the groups of a mask moved to their center."""
    members, points, _ = _split(penalty, tie)
    # A member of step 0 does not move, so the others return to it rather than to the mean.
    if penalty.centering.is_mean and 0.0 in tie.steps:
        points = [members[list(tie.steps).index(0.0)]] * len(members)
    moved = [torch.where(frozen, c, w) for w, c in zip(members, points, strict=True)]
    return [v.to(w.dtype) for v, w in zip(moved, tie.members, strict=True)]


def _wide(tie: TieTensors) -> list[Tensor]:
    """Return the members, in half precision as float32."""
    return [as_wide(w) for w in tie.members]


def _split(penalty: Penalty, tie: TieTensors) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Return the members (half precision as float32), their centers and unscaled deviations."""
    penalty.check_start(tie.start)
    members = _wide(tie)
    return members, *penalty.center_of(tie).split(members, tie.start)


def _statistics(
    penalty: Penalty, tie: TieTensors, blocks: Sequence[list[Tensor]], shard: Shard | None
) -> list[Tensor]:
    return [penalty.grouping.statistics(block, shard, tie.frozen) for block in blocks]


def _prox_on_edges(penalty: Penalty, tie: TieTensors, statistics: Tensor | None) -> list[Tensor]:
    if len(tie.members) == 2:
        # The difference of a pair has a closed form, and the mean's code computes it.
        pair, own = _at_mean(penalty, tie)
        return next(prox(pair, [own], [statistics]))
    members, graph = _wide(tie), penalty.graph_of(tie)
    if tie.aliases:
        graph = graph.merged(tie.aliases)
    grouping, is_squared = penalty.grouping, penalty.omega.quadratic
    if isinstance(graph, Star):
        return _free_center.prox(members, graph, tie.steps, grouping, statistics)
    return prox_on_graph(members, graph, tie.steps, grouping, is_squared, statistics)


def _at_mean(penalty: Penalty, tie: TieTensors) -> tuple[Penalty, TieTensors]:
    """Return the penalty of a pair with its mean as center, and steps times the edge's weight."""
    graph = penalty.graph_of(tie)
    # The spokes of a pair are one edge.
    assert isinstance(graph, Graph)
    (weight,) = graph.weights
    if penalty.omega.quadratic:
        weight *= weight
    pair = replace(tie, steps=[weight * t for t in tie.steps])
    return replace(penalty, center=MEAN, edges=None, scaled=False), pair


def _joined(vectors: Sequence[Tensor]) -> Tensor:
    if len(vectors) == 1:
        return vectors[0]
    return torch.cat(list(vectors))


def _moved(
    penalty: Penalty, tie: TieTensors, work: Decomposition, common: float | None, r: Tensor
) -> list[Tensor]:
    """Return the members after the proximal step, which leaves groups of norms ``r``.

    Mark groups that reach 0 in ``tie.frozen``. ``common`` is ``None`` if the step sizes differ.
    """
    if common is None and penalty.omega.quadratic:
        is_mean = penalty.centering.is_mean
        return prox_of_squared(work.members, work.points, tie.steps, is_mean)
    norms = work.local(work.norms)
    factor = _ratio(work.local(r), norms)
    if tie.frozen is not None:
        tie.frozen |= ((factor == 0.0) & (norms > 0.0)).view_as(tie.frozen)
    shrunk = work.multiply(factor)
    if common is None:
        return prox_of_pair(work.members, 2.0 * shrunk[0], tie.steps)
    # Adding the point 0.0 normalises -0.0, so that files can drop exact zeros.
    return [point + d for point, d in zip(work.points, shrunk, strict=True)]


def _ratio(numerator: Tensor, norms: Tensor) -> Tensor:
    """Return ``numerator / norms``, and 0 where a norm is 0 or too small to divide by."""
    # A division by a subnormal number could overflow.
    is_normal = norms >= torch.finfo(norms.dtype).tiny
    return torch.where(is_normal, numerator / torch.where(is_normal, norms, 1.0), 0.0)
