"""The algebra in place, on many ties at once: what callbacks and training loops use.

Where elements do not depend on each other, large tensors are taken block by block and small ones together, so that
temporaries are small.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from lit_share.functional._centers import CENTERS
from lit_share.functional._groups import GROUPS
from lit_share.functional._in_place import BLOCK, add_pulls_, can_shrink, is_plain, shrink_
from lit_share.functional._penalty import Penalty, gradient_of, measure_each, prox_of_each, widened
from lit_share.functional._shards import Part, Shards
from lit_share.functional._steps import per_member

# Elements of a block on a GPU: to launch a kernel takes as long as to move so many.
_BLOCK_ON_GPU = 2**21

# Members, tensors that belong to them (their gradients, or which groups are held), and their starting values.
Entry = tuple[Sequence[Tensor], Sequence[Tensor | None], Sequence[Tensor] | None]

# Which part of a tie's members is here, and what all parts have of what their group norms are made of.
Divided = tuple[Part | None, Tensor | None]


@torch.no_grad()
def add_gradient_(
    penalty: Penalty,
    ties: Sequence[Sequence[Tensor]],
    grads: Sequence[Sequence[Tensor | None]],
    strength: float,
    starts: Sequence[Sequence[Tensor] | None] | None = None,
    shards: Shards | None = None,
) -> None:
    """Add ``strength`` times the gradient of the penalty to ``grads``.

    Args:
        penalty: The penalty.
        ties: The members of each tie.
        grads: For each tie, one tensor per member of the member's shape, or ``None`` where nothing is to be added.
        strength: Finite number ≥ 0.
        starts: With ``center="start"``, for each tie the members' starting values.
        shards: Where members are divided over processes, which parts are here, and how to add up over all; without it
            they are whole.

    Raises:
        ValueError: If members do not fit the penalty; see `Penalty.check`.

    Example:
        >>> w, grad = torch.tensor([1.0, -2.0]), torch.zeros(2)
        >>> add_gradient_(Penalty(norm="squared", groups="element", center="zero"), [[w]], [[grad]], strength=0.5)
        >>> grad
        tensor([ 0.5000, -1.0000])
    """
    starts = [None] * len(ties) if starts is None else starts
    if penalty.is_smooth:
        _add_squared_gradient_(penalty, ties, grads, strength, starts)
        return
    divided = _divided(penalty, ties, starts, [None] * len(ties), shards)
    for whole, (part, measured) in zip(zip(ties, grads, starts, strict=True), divided, strict=True):
        for members, grad, start in _blocks(*whole) if penalty.is_separable else [whole]:
            for g, pull in zip(
                grad, gradient_of(penalty, members, start, part, measured), strict=True
            ):
                if g is not None:
                    g.add_(pull, alpha=strength)


@torch.no_grad()
def prox_(
    penalty: Penalty,
    ties: Sequence[Sequence[Tensor]],
    steps: Sequence[float | Sequence[float]],
    starts: Sequence[Sequence[Tensor] | None] | None = None,
    held: Sequence[Tensor | None] | None = None,
    shards: Shards | None = None,
) -> None:
    """Replace the members of each tie by their proximal step.

    What is computed on the host, the isotonic regression of OWL, is computed for all ties at once: their group norms
    are copied there together, and back together.

    Args:
        penalty: The penalty.
        ties: The members of each tie.
        steps: For each tie its step size, or one step size per member; a member with step 0 is not written to.
        starts: With ``center="start"``, for each tie the members' starting values.
        held: For each tie what `no_groups_held` made of it, or ``None``: groups that are put to their center whatever
            their step is. Groups that this step puts there are added, in place.
        shards: Where members are divided over processes, which parts are here, and how to add up over all; without it
            they are whole.

    Raises:
        ValueError: If members do not fit the penalty; see `Penalty.prox`.

    Example:
        >>> w = torch.tensor([1.0, -2.0])
        >>> prox_(Penalty(norm="l1", groups="element", center="zero"), [[w]], steps=[1.5])
        >>> w
        tensor([ 0.0000, -0.5000])
    """
    starts = [None] * len(ties) if starts is None else starts
    held = [None] * len(ties) if held is None else held
    divided = _divided(penalty, ties, starts, held, shards)
    work: list[tuple[Entry, float | Sequence[float], Divided]] = []
    for tie, step, origin, at_center, part in zip(ties, steps, starts, held, divided, strict=True):
        if at_center is None and part[1] is None and _can_shrink(penalty, tie, origin):
            penalty.check([w.shape for w in tie], step)
            shrink_(
                penalty.center, tie, origin, per_member(step, len(tie)), penalty.groups == "output"
            )
            continue
        blocks = (
            _blocks(tie, (at_center,), origin)
            if penalty.is_separable
            else [(tie, (at_center,), origin)]
        )
        work += [(block, step, part) for block in blocks]
    # Where ties have nothing to share, the temporaries of one are gone before those of the next are made.
    for batch in [work] if work and penalty.weights is not None else [[one] for one in work]:
        entries, own, divisions = zip(*batch, strict=True)
        members, beside, origins = zip(*entries, strict=True)
        parts, measured = zip(*divisions, strict=True)
        held_here = [at_center for (at_center,) in beside]
        moved = prox_of_each(
            penalty, members, own, origins, held_here, parts, measured, in_place=True
        )
        for tie, step, new in zip(members, own, moved, strict=True):
            for member, value, t in zip(tie, new, per_member(step, len(tie)), strict=True):
                if t > 0.0 and value is not member:
                    member.copy_(value)


def no_groups_held(penalty: Penalty, members: Sequence[Tensor]) -> Tensor:
    """For `prox_`: a bool for each group of a tie, in a shape that broadcasts over its members, none of them held.

    Args:
        penalty: The penalty.
        members: The members of the tie.

    Returns:
        New tensor of ``False``.

    Raises:
        ValueError: If the groups are not parts of the members: ``groups="spectrum"``.

    Example:
        >>> lasso, w = Penalty(norm="l1", groups="input", center="zero"), torch.tensor([[3.0, 1.0], [4.0, 1.0]])
        >>> held = no_groups_held(lasso, [w])
        >>> prox_(lasso, [[w]], steps=[2.0], held=[held])
        >>> held
        tensor([[False,  True]])
    """
    shape = GROUPS[penalty.groups].shape
    if shape is None:
        raise ValueError(
            f'groups="{penalty.groups}" are not parts of the members, which could be held'
        )
    return torch.zeros(shape(members[0].shape), dtype=torch.bool, device=members[0].device)


def _divided(
    penalty: Penalty,
    ties: Sequence[Sequence[Tensor]],
    starts: Sequence[Sequence[Tensor] | None],
    held: Sequence[Tensor | None],
    shards: Shards | None,
) -> list[Divided]:
    if shards is None:
        return [(None, None)] * len(ties)
    return list(zip(shards.parts, measure_each(penalty, ties, starts, held, shards), strict=True))


def _can_shrink(
    penalty: Penalty, members: Sequence[Tensor], start: Sequence[Tensor] | None
) -> bool:
    """Whether `shrink_` serves this tie; ``start`` is checked where it does not."""
    return (
        penalty.norm == "l1"
        and penalty.groups in ("element", "output")
        and can_shrink(penalty.center, len(members))
        and (start is not None) == (penalty.center == "start")
        and is_plain([*members, *(start or ())])
    )


def _add_squared_gradient_(
    penalty: Penalty,
    ties: Sequence[Sequence[Tensor]],
    grads: Sequence[Sequence[Tensor | None]],
    strength: float,
    starts: Sequence[Sequence[Tensor] | None],
) -> None:
    """The squared norm pulls every element by its own deviation, s²·(W_i − c_i), so groups need no norms."""
    center = CENTERS[penalty.center]
    entries: list[Entry] = []
    for members, grad, start in zip(ties, grads, starts, strict=True):
        penalty.check([w.shape for w in members])
        if is_plain([*members, *grad, *(start or ())]) and (start is not None) == (
            penalty.center == "start"
        ):
            add_pulls_(penalty.center, members, grad, start, strength)
        else:
            entries += _blocks(members, grad, start)
    for pack in _packs(entries):
        rows: list[tuple[Tensor, Tensor, float]] = []
        for members, grad, start in pack:
            _, deviations = center.split(widened(members), start)
            factor = strength * center.scale(len(members)) ** 2
            rows += [(g, d, factor) for g, d in zip(grad, deviations, strict=True) if g is not None]
        if rows:
            into, pulled, factors = zip(*rows, strict=True)
            changes = torch._foreach_mul(pulled, factors)
            if len(set(map(id, into))) == len(into):
                torch._foreach_add_(into, changes)
            else:  # members that are one get several pulls, which a GPU must not add to them at the same time
                for gradient, change in zip(into, changes, strict=True):
                    gradient.add_(change)


def _blocks(
    members: Sequence[Tensor], grad: Sequence[Tensor | None], start: Sequence[Tensor] | None
) -> list[Entry]:
    """The tie in blocks that are not too large; whole where its tensors are small or have gaps."""
    tensors = [tensor for tensor in (*members, *grad, *(start or ())) if tensor is not None]
    size, block = members[0].numel(), _block_for(members[0])
    if size <= block or not all(
        tensor.is_contiguous() and tensor.numel() == size for tensor in tensors
    ):
        return [(members, grad, start)]

    def cut(tensor: Tensor, begin: int) -> Tensor:
        return tensor.view(-1)[begin : begin + block]

    return [
        (
            [cut(w, begin) for w in members],
            [None if g is None else cut(g, begin) for g in grad],
            None if start is None else [cut(s, begin) for s in start],
        )
        for begin in range(0, size, block)
    ]


def _packs(entries: Sequence[Entry]) -> Iterator[Sequence[Entry]]:
    """Runs of entries that together are not larger than a block for each member, or are one larger entry."""
    begin, elements = 0, 0
    for end, (members, _, _) in enumerate(entries):
        size = members[0].numel()
        if end > begin and elements + size > _block_for(members[0]):
            yield entries[begin:end]
            begin, elements = end, 0
        elements += size
    if entries:
        yield entries[begin:]


def _block_for(tensor: Tensor) -> int:
    return BLOCK if tensor.is_cpu else _BLOCK_ON_GPU
