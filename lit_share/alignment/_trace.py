"""Find the axes of all tensors of a computation by walking through its graph."""

from __future__ import annotations

from collections.abc import Collection
from itertools import chain

from torch import Tensor, nn
from torch.export.graph_signature import InputKind

from lit_share.aliases import Inputs
from lit_share.alignment._axes import Axis, leaf, pin
from lit_share.alignment._call import Value
from lit_share.alignment._export import export
from lit_share.alignment._run import named_tensors
from lit_share.alignment._walk import (
    Traced,
    Walk,
    constant_value,
    flat,
    static_shape,
    values_in,
)


def trace(
    module: nn.Module, inputs: Inputs, pinned: Collection[str], why: str, training: bool
) -> Traced:
    """Return the axes of a module's parameters and buffers, united as its computation demands.

    Args:
        module: Any module that `torch.export` can trace.
        inputs: What its forward takes: a tensor, a tuple of arguments or a dict of keywords.
        pinned: Names of parameters and buffers that have to stay in order.
        why: What is said of these, after their name.
        training: Whether the module computes as in training.

    Raises:
        AlignError: If the module cannot be traced on these inputs.
    """
    program = export(module, inputs, training)
    constants = {
        name
        for prefix, layer in module.named_modules()
        for name in (f"{prefix}.{n}".lstrip(".") for n in layer._non_persistent_buffers_set)
    }
    tensors = named_tensors(module)
    by_identity: dict[int, list[Axis]] = {}
    read: set[int] = set()
    walk = Walk(Traced({}, ()))
    for name, tensor in tensors.items():
        axes = by_identity.setdefault(id(tensor), [leaf(size) for size in tensor.shape])
        walk.traced.axes[name] = axes
        for axis in axes:
            if name in pinned:
                pin(axis, f"{name!r} {why}")
            elif name in constants:
                pin(axis, f"a constant of the model: the buffer {name!r} is not saved")
            elif not (tensor.is_floating_point() or tensor.is_complex()):
                pin(axis, f"the buffer {name!r} holds integers")

    nodes = {node.name: node for node in program.graph.nodes}
    given: dict[str, Value] = {}
    for spec in program.graph_signature.input_specs:
        node = nodes[spec.arg.name]
        if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER):
            tensor = tensors[str(spec.target)]
            given[node.name] = Value(by_identity[id(tensor)])
            if node.users:
                read.add(id(tensor))
        elif spec.kind is InputKind.CONSTANT_TENSOR:
            given[node.name] = constant_value(program.constants[str(spec.target)])
        elif isinstance(node.meta.get("val"), Tensor):
            sizes = static_shape(node.meta["val"], "the inputs")
            given[node.name] = Value([leaf(size, "an input of the model") for size in sizes])
    for value in flat(walk.walk(program.graph_module, given)):
        for axis in chain.from_iterable(part.axes for part in values_in(value)):
            pin(axis, "an output of the model")

    unused = [name for name, _ in module.named_parameters() if id(tensors[name]) not in read]
    walk.traced.unused = tuple(unused)
    walk.traced.read = {name for name, tensor in tensors.items() if id(tensor) in read}
    return walk.traced
