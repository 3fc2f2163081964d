"""The tie language: which parameters ought to be alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, NoReturn

from torch import nn
from torch.distributed.tensor import DTensor
from torch.nn.parameter import UninitializedParameter

from lit_share.sharing._error import TieError
from lit_share.sharing._pattern import Pattern
from lit_share.sharing._plan import Plan
from lit_share.sharing._positions import position_count
from lit_share.sharing._starts import starting_apart
from lit_share.sharing._tie import (
    BufferSlot,
    Member,
    Slot,
    Tie,
    buffer_slots,
    distinctly_named,
    shortened,
    slots,
)

_SHOWN = 5

Stars = tuple[str, ...]


class Ties:
    """Which parameters of a module are tied, by patterns of their names.

    One pattern per member. `*` stands for any text, and for the *same* text in every pattern:

    - ``Ties("a.net.*", "b.net.*")``: each parameter of model a with its namesake in model b; three models are three
      patterns;
    - ``Ties("a.encoder.*", "b.trunk.*")``: renames;
    - ``Ties("layers.0.*", "layers.1.*", "layers.2.*")``: across the layers of one model;
    - ``Ties("*.weight")``: one member each, which is plain regularisation;
    - ``Ties("encoder.weight", "decoder.weight.T")``: a matrix and a transposed one;
    - ``Ties("local.weight[:]")``: the slices of one parameter along dim 0 are each other's members.

    Args:
        *patterns: One pattern of parameter names per member; lists of them are flattened, as configs have one.
        exclude: Patterns of parameter names that are not tied; a tie with an excluded member is left out. Lists in
            the list are flattened, so that configs can add to one another's.

    Raises:
        TieError: If there is no pattern, or the patterns have different numbers of stars.

    Example:
        >>> model = nn.ModuleDict({"a": nn.Linear(3, 2), "b": nn.Linear(3, 2)})
        >>> [tie.name for tie in Ties("a.*", "b.*").find(model)]
        ['weight', 'bias']
        >>> print(Ties("a.*", "b.*", exclude=["*.bias"]).plan(model))
        ties: 1, tied parameters: 12, saved by hard sharing: 6
          weight (2×3): a.weight = b.weight
    """

    def __init__(
        self, *patterns: str | Sequence[str], exclude: str | Sequence[str | Sequence[str]] = ()
    ) -> None:
        named, excluded = _flat(patterns), _flat([exclude] if isinstance(exclude, str) else exclude)
        # None is what a config gives that has no such key.
        if not named or named == [None]:
            raise TieError(
                'Ties needs at least one pattern, for instance Ties("a.net.*", "b.net.*"), or in a config '
                "ties.patterns=[a.net.*,b.net.*]"
            )
        for pattern in (*named, *excluded):
            if not isinstance(pattern, str):
                raise TieError(
                    f"a pattern must be a string, got {pattern!r}: write Ties('a.*', 'b.*')"
                )
            if pattern.endswith("]") and not pattern.endswith("[:]"):
                raise TieError(f"{pattern!r}: only [:] is known, all slices along dim 0")
        self.patterns = tuple(map(Pattern, named))
        self.exclude = tuple(excluded)
        stars = {pattern.text: pattern.stars for pattern in self.patterns}
        if len(set(stars.values())) > 1:
            counts = ", ".join(f"{text!r} has {count}" for text, count in stars.items())
            raise TieError(f"the patterns of one Ties must have the same number of stars: {counts}")

    def __repr__(self) -> str:
        patterns = ", ".join(repr(pattern.text) for pattern in self.patterns)
        return (
            f"Ties({patterns}, exclude={list(self.exclude)!r})"
            if self.exclude
            else f"Ties({patterns})"
        )

    def find(self, module: nn.Module) -> list[Tie]:
        """The ties of ``module``, in the order of its parameters.

        Where the same parameters stand under several names, as in language models that use one weight as embedding
        and as head, the tie is found once.

        Args:
            module: The module that holds all members; its parameter names are matched. The names are those of the
                unwrapped module, also under `torch.compile` and activation checkpointing.

        Returns:
            The ties, bound to the module: their members are looked up in it by name whenever they are used.

        Raises:
            TieError: If a pattern matches nothing, a name has no counterpart in another pattern, the members of a
                tie differ in shape, a star is ambiguous, or a member is named twice.
        """
        distinct: dict[tuple[int, ...], tuple[Stars, list[Slot]]] = {}
        for stars, row in self.places(module):
            distinct.setdefault(tuple(id(slot.parameter) for slot in row), (stars, row))
        found = [self._tie(stars, row) for stars, row in distinct.values()]
        self._check_named_once(found)
        return distinctly_named(found)

    def plan(self, module: nn.Module) -> Plan:
        """What would be tied in ``module``, to be printed; also whether units correspond, as they are now.

        Args:
            module: The module that holds all members.

        Returns:
            An object to print with `rich.print` (a table) or `print` (plain text).

        Raises:
            TieError: As `find`.
        """
        names = [s.name for s in slots(module)] + [b.name for b in buffer_slots(module)]
        idle = [
            text
            for text in self.exclude
            if all(Pattern(text).match(name) is None for name in names)
        ]
        found = self.find(module)
        return Plan.of(found, self.buffers(module), idle, starting_apart(found, module))

    def places(self, module: nn.Module) -> list[tuple[Stars, list[Slot]]]:
        """What the stars stand for, and the places of the members, one per pattern; see `find` for the errors."""
        by_name = {slot.name: slot for slot in slots(module)}
        excluded = set(filter(self._excludes, by_name))
        matches = [self._matches(pattern, by_name) for pattern in self.patterns]
        self._check_counterparts(matches, excluded)
        rows = [
            (stars, [match[stars] for match in matches if stars in match])
            for stars in dict.fromkeys(stars for match in matches for stars in match)
        ]
        kept = [
            (stars, row) for stars, row in rows if not any(slot.name in excluded for slot in row)
        ]
        if not kept:
            raise TieError(
                f"{self} finds nothing: exclude={list(self.exclude)!r} leaves no parameter"
            )
        return kept

    def buffers(self, module: nn.Module) -> list[list[BufferSlot]]:
        """The buffers whose names fit the patterns, like those of the members, one row of places for each.

        A buffer without a counterpart in each pattern is left out.
        """
        by_name = {slot.name: slot for slot in buffer_slots(module)}
        excluded = set(filter(self._excludes, by_name))
        rows: dict[Stars, list[BufferSlot]] = {}
        for pattern in self.patterns:
            if pattern.part == "whole":
                for name in by_name.keys() - excluded:
                    stars = pattern.match(name)
                    if stars is not None:
                        rows.setdefault(stars, []).append(by_name[name])
        order = list(by_name)
        complete = [row for row in rows.values() if len(row) == len(self.patterns) > 1]
        return sorted(complete, key=lambda row: order.index(row[0].name))

    def _excludes(self, name: str) -> bool:
        return any(Pattern(text).match(name) is not None for text in self.exclude)

    def _matches(self, pattern: Pattern, by_name: Mapping[str, Slot]) -> dict[Stars, Slot]:
        matches: dict[Stars, Slot] = {}
        for name, slot in by_name.items():
            stars = pattern.match(name)
            if stars is None:
                continue
            if len(self.patterns) > 1 and pattern.is_ambiguous(name):
                raise TieError(
                    f"the stars of {pattern.text!r} are ambiguous in {name!r}: write one star, or more of the name"
                )
            matches[stars] = slot
        if not matches:
            self._raise_no_match(pattern, list(by_name))
        return matches

    def _raise_no_match(self, pattern: Pattern, names: list[str]) -> NoReturn:
        if close := _like(pattern, names) or get_close_matches(
            pattern.name, names, n=3, cutoff=0.5
        ):
            raise TieError(
                f"pattern {pattern.text!r} matches no parameter: did you mean {' or '.join(map(repr, close))}?"
            )
        shown = ", ".join(map(repr, names[:_SHOWN])) or "none at all"
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        raise TieError(
            f"pattern {pattern.text!r} matches no parameter: the module has {shown}{more}"
        )

    def _check_counterparts(self, matches: list[dict[Stars, Slot]], excluded: set[str]) -> None:
        """Every name that one pattern matches must have its counterpart in all others, or be excluded."""
        lonely = [
            f"{match[stars].name!r} has no counterpart {pattern.fill(stars)!r} in {pattern.text!r}"
            for match in matches
            for stars in match
            if match[stars].name not in excluded
            for pattern, other in zip(self.patterns, matches, strict=True)
            if stars not in other
        ]
        if lonely:
            more = f"\n  and {len(lonely) - _SHOWN} more" if len(lonely) > _SHOWN else ""
            listed = "\n  ".join(lonely[:_SHOWN]) + more
            raise TieError(
                f"{self} leaves names without a counterpart:\n  {listed}\n"
                "add them to exclude=[...], in a config ties.exclude=[...]"
            )

    def _tie(self, stars: Stars, places: list[Slot]) -> Tie:
        members: list[Member] = []
        for pattern, slot in zip(self.patterns, places, strict=True):
            if isinstance(slot.stored, UninitializedParameter):
                raise TieError(
                    f"{slot.name!r} has no shape yet: run the module once, so that its lazy layers are made"
                )
            shape = tuple(slot.full().shape)
            if pattern.part == "transposed" and len(shape) != 2:
                raise TieError(
                    f"{pattern.text!r} transposes {slot.name!r} of shape {shape}: .T is for matrices, exclude others"
                )
            if pattern.part == "slices":
                if 0 in shape[:1] or not shape:
                    what = "has no slices" if shape else "is a single number"
                    raise TieError(
                        f"{pattern.text!r} slices {slot.name!r}, which {what}: leave out [:]"
                    )
                if isinstance(slot.parameter, DTensor):
                    raise TieError(
                        f"{pattern.text!r} slices {slot.name!r}, which fully_shard has divided: use DDP"
                    )
                members += [
                    Member(slot, index=i) for i in range(position_count(slot.owner) or shape[0])
                ]
            else:
                members.append(Member(slot, transposed=pattern.part == "transposed"))
        tie = Tie(
            places[0].name if len(places) == 1 or not any(stars) else ".".join(stars),
            tuple(members),
        )
        if len({member.name for member in members}) < len(members):
            return tie  # which `find` refuses, with all that are like it
        shapes = [tensor.shape for tensor in tie.tensors()]
        if len(set(shapes)) > 1:
            listed = shortened(
                [f"{m.name!r} is {tuple(s)}" for m, s in zip(members, shapes, strict=True)], ", "
            )
            name = places[0].name
            raise TieError(
                f"members of a tie must have one shape: {listed}; exclude them: exclude=[{name!r}], in a config "
                f"ties.exclude=[{name}]"
            )
        return tie

    def _check_named_once(self, found: list[Tie]) -> None:
        counts = Counter(member.name for tie in found for member in tie.members)
        twice = [name for name, count in counts.items() if count > 1]
        if twice:
            listed = ", ".join(map(repr, twice[:_SHOWN]))
            raise TieError(
                f"{self} names a member twice: {listed}; each pattern must match parameters of its own"
            )


def _flat(entries: Iterable[Any]) -> list[Any]:
    """The entries, those of lists among them one by one."""
    nested = [[e] if isinstance(e, str) or not isinstance(e, Sequence) else e for e in entries]
    return [item for items in nested for item in items]


def _like(pattern: Pattern, names: Iterable[str]) -> list[str]:
    """Patterns that match something, and differ from this one in what is before its first star or after its last."""
    names, pieces = [*names], pattern.name.split("*")
    alike = []
    for i in (0, -1):
        literal = pieces[i].strip(".")
        depth = literal.count(".") + 1
        parts = dict.fromkeys(
            ".".join(name.split(".")[:depth] if i == 0 else name.split(".")[-depth:])
            for name in names
        )
        for found in get_close_matches(literal, parts, n=3, cutoff=0.5):
            other = [*pieces]
            other[i] = pieces[i].replace(literal, found)
            alike.append("*".join(other) + pattern.text.removeprefix(pattern.name))
    return [
        text
        for text in dict.fromkeys(alike)
        if any(Pattern(text).match(name) is not None for name in names)
    ]
