"""Rules of operations that move whole dimensions: reshapes, transposes and repetitions."""

from __future__ import annotations

from collections.abc import Sequence

from lit_share.alignment._axes import cut, leaf, product_of
from lit_share.alignment._call import Call, Result, Stacked, Value, dims, replaced, rule


@rule(
    "view", "reshape", "_unsafe_view", "view_as", "reshape_as", "flatten", "unflatten", "ravel",
    "squeeze", "unsqueeze", "atleast_1d", "atleast_2d", "atleast_3d",
)  # fmt: skip
def reshape(call: Call) -> Result:
    """Group the axes of a tensor anew, in the order of its numbers.

    If a dimension is split, and slices along its first factor are all that is read, as in a fused
    projection of queries, keys and values, then each slice has axes of its own.
    """
    value = call["self"]
    shape = call.shapes[0]
    if "dtype" in call.arguments:
        return call.unknown()
    split = _split(value.shape, shape)
    if split is None or not call.picked(split[1]):
        return Value(call.regroup(value.axes, shape), value.uniform)
    source, d = split
    count = shape[d]
    axis = value.axes[source]
    parts = cut(axis, [axis.size // count] * count, call.reason)
    if parts is None:
        return Value(call.regroup(value.axes, shape), value.uniform)
    along = call.fixed(count)
    before, after = value.axes[:source], value.axes[source + 1 :]
    slices = []
    for part in parts:
        axes = call.regroup([*before, part, *after], [*shape[:d], *shape[d + 1 :]])
        slices.append(Value([*axes[:d], along, *axes[d:]]))
    return Stacked(slices, along)


def _split(before: Sequence[int], after: Sequence[int]) -> tuple[int, int] | None:
    """Return the dimension that a reshape splits into several, and the first of these."""
    d = next((i for i, (m, n) in enumerate(zip(before, after, strict=False)) if m != n), None)
    if d is None or len(after) <= len(before) or after[d] == 1:
        return None
    rest = len(before) - d - 1
    inner = after[d : len(after) - rest]
    size = product_of([leaf(n) for n in inner]).size
    same = rest == 0 or tuple(before[-rest:]) == tuple(after[-rest:])
    return (d, d) if same and size == before[d] else None


@rule("permute")
def permute(call: Call) -> Value:
    """Reorder the dimensions."""
    value = call["self"]
    return Value([value.axes[d] for d in dims(call["dims"], len(value.axes))], value.uniform)


@rule("transpose", "swapaxes", "swapdims", "t", "mT", "numpy_T", "mH", "adjoint", "matrix_H")
def transpose(call: Call) -> Value:
    """Swap two dimensions."""
    value = call["self"]
    axes = list(value.axes)
    if call.name == "numpy_T":
        return Value(axes[::-1], value.uniform)
    if len(axes) < 2:
        return Value(axes, value.uniform)
    first, second = call.get("dim0", call.get("axis0", -2)), call.get("dim1", call.get("axis1", -1))
    axes[first], axes[second] = axes[second], axes[first]
    return Value(axes, value.uniform)


@rule("movedim", "moveaxis")
def movedim(call: Call) -> Value:
    """Move dimensions, the others in their order."""
    value = call["self"]
    ndim = len(value.axes)
    source, target = dims(call["source"], ndim), dims(call["destination"], ndim)
    moved = dict(zip(target, source, strict=True))
    others = iter(d for d in range(ndim) if d not in source)
    order = [moved[d] if d in moved else next(others) for d in range(ndim)]
    return Value([value.axes[d] for d in order], value.uniform)


@rule("expand", "expand_as", "broadcast_to")
def expand(call: Call) -> Value:
    """Give an expanded dimension a new axis, as all its slices are equal."""
    value, shape = call["self"], call.shapes[0]
    axes = [leaf(size) for size in shape]
    for d in range(-len(value.axes), 0):
        if value.axes[d].size == shape[d]:
            axes[d] = value.axes[d]
    return Value(axes, value.uniform)


@rule("repeat", "tile")
def repeat(call: Call) -> Value:
    """Make a repeated dimension the product of the repetitions and its axis."""
    value, shape = call["self"], call.shapes[0]
    axes = [leaf(1)] * (len(shape) - len(value.axes)) + value.axes
    if 0 in shape:
        return Value([call.fixed(size) for size in shape])
    return Value(
        [
            product_of([leaf(size // axis.size), axis])
            for size, axis in zip(shape, axes, strict=True)
        ],
        value.uniform,
    )


@rule("repeat_interleave")
def repeat_interleave(call: Call) -> Result:
    """Make a repeated dimension the product of its axis and the repetitions."""
    value, d = call.get("self"), call.get("dim")
    if not isinstance(call.get("repeats"), int) or d is None:
        return call.unknown()
    (d,) = dims(d, len(value.axes))
    return replaced(value, d, product_of([value.axes[d], leaf(call["repeats"])]))
