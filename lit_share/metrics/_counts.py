"""How much of a module is shared: counts and distances."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from lit_share.codebooks import CODEBOOKS, dense_weight
from lit_share.ties import Tie, Ties, full_tensor, parameter_refs, position_count


@dataclass(frozen=True)
class SharingStats:
    """Counts of the numbers in a module's parameters, after the GrOWL paper.

    Attributes:
        total: Numbers in all parameters, a shared one counted under each of its names, rows of a codebook for each of
            their inputs, and filters of a convolution that was locally connected for each of its positions.
        unique: Numbers that are different: not zero, and stored once, or exactly equal in ties that were given.
        zeros: How many of ``total`` are exactly zero.
        bytes: Bytes of the parameters and buffers in the module's compact file; see `lit_share.save_compact`. The file
            itself is larger by its header, about a kilobyte and more for many parameters. ``None`` where such a file
            cannot hold the module, which `save_compact` explains.
    """

    total: int
    unique: int
    zeros: int
    bytes: int | None = None

    @property
    def sparsity(self) -> float:
        """Zeros / total, in [0, 1]."""
        return self.zeros / max(self.total, 1)

    @property
    def sharing(self) -> float:
        """Nonzero / unique, at least 1, which is how often a number is used."""
        return (self.total - self.zeros) / max(self.unique, 1)

    @property
    def compression(self) -> float:
        """Total / unique, at least 1."""
        return self.total / max(self.unique, 1)

    def as_dict(self) -> dict[str, float | None]:
        """All counts and ratios by name."""
        return asdict(self) | {
            name: getattr(self, name) for name in ("sparsity", "sharing", "compression")
        }


def sharing_stats(module: nn.Module, ties: Ties | Sequence[Tie] | None = None) -> SharingStats:
    """Count the total, unique and zero numbers of a module's parameters, and the bytes that store them.

    Args:
        module: The module.
        ties: Ties whose members are searched for exactly equal numbers; without them only parameters that are one
            and the same in memory count as shared.

    Returns:
        The counts; ``sparsity``, ``sharing`` and ``compression`` are its properties.

    Raises:
        TieError: If the patterns do not fit the module; see `Ties.find`.

    Example:
        >>> pair = nn.ModuleDict({"a": nn.Linear(3, 2), "b": nn.Linear(3, 2)})
        >>> pair["b"].load_state_dict(pair["a"].state_dict())
        <All keys matched successfully>
        >>> sharing_stats(pair).unique, sharing_stats(pair, Ties("a.*", "b.*")).unique
        (16, 8)

    Source:
        Zhang et al., *Learning to Share*, ICLR 2018, Section 4: sparsity, parameter sharing, compression rate.
    """
    from lit_share.compact_files import CompactFileError, compact_bytes

    counts = count_numbers(module, ties)
    with suppress(CompactFileError):
        return replace(counts, bytes=compact_bytes(module))
    return counts


@torch.no_grad()
def count_numbers(module: nn.Module, ties: Ties | Sequence[Tie] | None = None) -> SharingStats:
    """`sharing_stats` without the bytes, which take longer."""
    total = zeros = unique = 0
    seen: set[int] = set()
    for ref in parameter_refs(module):
        tensor, parameter, owner = full_tensor(ref.tensor), ref.stored, ref.owner
        if isinstance(owner, CODEBOOKS) and ref.attribute == "weight":
            tensor = dense_weight(owner)
        copies = position_count(owner) or 1
        total += copies * tensor.numel()
        zeros += copies * (tensor.numel() - int(torch.count_nonzero(tensor)))
        if parameter is not None and id(parameter) not in seen:
            seen.add(id(parameter))
            unique += int(torch.count_nonzero(full_tensor(parameter.detach())))
    found = ties.find(module) if isinstance(ties, Ties) else ties or ()
    unique -= sum(map(_repeated_nonzeros, _disjoint(found)))
    return SharingStats(total=total, unique=unique, zeros=zeros)


def relative_distance(members: Sequence[Tensor]) -> float:
    r"""How far the members are from each other, relative to their size.

    .. math::
        \sqrt{\frac{\sum_{i<j} \lVert W_i - W_j \rVert^2}{(N - 1) \sum_i \lVert W_i \rVert^2}}

    It is 0 for equal members, about 1 for unrelated (orthogonal) ones, and at most :math:`\sqrt{N / (N - 1)}`.

    Args:
        members: N ≥ 2 tensors of one shape; those of a tie are ``tie.tensors()``.

    Returns:
        The distance; 0 where all members are zero.

    Example:
        >>> relative_distance([torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])])
        1.0
    """
    return overall_distance([members])


def overall_distance(ties: Sequence[Sequence[Tensor]]) -> float:
    """`relative_distance` over several ties: numerator and denominator are summed.

    Args:
        ties: The members of each tie.

    Returns:
        The distance; 0 where all members are zero.

    Example:
        >>> pair = nn.ModuleDict({"a": nn.Linear(3, 2), "b": nn.Linear(3, 2)})
        >>> pair["b"].load_state_dict(pair["a"].state_dict())
        <All keys matched successfully>
        >>> overall_distance([tie.tensors() for tie in Ties("a.*", "b.*").find(pair)])
        0.0
    """
    between, size = (
        sum(map(float, column)) for column in zip(*map(squared_distance, ties), strict=True)
    )
    return math.sqrt(between / size) if size > 0.0 else 0.0


@torch.no_grad()
def squared_distance(members: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    r"""The numerator and denominator of `relative_distance`, squared, which add up over ties.

    Args:
        members: N ≥ 2 tensors of one shape.

    Returns:
        :math:`\sum_{i<j} \lVert W_i - W_j \rVert^2` and :math:`(N - 1) \sum_i \lVert W_i \rVert^2`, float64 scalars.
    """
    wide = torch.stack([full_tensor(member.detach()) for member in members]).double()
    # Counted from the first member: equal members must be at distance exactly 0.
    offsets = wide - wide[0]
    deviations = offsets - offsets.mean(dim=0)
    return len(wide) * deviations.square().sum(), (len(wide) - 1) * wide.square().sum()


@torch.no_grad()
def count_tied(members: Sequence[Tensor]) -> int:
    """The number of positions in which all members are exactly equal.

    Args:
        members: N ≥ 2 tensors of one shape.

    Returns:
        A count from 0 to the number of elements of one member.

    Example:
        >>> count_tied([torch.tensor([1.0, 0.0]), torch.tensor([1.0, 1.0])])
        1
    """
    first, *others = map(full_tensor, members)
    return int(torch.stack([first == other for other in others]).all(dim=0).sum())


def _disjoint(ties: Sequence[Tie]) -> list[list[Tie]]:
    """The ties, those that have members in common together."""
    clusters: list[tuple[set[int], list[Tie]]] = []
    for tie in ties:
        parameters = {id(p) for p in tie.parameters}
        together = [cluster for cluster in clusters if cluster[0] & parameters]
        clusters = [cluster for cluster in clusters if not cluster[0] & parameters]
        clusters.append(
            (
                parameters.union(*(c[0] for c in together)),
                [t for c in together for t in c[1]] + [tie],
            )
        )
    return [cluster for _, cluster in clusters]


def _repeated_nonzeros(ties: Sequence[Tie]) -> int:
    """How many non-zero numbers of overlapping ties are equal to another one at the same position of a tie.

    Numbers are the nodes of a graph, equal ones have an edge, and each connected component needs one number only.
    """
    from scipy.sparse import coo_array  # slow to import, and training does without
    from scipy.sparse.csgraph import connected_components

    nodes_of: dict[nn.Parameter, Tensor] = {}
    size = 0
    for parameter in (parameter for tie in ties for parameter in tie.parameters):
        if parameter not in nodes_of:
            nodes_of[parameter] = torch.arange(size, size + parameter.numel()).view(parameter.shape)
            size += parameter.numel()
    edges: list[Tensor] = []
    for tie in ties:
        numbered = [v for run in tie.runs for v in run.views(nodes_of[run.first.parameter])]
        values, order = torch.stack(
            [full_tensor(tensor).flatten().cpu() for tensor in tie.tensors()]
        ).sort(dim=0)
        nodes = torch.stack([own.flatten() for own in numbered]).gather(0, order)
        equal = (values[1:] == values[:-1]) & (values[1:] != 0)
        edges.append(torch.stack([nodes[:-1][equal], nodes[1:][equal]]))
    start, end = torch.cat(edges, dim=1).numpy()
    graph = coo_array((np.ones(len(start), dtype=bool), (start, end)), shape=(size, size))
    components, _ = connected_components(graph, directed=False)
    return size - int(components)
