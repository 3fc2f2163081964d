"""Permute the units of submodules so that they correspond."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lit_share.aliases import Inputs
from lit_share.alignment._build import axis_graph
from lit_share.alignment._errors import AlignError
from lit_share.alignment._graph import AxisGraph, same_structure
from lit_share.alignment._match import (
    match_activations,
    match_weights,
    similarities,
    weights_on_host,
)
from lit_share.alignment._permute import Permutations, overwrite
from lit_share.alignment._report import AlignedAxis, AlignReport
from lit_share.alignment._run import check_outputs, inputs_by_name, named_tensors, run
from lit_share.functional import compare_members
from lit_share.text import check_choice
from lit_share.ties import Ties, as_ties, is_dtensor, unwrapped

By = Literal["weights", "activations"]
Reference = Literal["first", "mean"]

# The rounding of a forward whose sums are taken in another order, relative to its largest output.
_ROUNDING = {torch.float16: 3e-2, torch.bfloat16: 1e-1}
_ROUNDING_OF_FLOAT = 1e-4
# The alignment to a common mean takes a few rounds; each of them brings the members nearer.
_MAX_ROUNDS = 50


class _Member(NamedTuple):
    name: str
    module: nn.Module
    inputs: Inputs
    graph: AxisGraph
    outputs: Mapping[str, Tensor]


def align(
    module: nn.Module,
    ties: Ties | Sequence[str],
    inputs: Inputs | Mapping[str, Inputs],
    by: By = "weights",
    reference: Reference = "first",
    seed: int = 0,
    optimizers: Optimizer | Sequence[Optimizer] = (),
) -> AlignReport:
    r"""Permute the hidden units of tied submodules in place, so that they correspond.

    Models that were trained apart from different starts compute similar things in units of another
    order, so that unit 7 of one has nothing in common with unit 7 of the other. Permutations
    :math:`P_l` of the units of each layer change no output,

    .. math:: W_l \to P_l W_l P_{l-1}^\top, \qquad b_l \to P_l b_l

    and are chosen so that the weights come as near to those of the first member as they can. Which
    dimensions move together is derived from the computation on the inputs; see `axis_graph`.

    Members are called as a whole. Parameters that other layers of the module have too stay in
    order, but code outside of a member that calls one of its layers gets other units from it.

    Args:
        module: The module that holds the members.
        ties: The ties, or a list of patterns for `Ties`. The members are the submodules before
            the first star of each pattern; they need the same structure.
        inputs: What the submodules are called with, as an example: a tensor, a tuple of arguments
            or a dict of keyword arguments for all of them, or a dict by the submodules' names.
        by: What units are matched by: their ``"weights"``, or how their ``"activations"`` on the
            inputs correlate, for which samples of each member must correspond.
        reference: The order that members are brought into: that of the ``"first"``, or the one
            that is nearest to the ``"mean"`` of all of them, starting from the first.
        seed: The seed of the order in which layers are matched.
        optimizers: Optimizers whose states of the parameters, such as momenta, move along.

    Returns:
        What was changed.

    Raises:
        AlignError: If the members have no common structure, cannot be traced, are sharded, are
            not finite, have random or empty outputs, or outputs that change; if activations do
            not vary. Nothing is changed then.
        TieError: If the patterns do not fit the module; see `Ties.find`.

    Example:
        >>> def net():
        ...     return nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> pair = nn.ModuleDict({"a": net(), "b": net()})
        >>> _ = pair["b"].load_state_dict(pair["a"].state_dict())
        >>> inputs = torch.randn(5, 4)
        >>> axis_graph(pair["b"], inputs).permute_(pair["b"], {0: torch.tensor([0, 2, 1])})
        >>> report = align(pair, Ties("a.*", "b.*"), inputs)
        >>> report.moved, torch.equal(pair["a"][0].weight, pair["b"][0].weight)
        (2, True)

    Source: Ainsworth, Hayase, Srinivasa: *Git Re-Basin: Merging Models modulo Permutation
    Symmetries*, ICLR 2023, Algorithm 1, and Algorithm 3 for ``reference="mean"``.
    """
    ties = as_ties(ties)
    check_choice("by", by, By)
    check_choice("reference", reference, Reference)
    if isinstance(optimizers, Optimizer):
        optimizers = [optimizers]
    optimizers = list(optimizers)
    for optimizer in optimizers:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(
                "optimizers must be those of torch.optim whose states move along, got a "
                f"{type(optimizer).__name__}"
            )
    found = ties.find(module)
    members = _open_members(unwrapped(module), ties, inputs)
    for member in members:
        _check_states(member, optimizers)
    distances = {tie.name: compare_members(tie.tensors()).distance for tie in found}
    graph = members[0].graph
    weights = [weights_on_host(member.module) for member in members]
    if by == "activations":
        first, *others = ((member.module, member.inputs) for member in members)
        orders = [match_activations(graph, first, other, seed) for other in others]
    else:
        orders = [match_weights(graph, weights[0], own, seed) for own in weights[1:]]
    if reference == "mean":
        orders = _match_to_mean(graph, weights, orders, seed)
    axes = _compare(graph, weights, orders)
    del weights
    difference = _apply(members[1:], orders, optimizers)
    return AlignReport(
        members=tuple(member.name for member in members),
        by=by,
        axes=axes,
        distances={
            tie.name: (distances[tie.name], compare_members(tie.tensors()).distance)
            for tie in found
        },
        pinned=graph.pinned,
        unused=graph.unused,
        difference=difference,
        permute={
            member.name: partial(member.graph.permute, permutations=order)
            for member, order in zip(members[1:], orders, strict=True)
        },
    )


def _open_members(
    module: nn.Module, ties: Ties, inputs: Inputs | Mapping[str, Inputs]
) -> list[_Member]:
    names = member_names(ties)
    own_inputs = inputs_by_name(names, inputs)
    modules = {name: module.get_submodule(name) for name in names}
    shared = _shared_tensors(module, modules)
    members: list[_Member] = []
    for name, submodule in modules.items():
        check_dense(name, submodule)
        try:
            pinned = shared & named_tensors(submodule).keys()
            why = "is not read by the members alone"
            graph = axis_graph(submodule, own_inputs[name], pinned=pinned, why=why)
            if members:
                same_structure(members[0].graph, graph)
            _check_finite(submodule)
            outputs = run(submodule, own_inputs[name])
            check_same_twice(submodule, outputs, own_inputs[name])
        except AlignError as error:
            raise AlignError(f"{name}: {error}") from None
        members.append(_Member(name, submodule, own_inputs[name], graph, outputs))
    return members


def check_same_twice(module: nn.Module, outputs: Mapping[str, Tensor], inputs: Inputs) -> None:
    """Raise an error if outputs are random or empty, as changed ones could not be compared."""
    if outputs and not any(value.numel() for value in outputs.values()):
        raise AlignError(
            f"{type(module).__name__} returns no numbers that could be compared: give inputs of at "
            "least one sample"
        )
    try:
        check_outputs(module, outputs, inputs, rtol=0.0)
    except AlignError as error:
        raise AlignError(
            f"{error} when called twice: the forward is random in evaluation mode, as with dropout "
            "that ignores module.training; turn it off"
        ) from None


def member_names(ties: Ties) -> list[str]:
    """Return the names of the submodules that ties are between: the text before the first stars.

    Raises:
        AlignError: If there are fewer than two, a pattern has no star, or these are several `Ties`.
    """
    if len(ties.parts) > 1:
        raise AlignError(
            f"{ties} are several Ties, and units are permuted by one: align each of them"
        )
    names: list[str] = []
    for pattern in ties.patterns:
        before, star, _ = pattern.text.partition("*")
        name = before.rpartition(".")[0]
        if not star or not name or pattern.suffix.text:
            raise AlignError(
                f"the pattern {pattern.text!r} names no submodule to align: write its name before "
                "a star, as in 'a.net.*'"
            )
        if name in names:
            raise AlignError(
                f"two patterns of {ties} are in the submodule {name!r}, whose units have one "
                "order: only different submodules can be aligned"
            )
        names.append(name)
    if len(names) < 2:
        raise AlignError(f"{ties} has one member: alignment needs two or more patterns")
    return names


def _shared_tensors(root: nn.Module, modules: Mapping[str, nn.Module]) -> set[str]:
    """Return the names, in members, of tensors that others have too: members, or other layers."""
    owners: dict[int, set[str]] = {}
    for name, module in modules.items():
        for tensor in named_tensors(module).values():
            owners.setdefault(id(tensor), set()).add(name)
    # The same layer under another name computes the same, but another layer would read other units.
    inside = {layer for module in modules.values() for layer in module.modules()}
    outside = {
        id(tensor)
        for layer in root.modules()
        if layer not in inside
        for tensor in chain(layer._parameters.values(), layer._buffers.values())
    }
    return {
        own
        for module in modules.values()
        for own, tensor in named_tensors(module).items()
        if len(owners[id(tensor)]) > 1 or id(tensor) in outside
    }


def check_dense(name: str, module: nn.Module) -> None:
    """Raise `AlignError` if a submodule of this name is sharded, or has no numbers yet."""
    for own, tensor in chain(module.named_parameters(), module.named_buffers()):
        if is_dtensor(tensor):
            raise AlignError(
                f"'{name}.{own}' is sharded: align before fully_shard, or align checkpoints"
            )
        if tensor.is_meta:
            raise AlignError(f"'{name}.{own}' has no numbers yet: load its weights first")


def _check_finite(module: nn.Module) -> None:
    """Raise `AlignError` if a parameter has numbers whose units cannot be matched."""
    for own, parameter in module.named_parameters():
        # Torch has no isfinite for numbers of one byte.
        numbers = parameter.float() if parameter.dtype.itemsize == 1 else parameter
        if not numbers.isfinite().all():
            raise AlignError(
                f"{own!r} has numbers that are infinite or not a number, whose units cannot "
                "be matched: load weights of a training that did not diverge"
            )


def _match_to_mean(
    graph: AxisGraph,
    weights: Sequence[Mapping[str, Tensor]],
    orders: Sequence[Permutations],
    seed: int,
) -> list[dict[int, torch.LongTensor]]:
    """Match each member but the first to the mean of the others, in turn, until none moves."""
    total = [dict(order) for order in orders]
    aligned = [dict(weights[0])]
    for own, order in zip(weights[1:], orders, strict=True):
        aligned.append(graph.permute(own, order))
    for _ in range(_MAX_ROUNDS):
        moved = False
        for i in range(1, len(aligned)):
            others = [own for j, own in enumerate(aligned) if j != i]
            mean = {name: torch.stack([own[name] for own in others]).mean(0) for name in aligned[i]}
            order = match_weights(graph, mean, aligned[i], seed, inwards=False)
            if not any(map(_count_moved, order.values())):
                continue
            moved = True
            aligned[i] = graph.permute(aligned[i], order)
            total[i - 1] = graph.compose(total[i - 1], order)
        if not moved:
            break
    return total


def _compare(
    graph: AxisGraph, weights: Sequence[Mapping[str, Tensor]], orders: Sequence[Permutations]
) -> tuple[AlignedAxis, ...]:
    first, *others = weights
    before = [similarities(graph, first, own) for own in others]
    after = [
        similarities(graph, first, graph.permute(own, order))
        for own, order in zip(others, orders, strict=True)
    ]
    rows = []
    for axis in graph.free:
        rows.append(
            AlignedAxis(
                name=axis.name,
                # Units within each of several others are counted beside each of them.
                size=orders[0][axis.index].numel(),
                moved=tuple(_count_moved(order[axis.index]) for order in orders),
                before=sum(own[axis.index] for own in before) / len(before),
                after=sum(own[axis.index] for own in after) / len(after),
            )
        )
    return tuple(rows)


def _count_moved(order: Tensor) -> int:
    return int((order != torch.arange(order.shape[-1], device="cpu")).sum())


def _apply(
    members: Sequence[_Member], orders: Sequence[Permutations], optimizers: Sequence[Optimizer]
) -> float:
    """Permute members; undo it, and raise an error, if an output changes."""
    difference = 0.0
    done: list[tuple[_Member, Permutations]] = []
    for member, order in zip(members, orders, strict=True):
        _move(member, order, optimizers)
        done.append((member, order))
        try:
            rounding = max(
                _ROUNDING.get(p.dtype, _ROUNDING_OF_FLOAT) for p in member.module.parameters()
            )
            own = check_outputs(member.module, member.outputs, member.inputs, rounding)
        except AlignError as error:
            for other, applied in done:
                _move(other, other.graph.invert(applied), optimizers)
            wrong = ", ".join(_wrong_axes(member, order, rounding)) or "several axes together"
            raise AlignError(
                f"{member.name}: {error} after its units were permuted, so nothing was changed: "
                f"{wrong} cannot be permuted; exclude these layers by aligning submodules without "
                "them, and report the operation that reads them"
            ) from None
        difference = max(difference, own)
    return difference


def _wrong_axes(member: _Member, order: Permutations, rounding: float) -> Iterator[str]:
    for axis in member.graph.free:
        alone = {axis.index: order[axis.index]}
        member.graph.permute_(member.module, alone)
        try:
            check_outputs(member.module, member.outputs, member.inputs, rounding)
        except AlignError:
            yield axis.name
        member.graph.permute_(member.module, member.graph.invert(alone))


def _move(member: _Member, order: Permutations, optimizers: Iterable[Optimizer]) -> None:
    """Permute parameters, buffers, gradients and states of optimizers in place."""
    member.graph.permute_(member.module, order)
    for tensors in _followers(member, optimizers):
        for name, moved in member.graph.permute(tensors, order).items():
            overwrite(tensors[name], moved)


def _followers(member: _Member, optimizers: Iterable[Optimizer]) -> Iterator[dict[str, Tensor]]:
    parameters = dict(member.module.named_parameters())
    yield {name: p.grad for name, p in parameters.items() if p.grad is not None}
    for optimizer in optimizers:
        keys = sorted({key for p in parameters.values() for key in optimizer.state.get(p, {})})
        for key in keys:
            states = {name: optimizer.state.get(p, {}).get(key) for name, p in parameters.items()}
            yield {
                name: state
                for name, state in states.items()
                if isinstance(state, Tensor) and state.shape == parameters[name].shape
            }


def _check_states(member: _Member, optimizers: Iterable[Optimizer]) -> None:
    """Raise an error for states whose dimensions are not those of the parameter."""
    for optimizer in optimizers:
        for name, parameter in member.module.named_parameters():
            for key, state in optimizer.state.get(parameter, {}).items():
                if not isinstance(state, Tensor) or state.numel() == 1:
                    continue
                if state.shape != parameter.shape:
                    raise AlignError(
                        f"the state {key!r} of '{member.name}.{name}' in "
                        f"{type(optimizer).__name__} has the shape {tuple(state.shape)}, which "
                        "cannot be permuted with the parameter: align before training"
                    )
