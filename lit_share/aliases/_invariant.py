"""What `share` made one stays one: when the module is moved, copied or loaded, or by a loud error.

`share` marks the owner of every parameter and buffer that it makes an alias with the group that it
belongs to. The module that was shared keeps a list of its groups, and hooks that join the aliases
again after a move or a load. `unshare`, of whichever module, removes the marks; aliases that the
module had by itself have none, and are left to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from lit_share.aliases._find import Ref, agree
from lit_share.ties import (
    BufferRef,
    TieError,
    buffer_refs,
    parameter_refs,
    unwrapped,
    unwrapped_name,
)

_MARKS = "_lit_share_groups"


@dataclass(eq=False)
class AliasGroup:
    """Names that `share` made one parameter or buffer.

    Attributes:
        names: The names in the module that was shared, and whether each is the transpose.
        are_buffers: Whether they are buffers.
    """

    names: dict[str, bool] = field(default_factory=dict)
    are_buffers: bool = False


def verify_shared(module: nn.Module) -> None:
    """Check that everything that `share` made one still is, and join copies whose values are equal.

    Moves, `load_state_dict` and copies of the module that was shared need no such call. Call it after
    submodules were moved, replaced or initialised by other means.

    Args:
        module: The module that was shared, also wrapped by Fabric, `torch.compile` or DDP.

    Raises:
        TieError: If names that were one have different values now, or are gone; the message names
            them.

    Example:
        >>> from lit_share.sharing import share
        >>> from lit_share.ties import Ties
        >>> pair = nn.ModuleDict({"a": nn.Linear(3, 2), "b": nn.Linear(3, 2)})
        >>> ties = share(pair, Ties("a.*", "b.*"))
        >>> pair["b"].bias = nn.Parameter(pair["a"].bias.detach().clone())
        >>> verify_shared(pair)
        >>> pair["a"].bias is pair["b"].bias
        True
    """
    for invariant in _invariants_in(unwrapped(module)):
        invariant.verify()


def install_invariant(module: nn.Module, groups: Sequence[Sequence[Ref]]) -> None:
    """Keep these aliases one when the module is moved, copied or loaded.

    Args:
        module: The module; the names of the references are relative to it.
        groups: The references of each parameter or buffer that was made one.
    """
    module = unwrapped(module)
    invariant = _invariant_of(module)
    if invariant is None:
        invariant = _Invariant(module)
        module.register_load_state_dict_pre_hook(invariant.before_load)
        module.register_load_state_dict_post_hook(invariant.after_load)
        module.__dict__["_apply"] = _ApplyToShared(invariant)
    for refs in groups:
        _add_group(invariant, refs)


def forget_alias(ref: Ref) -> None:
    """Remove a parameter or buffer from the groups that `share` put it into."""
    marks = ref.owner.__dict__.get(_MARKS, {})
    for group, name in marks.pop(ref.attribute, ()):
        group.names.pop(name, None)
        if len(group.names) < 2:
            group.names.clear()


def recorded_buffers(module: nn.Module) -> list[list[str]]:
    """Return the names of each buffer that was shared."""
    invariant = _invariant_of(unwrapped(module))
    groups = [] if invariant is None else invariant.groups
    return [list(group.names) for group in groups if group.are_buffers and group.names]


class _Invariant:
    """The groups of aliases of one module, and the hooks that keep them."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.groups: list[AliasGroup] = []

    def verify(self) -> None:
        """Join copies with equal values, and raise for others."""
        for first, others in self._aliases():
            for ref, transposed in others:
                if not _is_joined(first, ref, transposed):
                    _join_if_equal(first, ref, transposed)

    def join_again(self) -> None:
        """Store the parameter or buffer of the first name under all names of its group."""
        for first, others in self._aliases():
            for ref, transposed in others:
                if ref.stored is not None and not _is_joined(first, ref, transposed):
                    ref.put(first.stored)  # type: ignore[arg-type]

    def before_load(
        self, _: nn.Module, state_dict: Mapping[str, Any], prefix: str, *__: Any
    ) -> None:
        """Raise if entries of one group differ; otherwise the last would silently win."""
        loaded = {
            unwrapped_name(key.removeprefix(prefix)): (key, value)
            for key, value in state_dict.items()
            if key.startswith(prefix)
        }
        for group in self.groups:
            entries = [
                (loaded[name][0], loaded[name][1].T if transposed else loaded[name][1])
                for name, transposed in group.names.items()
                if name in loaded
            ]
            for (key, value), (other, different) in pairwise(entries):
                if not agree(value, different):
                    raise TieError(
                        f"{key!r} and {other!r} are one here, but differ in the state dict: load it "
                        "before they are shared (as with load_from_checkpoint before trainer.fit, and "
                        "without ckpt_path), or make them equal in it"
                    )

    def after_load(self, *_: Any) -> None:
        """Join names to which ``load_state_dict(assign=True)`` gave a parameter each."""
        self.join_again()

    def _aliases(self) -> Iterator[tuple[Ref, list[tuple[Ref, bool]]]]:
        """Yield a stored reference of each group, and the others with whether they are transposes."""
        self.groups = [group for group in self.groups if group.names]
        by_name: dict[bool, dict[str, Any]] = {
            False: {ref.name: ref for ref in parameter_refs(self.module)},
            True: {ref.name: ref for ref in buffer_refs(self.module)},
        }
        for group in self.groups:
            refs = by_name[group.are_buffers]
            for name in group.names:
                if name not in refs:
                    raise TieError(
                        f"{' and '.join(map(repr, group.names))} were one, but {name!r} is gone: share "
                        "what there is now, with lit_share.unshare(module) and lit_share.share"
                    )
            own = [refs[name] for name in group.names]
            first = next((ref for ref in own if ref.stored is not None), own[0])
            yield first, [(ref, group.names[ref.name]) for ref in own if ref is not first]


class _ApplyToShared:
    """A module's ``_apply``, which moves and converts it, and may make copies of one parameter."""

    def __init__(self, invariant: _Invariant) -> None:
        self.invariant = invariant

    def __call__(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        self.invariant.verify()
        module = self.invariant.module
        applied = type(module)._apply(module, fn, recurse)
        # Aliases got the same function, so they are one also where they have no values (`to_empty`).
        self.invariant.join_again()
        return applied


def _invariant_of(module: nn.Module) -> _Invariant | None:
    apply = module.__dict__.get("_apply")
    return apply.invariant if isinstance(apply, _ApplyToShared) else None


def _invariants_in(module: nn.Module) -> Iterator[_Invariant]:
    for submodule in module.modules():
        invariant = _invariant_of(submodule)
        if invariant is not None:
            yield invariant


def _add_group(invariant: _Invariant, refs: Sequence[Ref]) -> None:
    """Mark the owners of aliases; groups that have a name in common are merged."""
    are_buffers = isinstance(refs[0], BufferRef)
    group = AliasGroup(are_buffers=are_buffers)
    for known in invariant.groups:
        if known.are_buffers == are_buffers and any(ref.name in known.names for ref in refs):
            group = known
    if group not in invariant.groups:
        invariant.groups.append(group)
    for ref in refs:
        if ref.name not in group.names:
            group.names[ref.name] = False
            marks = ref.owner.__dict__.setdefault(_MARKS, {})
            marks.setdefault(ref.attribute, []).append((group, ref.name))
    if not are_buffers:
        # What was stored may be a transpose since the groups were merged.
        orientation = {ref.name: ref.is_transposed for ref in parameter_refs(invariant.module)}
        group.names.update({name: orientation[name] for name in group.names})


def _is_joined(first: Ref, ref: Ref, transposed: bool) -> bool:
    if isinstance(first, BufferRef) or isinstance(ref, BufferRef):
        return ref.stored is first.stored
    return ref.parameter is first.parameter and ref.is_transposed == transposed


def _join_if_equal(first: Ref, ref: Ref, transposed: bool) -> None:
    one, two = first.stored, ref.stored
    if transposed or one is None or two is None:
        raise TieError(
            f"{ref.name!r} was the transpose of {first.name!r}, and one of them has been replaced: "
            "share them again with lit_share.share"
        )
    if not agree(one, two):
        raise TieError(
            f"{first.name!r} and {ref.name!r} were one, but have different values now: make them "
            "equal, and call lit_share.verify_shared, or share them again with lit_share.share"
        )
    ref.put(one)  # type: ignore[arg-type]
