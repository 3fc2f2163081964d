"""Hard sharing: one Parameter in several places of a module."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from lit_share.functional import mean
from lit_share.sharing._tie import Tie, slots, unwrapped_name
from lit_share.sharing._ties import TieError, Ties

Init = Literal["mean", "first"]


@torch.no_grad()
def share(module: nn.Module, ties: Ties, init: Init = "mean") -> list[Tie]:
    """Make the members of each tie one `torch.nn.Parameter`.

    All names stay as they are, in ``state_dict`` too, so checkpoints of the untied module fit. To be called before
    the optimizer is made, and before the module is wrapped for distributed training. A state dict in which the
    members have different values is refused from then on.

    Args:
        module: The module, changed in place.
        ties: Which parameters are shared.
        init: The shared value: the ``"mean"`` of the members, or the ``"first"`` member.

    Returns:
        The ties that are now shared.

    Raises:
        TieError: If the patterns do not fit the module (see `Ties.find`), or a tie cannot be shared: it has one
            member, members are parts of parameters, they differ in dtype, device or ``requires_grad``, or they are
            already sharded.

    Example:
        >>> pair = nn.ModuleDict({"a": nn.Linear(3, 2), "b": nn.Linear(3, 2)})
        >>> ties = share(pair, Ties("a.*", "b.*"))
        >>> pair["a"].weight is pair["b"].weight
        True
        >>> sum(parameter.numel() for parameter in pair.parameters())
        8
    """
    if init not in get_args(Init):
        raise ValueError(f"unknown init {init!r}: write one of {', '.join(map(repr, get_args(Init)))}")
    found = ties.find(module)
    for tie in found:
        _check_shareable(tie)
    if not any(isinstance(getattr(hook, "__self__", None), _KeepShared) for hook in _load_hooks(module)):
        keep = _KeepShared()
        module.register_load_state_dict_pre_hook(keep.before)
        module.register_load_state_dict_post_hook(keep.after)
    for tie in found:
        members = list(dict.fromkeys(tie.parameters))
        if init == "mean":
            members[0].copy_(mean(members))
        _put_one_in_all_places(module, members)
    return found


@torch.no_grad()
def unshare(module: nn.Module, ties: Ties | None = None) -> None:
    """Give every name its own copy of a shared parameter again, with the same value.

    To be called before the optimizer is made.

    Args:
        module: The module, changed in place.
        ties: Which parameters get copies of their own; all parameters that have several names where it is ``None``.

    Raises:
        TieError: If the patterns do not fit the module; see `Ties.find`.

    Example:
        >>> pair = nn.ModuleDict({"a": nn.Linear(3, 2), "b": nn.Linear(3, 2)})
        >>> ties = share(pair, Ties("a.*", "b.*"))
        >>> unshare(pair)
        >>> pair["a"].weight is pair["b"].weight
        False
    """
    # What is to be apart: all places, or the patterns, which may each match one parameter in several places.
    sides = enumerate(slots(module)) if ties is None else (s for _, row in ties.places(module) for s in enumerate(row))
    copies: dict[tuple[nn.Parameter, int], nn.Parameter] = {}
    first: dict[nn.Parameter, int] = {}
    done: set[tuple[int, str]] = set()
    for side, slot in sides:
        parameter = slot.parameter
        if (id(slot.owner), slot.attribute) in done:
            continue
        done.add((id(slot.owner), slot.attribute))
        if first.setdefault(parameter, side) != side:
            if (parameter, side) not in copies:
                copies[parameter, side] = nn.Parameter(parameter.detach().clone(), parameter.requires_grad)
            slot.put(copies[parameter, side])


def _put_one_in_all_places(module: nn.Module, members: list[nn.Parameter]) -> None:
    # Also in the places of earlier ties that hold one of these parameters.
    for slot in slots(module):
        if any(slot.parameter is member for member in members):
            slot.put(members[0])


def _load_hooks(module: nn.Module) -> Iterable[Callable]:
    return module._load_state_dict_post_hooks.values()


class _KeepShared:
    """Keeps shared parameters one while a state dict is loaded into their module."""

    def __init__(self) -> None:
        self.groups: list[list[str]] = []

    def before(self, module: nn.Module, state_dict: Mapping[str, Tensor], prefix: str, *_: Any) -> None:
        """Raise if the state dict has different values for one parameter: the last one would win without a word."""
        loaded = {unwrapped_name(key.removeprefix(prefix)): (key, value) for key, value in state_dict.items()}
        names: dict[nn.Parameter, list[str]] = defaultdict(list)
        for slot in slots(module):
            names[slot.parameter].append(slot.name)
        self.groups = [group for group in names.values() if len(group) > 1]
        for group in self.groups:
            entries = [loaded[name] for name in group if name in loaded]
            for (key, value), (other, different) in pairwise(entries):
                if value.shape != different.shape or not torch.allclose(value, different, 0.0, 0.0, equal_nan=True):
                    raise TieError(
                        f"{key!r} and {other!r} are one parameter here, but differ in the state dict: load it before "
                        "they are shared, or make them equal in it"
                    )

    def after(self, module: nn.Module, _: Any) -> None:
        """Make them one again where ``load_state_dict(assign=True)`` gave each name a parameter of its own."""
        by_name = {slot.name: slot for slot in slots(module)}
        for first, *others in self.groups:
            for other in others:
                by_name[other].put(by_name[first].parameter)


def _check_shareable(tie: Tie) -> None:
    names = ", ".join(repr(member.name) for member in tie.members)
    if len(tie.members) < 2:
        raise TieError(f"hard sharing of {names} needs at least two members: give a pattern for each place")
    for member in tie.members:
        if not member.is_whole:
            raise TieError(f"{member.name!r} is a part of a parameter: only whole parameters can be shared")
        if isinstance(member.parameter, DTensor):
            raise TieError(f"{member.name!r} is already sharded: share before the module is wrapped by fully_shard")
    for trait in ("dtype", "device", "requires_grad"):
        values = [getattr(parameter, trait) for parameter in tie.parameters]
        if len(set(values)) > 1:
            listed = ", ".join(f"{m.name!r} has {v}" for m, v in zip(tie.members, values, strict=True))
            raise TieError(f"shared parameters must agree in {trait}: {listed}")
