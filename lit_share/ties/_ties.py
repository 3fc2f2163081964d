"""The tie language: which parameters ought to be alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, NoReturn

from torch import nn
from torch.distributed.tensor import DTensor
from torch.nn.parameter import UninitializedParameter

from lit_share.ties._error import TieError
from lit_share.ties._layers import position_count
from lit_share.ties._names import shortened
from lit_share.ties._pattern import Pattern
from lit_share.ties._plan import Plan
from lit_share.ties._refs import BufferRef, ParameterRef, buffer_refs, parameter_refs
from lit_share.ties._tie import Member, Tie, distinctly_named
from lit_share.ties._unaligned import find_unaligned

_SHOWN = 5

Stars = tuple[str, ...]


class Ties:
    """Which parameters of a module are tied, by patterns of their names.

    One pattern per member. `*` stands for any text, and for the *same* text in every pattern:

    - ``Ties("a.net.*", "b.net.*")``: each parameter of model a with its namesake in model b; three
      models are three patterns;
    - ``Ties("a.encoder.*", "b.trunk.*")``: renames;
    - ``Ties("layers.0.*", "layers.1.*", "layers.2.*")``: across the layers of one model;
    - ``Ties("*.weight")``: one member each, which is plain regularisation;
    - ``Ties("encoder.weight", "decoder.weight.T")``: a matrix and a transposed one;
    - ``Ties("local.weight[:]")``: the slices of one parameter along dim 0 are each other's members.

    Args:
        *patterns: One pattern of parameter names per member; lists of them, as configs have, are
            flattened.
        exclude: Patterns of parameter names that are not tied; a tie with an excluded member is left
            out. Nested lists are flattened, so that configs can add to one another's.

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
        named = _flat(patterns)
        excluded = _flat([exclude] if isinstance(exclude, str) else exclude)
        # A config without the key gives [None].
        if not named or named == [None]:
            raise TieError(
                'Ties needs at least one pattern, for instance Ties("a.net.*", "b.net.*"), or in a '
                "config ties.patterns=[a.net.*,b.net.*]"
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
        """Find the ties of ``module``, in the order of its parameters.

        Parameters that have several names, as language models use one weight as embedding and head,
        make one tie.

        Args:
            module: The module that holds all members; its parameter names are matched. The names are
                those of the unwrapped module, also under `torch.compile` and activation
                checkpointing.

        Returns:
            The ties, bound to the module: their members are looked up in it by name at every use.

        Raises:
            TieError: If a pattern matches nothing, a name has no counterpart in another pattern, the
                members of a tie differ in shape, a star is ambiguous, or a member is named twice.
        """
        distinct: dict[tuple[int, ...], tuple[Stars, list[ParameterRef]]] = {}
        for stars, refs in self.refs(module):
            distinct.setdefault(tuple(id(ref.parameter) for ref in refs), (stars, refs))
        found = [self._tie(stars, refs) for stars, refs in distinct.values()]
        self._check_named_once(found)
        return distinctly_named(found)

    def plan(self, module: nn.Module) -> Plan:
        """Plan what would be tied in ``module``, to be printed, with remarks on its values now.

        Args:
            module: The module that holds all members.

        Returns:
            An object to print with `rich.print` (a table) or `print` (plain text).

        Raises:
            TieError: As `find`.
        """
        names = [ref.name for ref in (*parameter_refs(module), *buffer_refs(module))]
        unused = [
            text
            for text in self.exclude
            if all(Pattern(text).match(name) is None for name in names)
        ]
        found = self.find(module)
        return Plan.of(found, self.buffers(module), unused, find_unaligned(found, module))

    def refs(self, module: nn.Module) -> list[tuple[Stars, list[ParameterRef]]]:
        """Return what the stars stand for, and a parameter per pattern; see `find` for the errors."""
        by_name = {ref.name: ref for ref in parameter_refs(module)}
        excluded = set(filter(self._excludes, by_name))
        matches = [self._matches(pattern, by_name) for pattern in self.patterns]
        self._check_counterparts(matches, excluded)
        found = [
            (stars, [match[stars] for match in matches if stars in match])
            for stars in dict.fromkeys(stars for match in matches for stars in match)
        ]
        kept = [
            (stars, refs) for stars, refs in found if not any(ref.name in excluded for ref in refs)
        ]
        if not kept:
            raise TieError(
                f"{self} finds nothing: exclude={list(self.exclude)!r} leaves no parameter"
            )
        return kept

    def buffers(self, module: nn.Module) -> list[list[BufferRef]]:
        """Return the buffers whose names fit the patterns, one per pattern, like parameters of a tie.

        A buffer without a counterpart in every pattern is left out.
        """
        by_name = {ref.name: ref for ref in buffer_refs(module)}
        corresponding: dict[Stars, list[BufferRef]] = {}
        for pattern in self.patterns:
            for name in by_name if pattern.view == "whole" else ():
                stars = pattern.match(name)
                if stars is not None and not self._excludes(name):
                    corresponding.setdefault(stars, []).append(by_name[name])
        order = {name: i for i, name in enumerate(by_name)}
        complete = [refs for refs in corresponding.values() if len(refs) == len(self.patterns) > 1]
        return sorted(complete, key=lambda refs: order[refs[0].name])

    def _excludes(self, name: str) -> bool:
        return any(Pattern(text).match(name) is not None for text in self.exclude)

    def _matches(
        self, pattern: Pattern, by_name: Mapping[str, ParameterRef]
    ) -> dict[Stars, ParameterRef]:
        matches: dict[Stars, ParameterRef] = {}
        for name, ref in by_name.items():
            stars = pattern.match(name)
            if stars is None:
                continue
            if len(self.patterns) > 1 and pattern.is_ambiguous(name):
                raise TieError(
                    f"the stars of {pattern.text!r} are ambiguous in {name!r}: write one star, or more "
                    "of the name"
                )
            matches[stars] = ref
        if not matches:
            _raise_no_match(pattern, list(by_name))
        return matches

    def _check_counterparts(
        self, matches: list[dict[Stars, ParameterRef]], excluded: set[str]
    ) -> None:
        """Raise if a name that one pattern matches has no counterpart in another, unless excluded."""
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

    def _tie(self, stars: Stars, refs: list[ParameterRef]) -> Tie:
        members: list[Member] = []
        for pattern, ref in zip(self.patterns, refs, strict=True):
            members += _members(pattern, ref)
        named_after_stars = len(refs) > 1 and any(stars)
        tie = Tie(".".join(stars) if named_after_stars else refs[0].name, tuple(members))
        if len({member.name for member in members}) < len(members):
            return tie  # `_check_named_once` refuses it, together with others of its kind
        shapes = {
            member.name: tuple(t.shape) for member, t in zip(members, tie.tensors(), strict=True)
        }
        if len(set(shapes.values())) > 1:
            listed = shortened([f"{name!r} is {shape}" for name, shape in shapes.items()], ", ")
            raise TieError(
                f"members of a tie must have one shape: {listed}; exclude them: "
                f"exclude=[{refs[0].name!r}], in a config ties.exclude=[{refs[0].name}]"
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


def _members(pattern: Pattern, ref: ParameterRef) -> list[Member]:
    """Return the members of one pattern: the parameter, its transpose, or its slices."""
    if isinstance(ref.stored, UninitializedParameter):
        raise TieError(
            f"{ref.name!r} has no shape yet: run the module once, so that its lazy layers are made"
        )
    shape = tuple(ref.tensor.shape)
    if pattern.view == "transposed" and len(shape) != 2:
        raise TieError(
            f"{pattern.text!r} transposes {ref.name!r} of shape {shape}: .T is for matrices, exclude "
            "others"
        )
    if pattern.view != "slices":
        return [Member(ref, transposed=pattern.view == "transposed")]
    if 0 in shape[:1] or not shape:
        what = "has no slices" if shape else "is a single number"
        raise TieError(f"{pattern.text!r} slices {ref.name!r}, which {what}: leave out [:]")
    if isinstance(ref.parameter, DTensor):
        raise TieError(
            f"{pattern.text!r} slices {ref.name!r}, which fully_shard has sharded: use DDP"
        )
    return [Member(ref, index=i) for i in range(position_count(ref.owner) or shape[0])]


def _raise_no_match(pattern: Pattern, names: list[str]) -> NoReturn:
    close = _similar_patterns(pattern, names)
    close = close or get_close_matches(pattern.name, names, n=3, cutoff=0.5)
    if close:
        options = " or ".join(map(repr, close))
        raise TieError(f"pattern {pattern.text!r} matches no parameter: did you mean {options}?")
    shown = ", ".join(map(repr, names[:_SHOWN])) or "none at all"
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    raise TieError(f"pattern {pattern.text!r} matches no parameter: the module has {shown}{more}")


def _similar_patterns(pattern: Pattern, names: Sequence[str]) -> list[str]:
    """Return patterns that match, and differ in the text before the first or after the last star."""
    pieces = pattern.name.split("*")
    similar = []
    for i in (0, -1):
        literal = pieces[i].strip(".")
        depth = literal.count(".") + 1
        components = (name.split(".") for name in names)
        ends = dict.fromkeys(".".join(c[:depth] if i == 0 else c[-depth:]) for c in components)
        for found in get_close_matches(literal, ends, n=3, cutoff=0.5):
            other = [*pieces]
            other[i] = pieces[i].replace(literal, found)
            similar.append("*".join(other) + pattern.text.removeprefix(pattern.name))
    return [
        text
        for text in dict.fromkeys(similar)
        if any(Pattern(text).match(name) is not None for name in names)
    ]


def _flat(entries: Iterable[Any]) -> list[Any]:
    """Flatten the lists among the entries."""
    nested = [[e] if isinstance(e, str) or not isinstance(e, Sequence) else e for e in entries]
    return [item for items in nested for item in items]
