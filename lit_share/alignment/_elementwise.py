"""Rules of operations on each number by itself, and of new tensors."""

from __future__ import annotations

from lit_share.alignment._axes import leaf
from lit_share.alignment._call import Call, Value, rule


@rule(
    "copy", "fill", "zero", "masked_fill", "where", "hardswish", "log_sigmoid", "rsub",
    "true_divide", "floor_divide", "multiply", "divide", "subtract", "negative", "absolute",
    "not_equal", "greater", "less", "greater_equal", "less_equal", "isclose", "__and__", "__or__",
    "__xor__",
)  # fmt: skip
def pointwise(call: Call) -> Value:
    """Unite the axes of tensors that are broadcast; torch tags most such operations itself."""
    values = call.tensors()
    uniform = all(value.uniform for value in values)
    return Value(call.align(values, len(call.shapes[0])), uniform)


@rule(
    "to", "_to_copy", "type_as", "contiguous", "clone", "detach", "alias", "lift", "lift_fresh",
    "lift_fresh_copy", "dropout", "alpha_dropout", "feature_dropout", "feature_alpha_dropout",
    "resolve_conj", "resolve_neg",
)  # fmt: skip
def same(call: Call) -> Value:
    """Keep the axes of the first tensor; dropout does nothing in evaluation."""
    return call.tensors()[0]


@rule(
    "zeros", "ones", "full", "zeros_like", "ones_like", "full_like", "new_zeros", "new_ones",
    "new_full", "scalar_tensor", "empty", "empty_like", "new_empty",
)  # fmt: skip
def uniform(call: Call) -> Value:
    """Return new axes for a tensor with one value everywhere."""
    return Value([leaf(size) for size in call.shapes[0]], uniform="empty" not in call.name)


@rule("arange", "linspace", "eye")
def constant(call: Call) -> Value:
    """Return axes that stay in order for a table of numbers made in the code."""
    return Value([leaf(size, f"a constant in {call.where}") for size in call.shapes[0]])


@rule("prelu")
def prelu(call: Call) -> Value:
    """Unite the slopes of channels with dimension 1."""
    value, slopes = call["self"], call["weight"]
    if slopes.axes and slopes.axes[0].size > 1:
        channels = 0 if len(value.axes) == 1 else 1
        call.unite(value.axes[channels], slopes.axes[0])
    return Value(value.axes)
