"""Keeping aliases when a module is moved, copied or loaded; otherwise an error.

`share` marks the owner of each aliased parameter and buffer with its group. The shared module has
the list of its groups, and hooks that restore aliases after a move or a load. `unshare` removes the
marks, from any module around or inside it. Aliases that `share` did not make are not marked.
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

# The marks are an attribute of the owner, so that pickles and deep copies of a module contain them,
# and `unshare` of a submodule, which does not know the shared module, finds them.
_MARKS = "_lit_share_groups"


@dataclass(eq=False)
class AliasGroup:
    """Names of a shared parameter or buffer.

    Attributes:
        names: The names in the shared module, and whether each is the transpose.
        are_buffers: Whether they are buffers.
    """

    names: dict[str, bool] = field(default_factory=dict)
    are_buffers: bool = False


def verify_shared(module: nn.Module) -> None:
    """Verify that shared parameters still are, and share copies with equal values again.

    Call it after submodules were moved, replaced or initialised. It is not needed after ``to``,
    `load_state_dict` or ``deepcopy`` of the shared module.

    Args:
        module: The shared module, also wrapped by Fabric, `torch.compile` or DDP.

    Raises:
        TieError: If shared names have different values now, or no longer exist.

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
    """Keep groups of aliases when the module, which contains them, is moved, copied or loaded."""
    module = unwrapped(module)
    invariant = _invariant_of(module)
    if invariant is None:
        invariant = _Invariant(module)
        module.register_load_state_dict_pre_hook(invariant.before_load)
        module.register_load_state_dict_post_hook(invariant.after_load)
        # `to`, `cuda`, `half` and `to_empty` all call `_apply`, for which torch has no hook. An
        # instance attribute leaves the class of the user's module as it is.
        module.__dict__["_apply"] = _ApplyToShared(invariant)
    for refs in groups:
        _add_group(invariant, refs)


def forget_alias(ref: Ref) -> None:
    """Remove a parameter or buffer from its groups."""
    marks = ref.owner.__dict__.get(_MARKS, {})
    for group, name in marks.pop(ref.attribute, ()):
        group.names.pop(name, None)
        if len(group.names) < 2:
            group.names.clear()


def recorded_buffers(module: nn.Module) -> list[list[str]]:
    """Return the names of each shared buffer."""
    invariant = _invariant_of(unwrapped(module))
    if invariant is None:
        return []
    return [list(group.names) for group in invariant.groups if group.are_buffers and group.names]


class _Invariant:
    """The groups of aliases of one module, and the hooks that keep them."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.groups: list[AliasGroup] = []

    def verify(self) -> None:
        """Share equal copies again; raise `TieError` for a group with different values."""
        for first, others in self._aliases():
            for ref, transposed in others:
                if not _is_joined(first, ref, transposed):
                    _join_if_equal(first, ref, transposed)

    def join_again(self) -> None:
        """Store the parameter or buffer of the first name under all names of its group."""
        # Transposed names store nothing: they are computed from the first, so they need no update.
        for first, others in self._aliases():
            for ref, transposed in others:
                if ref.stored is not None and not _is_joined(first, ref, transposed):
                    ref.put(first.stored)  # type: ignore[arg-type]

    def before_load(
        self, _: nn.Module, state_dict: Mapping[str, Any], prefix: str, *__: Any
    ) -> None:
        """Raise `TieError` if a state dict's entries of a group differ: the last would win."""
        loaded: dict[str, tuple[str, Tensor]] = {}
        for key, value in state_dict.items():
            if key.startswith(prefix):
                loaded[unwrapped_name(key.removeprefix(prefix))] = key, value
        for group in self.groups:
            entries: list[tuple[str, Tensor]] = []
            for name, transposed in group.names.items():
                # A state dict may lack names, as with `strict=False`.
                if name in loaded:
                    key, value = loaded[name]
                    if transposed:
                        value = value.T
                    entries.append((key, value))
            for (key, value), (other, different) in pairwise(entries):
                if not agree(value, different):
                    raise TieError(
                        f"{key!r} and {other!r} are shared, but differ in the state dict: load it "
                        "before they are shared (as with load_from_checkpoint before trainer.fit, "
                        "and without ckpt_path), or make them equal in it"
                    )

    def after_load(self, *_: Any) -> None:
        """Share parameters again that ``load_state_dict(assign=True)`` has replaced."""
        self.join_again()

    def _aliases(self) -> Iterator[tuple[Ref, list[tuple[Ref, bool]]]]:
        """Yield for each group a stored reference and the others, as (reference, is transposed).

        Drop groups without names. Raise `TieError` if a name of a group no longer exists.
        """
        # `forget_alias` empties groups, and does not know this list.
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
                        f"{' and '.join(map(repr, group.names))} were shared, but {name!r} no "
                        "longer exists: call lit_share.unshare(module), then lit_share.share"
                    )
            own = [refs[name] for name in group.names]
            # A transpose stores nothing, so another name than the first may hold the parameter.
            first = next((ref for ref in own if ref.stored is not None), own[0])
            yield first, [(ref, group.names[ref.name]) for ref in own if ref is not first]


class _ApplyToShared:
    """A module's ``_apply``, which moves or converts the module, and then restores aliases."""

    def __init__(self, invariant: _Invariant) -> None:
        self.invariant = invariant

    def __call__(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        # `join_again` compares no values, so replaced parameters must be found before the move.
        self.invariant.verify()
        module = self.invariant.module
        applied = type(module)._apply(module, fn, recurse)
        # Aliases got the same function. They are not compared, as `to_empty` leaves no values.
        self.invariant.join_again()
        return applied


def _invariant_of(module: nn.Module) -> _Invariant | None:
    apply = module.__dict__.get("_apply")
    if isinstance(apply, _ApplyToShared):
        return apply.invariant
    return None


def _invariants_in(module: nn.Module) -> Iterator[_Invariant]:
    for submodule in module.modules():
        invariant = _invariant_of(submodule)
        if invariant is not None:
            yield invariant


def _add_group(invariant: _Invariant, refs: Sequence[Ref]) -> None:
    are_buffers = isinstance(refs[0], BufferRef)
    group = AliasGroup(are_buffers=are_buffers)
    # Sharing a, b and then b, c makes a, b, c one parameter, so groups with a common name merge.
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
        # The stored parameter of a merged group may be a transpose now.
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
            f"{first.name!r} and {ref.name!r} were shared, but have different values now: make "
            "them equal, and call lit_share.verify_shared, or share them again with lit_share.share"
        )
    ref.put(one)  # type: ignore[arg-type]
