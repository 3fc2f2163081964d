"""Walk through the graph of a computation and apply the rule of each operation."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_map_only

from lit_share.alignment._axes import Axis, leaf, pin
from lit_share.alignment._call import Call, Rule, Stacked, Value, dims
from lit_share.alignment._errors import AlignError
from lit_share.alignment._nodes import is_picked, layer_of, used_results, written_nodes
from lit_share.alignment._rules import find_rule

# Operations that give each slice of a stacked tensor the same dimensions.
KEEPS_SLICES = {
    "permute", "transpose", "swapaxes", "swapdims", "t", "mT", "movedim", "squeeze", "unsqueeze",
    "contiguous", "clone", "alias", "detach", "select", "slice", "unbind", "to",
}  # fmt: skip
CHECKS = ("_assert", "sym_constrain", "_guard")


@dataclass
class Traced:
    """The axes of a module's tensors.

    Attributes:
        axes: The axes of each parameter and floating buffer, by name; aliases have the same.
        unused: Parameters that the computation does not read, by name.
        read: Names of parameters and buffers that it reads.
        occurrences: Axes that occur together: of each tensor, and of sums of products.
        operations: What is computed, in order, as ``("linear", "layer 'fc1'")``.
        activations: The axes of what each node of the graph returns, by its name, if it is a
            tensor of floating numbers and not inside of another graph.
    """

    axes: dict[str, list[Axis]]
    unused: tuple[str, ...]
    read: set[str] = field(default_factory=set)
    occurrences: list[list[Axis]] = field(default_factory=list)
    operations: list[tuple[str, str]] = field(default_factory=list)
    activations: dict[str, list[Axis]] = field(default_factory=dict)


def constant_value(tensor: Tensor) -> Value:
    """Return the axes of a tensor that the code holds: they stay, unless its numbers are equal."""
    uniform = tensor.numel() > 0 and bool((tensor == tensor.flatten()[0]).all())
    return Value([leaf(size, "a constant in the code") for size in tensor.shape], uniform)


def static_shape(tensor: Tensor, where: str) -> tuple[int, ...]:
    """Return the shape of a traced tensor, or raise an error if it depends on values."""
    for size in tensor.shape:
        if not isinstance(size, int):
            raise AlignError(
                f"the shape of a tensor in {where} depends on values: align the other submodules "
                "one by one"
            )
    return tuple(tensor.shape)


def flat(value: Any) -> list[Any]:
    """Return what nested lists and tuples hold."""
    if isinstance(value, (list, tuple)):
        return list(chain.from_iterable(map(flat, value)))
    return [value]


def values_in(value: Any) -> list[Value]:
    """Return a tensor, or the slices of a stacked one; nothing for what is no tensor."""
    if isinstance(value, Stacked):
        return value.slices
    return [value] if isinstance(value, Value) else []


class Walk:
    """A walk through the graph of a computation, which may have graphs inside."""

    def __init__(self, traced: Traced) -> None:
        self.traced = traced

    def note(self, *values: Any) -> None:
        """Note the axes of tensors that are not the same in any order."""
        for value in chain.from_iterable(map(values_in, values)):
            if not value.uniform:
                self.traced.occurrences.append(value.axes)

    def walk(
        self, graph_module: fx.GraphModule, given: dict[str, Any], inside: bool = False
    ) -> Any:
        """Return what a graph returns, of `Value` objects in place of tensors."""
        written = written_nodes(graph_module.graph)
        values: dict[fx.Node, Any] = {}
        for node in graph_module.graph.nodes:
            if node.op == "placeholder":
                values[node] = given.get(node.name)
                self.note(values[node])
                if node in written and isinstance(values[node], Value):
                    values[node].uniform = False
            elif node.op == "get_attr":
                item: Any = graph_module
                for name in str(node.target).split("."):
                    item = getattr(item, name)
                values[node] = constant_value(item) if isinstance(item, Tensor) else item
            elif node.op == "output":
                return fx.node.map_arg(node.args[0], values.__getitem__)
            else:
                values[node] = self.call(node, values)
                if node in written:
                    for value in values_in(values[node]):
                        value.uniform = False
                for value in flat(values[node]):
                    self.note(value)
                if not inside:
                    self.note_activation(node, values[node])
        return None

    def note_activation(self, node: fx.Node, value: Any) -> None:
        """Note the axes of a node's result by its name, if it is a tensor of floating numbers."""
        result = node.meta.get("val")
        is_floating = isinstance(result, Tensor) and result.is_floating_point()
        if is_floating and isinstance(value, Value) and not value.uniform:
            self.traced.activations[node.name] = value.axes

    def call(self, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
        """Return the axes of what a node returns."""
        args: Any = fx.node.map_arg(node.args, values.__getitem__)
        kwargs: Any = fx.node.map_arg(node.kwargs, values.__getitem__)
        target: Any = node.target
        if getattr(target, "__name__", "") == "getitem":
            return args[0][args[1]]
        if isinstance(target, torch._ops.HigherOrderOperator):
            return self._call_inside(node, args)
        where = layer_of(node)
        value = node.meta.get("val")
        if not isinstance(target, torch._ops.OpOverload):
            tensors = [result for result in flat(value) if isinstance(result, Tensor)]
            found = iter(self._refuse(str(target), where, [*args, *kwargs.values()], tensors))
            return tree_map_only(Tensor, lambda _: next(found), value)
        name = target._schema.name.removeprefix("aten::")
        plain = name.rstrip("_") if not name.startswith("__") else name
        schema = target._schema.arguments
        bound = {a.name: a.default_value for a in schema if a.has_default_value()}
        bound |= dict(zip((a.name for a in schema), args, strict=False)) | kwargs
        results = flat(value)
        shapes = [static_shape(result, where) for result in results if isinstance(result, Tensor)]
        used = used_results(node, len(results))
        call = Call(plain, where, bound, shapes, used, lambda d: is_picked(node, d))
        if not shapes:
            # Assertions change nothing; other numbers that are read from a tensor may.
            if not plain.startswith(CHECKS):
                self._apply(call, ())
            return value
        self.traced.operations.append((plain, where))
        found = self._apply(call, target.tags)
        self.traced.occurrences += call.notes
        return found

    def _apply(self, call: Call, tags: Collection[torch.Tag]) -> Any:
        """Return what the rule of a call says, or pin everything if there is none that fits."""
        function = find_rule(call.name, torch.Tag.pointwise in tags)
        if torch.Tag.inplace_view in tags or not call.shapes:
            # A tensor that changes its dimensions would have both under one name.
            function = None
        value = call.get("self")
        if function and isinstance(value, Stacked) and call.name in KEEPS_SLICES:
            return self._apply_to_slices(call, value, function)
        call.arguments = {name: self._joined(call, a) for name, a in call.arguments.items()}
        if function is None:
            return call.unknown()
        try:
            result = function(call)
        except LookupError:  # an overload with other arguments than the rule has heard of
            return call.unknown()
        shapes = [values_in(value)[0].shape for value in flat(result)]
        return result if shapes == call.shapes else call.unknown()

    def _apply_to_slices(self, call: Call, stacked: Stacked, function: Rule) -> Any:
        """Return a slice of a stacked tensor, or move the dimensions of all slices alike."""
        d = stacked.dimension()
        given = dims(call.get("dim", 0), len(stacked.slices[0].axes))
        if given == [d] and call.name in ("select", "unbind"):
            slices = [Value([a for a in s.axes if a is not stacked.along]) for s in stacked.slices]
            return slices if call.name == "unbind" else slices[call["index"]]
        if given == [d] and call.name == "slice":
            taken = stacked.slices[call.get("start") : call.get("end") : call.get("step")]
            along = call.fixed(len(taken))
            return Stacked([Value([*s.axes[:d], along, *s.axes[d + 1 :]]) for s in taken], along)
        results = []
        for value in stacked.slices:
            arguments = call.arguments | {"self": value}
            inner = Call(call.name, call.where, arguments, call.shapes, call.used)
            results.append(function(inner))
        return Stacked(results, stacked.along)  # type: ignore[arg-type]

    def _joined(self, call: Call, argument: Any) -> Any:
        """Return an argument with one tensor in place of slices, whose axes are united."""
        if isinstance(argument, (list, tuple)):
            return [self._joined(call, item) for item in argument]
        if not isinstance(argument, Stacked):
            return argument
        first, *others = argument.slices
        for other in others:
            for a, b in zip(first.axes, other.axes, strict=True):
                call.unite(a, b)
        self.note(first)
        return Value(first.axes)

    def _call_inside(self, node: fx.Node, args: Sequence[Any]) -> Any:
        """Walk through a graph that runs under a context, as of autocasting."""
        graphs = [i for i, a in enumerate(args) if isinstance(a, fx.GraphModule)]
        if len(graphs) == 1 and str(node.target).startswith("wrap_with"):
            graph, inputs = args[graphs[0]], args[graphs[0] + 1 :]
            names = [n.name for n in graph.graph.nodes if n.op == "placeholder"]
            return self.walk(graph, dict(zip(names, inputs, strict=True)), inside=True)
        results = [v for v in flat(node.meta.get("val")) if isinstance(v, Tensor)]
        return self._refuse(str(node.target), layer_of(node), args, results)

    def _refuse(self, name: str, where: str, args: Any, results: list[Tensor]) -> list[Value]:
        """Pin everything that goes into something other than an operation of torch."""
        reason = f"{name} in {where} is not understood"
        for axis in chain.from_iterable(p.axes for v in flat(args) for p in values_in(v)):
            pin(axis, reason)
        return [Value([leaf(s, reason) for s in static_shape(result, where)]) for result in results]
