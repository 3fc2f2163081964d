r"""Compute the penalty of members with spokes to a free center, its gradient and proximal step.

.. math:: \Omega(W) = \sum_g \min_c \sum_i \lVert W_{i,g} - c \rVert

The center of a group is the geometric median of its members, and in a proximal step their Huber
location. Both are weighted means of the members: `_star` finds them from Gram matrices, and
`_star_numbers` where groups are single elements.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lit_share.functional._edges import Star
from lit_share.functional._fusion import combine, from_near_member, gram_matrices, mix
from lit_share.functional._groups import Groups
from lit_share.functional._star import balanced, solve_forces, solve_star
from lit_share.functional._star_numbers import prox_of_numbers
from lit_share.functional._tie_tensors import TieTensors

if TYPE_CHECKING:
    from lit_share.functional._penalty import Penalty


def value(penalty: Penalty, tie: TieTensors, gram: Tensor | None) -> Tensor:
    """Compute the penalty, given what `gram_matrices` returns of all shards."""
    members, grouping = tie.wide(), penalty.grouping
    return penalty.factor_of_groups(tie) * _value(members, grouping, gram)


def _value(members: Sequence[Tensor], grouping: Groups, gram: Tensor | None) -> Tensor:
    if members[0].numel() == 0 and gram is None:
        return members[0].new_zeros(())
    if grouping.is_elementwise(members[0].ndim):
        offsets = torch.stack([w - members[0] for w in members])
        return (offsets - offsets.median(0).values).abs().sum()
    if gram is None:
        gram = _near_gram_matrices(members, grouping)
    values, _ = solve_forces(gram.flatten(0, -3))
    return values.sum().to(members[0])


def gradient(penalty: Penalty, tie: TieTensors, gram: Tensor | None) -> list[Tensor]:
    r"""Compute the forces of the members on the center, which are the gradient.

    By the envelope theorem it is :math:`(W_i - c) / \lVert W_i - c \rVert` for members away from
    the center. Those at the center share the force that is missing to zero, as for members that are
    moved together nothing changes. That is a subgradient where members are equal, or where several
    centers are the best.

    Args:
        penalty: The penalty.
        tie: The tie.
        gram: What `gram_matrices` returns, summed over all shards; computed if ``None``.

    Raises:
        RuntimeError: If autograd would have to differentiate the gradient.
    """
    members, factor = tie.wide(), penalty.factor_of_groups(tie)
    if torch.is_grad_enabled() and any(w.requires_grad for w in members):
        raise RuntimeError(
            'edges="star" has no second-order gradients, as the center is searched for: leave out '
            'create_graph=True, or write edges="all"'
        )
    return [factor * force for force in _forces(members, penalty.grouping, gram)]


def _forces(members: Sequence[Tensor], grouping: Groups, gram: Tensor | None) -> list[Tensor]:
    if members[0].numel() == 0:
        return [torch.zeros_like(w) for w in members]
    if grouping.is_elementwise(members[0].ndim):
        offsets = torch.stack([w - members[0] for w in members])
        away = offsets - offsets.median(0).values
        return list(balanced(away.sign(), away == 0.0, dim=0).unbind())
    if gram is None:
        gram = _near_gram_matrices(members, grouping)
    _, forces = solve_forces(gram.flatten(0, -3))
    return mix(members, forces, grouping)


def prox(
    penalty: Penalty, ties: Sequence[TieTensors], grams: Sequence[Tensor | None]
) -> Iterator[list[Tensor]]:
    """Take the proximal steps; members at the center are equal bit by bit."""
    for tie, gram in zip(ties, grams, strict=True):
        star = penalty.graph_of(tie)
        assert isinstance(star, Star)
        if tie.aliases:
            star = star.merged(tie.aliases)
        yield _prox_of_star(tie.wide(), star, tie.steps, penalty.grouping, gram)


def statistics(penalty: Penalty, tie: TieTensors) -> Tensor:
    """Compute the Gram matrices of a shard."""
    return gram_matrices(tie.wide(), penalty.grouping)


prox_statistics = statistics


def _prox_of_star(
    members: Sequence[Tensor],
    star: Star,
    steps: Sequence[float],
    grouping: Groups,
    gram: Tensor | None,
) -> list[Tensor]:
    if members[0].numel() == 0 or max(steps) == 0.0:
        return [w.clone() for w in members]
    if grouping.is_elementwise(members[0].ndim):
        return prox_of_numbers(members, star, steps)
    if gram is None:
        gram = _near_gram_matrices(members, grouping)
    return combine(members, solve_star(gram.flatten(0, -3), star, steps), grouping)


def _near_gram_matrices(members: Sequence[Tensor], grouping: Groups) -> Tensor:
    return from_near_member(gram_matrices(members, grouping), members, grouping)
