"""Measure what a model shares, for its result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from lit_share.ties import Ties


@dataclass(frozen=True)
class Measured:
    """What a model shares; each attribute is one of `Result`.

    Attributes:
        sharing: The distance between members, counts of parameters, and bytes.
        tied: For each tie, the fraction of its elements that are equal in all members.
        clusters: For each tie, the number of each member's cluster by the member's name.
    """

    sharing: dict[str, float | None]
    tied: dict[str, float]
    clusters: dict[str, dict[str, int]]


def measure(module: nn.Module, ties: Ties | Sequence[Ties] | None = None) -> Measured:
    """Measure the distance between the members of ties, and count what is stored.

    Args:
        module: The model.
        ties: Which of its parameters are compared; none by default.

    Raises:
        TieError: If the ties do not fit the model.

    Example:
        >>> from torch import nn
        >>> pair = nn.ModuleDict({"a": nn.Linear(3, 2), "b": nn.Linear(3, 2)})
        >>> measure(pair).sharing["total"]
        16
    """
    # Hydra's plugins import this folder at each start, and measure nothing.
    from lit_share.functional import Comparison
    from lit_share.metrics import compare_found, sharing_stats
    from lit_share.ties import cluster_ties, find_ties

    found = []
    if ties is not None:
        # A tie with a single member has no distance.
        found = [tie for tie in find_ties(module, ties) if tie.compares]
    sharing: dict[str, float | None] = {"distance": None}
    comparisons = compare_found(found)
    if found:
        sharing["distance"] = Comparison.total(comparisons).distance
    sharing |= sharing_stats(module, found or None).as_dict()
    tied = {tie.name: comparison.tied for tie, comparison in zip(found, comparisons, strict=True)}
    return Measured(sharing, tied, cluster_ties(found).as_dict())
