"""Locally connected layers: convolutions that do not share filters between positions."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import Self, override

from lit_share.functional import mean
from lit_share.local._operation import Pair, locally_connected, output_size
from lit_share.ties import TieError, equal_slice, mark_positions

Size = int | tuple[int, ...]
PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]

# These options are attributes of convolutions and of the layers below, under the names that they
# have in constructors. Sizes of the input come after `_SHAPE` when a layer is printed.
_SHAPE = ("in_channels", "out_channels", "kernel_size")
_STEPS = ("stride", "padding", "dilation", "groups")
_OPTIONS = (*_SHAPE, *_STEPS, "padding_mode")


class _LocallyConnected(nn.Module):
    weight: nn.Parameter
    bias: nn.Parameter | None
    _ndim: int
    _convolution: type[nn.Conv1d | nn.Conv2d]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        input_size: Size,
        stride: Size = 1,
        padding: Size | Literal["valid", "same"] = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: PaddingMode = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        # A convolution on the meta device checks the options, and gives them their canonical form.
        options: Any = kernel_size, stride, padding, dilation, groups, bias, padding_mode, "meta"
        conv = self._convolution(in_channels, out_channels, *options)
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size, self.stride, self.dilation = conv.kernel_size, conv.stride, conv.dilation
        self.padding, self.padding_mode = conv.padding, padding_mode
        self._margins: list[int] = list(conv._reversed_padding_repeated_twice)
        if isinstance(input_size, int):
            self.input_size = (input_size,) * self._ndim
        else:
            self.input_size = tuple(input_size)
        if len(self.input_size) != self._ndim:
            raise ValueError(
                f"input_size={input_size} must have {self._ndim} numbers, as {type(self).__name__} "
                "needs"
            )
        # Margins begin with the last dimension, as `F.pad` takes them.
        padded = [n + sum(self._margins[-2 * i - 2 :][:2]) for i, n in enumerate(self.input_size)]
        size = output_size(
            _two(padded), _two(self.kernel_size), _two(self.stride), _two(self.dilation)
        )
        self.output_size = size[-self._ndim :]
        positions = math.prod(size)
        if not positions:
            raise ValueError(
                f"input_size={input_size} is too small for kernel_size={kernel_size}: padded it is "
                f"{tuple(padded)}"
            )
        filters = torch.empty(positions, *conv.weight.shape, device=device, dtype=dtype)
        self.weight = nn.Parameter(filters)
        if bias:
            biases = torch.empty(positions, out_channels, device=device, dtype=dtype)
            self.bias = nn.Parameter(biases)
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    @property
    def positions(self) -> int:
        """The number of positions, each with its own filters."""
        return len(self.weight)

    def reset_parameters(self) -> None:
        """Draw new filters at each position, from the distribution that a convolution uses."""
        bound = 1.0 / math.sqrt(self.weight[0, 0].numel())
        for parameter in self.parameters(recurse=False):
            nn.init.uniform_(parameter, -bound, bound)

    @override
    def forward(self, x: Tensor) -> Tensor:
        if x.ndim == self._ndim + 1:
            batch: Tensor = self(x.unsqueeze(0))
            return batch.squeeze(0)
        sizes = (self.in_channels, *self.input_size)
        if tuple(x.shape[1:]) != sizes:
            raise ValueError(
                f"{type(self).__name__} has filters for each position of inputs of shape "
                f"(batch, {', '.join(map(str, sizes))}), got {tuple(x.shape)}"
            )
        if any(self._margins):
            # `F.pad` has another name for zeros than convolutions.
            mode = {"zeros": "constant"}.get(self.padding_mode, self.padding_mode)
            x = F.pad(x, self._margins, mode)
        stride, dilation = _two(self.stride), _two(self.dilation)
        if self._ndim == 2:
            return locally_connected(x, self.weight, self.bias, stride, dilation, self.groups)
        images, filters = x.unsqueeze(2), self.weight.unsqueeze(3)
        y = locally_connected(images, filters, self.bias, stride, dilation, self.groups)
        return y.squeeze(2)

    @classmethod
    @torch.no_grad()
    def from_conv(cls, convolution: nn.Conv1d | nn.Conv2d, input_size: Size) -> Self:
        """Return a layer that computes what a convolution does, with filters at each position.

        Args:
            convolution: The convolution, which stays unchanged.
            input_size: Size of its inputs, without batch and channels.

        Returns:
            The layer, with copies of the convolution's filters, on its device and in its dtype.

        Raises:
            TypeError: If the convolution has another class, or is parametrized.
            ValueError: If the input is too small for the kernel.
        """
        if type(convolution) is not cls._convolution:
            raise TypeError(
                f"{cls.__name__}.from_conv needs a {cls._convolution.__name__}, got {convolution!r}"
            )
        options: dict[str, Any] = {name: getattr(convolution, name) for name in _OPTIONS}
        bias = convolution.bias is not None
        # `skip_init` draws no random numbers: what a user's seed gives later stays the same.
        layer: Self = nn.utils.skip_init(
            cls,
            input_size=input_size,
            bias=bias,
            device=convolution.weight.device,
            dtype=convolution.weight.dtype,
            **options,
        )
        for name, parameter in layer.named_parameters():
            filters = getattr(convolution, name)
            parameter.copy_(filters)
            parameter.requires_grad_(filters.requires_grad)
        return layer.train(convolution.training)

    @torch.no_grad()
    def to_conv(self, average: bool = False) -> nn.Conv1d | nn.Conv2d:
        """Return the convolution that computes the same, if all positions have equal filters.

        Args:
            average: Whether filters that differ are averaged over positions; the convolution then
                computes something else.

        Returns:
            A new convolution with copies of the filters. In `Ties`, ``"[:]"`` after the name of a
            parameter still means the positions, as for the layer.

        Raises:
            TieError: If the filters or biases of positions differ, with the largest difference.
        """
        if average:
            return self.with_one_position(lambda _, parameter: mean(parameter.unbind()))
        return self.with_one_position(equal_slice)

    def with_one_position(self, choose: Callable[[str, Tensor], Tensor]) -> nn.Conv1d | nn.Conv2d:
        """Return a convolution whose filters ``choose`` picks from those of all positions.

        Args:
            choose: Returns the filters, given the name of a parameter and its value of shape
                (positions, …).
        """
        # Filters are chosen before the convolution is made, because `choose` may raise.
        values = {name: choose(name, p.detach()) for name, p in self.named_parameters()}
        options: dict[str, Any] = {name: getattr(self, name) for name in _OPTIONS}
        conv = self._convolution(bias=self.bias is not None, device="meta", **options)
        for name, value in values.items():
            setattr(conv, name, nn.Parameter(value, getattr(self, name).requires_grad))
        mark_positions(conv, self.positions)
        conv.register_load_state_dict_pre_hook(_load_positions_as_one)
        return conv.train(self.training)

    def reason_to_keep_positions(self) -> str | None:
        """Return why no convolution can replace the layer; ``None`` if it can be replaced."""
        # A subclass may have its own `forward`.
        if type(self) in LOCAL_LAYERS:
            return None
        kind = type(self).__name__
        return f"as it is a {kind}, which may compute something else than a convolution"

    @override
    def extra_repr(self) -> str:
        names = (*_SHAPE, "input_size", *_STEPS)
        shown = ", ".join(f"{name}={getattr(self, name)}" for name in names)
        return f"{shown}, bias={self.bias is not None}, padding_mode={self.padding_mode!r}"

    @override
    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # `module.to(memory_format=torch.channels_last)`, usual for images, restrides tensors of 4
        # and 5 dimensions: it fails for filters of 5, and would slow down those of 4.
        return super()._apply(partial(_apply_as_matrix, fn), recurse)  # type: ignore[no-any-return]

    @override
    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        # A checkpoint of a convolution has the filters that are equal at all positions.
        for name, parameter in self.named_parameters(recurse=False):
            entry = state_dict.get(prefix + name)
            if entry is not None and entry.shape == parameter.shape[1:]:
                state_dict[prefix + name] = entry.expand(parameter.shape).clone()
        super()._load_from_state_dict(state_dict, prefix, *rest)


class LocallyConnected2d(_LocallyConnected):
    r"""A convolution of images that does not share filters between positions.

    At position p of the output, with the patch :math:`x_p` of the input,

    .. math:: y_p = W_p x_p + b_p

    ``weight`` has shape (positions, outputs, channels / groups, height, width) and ``bias``
    (positions, outputs), with the positions of the output row by row: ``Ties("name.*[:]")`` ties
    the positions, for penalties or for `share`, which replaces the layer by a `torch.nn.Conv2d`.
    Like `torch.nn.Conv2d`, it maps (batch, channels, height, width) to (batch, outputs, height,
    width), and accepts images without the batch dimension. Inputs of another size than
    ``input_size`` raise a `ValueError`.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output: filters at each position.
        kernel_size: Height and width of the window, or one number for both.
        input_size: Height and width of all inputs, or one number for both.
        stride: Steps between positions.
        padding: Margin around the input, ``"valid"`` for none, or ``"same"``.
        dilation: Distance between the pixels under a filter.
        groups: Number of blocks of channels, each connected to a block of outputs.
        bias: Whether there is a bias at each position.
        padding_mode: The values in the margin, as in `torch.nn.Conv2d`.
        device: The device of the parameters.
        dtype: The dtype of the parameters.

    Raises:
        ValueError: If the input is too small for the kernel, or options contradict each other.

    Example:
        >>> layer = LocallyConnected2d(3, 64, kernel_size=3, input_size=32)
        >>> layer.positions, sum(p.numel() for p in layer.parameters())
        (900, 1612800)
        >>> layer(torch.zeros(5, 3, 32, 32)).shape
        torch.Size([5, 64, 30, 30])
        >>> sum(p.numel() for p in layer.to_conv(average=True).parameters())
        1792

    Source:
        LeCun, *Generalization and network design strategies*, 1989, compares such layers with
        shared filters.
    """

    _ndim = 2
    _convolution = nn.Conv2d


class LocallyConnected1d(_LocallyConnected):
    """A convolution of sequences that does not share filters between positions.

    As `LocallyConnected2d`; ``weight`` has shape (positions, outputs, channels / groups, width).

    Example:
        >>> layer = LocallyConnected1d(2, 4, kernel_size=3, input_size=10)
        >>> layer(torch.zeros(5, 2, 10)).shape
        torch.Size([5, 4, 8])
    """

    _ndim = 1
    _convolution = nn.Conv1d


LOCAL_LAYERS = (LocallyConnected1d, LocallyConnected2d)
LocalLayer = LocallyConnected1d | LocallyConnected2d


def _two(numbers: Any) -> Pair:
    # A sequence is an image with one row.
    down, across = (1, *numbers)[-2:]
    return down, across


def _apply_as_matrix(fn: Callable[[Tensor], Tensor], tensor: Tensor) -> Tensor:
    """Apply a function of `torch.nn.Module._apply` to a tensor as (positions, elements)."""
    if tensor.ndim < 3:
        return fn(tensor)
    applied: Tensor = fn(tensor.flatten(1)).unflatten(1, tensor.shape[1:])
    return applied


def _load_positions_as_one(
    convolution: nn.Module, state_dict: dict[str, Any], prefix: str, *rest: Any
) -> None:
    """Reduce entries for all positions to one filter; if they differ, add errors and load none."""
    error_messages, differ = rest[-1], False
    for name, parameter in convolution.named_parameters(recurse=False):
        entry = state_dict.get(prefix + name)
        if entry is not None and entry.shape[1:] == parameter.shape:
            try:
                state_dict[prefix + name] = equal_slice(name, entry)
            except TieError as error:
                error_messages.append(f"{prefix}{name} is one for all positions here, but {error}")
                differ = True
    if differ:
        # torch raises the errors after it has loaded all entries: the convolution's own values keep
        # it unchanged.
        for name, parameter in convolution.named_parameters(recurse=False):
            state_dict[prefix + name] = parameter
