"""Questions about the nodes of a traced graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from lit_share.alignment._call import dims


def layer_of(node: fx.Node) -> str:
    """Return the layer of a node, for people."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    if not stack:
        return "the forward"
    path, kind = stack[-1]
    if path:
        return f"layer {path!r}"
    return f"the forward of {getattr(kind, '__name__', str(kind).rpartition('.')[2])}"


def used_results(node: fx.Node, count: int) -> list[bool]:
    """Return for each result of a node whether it is read."""
    if count == 1:
        return [True]
    read = {user.args[1] for user in node.users if user.users}
    return [i in read for i in range(count)]


def written_nodes(graph: fx.Graph) -> set[fx.Node]:
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


def is_picked(node: fx.Node, d: int) -> bool:
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
        if moved is None or not is_picked(user, moved):
            return False
    return bool(node.users)
