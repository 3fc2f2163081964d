"""Compute penalties of deviations from a center, or along edges, by their group norms."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lit_share.functional._steps import common_step, prox_of_pair, prox_of_squared
from lit_share.functional._tie_tensors import Shard, TieTensors

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
            of_blocks = _statistics_of(penalty, tie, blocks, None)
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


def value(penalty: Penalty, tie: TieTensors, statistics: Tensor | None) -> Tensor:
    """Compute the penalty."""
    work = Decomposition(penalty, tie, statistics)
    omega = penalty.omega.value(work.norms, penalty.owl_weights(work.norms))
    return omega.to(work.members[0].dtype)


def gradient(penalty: Penalty, tie: TieTensors, statistics: Tensor | None) -> list[Tensor]:
    """Compute the gradient."""
    members = len(tie.members)
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
    penalty: Penalty, ties: Sequence[TieTensors], statistics: Sequence[Tensor | None]
) -> Iterator[list[Tensor]]:
    """Compute the proximal step of ties whose center is no graph."""
    assert penalty.omega.prox is not None
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
        yield _moved(penalty, tie, work, common, r)


def statistics(penalty: Penalty, tie: TieTensors) -> Tensor:
    """Compute the statistics of the grouping, of each block of deviations."""
    _, _, deviations = _split(penalty, tie)
    blocks = penalty.centering.blocks(deviations)
    return torch.stack(_statistics_of(penalty, tie, blocks, tie.shard))


prox_statistics = statistics


def with_frozen_at_center(penalty: Penalty, tie: TieTensors, frozen: Tensor) -> list[Tensor]:
    """Return the members with the groups of a mask moved to their center."""
    members, points, _ = _split(penalty, tie)
    # A member of step 0 does not move, so the others return to it rather than to the mean.
    if penalty.centering.is_mean and 0.0 in tie.steps:
        points = [members[list(tie.steps).index(0.0)]] * len(members)
    moved = [torch.where(frozen, c, w) for w, c in zip(members, points, strict=True)]
    return [v.to(w.dtype) for v, w in zip(moved, tie.members, strict=True)]


def _split(penalty: Penalty, tie: TieTensors) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Return the members (half precision as float32), their centers and unscaled deviations."""
    members = tie.wide()
    return members, *penalty.center_of(tie).split(members, tie.start)


def _statistics_of(
    penalty: Penalty, tie: TieTensors, blocks: Sequence[list[Tensor]], shard: Shard | None
) -> list[Tensor]:
    return [penalty.grouping.statistics(block, shard, tie.frozen) for block in blocks]


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
