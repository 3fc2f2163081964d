"""`share` and `unshare`, on modules that are not in training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import nn

from lit_share.aliases import (
    AliasMaker,
    check_buffers,
    check_shareable,
    install_invariant,
    make_buffer_one,
    separate_buffers,
    separate_parameters,
)
from lit_share.functional import first_equal, mean
from lit_share.sharing._positions import check_positions, share_positions
from lit_share.text import check_choice
from lit_share.ties import (
    BufferRef,
    ParameterRef,
    Tie,
    TieError,
    Ties,
    as_ties,
    buffer_refs,
    check_not_meta,
    cluster_labels,
    distinctly_named,
    parameter_refs,
)

Init = Literal["mean", "first"]
Where = Literal["all", "equal"]

# Why ties of numbers are refused; see `Ties.refuse_numbers`.
CANNOT_SHARE_NUMBERS = (
    "cannot be shared, as the numbers of a parameter cannot be one Parameter: make them equal with "
    "the recipe value_tie, and lit_share.save_compact stores each value once"
)


@torch.no_grad()
def share(
    module: nn.Module,
    ties: Ties | Sequence[Ties],
    init: Init = "mean",
    *,
    where: Where = "all",
    buffers: bool = False,
) -> list[Tie]:
    """Make the members of each tie one `torch.nn.Parameter`.

    All names stay, also in ``state_dict``: checkpoints in which members are equal load as before,
    others raise. Members stay shared when the module is moved, copied or pickled. A transposed
    member (``.T``) is computed at each access. Call `share` before the optimizer is made, which
    would keep the replaced parameters, and before the module is wrapped for distributed training.

    Slices (``[:]``) can be shared if they are the positions of a `LocallyConnected2d` or
    `LocallyConnected1d`, which becomes a convolution. It also loads checkpoints of that layer if
    all positions are equal.

    With ``where="equal"`` only exactly equal members are shared, as after proximal steps, so the
    module's outputs do not change. If a tie has several clusters of equal members, each becomes a
    Parameter of its own; `clusters` says which. These include members that are equal before
    training, such as biases of zero: train first, or exclude them. Members of which some units are
    equal stay separate: ``keep_tied=True`` keeps these units equal, and compact files store them
    once. Positions are shared only if all of them are equal, as a convolution has one filter.

    Args:
        module: The module, changed in place.
        ties: Which parameters are shared.
        init: The shared value: the ``"mean"`` of the members, or the ``"first"`` member.
        where: Share ``"all"`` members of each tie, or only those that are ``"equal"``.
        buffers: Whether to share buffers that fit the patterns, too, such as the statistics of
            batch normalisation. Their mean is taken, too; other buffers, such as masks, must be
            equal with ``init="mean"``.

    Returns:
        The shared ties. If only some members of a tie are shared, the result has a tie of these
        members in its place, or several.

    Raises:
        TieError: If the patterns do not fit the module (see `Ties.find`), or a tie has a single
            member or its numbers (``[...]``), slices of other layers, different dtypes, devices or
            ``requires_grad``, or members that are already sharded over ranks.

    Example:
        >>> pair = nn.ModuleDict({"a": nn.Linear(3, 2), "b": nn.Linear(3, 2)})
        >>> ties = share(pair, Ties("a.*", "b.*"))
        >>> pair["a"].weight is pair["b"].weight
        True
        >>> sum(parameter.numel() for parameter in pair.parameters())
        8
    """
    ties = as_ties(ties)
    ties.refuse_numbers(CANNOT_SHARE_NUMBERS)
    check_choice("init", init, Init)
    check_choice("where", where, Where)
    found = ties.find(module)
    sliced = [tie for tie in found if any(member.slice is not None for member in tie.members)]
    separate = [tie for tie in found if tie not in sliced and not _is_done(tie)]
    # Everything is checked before anything changes, so that an error leaves the module as it is.
    layers = check_positions(module, sliced)
    check_shareable(module, separate)
    groups: list[list[BufferRef]] = []
    if buffers:
        groups = ties.buffers(module)
        if not groups:
            raise TieError(f"buffers=True, but no buffer fits all patterns of {ties}: leave it out")
        check_buffers(groups, averaged=init == "mean" and where == "all")
    if where == "equal":
        check_not_meta([*sliced, *separate])
        separate = _split(separate, cluster_labels(separate))
        groups = _equal_buffers(groups)
    maker = AliasMaker(module)
    for tie in separate:
        tensors = tie.tensors()
        value = tensors[0]
        if init == "mean":
            value = mean(tensors)
        maker.make_one(tie, value)
    share_positions(module, layers, averaged=init == "mean", only_equal=where == "equal")
    for refs in groups:
        make_buffer_one(refs, averaged=init == "mean")
    install_invariant(module, [*_names_of_shared(module, found), *groups])
    # Members of replaced layers are other parameters now.
    if sliced:
        found = ties.find(module)
    return distinctly_named(_shared_parts(found))


@torch.no_grad()
def unshare(module: nn.Module, ties: Ties | Sequence[Ties] | None = None) -> None:
    """Give each member its own copy of a shared parameter again.

    Call it before the optimizer is made. Convolutions with shared positions are not changed: see
    `LocallyConnected2d.from_conv`.

    Args:
        module: The shared module, or a module inside or around it; changed in place.
        ties: Which parameters get copies; ``None`` for all parameters and buffers with several
            names.

    Raises:
        TieError: If the patterns do not fit the module (see `Ties.find`), or end in ``[...]``.

    Example:
        >>> pair = nn.ModuleDict({"a": nn.Linear(3, 2), "b": nn.Linear(3, 2)})
        >>> ties = share(pair, Ties("a.*", "b.*"))
        >>> unshare(pair)
        >>> pair["a"].weight is pair["b"].weight
        False
    """
    if ties is not None:
        ties = as_ties(ties)
        ties.refuse_numbers(CANNOT_SHARE_NUMBERS)
    separate_parameters(_sides(module, ties))
    groups = [list(buffer_refs(module))]
    if ties is not None:
        groups = ties.buffers(module)
    for refs in groups:
        separate_buffers(refs)


def _sides(module: nn.Module, ties: Ties | None) -> Iterator[tuple[int, ParameterRef]]:
    """Yield references with the index of their pattern; without ``ties`` all, counted from 0."""
    # The sides are the patterns, as a pattern may match several names of a parameter.
    if ties is None:
        yield from enumerate(parameter_refs(module))
        return
    first = 0
    for part in ties.parts:
        for _, refs in part.refs(module):
            yield from enumerate(refs, first)
        first += len(part.patterns)


def _names_of_shared(module: nn.Module, ties: Sequence[Tie]) -> list[list[ParameterRef]]:
    """Return, for each Parameter that several members are, all its references, matched or not."""
    shared = [tie for tie in _shared_parts(ties) if len(tie.members) > 1]
    names: dict[nn.Parameter, list[ParameterRef]] = {t.members[0].parameter: [] for t in shared}
    for ref in parameter_refs(module):
        if ref.parameter in names:
            names[ref.parameter].append(ref)
    return [refs for refs in names.values() if len(refs) > 1]


def _shared_parts(ties: Sequence[Tie]) -> list[Tie]:
    """Return the shared ties, and of other ties a tie for each Parameter of several members."""
    parts: list[Tie] = []
    for tie in ties:
        # A single member can be shared: the position of a convolution.
        parts += [tie] if tie.is_shared else tie.split(tie.first_aliases)
    return parts


def _split(ties: Sequence[Tie], labels: Sequence[Sequence[int]]) -> list[Tie]:
    """Return a tie for each cluster of several members that are not one Parameter yet."""
    parts: list[Tie] = []
    for tie, own in zip(ties, labels, strict=True):
        parts += [part for part in tie.split(own) if not part.is_shared]
    return parts


def _equal_buffers(groups: Sequence[Sequence[BufferRef]]) -> list[list[BufferRef]]:
    """Return the buffers that correspond to each other and are equal."""
    equal: list[list[BufferRef]] = []
    for refs in groups:
        own: dict[int, list[BufferRef]] = {}
        for ref, first in zip(refs, first_equal([ref.stored for ref in refs]), strict=True):
            own.setdefault(first, []).append(ref)
        equal += [cluster for cluster in own.values() if len(cluster) > 1]
    return equal


def _is_done(tie: Tie) -> bool:
    # A single member is always shared with itself, and `check_shareable` is to refuse it, unless it
    # is the position of a convolution.
    return tie.is_shared and (len(tie.members) > 1 or tie.members[0].index is not None)
