r"""What operations do to indicators: 0 for a number that is zero for all inputs, 1 for others.

In place of an operation, an increasing function runs whose derivative is positive where the result
depends on an argument. A sum of products :math:`y = \sum_u w_u x_u` becomes

.. math:: \sum_u [w_u \ne 0]\,[x_u \ne 0], \qquad
    \frac{\partial}{\partial x_u} = [w_u \ne 0]\,[x_u \ne 0],

since neither what is multiplied by zeros nor zeros that are added matter. Statistics depend on all
numbers that they are taken over, zeros too, as these are counted. An operation that is not in the
table depends on all of its arguments.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from lit_share.alignment import _contractions, _elementwise, _layers, _reductions, _slices
from lit_share.alignment._attention import attention
from lit_share.alignment._call import dims


@dataclass(frozen=True)
class Operation:
    """An operation on indicators.

    Attributes:
        name: The operation without ``aten.``, overload and in-place mark.
        target: What is called.
        args: Its arguments.
        kwargs: Its keyword arguments.
        bound: All of these by their names in the operation's schema.
        shapes: The shape of each tensor that is returned.
    """

    name: str
    target: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    bound: dict[str, Any]
    shapes: list[torch.Size]

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors among the arguments, those of lists too."""
        return [a for a in tree_leaves(self.bound) if isinstance(a, Tensor)]

    def __getitem__(self, name: str) -> Any:
        return self.bound.get(name)


class _Positive(torch.autograd.Function):
    """Whether numbers are positive. Sums of indicators are whole numbers, up to rounding."""

    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        return (x > 0.5).to(x.dtype)

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        return (gradient > 0.5).to(gradient.dtype)


def results_of(operation: Operation, rule: Any) -> list[Tensor]:
    """Return indicators of what an operation returns, given the rule of its axes."""
    found = None
    if rule in _FUNCTIONS:
        try:
            found = _FUNCTIONS[rule](operation)
        except (LookupError, RuntimeError, TypeError):  # an overload with other arguments
            found = None
    return [
        _Positive.apply(
            found if found is not None and found.shape == shape else _all_of(operation, shape)
        )
        for shape in operation.shapes
    ]


def _all_of(operation: Operation, shape: torch.Size) -> Tensor:
    return sum((tensor.sum() for tensor in operation.tensors), _ones(shape))


def _ones(shape: torch.Size) -> Tensor:
    # Users may have set another default type or device.
    return torch.ones(shape, dtype=torch.float32, device="cpu", requires_grad=True)


def _read(x: Tensor) -> Tensor:
    """Return an indicator whose derivative is itself: no zero matters in a sum."""
    return x * x.detach().clone()


def _mixed(x: Tensor, over: list[int], shape: torch.Size) -> Tensor:
    """Return a sum over dimensions, for each number of the result."""
    return x.sum(over, keepdim=True).expand(shape)


def _contract(operation: Operation) -> Tensor:
    args, kwargs = tree_map_only(Tensor, _read, (operation.args, operation.kwargs))
    return operation.target(*args, **kwargs)  # type: ignore[no-any-return]


def _contract_and_add(operation: Operation) -> Tensor:
    # Without alpha and beta, as a factor might be negative: positive terms would cancel.
    return operation.target(*map(_read, operation.tensors))  # type: ignore[no-any-return]


def _pointwise(operation: Operation) -> Tensor:
    first, *others = operation.tensors
    if not others:
        # A function f of one number keeps zeros if f(0) = 0.
        given = (operation.args, operation.kwargs)
        args, kwargs = tree_map_only(Tensor, lambda _: torch.zeros((), device="cpu"), given)
        return first + float(bool(operation.target(*args, **kwargs).any()))
    if operation.name == "copy":
        return others[0].expand(first.shape)
    if operation.name in ("mul", "multiply"):
        return first * others[0]
    # Of numbers that are zero, a sum is; a quotient, a maximum with bounds or a choice need not be.
    total: Tensor = sum(others, first)
    return total + float(operation.name not in ("add", "sub", "subtract"))


def _same(operation: Operation) -> Tensor:
    # Dropout that keeps mean and variance puts another number in place of zeros.
    return operation.tensors[0] + float("alpha" in operation.name)


def _reduce(operation: Operation) -> Tensor:
    x = operation.tensors[0]
    total = x.sum(dims(operation["dim"], x.ndim), keepdim=bool(operation["keepdim"]))
    # Other statistics of zeros may be other numbers, as their logsumexp.
    return total + float(operation.name not in ("sum", "mean"))


def _softmax(operation: Operation) -> Tensor:
    x = operation["self"]
    return _mixed(x, dims(operation["dim"], x.ndim), x.shape) + 1.0


def _affine(x: Tensor, operation: Operation, *shape: int) -> Tensor:
    """Return an indicator multiplied by that of a weight, if there is one, plus that of a bias."""
    weight, bias = operation["weight"], operation["bias"]
    if weight is not None:
        x = x * weight.reshape(*shape or weight.shape)
    return x if bias is None else x + bias.reshape(*shape or bias.shape)


def _layer_norm(operation: Operation) -> Tensor:
    x, count = operation["input"], len(operation["normalized_shape"])
    return _affine(_mixed(x, list(range(-count, 0)), x.shape) + 1.0, operation)


def _batch_norm(operation: Operation) -> Tensor:
    x, mean = operation["input"], operation["running_mean"]
    shape = [-1] + [1] * (x.ndim - 2)
    mixed = _mixed(x, [d for d in range(x.ndim) if d != 1], x.shape)
    # A mean other than zero moves zeros, though a bias may move them back: in evaluation, where
    # the mean is this one, not in training.
    if mean is not None:
        mixed = mixed + mean.reshape(shape)
    return _affine(mixed, operation, *shape)


def _weight_norm(operation: Operation) -> Tensor:
    v, g = operation["v"], operation["g"]
    # An indicator of the norm of each slice with a length of its own.
    slices = _mixed(v, [d for d, size in enumerate(g.shape) if size == 1], v.shape)
    return slices * g  # type: ignore[no-any-return]


def _pool(operation: Operation) -> Tensor:
    # Positions that are pooled stay in order anyway, so that it does not matter which are read.
    space = next(int(letter) for letter in operation.name if letter.isdigit())
    return _mixed(operation.tensors[0], list(range(-space, 0)), operation.shapes[0])


def _attention(operation: Operation) -> Tensor:
    q, k, v = (operation[name] for name in ("query", "key", "value"))
    if operation["enable_gqa"]:
        k, v = (t.repeat_interleave(q.shape[-3] // t.shape[-3], -3) for t in (k, v))
    scores = _Positive.apply(_read(q) @ _read(k).transpose(-2, -1))
    if operation["attn_mask"] is not None:
        scores = scores + operation["attn_mask"]
    weights = _Positive.apply(_mixed(scores, [-1], scores.shape) + 1.0)
    return _read(weights) @ _read(v)


def _embedding(operation: Operation) -> Tensor:
    return operation["weight"].sum(0).expand(operation.shapes[0])  # type: ignore[no-any-return]


def _prelu(operation: Operation) -> Tensor:
    # Positive numbers do not see a slope, and negative ones may have one of zero.
    x, slopes = operation["self"], operation["weight"]
    return x + x * slopes.reshape([-1] + [1] * max(x.ndim - 2, 0))  # type: ignore[no-any-return]


def _glu(operation: Operation) -> Tensor:
    half, gate = operation["self"].chunk(2, operation.bound.get("dim", -1))
    # A sigmoid of the gate is never zero.
    return half * (gate + 1.0)  # type: ignore[no-any-return]


def _pad(operation: Operation) -> Tensor:
    padded = F.pad(operation["self"], operation["pad"], operation["mode"] or "constant")
    return padded + float(bool(operation["value"]))


_FUNCTIONS: dict[Any, Callable[[Operation], Tensor]] = {
    _contractions.linear: _contract,
    _contractions.matmul: _contract,
    _contractions.einsum: _contract,
    _contractions.add_matmul: _contract_and_add,
    _layers.convolution: _contract,
    _layers.transposed_convolution: _contract,
    _layers.pool: _pool,
    _layers.batch_norm: _batch_norm,
    _layers.layer_norm: _layer_norm,
    _layers.embedding: _embedding,
    _layers.weight_norm: _weight_norm,
    _elementwise.pointwise: _pointwise,
    _elementwise.same: _same,
    _elementwise.prelu: _prelu,
    _elementwise.uniform: lambda operation: _ones(operation.shapes[0]),
    _slices.glu: _glu,
    _slices.pad: _pad,
    _reductions.reduce: _reduce,
    _reductions.softmax: _softmax,
    attention: _attention,
}
