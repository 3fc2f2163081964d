"""Equal starting values for the members of ties."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from lit_share.ties._arguments import find_ties
from lit_share.ties._error import TieError
from lit_share.ties._find_clusters import check_not_meta
from lit_share.ties._shards import reshard
from lit_share.ties._tie import Tie
from lit_share.ties._ties import Ties


@torch.no_grad()
def same_start(module: nn.Module, ties: Ties | Sequence[Ties] | Sequence[Tie]) -> None:
    r"""Give all members of each tie the values of its first member, so that units correspond.

    .. math:: W_i \leftarrow W_1, \quad i = 2, \dots, N

    Layers of one model are initialised one by one, so that their units have nothing to do with each
    other, and a tie between them would be a wrong prior. Call it before training; the members stay
    separate parameters, and buffers keep their values. Copies of a whole model need only
    `copy.deepcopy`, or ``Paired(..., same_init=True)``.

    Args:
        module: The module that holds all members; their values are changed in place.
        ties: Which parameters are tied, a list of several `Ties`, or what ``ties.find(module)``
            returned.

    Raises:
        TieError: If the patterns do not fit the module (see `Ties.find`), a tie has a single
            member, or a member is on the meta device.

    Example:
        >>> net = nn.Sequential(*(nn.Linear(3, 3) for _ in range(3)))
        >>> same_start(net, Ties("0.*", "1.*", "2.*"))
        >>> torch.equal(net[2].weight, net[0].weight)
        True
    """
    # FSDP2 modules may hold full copies, and what is written to these is lost.
    reshard(module)
    found = find_ties(module, ties)
    for tie in found:
        if len(tie.members) == 1:
            raise TieError(
                f"{tie.members[0].name!r} is the only member of its tie, which has no other to "
                "start like it: write a pattern for each layer, as Ties('layers.0.*', 'layers.1.*')"
            )
    check_not_meta(found)
    for tie in found:
        first, *others = tie.tensors()
        for other in others:
            other.copy_(first)
