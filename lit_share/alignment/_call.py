"""A call of an operation in a traced computation, as its rule sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from lit_share.alignment._axes import Axis, leaf, pin, product_of, resolve, unite


@dataclass
class Value:
    """The axes of a tensor, one per dimension.

    Attributes:
        axes: An axis per dimension, of its size.
        uniform: Whether all numbers of the tensor are equal, so that any permutation of it is the
            same tensor.
    """

    axes: list[Axis]
    uniform: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """The size of each dimension."""
        return tuple(axis.size for axis in self.axes)


@dataclass
class Stacked:
    """A tensor whose slices along one dimension have axes of their own.

    Queries, keys and values that a fused projection makes, and the states of the layers of an LSTM,
    lie in one tensor, but units of one slice do not correspond to those of another.

    Attributes:
        slices: The tensor's axes as each slice has them.
        along: The axis along which the slices lie, in the axes of each slice.
    """

    slices: list[Value]
    along: Axis

    def dimension(self) -> int:
        """Return the dimension along which the slices lie."""
        return next(d for d, axis in enumerate(self.slices[0].axes) if axis is self.along)


Result = Value | Stacked | Sequence["Value | Stacked"]


@dataclass
class Call:
    """A call of an operation.

    Attributes:
        name: The operation without its overload and in-place mark, as ``"conv2d"``.
        where: The layer that calls it, for people.
        arguments: The arguments by their names in the operation's schema, tensors as `Value`.
        shapes: The shape of each tensor that is returned.
        used: Whether each of these is read by the computation.
        picked: For each dimension of the first result, whether all readers select single slices.
        notes: Axes that occur together in a tensor, or in a product of tensors that is summed.
    """

    name: str
    where: str
    arguments: dict[str, Any]
    shapes: list[tuple[int, ...]]
    used: list[bool]
    picked: Callable[[int], bool] = lambda _: False
    notes: list[list[Axis]] = field(default_factory=list)

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    def get(self, name: str, default: Any = None) -> Any:
        """Return an argument, or a default if the overload has no argument of that name."""
        return self.arguments.get(name, default)

    @property
    def operation(self) -> str:
        """The operation for people: ``"aten.conv2d"``, or with the namespace of another library."""
        if "::" in self.name:
            return self.name.replace("::", ".")
        return f"aten.{self.name}"

    @property
    def reason(self) -> str:
        """Why this operation pins an axis."""
        return f"{self.operation} in {self.where} depends on the order"

    def tensors(self) -> list[Value]:
        """Return all tensors among the arguments, those of lists too."""
        found = []
        for argument in self.arguments.values():
            items = argument if isinstance(argument, (list, tuple)) else [argument]
            found += [item for item in items if isinstance(item, Value)]
        return found

    def unite(self, a: Axis, b: Axis) -> None:
        """Make two axes move together."""
        unite(a, b, f"shapes at {self.operation} in {self.where} have no common factors")

    def pin(self, *axes: Axis) -> None:
        """Keep axes in order, because of this operation."""
        for axis in axes:
            pin(axis, self.reason)

    def fixed(self, size: int) -> Axis:
        """Return a new axis that stays in order because of this operation."""
        return leaf(size, self.reason)

    def unknown(self) -> Result:
        """Pin every axis of an operation that has no rule, and return axes that stay in order."""
        reason = f"{self.operation} in {self.where} is not understood"
        for value in self.tensors():
            for axis in value.axes:
                pin(axis, reason)
        results = [Value([leaf(size, reason) for size in shape]) for shape in self.shapes]
        return results[0] if len(results) == 1 else [*results]

    def note(self, axes: Iterable[Axis]) -> None:
        """Note axes that occur together in a product of tensors, or beside a reduction."""
        self.notes.append(list(axes))

    def align(self, values: Sequence[Value], ndim: int | None = None) -> list[Axis]:
        """Unite the axes of tensors that are broadcast, and return those of the result.

        A dimension of size 1 is broadcast, and uniform tensors take any order.
        """
        ndim = ndim or max((len(value.axes) for value in values), default=0)
        axes = []
        for d in range(-ndim, 0):
            present = [value for value in values if len(value.axes) >= -d]
            size = max((value.axes[d].size for value in present), default=1)
            if any(value.axes[d].size == 0 for value in present):
                size = 0
            wide = [value for value in present if value.axes[d].size == size]
            ordered = [value for value in wide if not value.uniform] or wide
            for value in ordered[1:]:
                self.unite(ordered[0].axes[d], value.axes[d])
            axes.append(ordered[0].axes[d] if ordered else leaf(size))
        return axes

    def regroup(self, axes: Sequence[Axis], shape: Sequence[int]) -> list[Axis]:
        """Return the axes of a tensor of another shape with the same numbers in the same order."""
        if 0 in shape:
            self.pin(*axes)
            return [self.fixed(size) for size in shape]
        found: list[Axis] = []
        source = [axis for axis in axes if axis.size != 1]
        sizes = list(shape)
        while sizes:
            size = sizes.pop(0)
            if size == 1:
                found.append(leaf(1))
                continue
            run, targets = [source.pop(0)], [size]
            while (m := product_of(run).size) != (n := product_of([leaf(s) for s in targets]).size):
                if m < n:
                    run.append(source.pop(0))
                else:
                    targets.append(sizes.pop(0))
            if len(run) == len(targets) == 1:
                found.append(run[0])
                continue
            new = [leaf(target) for target in targets]
            self.unite(product_of(run), product_of(new))
            found += [resolve(axis) for axis in new]
        return found


Rule = Callable[[Call], Result]
RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a function as the rule of operations, named without ``aten.`` and overload."""

    def register(function: Rule) -> Rule:
        for name in names:
            if name in RULES:
                raise KeyError(f"aten.{name} has two rules")
            RULES[name] = function
        return function

    return register


def dims(given: Any, ndim: int) -> list[int]:
    """Return the dimensions of an argument as numbers from 0; ``None`` or none are all of them."""
    if given is None or given == []:
        return list(range(ndim))
    numbers = given if isinstance(given, (list, tuple)) else [given]
    return [number % max(ndim, 1) for number in numbers]


def replaced(value: Value, d: int, axis: Axis) -> Value:
    """Return a tensor with another axis in one dimension."""
    return Value([*value.axes[:d], axis, *value.axes[d + 1 :]], value.uniform)
