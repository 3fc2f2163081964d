r"""Locally connected layers: convolutions that do not share their filters between positions.

With a filter :math:`W_p` and a bias :math:`b_p` for each position p, and the patch :math:`x_p` of the input there,

.. math:: y_p = W_p x_p + b_p

A convolution is the same with equal :math:`W_p` and :math:`b_p`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import Self, override

from lit_share.functional import mean
from lit_share.local._operation import locally_connected, output_size
from lit_share.ties import TieError, equal_slice, mark_positions

Pair = tuple[int, int]
Size = int | tuple[int, ...]
PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]


class _LocallyConnected(nn.Module):
    """What the layers of one and two dimensions have in common."""

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
        # A convolution knows which options go together, and what they are by default.
        conv = self._convolution(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups,  # type: ignore[arg-type]
            bias, padding_mode, device="meta",
        )  # fmt: skip
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size, self.stride, self.dilation = conv.kernel_size, conv.stride, conv.dilation
        self.padding, self.padding_mode = conv.padding, padding_mode
        self._margins: list[int] = list(conv._reversed_padding_repeated_twice)
        self.input_size = (
            (input_size,) * self._ndim if isinstance(input_size, int) else tuple(input_size)
        )
        if len(self.input_size) != self._ndim:
            raise ValueError(
                f"input_size={input_size} must have {self._ndim} numbers, as {type(self).__name__} needs"
            )
        padded = [n + sum(self._margins[-2 * i - 2 :][:2]) for i, n in enumerate(self.input_size)]
        size = output_size(
            _two(padded), _two(self.kernel_size), _two(self.stride), _two(self.dilation)
        )
        self.output_size = size[-self._ndim :]
        if not math.prod(size):
            raise ValueError(
                f"input_size={input_size} is too small for kernel_size={kernel_size}: padded it is {tuple(padded)}"
            )
        positions = math.prod(size)
        self.weight = nn.Parameter(
            torch.empty(positions, *conv.weight.shape, device=device, dtype=dtype)
        )
        if bias:
            self.bias = nn.Parameter(
                torch.empty(positions, out_channels, device=device, dtype=dtype)
            )
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    @property
    def positions(self) -> int:
        """The number of positions, each with a filter of its own."""
        return len(self.weight)

    def reset_parameters(self) -> None:
        """Draw new filters, for each position as a convolution draws its own."""
        bound = 1.0 / math.sqrt(self.weight[0, 0].numel())
        for parameter in self.parameters(recurse=False):
            nn.init.uniform_(parameter, -bound, bound)

    @override
    def forward(self, x: Tensor) -> Tensor:
        if x.ndim == self._ndim + 1:
            alone: Tensor = self(x.unsqueeze(0))
            return alone.squeeze(0)
        if tuple(x.shape[1:]) != (self.in_channels, *self.input_size):
            raise ValueError(
                f"{type(self).__name__} has filters for each position of inputs of shape "
                f"(batch, {', '.join(map(str, (self.in_channels, *self.input_size)))}), got {tuple(x.shape)}"
            )
        if any(self._margins):
            x = F.pad(
                x, self._margins, "constant" if self.padding_mode == "zeros" else self.padding_mode
            )
        stride, dilation = _two(self.stride), _two(self.dilation)
        if self._ndim == 2:
            return locally_connected(x, self.weight, self.bias, stride, dilation, self.groups)
        rows = locally_connected(
            x.unsqueeze(2), self.weight.unsqueeze(3), self.bias, stride, dilation, self.groups
        )
        return rows.squeeze(2)

    @classmethod
    @torch.no_grad()
    def from_conv(cls, convolution: nn.Conv1d | nn.Conv2d, input_size: Size) -> Self:
        """A layer that computes what a convolution does, with filters at each position that can part.

        Args:
            convolution: The convolution; it is left as it is.
            input_size: Of the images that it gets, without the batch and channels.

        Returns:
            The layer, with copies of the convolution's filters, on its device and in its dtype.

        Raises:
            TypeError: If the convolution is of another kind, or parametrized.
            ValueError: If the input is too small for it.
        """
        if type(convolution) is not cls._convolution:
            raise TypeError(
                f"{cls.__name__}.from_conv needs a {cls._convolution.__name__}, got {convolution!r}"
            )
        options: dict[str, Any] = {name: getattr(convolution, name) for name in _OPTIONS}
        bias = convolution.bias is not None
        # Whoever has set a seed goes on with the numbers that it gives: none is drawn here.
        layer: Self = nn.utils.skip_init(
            cls, input_size=input_size, bias=bias, device=convolution.weight.device,
            dtype=convolution.weight.dtype, **options,
        )  # fmt: skip
        for name, parameter in layer.named_parameters():
            own = getattr(convolution, name)
            parameter.copy_(own)
            parameter.requires_grad_(own.requires_grad)
        return layer.train(convolution.training)

    @torch.no_grad()
    def to_conv(self, average: bool = False) -> nn.Conv1d | nn.Conv2d:
        """The convolution that computes the same, if all positions have equal filters.

        Args:
            average: Whether filters that differ are averaged over positions; the convolution does then not compute the
                same.

        Returns:
            A new convolution with copies of the filters. In `Ties`, ``"[:]"`` after a name of its parameters means
            the positions that they were made of, as for the layer.

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
        values = {
            name: choose(name, parameter.detach()) for name, parameter in self.named_parameters()
        }
        options: dict[str, Any] = {name: getattr(self, name) for name in _OPTIONS}
        conv = self._convolution(bias=self.bias is not None, device="meta", **options)
        for name, value in values.items():
            setattr(conv, name, nn.Parameter(value, getattr(self, name).requires_grad))
        mark_positions(conv, self.positions)
        conv.register_load_state_dict_pre_hook(_load_positions_as_one)
        return conv.train(self.training)

    def reason_to_keep_positions(self) -> str | None:
        """Say why no convolution can take the layer's place; ``None`` if one can."""
        if type(self) in LOCAL_LAYERS:
            return None
        return (
            f"as it is a {type(self).__name__}, which may compute something else than a convolution"
        )

    @override
    def extra_repr(self) -> str:
        names = [
            "in_channels",
            "out_channels",
            "kernel_size",
            "input_size",
            "stride",
            "padding",
            "dilation",
            "groups",
        ]
        shown = ", ".join(f"{name}={getattr(self, name)}" for name in names)
        return f"{shown}, bias={self.bias is not None}, padding_mode={self.padding_mode!r}"

    @override
    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        # A convolution's filters are those of all positions.
        for name, parameter in self.named_parameters(recurse=False):
            entry = state_dict.get(prefix + name)
            if entry is not None and entry.shape == parameter.shape[1:]:
                state_dict[prefix + name] = entry.expand(parameter.shape).clone()
        super()._load_from_state_dict(state_dict, prefix, *rest)


_OPTIONS = (
    "in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode",
)  # fmt: skip


class LocallyConnected2d(_LocallyConnected):
    """A convolution of images that does not share its filters between positions.

    ``weight`` has shape (positions, outputs, channels / groups, height, width) and ``bias`` (positions, outputs), with
    the positions of the output row by row. So ``Ties("name.*[:]")`` ties the positions, softly with a penalty, and
    `share` makes the layer a `torch.nn.Conv2d`. It maps (batch, channels, height, width) to (batch, outputs, height,
    width) as that would, and without the batch dimension likewise; inputs of another size than ``input_size`` are a
    `ValueError`.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output: filters at each position.
        kernel_size: As for `torch.nn.Conv2d`, like the other options that it has, too.
        input_size: Height and width of all inputs, or one number for both.
        stride: Steps between positions.
        padding: Margin around the input, or ``"valid"`` for none, or ``"same"``.
        dilation: Distance between the pixels under a filter.
        groups: Blocks of channels that only see each other.
        bias: Whether there is a bias, for each position.
        padding_mode: What is in the margin.
        device: Of the parameters.
        dtype: Of the parameters.

    Raises:
        ValueError: If the input is too small for the kernel, or options do not go together.

    Example:
        >>> layer = LocallyConnected2d(3, 64, kernel_size=3, input_size=32)
        >>> layer.positions, sum(p.numel() for p in layer.parameters())
        (900, 1612800)
        >>> layer(torch.zeros(5, 3, 32, 32)).shape
        torch.Size([5, 64, 30, 30])
        >>> sum(p.numel() for p in layer.to_conv(average=True).parameters())
        1792

    Source:
        LeCun, *Generalization and network design strategies*, 1989, compares such layers with shared filters.
    """

    _ndim = 2
    _convolution = nn.Conv2d


class LocallyConnected1d(_LocallyConnected):
    """A convolution of sequences that does not share its filters between positions.

    As `LocallyConnected2d`, with ``weight`` of shape (positions, outputs, channels / groups, width).

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
    """Two numbers, of one or two: a sequence is an image of one row."""
    return (1, numbers[0]) if len(numbers) == 1 else (numbers[0], numbers[1])


def _load_positions_as_one(
    convolution: nn.Module, state_dict: dict[str, Any], prefix: str, *rest: Any
) -> None:
    """Take what a locally connected layer saved, if its positions are equal."""
    errors, apart = rest[-1], False
    for name, parameter in convolution.named_parameters(recurse=False):
        entry = state_dict.get(prefix + name)
        if entry is not None and entry.shape[1:] == parameter.shape:
            try:
                state_dict[prefix + name] = equal_slice(name, entry)
            except TieError as error:
                errors.append(f"{prefix}{name} is one for all positions here, but {error}")
                apart = True
    if apart:  # nothing is loaded
        state_dict.update(
            {prefix + name: p for name, p in convolution.named_parameters(recurse=False)}
        )
