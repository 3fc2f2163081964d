"""Which numbers of a computation its outputs depend on, whatever the inputs are.

The exported graph runs on indicators (see `_indicators`); what backpropagation from the outputs
reaches is *needed*.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from lit_share.aliases import Inputs
from lit_share.alignment import _shapes, _slices
from lit_share.alignment._errors import AlignError
from lit_share.alignment._export import export, placeholder_values
from lit_share.alignment._indicators import Operation, results_of
from lit_share.alignment._nodes import written_nodes
from lit_share.alignment._rules import find_rule
from lit_share.alignment._run import named_tensors

# Operations that only move numbers run as they are, also where one writes into a slice.
_MOVES = {
    _shapes.reshape, _shapes.permute, _shapes.transpose, _shapes.movedim, _shapes.expand,
    _shapes.repeat, _slices.cat, _slices.stack, _slices.split, _slices.unbind, _slices.select,
    _slices.slice_, _slices.narrow,
}  # fmt: skip


def needed(
    module: nn.Module, inputs: Inputs, training: bool = False
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return masks of the numbers that the outputs of a module depend on.

    Args:
        module: A module that `torch.export` can trace.
        inputs: Its inputs, whose numbers do not matter.
        training: Whether the module computes as in training.

    Returns:
        A mask for each parameter and buffer by its names, and one for each result by the name of
        its node in the exported graph. What has no mask is not needed at all.

    Raises:
        AlignError: If the module cannot be traced, or writes in place to what others read.
    """
    program = export(module, inputs, training)
    indicators = _Indicators(program.graph_module)
    sources: dict[int, Tensor] = {}
    given: list[Any] = []
    results: list[Any] = []
    placeholders = program.graph.find_nodes(op="placeholder")
    values = placeholder_values(program, module, inputs)
    with torch.enable_grad():
        for node, (value, is_input) in zip(placeholders, values, strict=True):
            given.append(value)
            if isinstance(value, Tensor):
                # The next call may read what a buffer is set to.
                is_state = node.name in indicators.written
                source = sources.setdefault(id(value), _source(value, is_input or is_state))
                given[-1] = source.clone()  # as an operation in place cannot write to a leaf
                results += [given[-1]] * is_state
        try:
            results += tree_leaves(indicators.run(*given))
            total: Any = sum(value.sum() for value in results if isinstance(value, Tensor))
            if isinstance(total, Tensor):
                total.backward()
        except RuntimeError as error:
            raise AlignError(
                f"what the outputs of {type(module).__name__} depend on cannot be followed, as it "
                f"writes in place: {str(error).splitlines()[0]}"
            ) from error
    masks: dict[str, Tensor] = {}
    for name, tensor in named_tensors(module).items():
        if id(tensor) in sources:
            gradient = sources[id(tensor)].grad
            if gradient is not None:
                masks[name] = gradient > 0.5
    return masks, indicators.needed


def _source(tensor: Tensor, anything: bool) -> Tensor:
    """Return the indicator of a tensor that is given, and which may be ``anything`` or itself."""
    numbers = tensor.detach().cpu()
    return ((numbers != 0) | anything).float().requires_grad_()


class _Indicators(fx.Interpreter):
    """Runs a graph on indicators, and notes in ``needed`` which results are."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.needed: dict[str, Tensor] = {}
        self.written = {node.name for node in written_nodes(module.graph)}

    def run_node(self, n: fx.Node) -> Any:
        if n.op in ("placeholder", "output"):
            return super().run_node(n)
        result = self._result(n)
        if isinstance(result, Tensor) and result.requires_grad:

            def note(gradient: Tensor | None) -> None:
                if gradient is not None:
                    self.needed[n.name] = gradient > 0.5

            result.register_hook(note)
        return result

    def _result(self, node: fx.Node) -> Any:
        args, kwargs = self.fetch_args_kwargs_from_env(node)
        target: Any = node.target
        if node.op == "get_attr":
            item = self.fetch_attr(str(target))
            return _source(item, False).clone() if isinstance(item, Tensor) else item
        if getattr(target, "__name__", "") == "getitem":
            return args[0][args[1]]
        value = node.meta.get("val")
        shapes = [leaf.shape for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]
        if not shapes:
            return value
        if not isinstance(target, torch._ops.OpOverload):
            given = {"args": args, "kwargs": kwargs}
            rest = iter(results_of(Operation(str(target), target, args, kwargs, given, shapes), ""))
            return tree_map_only(Tensor, lambda _: next(rest), value)
        name = target._schema.name.removeprefix("aten::")
        plain = name.rstrip("_") if not name.startswith("__") else name
        names = [argument.name for argument in target._schema.arguments]
        rule: Any = find_rule(plain, torch.Tag.pointwise in target.tags)
        # Indicators may have other strides than numbers, and a view of them may need a copy.
        if rule is _shapes.reshape and "dtype" not in names and node.name not in self.written:
            return args[0].reshape(shapes[0])
        if rule in _MOVES and "dtype" not in names:
            return target(*args, **kwargs)
        bound = dict(zip(names, args, strict=False)) | kwargs
        results = results_of(Operation(plain, target, args, kwargs, bound, shapes), rule)
        if target._schema.is_mutable and plain != name:
            return bound[names[0]].copy_(results[0])
        return results if isinstance(value, (list, tuple)) else results[0]
