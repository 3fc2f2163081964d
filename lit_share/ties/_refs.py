"""References to the parameters and buffers of a module, by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import NoReturn

from torch import Tensor, nn

from lit_share.ties._error import TieError
from lit_share.ties._names import check_unwrapped_names, unwrapped, unwrapped_name
from lit_share.ties._transposed import make_stored, transposed_in


@dataclass(frozen=True, eq=False)
class _Ref:
    """The name of a parameter or buffer, looked up in a module at each use.

    Attributes:
        name: The name in the unwrapped module.
        root: The module in which the path begins.
        path: The names of the submodules from the root to the owner.
        attribute: The name of the parameter or buffer in its owner.
    """

    name: str
    root: nn.Module
    path: tuple[str, ...]
    attribute: str

    # Modules and parameters may be replaced at any time, so no lookup is cached.
    @property
    def owner(self) -> nn.Module:
        """The module that holds the parameter or buffer now."""
        owner = self.root
        for key in self.path:
            child = owner._modules.get(key)
            if child is None:
                self._raise_gone("a module of its path was removed")
            owner = child
        return owner

    def _raise_gone(self, reason: str) -> NoReturn:
        raise TieError(
            f"{self.name!r} is gone, as {reason}: find the ties again, or undo the change first"
        )


@dataclass(frozen=True, eq=False)
class ParameterRef(_Ref):
    """A reference to a parameter, or to the transpose of another parameter; see `_Ref`."""

    @property
    def stored(self) -> nn.Parameter | None:
        """The Parameter stored under this name; ``None`` if the name is a computed transpose."""
        owner = self.owner
        try:
            return owner._parameters[self.attribute]
        except KeyError:
            self._raise_gone(f"its {type(owner).__name__} was pruned, parametrized or replaced")

    @property
    def source(self) -> ParameterRef | None:
        """The parameter that a computed transpose is computed from; ``None`` for others."""
        source = transposed_in(self.owner).get(self.attribute)
        if source is None:
            return None
        # The path is empty: the source stays the same if its module gets another name.
        return ParameterRef(f"the source of {self.name}", source.owner, (), source.attribute)

    @property
    def parameter(self) -> nn.Parameter:
        """The trained Parameter, which is the stored one or that of the source."""
        stored = self.stored
        if stored is not None:
            return stored
        source = self.source
        assert source is not None
        return source.parameter

    def entries(self) -> Iterator[tuple[Mapping[str, object], str, object]]:
        """Yield each lookup of `parameter` as (mapping, key, value); it holds while all do."""
        owner = self.root
        for key in self.path:
            child = owner._modules[key]
            assert child is not None
            yield owner._modules, key, child
            owner = child
        yield owner._parameters, self.attribute, self.stored
        if self.stored is None and self.source is not None:
            yield from self.source.entries()

    @property
    def is_transposed(self) -> bool:
        """Whether the tensor under this name is the transpose of `parameter`."""
        if self.stored is not None:
            return False
        # A source may be a transpose itself; two transposes cancel.
        source = self.source
        return source is not None and not source.is_transposed

    @property
    def tensor(self) -> Tensor:
        """The tensor under this name, detached, in the memory of `parameter`."""
        tensor = self.parameter.detach()
        return tensor.T if self.is_transposed else tensor

    def put(self, parameter: nn.Parameter) -> None:
        """Store a Parameter under this name."""
        owner = self.owner
        if self.attribute in transposed_in(owner):
            make_stored(owner, self.attribute)
        # `setattr` lets recurrent layers update their flat list of weights.
        setattr(owner, self.attribute, parameter)


@dataclass(frozen=True, eq=False)
class BufferRef(_Ref):
    """A reference to a buffer; see `_Ref`."""

    @property
    def stored(self) -> Tensor:
        """The buffer."""
        buffer = self.owner._buffers.get(self.attribute)
        if buffer is None:
            self._raise_gone("its module was replaced")
        return buffer

    def put(self, buffer: Tensor) -> None:
        """Store a buffer under this name."""
        self.owner._buffers[self.attribute] = buffer


def parameter_refs(module: nn.Module) -> Iterator[ParameterRef]:
    """Yield a reference for every name of a parameter, in the order of ``named_parameters``."""
    root = unwrapped(module)
    check_unwrapped_names(_named_tensors(root))
    for path, owner in _paths(root):
        for attribute, parameter in owner._parameters.items():
            # The entry of a computed transpose is None, as is that of a bias that a layer lacks.
            if parameter is not None or attribute in transposed_in(owner):
                name = unwrapped_name(".".join([*path, attribute]))
                yield ParameterRef(name, root, path, attribute)


def buffer_refs(module: nn.Module) -> Iterator[BufferRef]:
    """Yield a reference for every name of a buffer."""
    root = unwrapped(module)
    check_unwrapped_names(_named_tensors(root))
    for path, owner in _paths(root):
        for attribute, buffer in owner._buffers.items():
            if buffer is not None:
                name = unwrapped_name(".".join([*path, attribute]))
                yield BufferRef(name, root, path, attribute)


def _named_tensors(root: nn.Module) -> Iterator[tuple[str, object]]:
    for path, owner in _paths(root):
        for attribute, tensor in chain(owner._parameters.items(), owner._buffers.items()):
            if tensor is not None or attribute in transposed_in(owner):
                yield ".".join([*path, attribute]), tensor


def _paths(root: nn.Module) -> Iterator[tuple[tuple[str, ...], nn.Module]]:
    """Yield (path, module) for the root and all submodules, once for each name of a submodule."""
    # Duplicates stay: a module under two names has parameters under two names.
    for name, module in root.named_modules(remove_duplicate=False):
        yield tuple(name.split(".")) if name else (), module
