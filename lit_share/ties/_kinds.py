"""Kinds of parameters: the layers that hold them, and their number of dimensions."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from torch import nn
from torch.nn.parameter import UninitializedParameter

from lit_share.text import suggest
from lit_share.ties._error import TieError
from lit_share.ties._names import shortened
from lit_share.ties._refs import BufferRef, ParameterRef


@dataclass(frozen=True)
class Kinds:
    """Which kinds of parameters are tied.

    Attributes:
        types: The classes of the layers that hold them; all classes if empty.
        min_ndim: The least number of their dimensions.
    """

    types: tuple[type[nn.Module], ...]
    min_ndim: int

    @classmethod
    def of(cls, types: Sequence[type[nn.Module] | str], min_ndim: int) -> Kinds:
        """Return the kinds, with names of classes looked up.

        Raises:
            TieError: If ``types`` has anything but modules' classes and their names, or
                ``min_ndim`` is no whole number ≥ 0.
        """
        if isinstance(min_ndim, bool) or not isinstance(min_ndim, int) or min_ndim < 0:
            raise TieError(f"min_ndim must be a whole number >= 0, got {min_ndim!r}")
        return cls(tuple(map(_as_class, types)), min_ndim)

    @property
    def arguments(self) -> list[str]:
        """The arguments of `Ties` that choose these kinds, as text; empty if all are included."""
        arguments: list[str] = []
        if self.types:
            arguments.append(f"types=[{', '.join(kind.__qualname__ for kind in self.types)}]")
        if self.min_ndim:
            arguments.append(f"min_ndim={self.min_ndim}")
        return arguments

    def includes(self, ref: ParameterRef | BufferRef) -> bool:
        """Whether a parameter or a buffer is of these kinds."""
        if self.types and not isinstance(ref.owner, self.types):
            return False
        return self.min_ndim == 0 or _dimensions(ref) >= self.min_ndim

    def described(self, ref: ParameterRef) -> str:
        """Return the kind of a parameter in words, as far as these kinds distinguish it."""
        kind = type(ref.owner).__name__
        if not self.min_ndim or isinstance(ref.stored, UninitializedParameter):
            return f"in a {kind}"
        return f"in a {kind} and has {_dimensions(ref)} dimensions"

    def unused(self, refs: Sequence[ParameterRef]) -> dict[str, str]:
        """Return a remark on each type that holds none of these parameters, by its name."""
        owners = {type(ref.owner) for ref in refs}
        names = {owner.__name__ for owner in owners}
        remarks: dict[str, str] = {}
        for kind in self.types:
            if not any(issubclass(owner, kind) for owner in owners):
                name = kind.__qualname__
                remark = f"types has {name}, which holds no parameter that the patterns match"
                remarks[name] = remark + suggest(kind.__name__, names)
        return remarks


def owners_of(refs: Sequence[ParameterRef]) -> str:
    """Return the classes of the layers that hold these parameters, as text."""
    kinds = dict.fromkeys(type(ref.owner).__name__ for ref in refs)
    return shortened(list(kinds), ", ")


def _dimensions(ref: ParameterRef | BufferRef) -> int:
    # `find` asks to run modules with lazy layers, so these are not left out before.
    if isinstance(ref.stored, UninitializedParameter):
        return sys.maxsize
    if isinstance(ref, BufferRef):
        return ref.stored.ndim
    # A transpose has as many dimensions as the parameter that it is computed from.
    return ref.parameter.ndim


def _as_class(kind: Any) -> type[nn.Module]:
    found = kind
    if isinstance(kind, str):
        # Configs have no classes; without a module's name they mean those of torch.
        name, _, attribute = kind.rpartition(".")
        try:
            found = getattr(import_module(name or "torch.nn"), attribute)
        except (ImportError, AttributeError):
            found = None
    if isinstance(found, type) and issubclass(found, nn.Module):
        return found
    instead = "write classes, as types=[nn.Linear], or in a config types=[torch.nn.Linear]"
    if isinstance(kind, nn.Module):
        instead = f"write its class, types=[{type(kind).__name__}]"
    raise TieError(f"types must have classes of modules, got {kind!r}: {instead}")
