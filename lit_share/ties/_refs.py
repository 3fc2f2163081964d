"""References to the parameters and buffers of a module, by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NoReturn

from torch import Tensor, nn

from lit_share.ties._error import TieError
from lit_share.ties._names import unwrapped, unwrapped_name
from lit_share.ties._transposed import make_stored, transposed_in


@dataclass(frozen=True, eq=False)
class _Ref:
    """A place in a module that is looked up by name at every use.

    Modules and parameters may be replaced at any time, so neither is cached.

    Attributes:
        name: The name as the unwrapped module gives it.
        root: The module that the path starts from.
        path: The names of the modules on the way from the root to the owner.
        attribute: The name of the parameter or buffer in its owner.
    """

    name: str
    root: nn.Module
    path: tuple[str, ...]
    attribute: str

    @property
    def owner(self) -> nn.Module:
        """The module that holds the parameter or buffer now."""
        owner: nn.Module | None = self.root
        for key in self.path:
            owner = None if owner is None else owner._modules.get(key)
        if owner is None:
            self._raise_gone("a module on the way to it was removed")
        return owner

    def _raise_gone(self, reason: str) -> NoReturn:
        raise TieError(
            f"{self.name!r} is gone, as {reason}: find the ties again, or undo the change first"
        )


@dataclass(frozen=True, eq=False)
class ParameterRef(_Ref):
    """A parameter of a module, or the transpose of another one; see `_Ref`."""

    @property
    def stored(self) -> nn.Parameter | None:
        """The Parameter under this name; ``None`` if it is computed from another one."""
        owner = self.owner
        try:
            return owner._parameters[self.attribute]
        except KeyError:
            self._raise_gone(f"its {type(owner).__name__} was pruned, parametrized or replaced")

    @property
    def source(self) -> ParameterRef | None:
        """The parameter that this one is the transpose of, if it is computed."""
        source = transposed_in(self.owner).get(self.attribute)
        if source is None:
            return None
        return ParameterRef(f"the source of {self.name}", source.owner, (), source.attribute)

    @property
    def parameter(self) -> nn.Parameter:
        """The Parameter that is trained, which is stored here or under the name of the source."""
        stored = self.stored
        if stored is not None:
            return stored
        source = self.source
        assert source is not None
        return source.parameter

    def entries(self) -> Iterator[tuple[Mapping[str, object], str, object]]:
        """Yield what `parameter` looks up, ``mapping[key] is value``: it changes if any of it does."""
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
        source = self.source if self.stored is None else None
        return source is not None and not source.is_transposed

    @property
    def tensor(self) -> Tensor:
        """The tensor under this name, detached; a view of `parameter`."""
        tensor = self.parameter.detach()
        return tensor.T if self.is_transposed else tensor

    def put(self, parameter: nn.Parameter) -> None:
        """Store a Parameter under this name."""
        owner = self.owner
        if self.attribute in transposed_in(owner):
            make_stored(owner, self.attribute)
        # By `setattr`, as recurrent layers keep a list of their weights.
        setattr(owner, self.attribute, parameter)


@dataclass(frozen=True, eq=False)
class BufferRef(_Ref):
    """A buffer of a module; see `_Ref`."""

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
    for prefix, owner in root.named_modules(remove_duplicate=False):
        path = tuple(prefix.split(".")) if prefix else ()
        for attribute, parameter in owner._parameters.items():
            if parameter is not None or attribute in transposed_in(owner):
                name = unwrapped_name(".".join([*path, attribute]))
                yield ParameterRef(name, root, path, attribute)


def buffer_refs(module: nn.Module) -> Iterator[BufferRef]:
    """Yield a reference for every name of a buffer."""
    root = unwrapped(module)
    for prefix, owner in root.named_modules(remove_duplicate=False):
        path = tuple(prefix.split(".")) if prefix else ()
        for attribute, buffer in owner._buffers.items():
            if buffer is not None:
                name = unwrapped_name(".".join([*path, attribute]))
                yield BufferRef(name, root, path, attribute)
