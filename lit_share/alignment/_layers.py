"""Rules of layers: convolutions, pooling, normalization and embeddings."""

from __future__ import annotations

from math import prod

from lit_share.alignment._axes import Axis, leaf, pin, product_of
from lit_share.alignment._call import Call, Value, rule
from lit_share.alignment._reductions import without


def _split(call: Call, channels: Axis, groups: int) -> tuple[Axis, Axis]:
    """Make channels a product; return its axes of groups and of the channels of a group."""
    group, inner = leaf(groups), leaf(channels.size // groups)
    call.unite(channels, product_of([group, inner]))
    return group, inner


@rule("conv1d", "conv2d", "conv3d")
def convolution(call: Call) -> Value:
    """Unite channels with those of the filters; with g groups, channels are g · channels / g.

    A depthwise convolution has as many groups as channels, so that outputs are channels · filters.
    """
    x, weight = call["input"], call["weight"]
    groups = call.get("groups", 1)
    outputs, inputs, *kernel = weight.axes
    group, per_group = _split(call, outputs, groups)
    return _convolve(call, x, product_of([group, inputs]), [group, inputs, per_group], kernel)


@rule("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def transposed_convolution(call: Call) -> Value:
    """Unite channels with those of the filters, whose inputs are in dimension 0."""
    x, weight = call["input"], call["weight"]
    groups = call.get("groups", 1)
    inputs, per_group, *kernel = weight.axes
    group, inner = _split(call, inputs, groups)
    return _convolve(call, x, inputs, [group, inner, per_group], kernel)


def _convolve(
    call: Call, x: Value, inputs: Axis, channels: list[Axis], kernel: list[Axis]
) -> Value:
    """Return the result of a convolution with channels (groups, inputs, outputs per group)."""
    reason = f"a position of the kernel of {call.operation} in {call.where}"
    for axis in kernel:
        pin(axis, reason)
    space = len(kernel)
    call.unite(x.axes[-space - 1], inputs)
    group, inner, per_group = channels
    outputs = product_of([group, per_group])
    if (bias := call.get("bias")) is not None:
        call.unite(outputs, bias.axes[0])
    shape = call.shapes[0]
    positions = list(x.axes[-space:])
    # A kernel of one position moves nothing, unless positions are skipped or added.
    steps = {"stride": 1, "padding": 0, "output_padding": 0}
    still = all(set(call.get(name) or [n]) == {n} for name, n in steps.items())
    if not still or any(axis.size != 1 for axis in kernel):
        call.pin(*positions)
        positions = [call.fixed(size) for size in shape[-space:]]
    batch = x.axes[: -space - 1]
    call.note([*batch, group, inner, per_group, *positions])
    return Value([*batch, outputs, *positions])


@rule(
    "max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d",
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "adaptive_max_pool1d",
    "adaptive_max_pool2d", "adaptive_max_pool3d", "max_pool1d_with_indices",
    "max_pool2d_with_indices", "max_pool3d_with_indices", "lp_pool1d", "lp_pool2d",
    "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "_upsample_nearest_exact1d",
    "_upsample_nearest_exact2d", "_upsample_nearest_exact3d", "upsample_linear1d",
    "upsample_bilinear2d", "upsample_trilinear3d", "upsample_bicubic2d", "_upsample_bilinear2d_aa",
    "_upsample_bicubic2d_aa",
)  # fmt: skip
def pool(call: Call) -> Value | list[Value]:
    """Keep channels, and pin positions unless all of them are pooled."""
    x = call["self"] if "self" in call.arguments else call["input"]
    space = next(int(letter) for letter in call.name if letter.isdigit())
    positions = []
    for axis, size in zip(x.axes[-space:], call.shapes[0][-space:], strict=True):
        if not (call.name.startswith("adaptive") and size == 1):
            call.pin(axis)
        positions.append(call.fixed(size))
    results = [Value([*x.axes[:-space], *positions]) for _ in call.shapes]
    if len(results) > 1 and call.used[1]:
        call.pin(*x.axes[-space:])
    return results if len(results) > 1 else results[0]


@rule("pixel_shuffle")
def pixel_shuffle(call: Call) -> Value:
    """Split channels into channels · rows · columns of a patch."""
    x, factor = call["self"], call["upscale_factor"]
    channels, height, width = x.axes[-3:]
    inner = leaf(channels.size // factor**2)
    call.unite(channels, product_of([inner, call.fixed(factor), call.fixed(factor)]))
    call.pin(height, width)
    return Value([*x.axes[:-3], inner, *map(call.fixed, call.shapes[0][-2:])])


@rule("pixel_unshuffle")
def pixel_unshuffle(call: Call) -> Value:
    """Join channels with the rows and columns of patches."""
    x, factor = call["self"], call["downscale_factor"]
    call.pin(*x.axes[-2:])
    channels = product_of([x.axes[-3], call.fixed(factor), call.fixed(factor)])
    return Value([*x.axes[:-3], channels, *map(call.fixed, call.shapes[0][-2:])])


@rule("channel_shuffle")
def channel_shuffle(call: Call) -> Value:
    """Swap groups and channels of a group."""
    x, groups = call["self"], call["groups"]
    channels = x.axes[1]
    group, inner = _split(call, channels, groups)
    return Value([x.axes[0], product_of([inner, group]), *x.axes[2:]])


@rule("im2col")
def unfold(call: Call) -> Value:
    """Join channels with the positions of the kernel."""
    x, kernel = call["self"], call["kernel_size"]
    call.pin(*x.axes[-2:])
    patch = product_of([x.axes[-3], call.fixed(prod(kernel))])
    return Value([*x.axes[:-3], patch, call.fixed(call.shapes[0][-1])])


@rule("batch_norm", "instance_norm")
def batch_norm(call: Call) -> Value:
    """Unite channels with the weights, biases and statistics of a normalization."""
    x = call["input"]
    for name in ("weight", "bias", "running_mean", "running_var"):
        if (value := call.get(name)) is not None:
            call.unite(x.axes[1], value.axes[0])
    # With statistics of the batch, numbers of one channel are reduced; they have no order.
    call.note(x.axes[:2] if call.name == "instance_norm" else x.axes[1:2])
    return Value(x.axes)


@rule("layer_norm", "rms_norm")
def layer_norm(call: Call) -> Value:
    """Unite the last dimensions with weight and bias."""
    x, count = call["input"], len(call["normalized_shape"])
    call.note(x.axes[:-count])
    given = [call.get(name) for name in ("weight", "bias")]
    return Value(call.align([x, *(value for value in given if value is not None)]))


@rule("group_norm")
def group_norm(call: Call) -> Value:
    """Split channels into groups · channels of a group."""
    x, channels = call["input"], call["input"].axes[1]
    group, _ = _split(call, channels, call["num_groups"])
    for name in ("weight", "bias"):
        if (value := call.get(name)) is not None:
            call.unite(channels, value.axes[0])
    call.note([x.axes[0], group])
    return Value(x.axes)


@rule("_weight_norm")
def weight_norm(call: Call) -> Value:
    """Unite directions and lengths, as they are broadcast."""
    v, g = call["v"], call["g"]
    call.note(without(v, [d for d, axis in enumerate(g.axes) if axis.size == 1]).axes)
    return Value(call.align([v, g]))


@rule("embedding")
def embedding(call: Call) -> Value:
    """Pin the rows of a table."""
    weight = call["weight"]
    pin(weight.axes[0], f"index of the embedding in {call.where}")
    return Value([*call["indices"].axes, weight.axes[1]])
