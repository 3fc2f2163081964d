"""Counts of shared numbers, and distances between members."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from lit_share.codebooks import CODEBOOKS, dense_weight
from lit_share.functional import Comparison, compare_members, compare_numbers
from lit_share.ties import (
    Tie,
    Ties,
    find_ties,
    full_tensor,
    map_ties,
    parameter_refs,
    position_count,
    sum_over_shards,
)


@dataclass(frozen=True)
class SharingStats:
    """Counts of the numbers in a module's parameters, after the GrOWL paper.

    Attributes:
        total: Numbers in all parameters. A shared parameter counts under each of its names, a row
            of a codebook for each of its inputs, and a filter that positions share for each of
            them.
        unique: Numbers other than zero, counted once if they are stored once, or are exactly equal
            in the given ties.
        zeros: Numbers of ``total`` that are exactly zero.
        bytes: Bytes of the numbers in the module's compact file, those of parameters and buffers;
            see `lit_share.save_compact`. ``None`` if `save_compact` raises an error.
        file_bytes: Bytes of the whole compact file. Its header takes about 250 bytes for each
            tensor, which is most of the file of a small model. ``None`` as for ``bytes``.
    """

    total: int
    unique: int
    zeros: int
    bytes: int | None = None
    file_bytes: int | None = None

    @property
    def sparsity(self) -> float:
        """The fraction zeros / total, in [0, 1]."""
        return self.zeros / max(self.total, 1)

    @property
    def sharing(self) -> float:
        """The average number of uses of a number, (total − zeros) / unique, at least 1."""
        return (self.total - self.zeros) / max(self.unique, 1)

    @property
    def compression(self) -> float:
        """The ratio total / unique, at least 1."""
        return self.total / max(self.unique, 1)

    def as_dict(self) -> dict[str, float | None]:
        """Return all counts and ratios by name."""
        ratios = ("sparsity", "sharing", "compression")
        return asdict(self) | {name: getattr(self, name) for name in ratios}


def sharing_stats(
    module: nn.Module, ties: Ties | Sequence[Ties] | Sequence[Tie] | None = None
) -> SharingStats:
    """Count the total, unique and zero numbers of a module's parameters, and their bytes.

    Args:
        module: The module.
        ties: Ties whose members are searched for exactly equal numbers. Without ties, only aliases
            of one Parameter count as shared.

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
        Zhang et al., *Learning to Share*, ICLR 2018, Section 4: sparsity, parameter sharing,
        compression rate.
    """
    # Compact files need pydantic, which counting during training does not.
    from lit_share.compact_files import CompactFileError, compact_sizes

    counts = count_numbers(module, ties)
    # Numbers can be counted in modules that no file can hold, such as those with sparse buffers.
    with suppress(CompactFileError):
        sizes = compact_sizes(module)
        return replace(counts, bytes=sizes.numbers, file_bytes=sizes.file)
    return counts


@torch.no_grad()
def count_numbers(
    module: nn.Module, ties: Ties | Sequence[Ties] | Sequence[Tie] | None = None
) -> SharingStats:
    """Return `sharing_stats` without the bytes, which take longer to count."""
    refs = list(parameter_refs(module))
    parameters = list(dict.fromkeys(ref.parameter for ref in refs))
    counts: dict[nn.Parameter, int] = {}
    if parameters:
        rows = sum_over_shards(_count_nonzero, [[parameter.detach()] for parameter in parameters])
        counts = dict(zip(parameters, rows.tolist(), strict=True))
    total = zeros = 0
    for ref in refs:
        owner = ref.owner
        numel, nonzero = ref.parameter.numel(), counts[ref.parameter]
        # The total is that of the module without sharing: of ordinary layers rather than codebooks,
        # and with filters for each position.
        if isinstance(owner, CODEBOOKS) and ref.attribute == "weight":
            dense = dense_weight(owner)
            numel, nonzero = dense.numel(), int(torch.count_nonzero(dense))
        copies = position_count(owner) or 1
        total += copies * numel
        zeros += copies * (numel - nonzero)
    # Aliases are stored once. A computed tensor (None) is stored nowhere.
    stored = dict.fromkeys(ref.stored for ref in refs if ref.stored is not None)
    unique = sum(counts[parameter] for parameter in stored)
    if ties is not None:
        unique -= _repeated_nonzeros(find_ties(module, ties))
    return SharingStats(total=total, unique=unique, zeros=zeros)


def relative_distance(members: Sequence[Tensor]) -> float:
    r"""Return the distance between members, relative to their size.

    .. math::
        \sqrt{\frac{\sum_{i<j} \lVert W_i - W_j \rVert^2}{(N - 1) \sum_i \lVert W_i \rVert^2}}

    It is 0 for equal members, about 1 for unrelated (orthogonal) members, and at most
    :math:`\sqrt{N / (N - 1)}`.

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
    """Return `relative_distance` over several ties: numerator and denominator are summed.

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
    return Comparison.total(compare_ties(ties)).distance


def count_tied(members: Sequence[Tensor]) -> int:
    """Count the elements in which all members are exactly equal.

    Args:
        members: N ≥ 2 tensors of one shape.

    Returns:
        A count from 0 to the number of elements of one member.

    Example:
        >>> count_tied([torch.tensor([1.0, 0.0]), torch.tensor([1.0, 1.0])])
        1
    """
    (comparison,) = compare_ties([members])
    return comparison.equal


def compare_ties(ties: Sequence[Sequence[Tensor]]) -> list[Comparison]:
    """Return the sums of `relative_distance` and `count_tied`, from one pass over the members.

    Args:
        ties: The members of each tie, N ≥ 2 tensors of one shape. If they are sharded, local sums
            of all ties are added up over ranks in one message.
    """
    if not ties:
        return []
    rows = sum_over_shards(_sums, ties).tolist()
    return [
        Comparison(between, size, int(equal), members[0].numel())
        for (between, size, equal), members in zip(rows, ties, strict=True)
    ]


def compare_found(ties: Sequence[Tie]) -> list[Comparison]:
    """Return `compare_ties` of ties that were found in a module, some maybe inside a tensor."""
    return map_ties(
        ties,
        lambda several: compare_ties([tie.tensors() for tie in several]),
        lambda tie: compare_numbers(*tie.tensors()),
    )


def _sums(members: Sequence[Tensor]) -> Tensor:
    comparison = compare_members(members)
    sums = (comparison.between, comparison.size, comparison.equal)
    return torch.tensor(sums, dtype=torch.float64)


def _count_nonzero(tensors: Sequence[Tensor]) -> Tensor:
    (tensor,) = tensors
    return torch.count_nonzero(tensor)


def _components(ties: Sequence[Tie]) -> list[list[Tie]]:
    """Return lists of ties that have parameters in common, directly or through other ties."""
    components: list[tuple[set[int], list[Tie]]] = []
    for tie in ties:
        # A tie may connect components that were separate until now.
        parameters = {id(parameter) for parameter in tie.parameters}
        connected: list[Tie] = []
        others = []
        for component in components:
            if component[0].isdisjoint(parameters):
                others.append(component)
            else:
                parameters |= component[0]
                connected += component[1]
        components = [*others, (parameters, [*connected, tie])]
    return [connected for _, connected in components]


def _repeated_nonzeros(ties: Sequence[Tie]) -> int:
    """Count repeated nonzero numbers at each element of ties: k equal members count as k − 1."""
    repeated = 0
    separate: list[Sequence[Tensor]] = []
    for component in _components([tie.without_aliases() for tie in ties]):
        tie = component[0]
        if len(component) > 1 or not (tie.is_shared or _has_distinct_members(tie)):
            repeated += _repeated_in_graph(component)
        elif tie.inside:
            (tensor,) = tie.tensors()
            repeated += int(_repeated_in_columns(tensor.reshape(-1, 1)))
        elif not tie.is_shared:
            separate.append(tie.tensors())
    if separate:
        repeated += int(sum_over_shards(_count_repeated, separate).sum())
    return repeated


def _has_distinct_members(tie: Tie) -> bool:
    """Whether members have no numbers in common."""
    distinct = {id(run.first.parameter) for run in tie.runs}
    return len(distinct) == len(tie.runs) and all(
        run.length == 1 or run.is_sliced for run in tie.runs
    )


def _count_repeated(members: Sequence[Tensor]) -> Tensor:
    return _repeated_in_columns(
        torch.stack([member.flatten().to(members[0].device) for member in members])
    )


def _repeated_in_columns(values: Tensor) -> Tensor:
    # Sorted members have equal numbers beside each other; two members are beside each other.
    if len(values) > 2:
        values = values.sort(dim=0).values
    return ((values[1:] == values[:-1]) & (values[1:] != 0)).sum()


def _repeated_in_graph(ties: Sequence[Tie]) -> int:
    """Return `_repeated_nonzeros` of ties that may have parameters in common."""
    # SciPy is slow to import, and training does without it.
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    # Ties may overlap, so that equality has to be followed through several of them: numbers are the
    # nodes of a graph, equal numbers have an edge, and each connected component is stored once.
    nodes_of: dict[nn.Parameter, Tensor] = {}
    size = 0
    for tie in ties:
        for parameter in tie.parameters:
            if parameter not in nodes_of:
                numbers = torch.arange(size, size + parameter.numel())
                nodes_of[parameter] = numbers.view(parameter.shape)
                size += parameter.numel()
    edges: list[Tensor] = []
    for tie in ties:
        member_nodes = []
        for run in tie.runs:
            member_nodes += [view.flatten() for view in run.views(nodes_of[run.first.parameter])]
        values = torch.stack([full_tensor(tensor).flatten().cpu() for tensor in tie.tensors()])
        nodes = torch.stack(member_nodes)
        # The numbers of a tensor are members of one number.
        if tie.inside:
            values, nodes = values.T, nodes.T
        # Sorted members have equal numbers beside each other: N − 1 comparisons find all of them.
        values, order = values.sort(dim=0)
        nodes = nodes.gather(0, order)
        equal = (values[1:] == values[:-1]) & (values[1:] != 0)
        edges.append(torch.stack([nodes[:-1][equal], nodes[1:][equal]]))
    start, end = torch.cat(edges, dim=1).numpy()
    graph = coo_array((np.ones(len(start), dtype=bool), (start, end)), shape=(size, size))
    components, _ = connected_components(graph, directed=False)
    return size - int(components)
