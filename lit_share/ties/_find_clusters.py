"""`clusters`, on a module."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from lit_share.ties._arguments import as_ties
from lit_share.ties._clusters import ClusterReport, cluster_ties
from lit_share.ties._error import TieError
from lit_share.ties._shards import reshard
from lit_share.ties._tie import Tie
from lit_share.ties._ties import Ties


def clusters(module: nn.Module, ties: Ties | Sequence[Ties]) -> ClusterReport:
    """Find which members of each tie are exactly equal, and so can be stored as one Parameter.

    0.0 and −0.0 are equal. NaN is equal to nothing; aliases of a Parameter are equal nevertheless.
    ``share(module, ties, where="equal")`` stores one Parameter for each cluster. Of a pattern with
    ``[...]``, the clusters are the different values of a tensor; `save_compact` stores each once.

    Args:
        module: The module that holds all members. If `fully_shard` has sharded it, call this on
            every rank: ranks compare their slices, and send one message.
        ties: Which members are compared.

    Returns:
        The clusters of each tie of several members or of numbers, the same on every rank.

    Raises:
        TieError: If the patterns do not fit the module (see `Ties.find`), no tie has several
            members, or a member is on the meta device.

    Example:
        >>> models = nn.ModuleDict({name: nn.Linear(3, 2) for name in "abc"})
        >>> models["c"].load_state_dict(models["a"].state_dict())
        <All keys matched successfully>
        >>> report = clusters(models, Ties("a.*", "b.*", "c.*"))
        >>> print(report)
        ties: 2, members: 6, clusters: 4
          weight: a.weight = c.weight | b.weight
          bias: a.bias = c.bias | b.bias
        >>> report.ties[0].groups
        [['a.weight', 'c.weight'], ['b.weight']]
    """
    ties = as_ties(ties)
    found = [tie for tie in ties.find(module) if tie.compares]
    if not found:
        raise TieError(
            f"{ties} compares nothing, as each tie has a single member: give a pattern for each "
            "model"
        )
    check_not_meta(found)
    # A forward pass without gradients leaves FSDP2 modules with copies that no optimizer writes.
    reshard(module)
    return cluster_ties(found)


def check_not_meta(ties: Sequence[Tie]) -> None:
    """Raise `TieError`, naming the member, if a member of a tie is on the meta device."""
    for tie in ties:
        for member in tie.members:
            if member.parameter.is_meta:
                raise TieError(
                    f"{member.name!r} is on the meta device, where no values are equal: load it "
                    "first"
                )
