"""The operation of locally connected layers, with its gradients."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

Pair = tuple[int, int]


def locally_connected(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Pair = (1, 1),
    dilation: Pair = (1, 1),
    groups: int = 1,
) -> Tensor:
    r"""Apply to each position of an image the filters of that position.

    At position p, with the patch :math:`x_p` of the image under the window,

    .. math:: y_p = W_p x_p + b_p

    With equal :math:`W_p` and :math:`b_p` this is a convolution.

    Args:
        x: Images, (batch, channels, height, width), already padded.
        weight: Filters, (positions, outputs, channels / groups, kernel height, kernel width), with
            the positions row by row.
        bias: (positions, outputs), or ``None``.
        stride: Steps of the window, down and across.
        dilation: Distances between the pixels of the window.
        groups: Number of blocks of channels, each connected to a block of outputs, as in
            `torch.nn.functional.conv2d`.

    Returns:
        (batch, outputs, height, width), with the positions in the order of the weight.

    Raises:
        ValueError: If the number of filters is not that of the window's positions, or the channels
            of the images or the shape of the bias do not fit the filters.

    Example:
        >>> x, filters = torch.ones(1, 1, 2, 3), torch.arange(6.0).view(6, 1, 1, 1, 1)
        >>> locally_connected(x, filters, None)
        tensor([[[[0., 1., 2.],
                  [3., 4., 5.]]]])
    """
    rows, columns = output_size(
        (x.shape[2], x.shape[3]), (weight.shape[3], weight.shape[4]), stride, dilation
    )
    if x.shape[1] != groups * weight.shape[2]:
        raise ValueError(f"{x.shape[1]} channels for filters of {groups} × {weight.shape[2]}")
    if bias is not None and bias.shape != weight.shape[:2]:
        raise ValueError(
            f"a bias must be of shape {tuple(weight.shape[:2])}, got {tuple(bias.shape)}"
        )
    if rows * columns != len(weight):
        raise ValueError(
            f"{len(weight)} filters for {rows} × {columns} positions of an image of "
            f"{tuple(x.shape[2:])}"
        )
    # Autocasting inside the function would leave the tensors that it saves in full precision, while
    # gradients are in half. They are cast before; double precision is kept, as by convolutions.
    device = x.device.type
    casts = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    if casts and x.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(device)
        x, weight = x.to(dtype), weight.to(dtype)
        if bias is not None:
            bias = bias.to(dtype)
    with torch.autocast(device, enabled=False) if casts else nullcontext():
        options = (rows, columns), stride, dilation, groups
        if torch.jit.is_tracing():  # type: ignore[attr-defined]
            # Sizes are tensors there, which a Function cannot take within a tuple.
            return _MatrixPerPosition.forward(x, weight, bias, *options)
        y: Tensor = _MatrixPerPosition.apply(x, weight, bias, *options)
    return y


def output_size(size: Pair, kernel: Pair, stride: Pair, dilation: Pair) -> Pair:
    """Return the number of positions of a window in a padded image, down and across.

    It is 0 if the window is larger than the image.
    """
    rows, columns = (
        max((n - d * (k - 1) - 1) // s + 1, 0)
        for n, k, s, d in zip(size, kernel, stride, dilation, strict=True)
    )
    return rows, columns


class _MatrixPerPosition(torch.autograd.Function):
    """Multiply the patches at each position, of each group, by a matrix."""

    # Autograd would keep the patches: 6 MB for a layer of 3×32×32 → 64 at batch 64. They are
    # recomputed in the backward pass, so that nothing but input and weight is kept.

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        size: Pair,
        stride: Pair,
        dilation: Pair,
        groups: int,
    ) -> Tensor:
        patches = _patches(x, size, weight.shape[3:], stride, dilation, groups)
        filters = _per_group(weight, groups).transpose(1, 2)
        if bias is None:
            y = torch.bmm(patches.transpose(1, 2), filters)
        else:
            y = torch.baddbmm(bias.reshape(len(filters), 1, -1), patches.transpose(1, 2), filters)
        return _as_images(y, size, groups)

    @staticmethod
    def setup_context(
        ctx: FunctionCtx,
        inputs: tuple[Any, ...],
        output: Tensor,  # noqa: ARG004
    ) -> None:
        x, weight, bias, *options = inputs
        ctx.save_for_backward(x, weight)
        ctx.bias, ctx.options = bias is not None, options  # type: ignore[attr-defined]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (x, weight), (size, stride, dilation, groups) = ctx.saved_tensors, ctx.options
        kernel = weight.shape[3:]
        g = _by_position(grad, groups)
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_patches = torch.bmm(_per_group(weight, groups).mH, g.transpose(1, 2))
            grad_x = _fold(grad_patches, x.shape, size, kernel, stride, dilation)
        if ctx.needs_input_grad[1]:
            patches = _patches(x, size, kernel, stride, dilation, groups)
            grad_weight = torch.bmm(g.transpose(1, 2), patches.mH).reshape(weight.shape)
        if ctx.bias and ctx.needs_input_grad[2]:
            grad_bias = g.sum(dim=1).reshape(len(weight), -1)
        return grad_x, grad_weight, grad_bias, None, None, None, None


def _patches(
    x: Tensor, size: Pair, kernel: torch.Size, stride: Pair, dilation: Pair, groups: int
) -> Tensor:
    """Return the patches of ``x`` as (positions · groups, channels / groups · kernel, batch)."""
    # The batch is innermost, so that whole runs of memory are copied, 3 times faster than pixels.
    images = x.permute(2, 3, 1, 0).contiguous()  # height, width, channels, batch
    pixels = [images[window] for window in _windows(size, kernel, stride, dilation)]
    patches = torch.stack(pixels, dim=3)  # rows, columns, channels, pixels of the window, batch
    # All sizes are given, because torch cannot infer a size of -1 if the batch is empty.
    height, width = size[0] * size[1] * groups, x.shape[1] // groups * kernel.numel()
    return patches.reshape(height, width, x.shape[0])


def _fold(
    patches: Tensor, shape: torch.Size, size: Pair, kernel: torch.Size, stride: Pair, dilation: Pair
) -> Tensor:
    """Return images of ``shape``: sums of the patches at each pixel, the adjoint of `_patches`."""
    batch, channels, height, width = shape
    by_pixel = patches.view(*size, channels, kernel.numel(), batch).unbind(dim=3)
    # Sums of many terms lose too many digits in half precision.
    dtype = torch.promote_types(patches.dtype, torch.float32)
    images = patches.new_zeros(height, width, channels, batch, dtype=dtype)
    for window, pixels in zip(_windows(size, kernel, stride, dilation), by_pixel, strict=True):
        images[window] += pixels
    return images.permute(3, 2, 0, 1).to(patches.dtype)


def _windows(
    size: Pair, kernel: torch.Size, stride: Pair, dilation: Pair
) -> list[tuple[slice, slice]]:
    """Return for each pixel of the kernel the slices of the image that it meets, row by row."""

    def along(axis: int, offset: int) -> slice:
        first = offset * dilation[axis]
        return slice(first, first + (size[axis] - 1) * stride[axis] + 1, stride[axis])

    windows = []
    for i in range(kernel[0]):
        windows += [(along(0, i), along(1, j)) for j in range(kernel[1])]
    return windows


def _per_group(weight: Tensor, groups: int) -> Tensor:
    """Reshape (positions, outputs, …) to (positions · groups, outputs / groups, product of …)."""
    positions, outputs, *rest = weight.shape
    return weight.reshape(positions * groups, outputs // groups, torch.Size(rest).numel())


def _as_images(y: Tensor, size: Pair, groups: int) -> Tensor:
    """Reshape (positions · groups, batch, outputs / groups) to (batch, outputs, height, width)."""
    _, batch, outputs = y.shape
    by_position = y.view(size[0] * size[1], groups, batch, outputs).transpose(1, 2)
    # torch transposes a matrix 2 to 3 times faster than it permutes several dimensions.
    flat = by_position.reshape(size[0] * size[1], batch * groups * outputs).t().contiguous()
    return flat.view(batch, groups * outputs, *size)


def _by_position(images: Tensor, groups: int) -> Tensor:
    """Reshape (batch, outputs, height, width) to (positions · groups, batch, outputs / groups)."""
    batch, outputs, rows, columns = images.shape
    flat = images.reshape(batch * outputs, rows * columns).t().contiguous()
    by_group = flat.view(rows * columns, batch, groups, outputs // groups).transpose(1, 2)
    return by_group.reshape(rows * columns * groups, batch, outputs // groups)
