"""Compute penalties in plain torch: the specification of the fused loops, and their fallback.

Functions take a penalty and ties that passed `Penalty.check`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

from lit_share.functional import _along_edges, _deviations, _free_center, _inside, _precision
from lit_share.functional._tie_tensors import TieTensors

if TYPE_CHECKING:
    from lit_share.functional._penalty import Penalty


class Rule(Protocol):
    """A module that computes the penalties of one kind of ties."""

    def value(self, penalty: Penalty, tie: TieTensors, statistics: Tensor | None) -> Tensor:
        """Compute the penalty in the dtype of computation."""

    def gradient(
        self, penalty: Penalty, tie: TieTensors, statistics: Tensor | None
    ) -> list[Tensor]:
        """Compute the gradient in the dtype of computation."""

    def prox(
        self, penalty: Penalty, ties: Sequence[TieTensors], statistics: Sequence[Tensor | None]
    ) -> Iterator[list[Tensor]]:
        """Compute proximal steps in the dtype of computation; update masks in place."""

    def statistics(self, penalty: Penalty, tie: TieTensors) -> Tensor | None:
        """Compute what value and gradient need of a shard, which sums over shards."""

    def prox_statistics(self, penalty: Penalty, tie: TieTensors) -> Tensor | None:
        """Compute what the proximal step needs of a shard."""


def rule_of(penalty: Penalty, tie: TieTensors) -> Rule:
    """Return the rule for a tie; raise `ValueError` if start or precision are missing."""
    if tie.inside:
        return _inside
    penalty.check_start(tie.start)
    penalty.check_precision(tie.precision)
    if tie.precision is not None:
        return _precision
    if penalty.has_free_center(len(tie.members)):
        return _free_center
    if penalty.centering.has_edges:
        return _along_edges
    return _deviations


def value(penalty: Penalty, tie: TieTensors, statistics: Tensor | None = None) -> Tensor:
    """Compute the penalty of a tie: of all shards with their statistics, else of local groups."""
    return rule_of(penalty, tie).value(penalty, tie, statistics)


def gradient(penalty: Penalty, tie: TieTensors, statistics: Tensor | None = None) -> list[Tensor]:
    """Compute the gradient of a tie, in the dtype of computation.

    Args:
        penalty: The penalty.
        tie: The tie.
        statistics: The statistics of all shards, if groups span shards.
    """
    return rule_of(penalty, tie).gradient(penalty, tie, statistics)


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
    pairs = zip(ties, statistics, strict=True)
    # Ties of one rule are computed together.
    for rule, run in groupby(pairs, key=lambda pair: rule_of(penalty, pair[0])):
        own_ties, own_statistics = zip(*run, strict=True)
        moved = rule.prox(penalty, own_ties, own_statistics)
        for tie, new in zip(own_ties, moved, strict=True):
            yield [v.to(w.dtype) for v, w in zip(new, tie.members, strict=True)]


def statistics(penalty: Penalty, tie: TieTensors) -> Tensor | None:
    """Compute the statistics of a shard; ``None`` if no group needs other shards."""
    if _is_complete(penalty, tie):
        return None
    return rule_of(penalty, tie).statistics(penalty, tie)


def prox_statistics(penalty: Penalty, tie: TieTensors) -> Tensor | None:
    """Compute the statistics that `prox` needs of a shard, which with edges are Gram matrices."""
    if _is_complete(penalty, tie):
        return None
    return rule_of(penalty, tie).prox_statistics(penalty, tie)


def _is_complete(penalty: Penalty, tie: TieTensors) -> bool:
    shard = tie.shard
    return shard is None or not penalty.needs_other_shards(len(tie.shape), shard.dim)
