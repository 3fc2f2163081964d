"""Hard sharing: one Parameter under several names of a module."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import nn

from lit_share.aliases import (
    AliasMaker,
    check_buffers,
    check_shareable,
    forget_alias,
    install_invariant,
    make_buffer_one,
)
from lit_share.functional import mean
from lit_share.sharing._positions import check_positions, share_positions
from lit_share.text import check_choice
from lit_share.ties import (
    ParameterRef,
    Tie,
    TieError,
    Ties,
    buffer_refs,
    check_ties,
    parameter_refs,
)

Init = Literal["mean", "first"]
Where = Literal["all", "equal"]


@torch.no_grad()
def share(
    module: nn.Module,
    ties: Ties,
    init: Init = "mean",
    *,
    where: Where = "all",
    buffers: bool = False,
) -> list[Tie]:
    """Make the members of each tie one `torch.nn.Parameter`.

    The slices of a parameter (``[:]``) are one where they are the positions of a `LocallyConnected2d`
    or `LocallyConnected1d`: the layer becomes a convolution, which loads what the layer saved if its
    positions are equal.

    All names stay as they are, in ``state_dict`` too, so checkpoints of the untied module fit. A
    transposed member (``.T``) is computed from the stored one whenever it is read. What is shared
    stays so when the module is moved, copied, pickled or loaded; a state dict in which the members
    have different values is refused from then on. Call it before the optimizer is made, which would
    otherwise keep parameters that are no longer the module's, and before the module is wrapped for
    distributed training.

    With ``where="equal"`` only members that have become exactly equal are shared, as a penalty with a
    proximal step makes them. Numbers that were equal from the beginning and not trained yet are among
    these, such as biases that start at zero: train first, or exclude them. The module computes what
    it did before. Single units that are equal stay under both names: keep them equal in training with
    ``keep_tied=True``; compact files store them once.

    Args:
        module: The module, changed in place.
        ties: Which parameters are shared.
        init: The shared value: the ``"mean"`` of the members, or the ``"first"`` member.
        where: ``"all"``, or ``"equal"``: only where all members are equal.
        buffers: Whether buffers whose names fit the patterns, such as the statistics of batch
            normalisation, are shared as well; otherwise each model keeps its own.

    Returns:
        The ties that are shared now.

    Raises:
        TieError: If the patterns do not fit the module (see `Ties.find`), or a tie cannot be shared:
            it has one member, members are slices of other parameters than those of locally connected
            layers, they differ in dtype, device or ``requires_grad``, or they are already sharded
            over processes.

    Example:
        >>> pair = nn.ModuleDict({"a": nn.Linear(3, 2), "b": nn.Linear(3, 2)})
        >>> ties = share(pair, Ties("a.*", "b.*"))
        >>> pair["a"].weight is pair["b"].weight
        True
        >>> sum(parameter.numel() for parameter in pair.parameters())
        8
    """
    check_ties(ties)
    check_choice("init", init, Init)
    check_choice("where", where, Where)
    found = ties.find(module)
    sliced = [tie for tie in found if any(member.slice is not None for member in tie.members)]
    separate = [tie for tie in found if tie not in sliced and not _is_done(tie)]
    layers = check_positions(module, sliced)
    check_shareable(module, separate)
    groups = ties.buffers(module) if buffers else []
    if buffers and not groups:
        raise TieError(f"buffers=True, but no buffer fits all patterns of {ties}: leave it out")
    check_buffers(groups)
    if where == "equal":
        _check_values_are_there([*sliced, *separate])
        separate = [tie for tie in separate if _all_equal(tie.tensors())]
        groups = [refs for refs in groups if _all_equal([ref.stored for ref in refs])]
    maker = AliasMaker(module)
    for tie in separate:
        tensors = tie.tensors()
        maker.make_one(tie, mean(tensors) if init == "mean" else tensors[0])
    share_positions(module, layers, averaged=init == "mean", only_equal=where == "equal")
    for refs in groups:
        make_buffer_one(refs, averaged=init == "mean")
    install_invariant(
        module, [*([member.ref for member in tie.members] for tie in separate), *groups]
    )
    found = ties.find(module) if sliced else found  # in the layers that took the place of others
    return [tie for tie in found if tie.is_shared]


@torch.no_grad()
def unshare(module: nn.Module, ties: Ties | None = None) -> None:
    """Give every name its own copy of a shared parameter again, with the same value.

    Call it before the optimizer is made. Positions that became a convolution stay so: see
    `LocallyConnected2d.from_conv`.

    Args:
        module: The module, changed in place; it may be a submodule of the one that was shared, or
            hold it.
        ties: Which parameters get copies of their own; all parameters and buffers that have several
            names where it is ``None``.

    Raises:
        TieError: If the patterns do not fit the module; see `Ties.find`.

    Example:
        >>> pair = nn.ModuleDict({"a": nn.Linear(3, 2), "b": nn.Linear(3, 2)})
        >>> ties = share(pair, Ties("a.*", "b.*"))
        >>> unshare(pair)
        >>> pair["a"].weight is pair["b"].weight
        False
    """
    if ties is not None:
        check_ties(ties)
    copies: dict[tuple[nn.Parameter, int], nn.Parameter] = {}
    first: dict[nn.Parameter, int] = {}
    done: set[tuple[int, str]] = set()
    for side, ref in _sides(module, ties):
        parameter = ref.parameter
        if (id(ref.owner), ref.attribute) in done:
            continue
        done.add((id(ref.owner), ref.attribute))
        forget_alias(ref)
        if ref.stored is None:
            value = ref.tensor.clone(memory_format=torch.contiguous_format)
            ref.put(nn.Parameter(value, parameter.requires_grad))
        elif first.setdefault(parameter, side) != side:
            if (parameter, side) not in copies:
                value = parameter.detach().clone()
                copies[parameter, side] = nn.Parameter(value, parameter.requires_grad)
            ref.put(copies[parameter, side])
    groups = [list(buffer_refs(module))] if ties is None else ties.buffers(module)
    for refs in groups:
        seen: set[int] = set()
        for buffer in refs:
            forget_alias(buffer)
            if id(buffer.stored) in seen:
                buffer.put(buffer.stored.clone())
            seen.add(id(buffer.stored))


def _sides(module: nn.Module, ties: Ties | None) -> Iterator[tuple[int, ParameterRef]]:
    """Yield the references that are to be separate, numbered: those of one number stay one.

    The number is that of the pattern, as each pattern may match several names of one parameter.
    """
    if ties is None:
        yield from enumerate(parameter_refs(module))
        return
    for _, refs in ties.refs(module):
        yield from enumerate(refs)


def _is_done(tie: Tie) -> bool:
    """Whether the members are shared already; a single one only if it is a convolution's position."""
    return tie.is_shared and (len(tie.members) > 1 or tie.members[0].index is not None)


def _all_equal(tensors: Sequence[torch.Tensor]) -> bool:
    return all(torch.equal(tensors[0], other) for other in tensors[1:])


def _check_values_are_there(ties: Sequence[Tie]) -> None:
    for tie in ties:
        if tie.members[0].parameter.is_meta:
            raise TieError(
                f"{tie.members[0].name!r} is on the meta device, where no values are equal: load it "
                "first"
            )
