"""Find the axes of all tensors of a computation by walking through its graph."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export.graph_signature import InputKind

from lit_share.alignment._axes import Axis, leaf, pin
from lit_share.alignment._call import Call, Stacked, Value, dims
from lit_share.alignment._errors import AlignError
from lit_share.alignment._export import export
from lit_share.alignment._rules import find_rule
from lit_share.alignment._run import Inputs

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
    """

    axes: dict[str, list[Axis]]
    unused: tuple[str, ...]
    read: set[str] = field(default_factory=set)
    occurrences: list[list[Axis]] = field(default_factory=list)
    operations: list[tuple[str, str]] = field(default_factory=list)


def trace(module: nn.Module, inputs: Inputs, pinned: Collection[str] = ()) -> Traced:
    """Return the axes of a module's parameters and buffers, united as its computation demands.

    Args:
        module: Any module that `torch.export` can trace.
        inputs: What its forward takes: a tensor, a tuple of arguments or a dict of keywords.
        pinned: Names of parameters and buffers that have to stay in order.

    Raises:
        AlignError: If the module cannot be traced on these inputs.
    """
    program = export(module, inputs)
    constants = {
        name
        for prefix, layer in module.named_modules()
        for name in (f"{prefix}.{n}".lstrip(".") for n in layer._non_persistent_buffers_set)
    }
    tensors = dict(
        chain(
            module.named_parameters(remove_duplicate=False),
            module.named_buffers(remove_duplicate=False),
        )
    )
    by_identity: dict[int, list[Axis]] = {}
    read: set[int] = set()
    walk = _Walk(Traced({}, ()))
    for name, tensor in tensors.items():
        axes = by_identity.setdefault(id(tensor), [leaf(size) for size in tensor.shape])
        walk.traced.axes[name] = axes
        for axis in axes:
            if name in pinned:
                pin(axis, f"{name!r} stays in order as asked for")
            elif name in constants:
                pin(axis, f"a constant of the model: the buffer {name!r} is not saved")
            elif not (tensor.is_floating_point() or tensor.is_complex()):
                pin(axis, f"the buffer {name!r} holds integers")

    given: dict[str, Value] = {}
    for spec in program.graph_signature.input_specs:
        node = next(n for n in program.graph.nodes if n.name == spec.arg.name)
        if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER):
            tensor = tensors[str(spec.target)]
            given[node.name] = Value(by_identity[id(tensor)])
            if node.users:
                read.add(id(tensor))
        elif spec.kind is InputKind.CONSTANT_TENSOR:
            given[node.name] = _constant(program.constants[str(spec.target)])
        elif isinstance(node.meta.get("val"), Tensor):
            sizes = _shape(node.meta["val"], "the inputs")
            given[node.name] = Value([leaf(size, "an input of the model") for size in sizes])
    for value in _flat(walk.walk(program.graph_module, given)):
        for axis in chain.from_iterable(part.axes for part in _parts(value)):
            pin(axis, "an output of the model")

    unused = [name for name, _ in module.named_parameters() if id(tensors[name]) not in read]
    walk.traced.unused = tuple(unused)
    walk.traced.read = {name for name, tensor in tensors.items() if id(tensor) in read}
    return walk.traced


def _constant(tensor: Tensor) -> Value:
    uniform = tensor.numel() > 0 and bool((tensor == tensor.flatten()[0]).all())
    return Value([leaf(size, "a constant in the code") for size in tensor.shape], uniform)


def _shape(tensor: Tensor, where: str) -> tuple[int, ...]:
    for size in tensor.shape:
        if not isinstance(size, int):
            raise AlignError(
                f"the shape of a tensor in {where} depends on values: align the other submodules "
                "one by one"
            )
    return tuple(tensor.shape)


def _flat(value: Any) -> list[Any]:
    if isinstance(value, (list, tuple)):
        return list(chain.from_iterable(map(_flat, value)))
    return [value]


def _parts(value: Any) -> list[Value]:
    if isinstance(value, Stacked):
        return value.slices
    return [value] if isinstance(value, Value) else []


class _Walk:
    """A walk through the graph of a computation, which may have graphs inside."""

    def __init__(self, traced: Traced) -> None:
        self.traced = traced

    def note(self, *values: Any) -> None:
        """Note the axes of tensors that are not the same in any order."""
        for value in chain.from_iterable(map(_parts, values)):
            if not value.uniform:
                self.traced.occurrences.append(value.axes)

    def walk(self, graph_module: fx.GraphModule, given: dict[str, Any]) -> Any:
        """Return what a graph returns, of `Value` objects in place of tensors."""
        written = _written(graph_module.graph)
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
                values[node] = _constant(item) if isinstance(item, Tensor) else item
            elif node.op == "output":
                return fx.node.map_arg(node.args[0], values.__getitem__)
            else:
                values[node] = self.call(node, values)
                if node in written:
                    for value in _parts(values[node]):
                        value.uniform = False
                for value in _flat(values[node]):
                    self.note(value)
        return None

    def call(self, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
        """Return the axes of what a node returns."""
        args: Any = fx.node.map_arg(node.args, values.__getitem__)
        kwargs: Any = fx.node.map_arg(node.kwargs, values.__getitem__)
        target: Any = node.target
        if getattr(target, "__name__", "") == "getitem":
            return args[0][args[1]]
        if isinstance(target, torch._ops.HigherOrderOperator):
            return self._call_inside(node, args)
        where = _where(node)
        results = _flat(node.meta.get("val"))
        if not isinstance(target, torch._ops.OpOverload) or not any(
            isinstance(result, Tensor) for result in results
        ):
            name = getattr(target, "_schema", target)
            name = str(getattr(name, "name", name)).removeprefix("aten::")
            if not name.startswith(CHECKS):
                self._refuse(name, where, args, [])
            return node.meta.get("val")

        name = target._schema.name.removeprefix("aten::")
        plain = name.rstrip("_") if not name.startswith("__") else name
        schema = target._schema.arguments
        bound = {a.name: a.default_value for a in schema if a.has_default_value()}
        bound |= dict(zip((a.name for a in schema), args, strict=False)) | kwargs
        if len(results) == 0:
            return None
        self.traced.operations.append((plain, where))
        call = Call(
            name=plain,
            where=where,
            arguments=bound,
            shapes=[_shape(result, where) for result in results if isinstance(result, Tensor)],
            used=_used(node, len(results)),
            picked=lambda d: _is_picked(node, d),
        )
        found = self._apply(call, torch.Tag.pointwise in target.tags)
        self.traced.occurrences += call.notes
        return found

    def _apply(self, call: Call, is_pointwise: bool) -> Any:
        """Return what the rule of a call says, or pin everything if there is none that fits."""
        stacked = [a for a in call.arguments.values() if isinstance(a, Stacked)]
        if len(stacked) == 1 and call.name in KEEPS_SLICES and "self" in call.arguments:
            return self._apply_to_slices(call, stacked[0])
        call.arguments = {name: self._joined(call, a) for name, a in call.arguments.items()}
        function = find_rule(call.name, is_pointwise)
        if function is None:
            return call.unknown()
        try:
            result = function(call)
        except LookupError:  # an overload with other arguments than the rule has heard of
            return call.unknown()
        shapes = [_parts(value)[0].shape for value in _flat(result)]
        return result if shapes == call.shapes else call.unknown()

    def _apply_to_slices(self, call: Call, stacked: Stacked) -> Any:
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
            rule = find_rule(call.name, False)
            assert rule is not None
            results.append(rule(inner))
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
            return self.walk(graph, dict(zip(names, inputs, strict=True)))
        results = [v for v in _flat(node.meta.get("val")) if isinstance(v, Tensor)]
        return self._refuse(str(node.target), _where(node), args, results)

    def _refuse(self, name: str, where: str, args: Any, results: list[Tensor]) -> list[Value]:
        """Pin everything that goes into something other than an operation of torch."""
        reason = f"{name} in {where} is not understood"
        for axis in chain.from_iterable(p.axes for v in _flat(args) for p in _parts(v)):
            pin(axis, reason)
        return [Value([leaf(s, reason) for s in _shape(result, where)]) for result in results]


def _where(node: fx.Node) -> str:
    """Return the layer of a node, for people."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    if not stack:
        return "the forward"
    path, kind = stack[-1]
    if path:
        return f"layer {path!r}"
    return f"the forward of {getattr(kind, '__name__', str(kind).rpartition('.')[2])}"


def _used(node: fx.Node, count: int) -> list[bool]:
    """Return for each result of a node whether it is read."""
    if count == 1:
        return [True]
    read = {user.args[1] for user in node.users if user.users}
    return [i in read for i in range(count)]


def _written(graph: fx.Graph) -> set[fx.Node]:
    """Return the nodes to whose memory another one writes."""
    written = set()
    for node in graph.nodes:
        schema = getattr(node.target, "_schema", None)
        if isinstance(node.target, torch._ops.HigherOrderOperator):
            written |= set(node.all_input_nodes)
        if schema is None or not schema.is_mutable:
            continue
        # Whatever the views in between are, the memory is that of a first argument.
        source: Any = node
        while isinstance(source, fx.Node):
            written.add(source)
            source = next(iter(source.args), None)
    return written


MOVES: dict[str, Callable[[fx.Node, int, int], int]] = {
    "permute": lambda node, d, n: dims(node.args[1], n).index(d),
    "transpose": lambda node, d, n: _swapped(dims(list(node.args[1:3]), n), d),
    "unsqueeze": lambda node, d, n: d + (dims(node.args[1], n + 1)[0] <= d),
    "squeeze": lambda node, d, n: d - sum(e < d for e in dims(node.args[1], n)),
    "contiguous": lambda _, d, __: d,
    "clone": lambda _, d, __: d,
}


def _swapped(pair: list[int], d: int) -> int:
    first, second = pair
    return {first: second, second: first}.get(d, d)


def _is_picked(node: fx.Node, d: int) -> bool:
    """Whether all that is read of a result are single slices along a dimension."""
    n = len(node.meta["val"].shape)
    for user in node.users:
        schema = getattr(user.target, "_schema", None)
        name = "" if schema is None else schema.name.removeprefix("aten::")
        if name in ("select", "unbind"):
            dim = user.args[1] if len(user.args) > 1 else user.kwargs.get("dim", 0)
            if dims(dim, n)[0] != d:
                return False
            continue
        moved: int | None = None
        if name == "slice" and user.meta["val"].shape == node.meta["val"].shape:
            moved = d
        elif name in MOVES and len(user.args) > 1 - (name in ("contiguous", "clone")):
            moved = MOVES[name](user, d, n)
        if moved is None or not _is_picked(user, moved):
            return False
    return bool(node.users)
