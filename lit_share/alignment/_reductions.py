"""Rules of reductions, of normalization over dimensions, and of operations that need an order."""

from __future__ import annotations

from lit_share.alignment._axes import leaf
from lit_share.alignment._call import Call, Value, dims, rule


def without(value: Value, removed: list[int], keepdim: bool = False) -> Value:
    """Return what is left of a tensor that is reduced over dimensions."""
    axes = []
    for d, axis in enumerate(value.axes):
        if d not in removed:
            axes.append(axis)
        elif keepdim:
            axes.append(leaf(1))
    return Value(axes, value.uniform)


@rule(
    "sum", "mean", "var", "std", "prod", "amax", "amin", "any", "all", "norm", "logsumexp",
    "linalg_vector_norm", "var_mean", "std_mean", "aminmax", "nansum", "nanmean",
)  # fmt: skip
def reduce(call: Call) -> Value | list[Value]:
    """Leave the dimensions that are not reduced alone: the others are summed in any order."""
    value = call["self"] if "self" in call.arguments else call["x"]
    removed = dims(call.get("dim"), len(value.axes))
    results = [without(value, removed, bool(call.get("keepdim"))) for _ in call.shapes]
    return results if len(results) > 1 else results[0]


@rule("max", "min", "median", "mode", "kthvalue", "nanmedian")
def select_one(call: Call) -> Value | list[Value]:
    """Reduce, unless the position of the number that is selected is read."""
    value = call["self"]
    if "other" in call.arguments:
        return Value(call.align([value, call["other"]]))
    removed = dims(call.get("dim"), len(value.axes))
    if len(call.shapes) > 1 and call.used[1]:
        call.pin(*(value.axes[d] for d in removed))
    results = [without(value, removed, bool(call.get("keepdim"))) for _ in call.shapes]
    return results if len(results) > 1 else results[0]


@rule("argmax", "argmin")
def position(call: Call) -> Value:
    """Pin the dimension whose positions are returned."""
    value = call["self"]
    removed = dims(call.get("dim"), len(value.axes))
    call.pin(*(value.axes[d] for d in removed))
    return without(value, removed, bool(call.get("keepdim")))


@rule("softmax", "log_softmax", "_softmax", "_log_softmax")
def softmax(call: Call) -> Value:
    """Keep all axes: the sum of exponentials has no order."""
    value = call["self"]
    call.note(without(value, dims(call["dim"], len(value.axes))).axes)
    return Value(value.axes)


@rule("cumsum", "cumprod", "logcumsumexp", "cummax", "cummin", "flip", "roll", "sort", "argsort",
      "topk")  # fmt: skip
def ordered(call: Call) -> Value | list[Value]:
    """Pin the dimensions whose order matters, and keep the others."""
    value = call["self"]
    given = call.get("dims", call.get("dim"))
    pinned = dims(given, len(value.axes))
    call.pin(*(value.axes[d] for d in pinned))
    results = []
    for shape in call.shapes:
        if len(shape) != len(value.axes):
            results.append(Value([call.fixed(size) for size in shape]))
            call.pin(*value.axes)
            continue
        axes = list(value.axes)
        for d in pinned:
            axes[d] = call.fixed(shape[d])
        results.append(Value(axes))
    return results if len(results) > 1 else results[0]


@rule("tril", "triu")
def triangle(call: Call) -> Value:
    """Pin rows and columns."""
    value = call["self"]
    call.pin(*value.axes[-2:])
    return Value(value.axes)


@rule("cosine_similarity")
def cosine_similarity(call: Call) -> Value:
    """Unite two tensors and reduce the dimension."""
    aligned = Value(call.align([call["x1"], call["x2"]]))
    call.note(aligned.axes)
    return without(aligned, dims(call["dim"], len(aligned.axes)))
