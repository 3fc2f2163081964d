"""Rules of operations that take units out of a dimension, or put dimensions one after another."""

from __future__ import annotations

from collections.abc import Sequence

from lit_share.alignment._axes import Axis, cut, leaf, sum_of
from lit_share.alignment._call import Call, Result, Value, dims, replaced, rule


def pieces(call: Call, axis: Axis, lengths: Sequence[int]) -> list[Axis]:
    """Return consecutive pieces of an axis, one for each length, also for those of length 0."""
    found = cut(axis, lengths, call.reason)
    if found is None:
        call.pin(axis)
        return [call.fixed(length) for length in lengths]
    rest = iter(found)
    return [leaf(0) if length == 0 else next(rest) for length in lengths]


@rule("cat", "concat", "concatenate")
def cat(call: Call) -> Value:
    """Make the dimension a sum, and unite the others."""
    values = [value for value in call["tensors"] if value.shape != (0,)]
    if not values:
        return Value([call.fixed(0)])
    (d,) = dims(call.get("dim", 0), len(values[0].axes))
    total = sum_of([value.axes[d] for value in values])
    aligned = call.align([replaced(value, d, leaf(1)) for value in values])
    return Value([*aligned[:d], total, *aligned[d + 1 :]])


@rule("stack")
def stack(call: Call) -> Value:
    """Unite the tensors, with a new dimension in their order."""
    values = call["tensors"]
    axes = call.align(values)
    (d,) = dims(call.get("dim", 0), len(axes) + 1)
    return Value([*axes[:d], call.fixed(len(values)), *axes[d:]])


@rule("split", "split_with_sizes", "chunk", "tensor_split", "unsafe_chunk", "unsafe_split")
def split(call: Call) -> list[Value]:
    """Cut a dimension into the lengths that the results have."""
    value = call["self"]
    (d,) = dims(call.get("dim", 0), len(value.axes))
    parts = pieces(call, value.axes[d], [shape[d] for shape in call.shapes])
    return [replaced(value, d, part) for part in parts]


@rule("unbind")
def unbind(call: Call) -> list[Value]:
    """Pin a dimension whose slices are read one by one."""
    value = call["self"]
    (d,) = dims(call.get("dim", 0), len(value.axes))
    call.pin(value.axes[d])
    return [Value([*value.axes[:d], *value.axes[d + 1 :]], value.uniform) for _ in call.shapes]


@rule("select")
def select(call: Call) -> Value:
    """Pin a dimension of which one slice is read."""
    value = call["self"]
    (d,) = dims(call["dim"], len(value.axes))
    call.pin(value.axes[d])
    return Value([*value.axes[:d], *value.axes[d + 1 :]], value.uniform)


@rule("slice")
def slice_(call: Call) -> Value:
    """Cut a dimension into what comes before, within and after a slice."""
    value = call["self"]
    (d,) = dims(call.get("dim", 0), len(value.axes))
    axis = value.axes[d]
    start, stop, step = slice(call.get("start"), call.get("end"), call.get("step")).indices(
        axis.size
    )
    if step != 1:
        call.pin(axis)
        return replaced(value, d, call.fixed(call.shapes[0][d]))
    return replaced(value, d, _between(call, axis, start, max(stop, start)))


@rule("narrow")
def narrow(call: Call) -> Value:
    """Cut a dimension into what comes before, within and after."""
    value = call["self"]
    (d,) = dims(call["dim"], len(value.axes))
    start = call["start"] % value.axes[d].size
    return replaced(value, d, _between(call, value.axes[d], start, start + call["length"]))


def _between(call: Call, axis: Axis, start: int, stop: int) -> Axis:
    return pieces(call, axis, [start, stop - start, axis.size - stop])[1]


@rule("pad", "constant_pad_nd")
def pad(call: Call) -> Value:
    """Put equal numbers beside an axis; padding that repeats or cuts numbers pins it."""
    value = call["self"]
    axes, widths = list(value.axes), list(call["pad"])
    constant = call.get("mode", "constant") == "constant"
    for d in range(1, len(widths) // 2 + 1):
        before, after = widths[2 * d - 2 : 2 * d]
        if constant and min(before, after) >= 0:
            axes[-d] = sum_of([leaf(before), axes[-d], leaf(after)])
        else:
            call.pin(axes[-d])
            axes[-d] = call.fixed(call.shapes[0][-d])
    return Value(axes)


@rule("index")
def index(call: Call) -> Result:
    """Pin the dimensions that are indexed, and keep the others."""
    value = call["self"]
    given = list(call["indices"]) + [None] * (len(value.axes) - len(call["indices"]))
    indexed = [d for d, item in enumerate(given) if item is not None]
    shape = call.shapes[0]
    new = len(shape) - (len(value.axes) - len(indexed))
    for d in indexed:
        call.pin(value.axes[d], *given[d].axes)
    if any(len(given[d].axes) > new for d in indexed):  # masks cover several dimensions
        return call.unknown()
    # Indices in neighbouring dimensions leave the result in their place, others in front.
    together = indexed == list(range(indexed[0], indexed[-1] + 1))
    first = indexed[0] if together else 0
    kept = [axis for d, axis in enumerate(value.axes) if d not in indexed]
    fixed = [call.fixed(size) for size in shape[first : first + new]]
    return Value([*kept[:first], *fixed, *kept[first:]])


@rule("index_select")
def index_select(call: Call) -> Value:
    """Pin the dimension that is indexed."""
    value = call["self"]
    (d,) = dims(call["dim"], len(value.axes))
    call.pin(value.axes[d], *call["index"].axes)
    return replaced(value, d, call.fixed(call.shapes[0][d]))


@rule("gather", "take_along_dim")
def gather(call: Call) -> Result:
    """Pin the dimension that is indexed; the index has the other axes of the tensor."""
    value, where = call["self"], call.get("index", call.get("indices"))
    if call.get("dim") is None:
        return call.unknown()
    (d,) = dims(call["dim"], len(value.axes))
    call.pin(value.axes[d], where.axes[d])
    axes = []
    for i, (axis, other) in enumerate(zip(value.axes, where.axes, strict=True)):
        if i != d and axis.size == other.size:
            call.unite(axis, other)
        elif i != d:
            call.pin(axis, other)
        axes.append(other)
    return Value(axes)


@rule("one_hot")
def one_hot(call: Call) -> Value:
    """Add a dimension in the order of the classes."""
    return Value([*call["self"].axes, call.fixed(call.shapes[0][-1])])


@rule("glu")
def glu(call: Call) -> Value:
    """Unite the two halves of a dimension."""
    value = call["self"]
    (d,) = dims(call["dim"], len(value.axes))
    half = value.axes[d].size // 2
    first, second = pieces(call, value.axes[d], [half, half])
    call.unite(first, second)
    return replaced(value, d, first)
