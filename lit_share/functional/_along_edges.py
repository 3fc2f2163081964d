"""Compute penalties along edges between members: differences of members instead of a center."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lit_share.functional import _deviations
from lit_share.functional._centers import MEAN
from lit_share.functional._deviations import gradient as gradient
from lit_share.functional._deviations import statistics as statistics
from lit_share.functional._deviations import value as value
from lit_share.functional._edges import Graph
from lit_share.functional._fusion import gram_matrices, prox_on_graph
from lit_share.functional._tie_tensors import TieTensors, float64_on

if TYPE_CHECKING:
    from lit_share.functional._penalty import Penalty


def prox(
    penalty: Penalty, ties: Sequence[TieTensors], statistics: Sequence[Tensor | None]
) -> Iterator[list[Tensor]]:
    """Compute the proximal step, which along edges has no closed form, except of pairs."""
    for tie, own in zip(ties, statistics, strict=True):
        if len(tie.members) == 2:
            # The difference of a pair has a closed form, and the mean's code computes it.
            pair, tie_of_pair = _at_mean(penalty, tie)
            yield from _deviations.prox(pair, [tie_of_pair], [own])
        else:
            graph = penalty.graph_of(tie)
            assert isinstance(graph, Graph)
            if tie.aliases:
                graph = graph.merged(tie.aliases)
            grouping, is_squared = penalty.grouping, penalty.omega.quadratic
            yield prox_on_graph(tie.wide(), graph, tie.steps, grouping, is_squared, own)


def prox_statistics(penalty: Penalty, tie: TieTensors) -> Tensor:
    """Compute the Gram matrices of a shard, of a pair the statistics of its difference."""
    if len(tie.members) == 2:
        return _deviations.statistics(*_at_mean(penalty, tie))
    return gram_matrices(tie.wide(), penalty.grouping)


def _at_mean(penalty: Penalty, tie: TieTensors) -> tuple[Penalty, TieTensors]:
    """Return the penalty of a pair with its mean as center, and steps times the edge's weight."""
    (weight,) = penalty.graph_of(tie).weights
    if penalty.omega.quadratic:
        weight *= weight
    pair = replace(tie, steps=[weight * t for t in tie.steps])
    return replace(penalty, center=MEAN, edges=None, scaled=False), pair


def squared_distances(penalty: Penalty, tie: TieTensors) -> Tensor:
    """Compute the squared distance between the local members of each edge, in float64."""
    members = tie.wide()
    wide = float64_on(members[0].device)
    squares = []
    for i, j in penalty.edging.pairs(len(members)):
        norm = torch.linalg.vector_norm((members[i] - members[j]).detach(), dtype=wide)
        squares.append(norm.square())
    return torch.stack(squares)
