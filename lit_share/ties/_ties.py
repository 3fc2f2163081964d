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
from lit_share.ties._names import and_more, shortened
from lit_share.ties._pattern import Pattern
from lit_share.ties._plan import Plan
from lit_share.ties._refs import BufferRef, ParameterRef, buffer_refs, parameter_refs
from lit_share.ties._suffix import WHOLE, known_brackets
from lit_share.ties._tie import Member, Tie, distinctly_named
from lit_share.ties._unaligned import find_unaligned

_SHOWN = 5

Stars = tuple[str, ...]


class Ties:
    """Which parameters of a module are tied, by patterns of their names.

    Each pattern names a member. `*` stands for any text, and for the *same* text in every pattern:

    - ``Ties("a.net.*", "b.net.*")``: each parameter of model a with its namesake in model b; three
      models need three patterns;
    - ``Ties("a.encoder.*", "b.trunk.*")``: models with different names;
    - ``Ties("layers.0.*", "layers.1.*", "layers.2.*")``: the layers of a model;
    - ``Ties("*.weight")``: ties of a single member, for plain regularisation;
    - ``Ties("encoder.weight", "decoder.weight.T")``: a matrix and the transpose of another matrix;
    - ``Ties("local.weight[:]")``: the slices of a parameter along dim 0;
    - ``Ties("fc.weight[...]")``: the numbers of a parameter, compared with each other.

    Args:
        *patterns: A pattern of parameter names per member. Lists, as in configs, are flattened.
        exclude: Patterns of parameter names; ties with a matching member are left out. Lists are
            flattened, so that a config can add a list to that of another config.

    Raises:
        TieError: If there is no pattern, the patterns have different numbers of stars, or
            ``[...]`` is not that of the only pattern.

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
        named, excluded = _flat(patterns), _flat(exclude)
        # A config without the key passes [None].
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
            if pattern.endswith("]") and Pattern(pattern).suffix == WHOLE:
                raise TieError(f"{pattern!r}: only {known_brackets()} are known")
        self.patterns = tuple(map(Pattern, named))
        self.exclude = tuple(excluded)
        inside = [own.text for own in self.patterns if own.suffix.compares_numbers]
        if inside and len(self.patterns) > 1:
            raise TieError(
                f"{inside[0]!r} compares the numbers of a parameter with each other, not with "
                f"those of other patterns: write it alone, as Ties({inside[0]!r})"
            )
        stars = {pattern.text: pattern.stars for pattern in self.patterns}
        if len(set(stars.values())) > 1:
            counts = ", ".join(f"{text!r} has {count}" for text, count in stars.items())
            raise TieError(f"the patterns of one Ties must have the same number of stars: {counts}")

    def __repr__(self) -> str:
        arguments = [repr(pattern.text) for pattern in self.patterns]
        if self.exclude:
            arguments.append(f"exclude={list(self.exclude)!r}")
        return f"Ties({', '.join(arguments)})"

    @property
    def inside(self) -> bool:
        """Whether the numbers of each parameter are compared with each other, by ``[...]``."""
        return self.patterns[0].suffix.compares_numbers

    def refuse_numbers(self, reason: str) -> None:
        """Raise `TieError` with the pattern and a reason if numbers are compared, by ``[...]``."""
        if self.inside:
            raise TieError(f"{self.patterns[0].text!r} {reason}")

    def find(self, module: nn.Module) -> list[Tie]:
        """Find the ties of ``module``, in the order of its parameters.

        Args:
            module: The module that holds all members. Patterns match the names without the
                components that `torch.compile` and activation checkpointing insert.

        Returns:
            The ties, whose members are looked up in the module by name at every use.

        Raises:
            TieError: If a pattern matches nothing, a name has no counterpart in another pattern,
                the members of a tie differ in shape, a star is ambiguous, or a member is named
                twice.
        """
        # Aliases make a single tie: language models use one weight as embedding and as head.
        distinct: dict[tuple[int, ...], tuple[Stars, list[ParameterRef]]] = {}
        for stars, refs in self.refs(module):
            distinct.setdefault(tuple(id(ref.parameter) for ref in refs), (stars, refs))
        found = [self._tie(stars, refs) for stars, refs in distinct.values()]
        self._check_named_once(found)
        return distinctly_named(found)

    def plan(self, module: nn.Module) -> Plan:
        """Return the ties of ``module`` and the parameters that hard sharing would save.

        Args:
            module: The module that holds all members.

        Returns:
            An object for `rich.print` (a table) or `print` (plain text).

        Raises:
            TieError: If the patterns do not fit the module; see `find`.
        """
        names = [ref.name for ref in (*parameter_refs(module), *buffer_refs(module))]
        unused = [text for text in self.exclude if not _matches_any(text, names)]
        found = self.find(module)
        return Plan.of(found, self.buffers(module), unused, find_unaligned(found, module))

    def refs(self, module: nn.Module) -> list[tuple[Stars, list[ParameterRef]]]:
        """Return the stars' texts with a parameter per pattern; see `find` for the errors."""
        by_name = {ref.name: ref for ref in parameter_refs(module)}
        excluded = set(filter(self._excludes, by_name))
        matches = [self._matches(pattern, by_name) for pattern in self.patterns]
        self._check_counterparts(matches, excluded)
        found: dict[Stars, list[ParameterRef]] = {}
        for match in matches:
            for stars, ref in match.items():
                found.setdefault(stars, []).append(ref)
        # A tie without one of its members would be another tie, so all of it is excluded.
        kept = [
            (stars, refs)
            for stars, refs in found.items()
            if excluded.isdisjoint(ref.name for ref in refs)
        ]
        if not kept:
            raise TieError(
                f"{self} finds nothing: exclude={list(self.exclude)!r} leaves no parameter"
            )
        return kept

    def buffers(self, module: nn.Module) -> list[list[BufferRef]]:
        """Return the buffers that correspond to each other: a buffer per pattern."""
        by_name = {ref.name: ref for ref in buffer_refs(module)}
        corresponding: dict[Stars, list[BufferRef]] = {}
        for pattern in self.patterns:
            if pattern.suffix != WHOLE:
                continue
            for name in by_name:
                stars = pattern.match(name)
                if stars is not None and not self._excludes(name):
                    corresponding.setdefault(stars, []).append(by_name[name])
        order = {name: i for i, name in enumerate(by_name)}
        # Patterns are meant for parameters, so a buffer without counterparts is no error.
        complete = [refs for refs in corresponding.values() if len(refs) == len(self.patterns) > 1]
        return sorted(complete, key=lambda refs: order[refs[0].name])

    def _excludes(self, name: str) -> bool:
        return any(_matches_any(text, [name]) for text in self.exclude)

    def _matches(
        self, pattern: Pattern, by_name: Mapping[str, ParameterRef]
    ) -> dict[Stars, ParameterRef]:
        matches: dict[Stars, ParameterRef] = {}
        for name, ref in by_name.items():
            stars = pattern.match(name)
            if stars is None:
                continue
            # In a single pattern, the texts of the stars make no difference.
            if len(self.patterns) > 1 and pattern.is_ambiguous(name):
                raise TieError(
                    f"the stars of {pattern.text!r} are ambiguous in {name!r}: write one star, or "
                    "more of the name"
                )
            matches[stars] = ref
        if not matches:
            _raise_no_match(pattern, list(by_name))
        return matches

    def _check_counterparts(
        self, matches: list[dict[Stars, ParameterRef]], excluded: set[str]
    ) -> None:
        lonely: list[str] = []
        for match in matches:
            for stars, ref in match.items():
                if ref.name in excluded:
                    continue
                for pattern, other in zip(self.patterns, matches, strict=True):
                    if stars not in other:
                        missing = f"{pattern.fill(stars)!r} in {pattern.text!r}"
                        lonely.append(f"{ref.name!r} has no counterpart {missing}")
        if lonely:
            listed = "\n  ".join(lonely[:_SHOWN]) + and_more(len(lonely) - _SHOWN, "\n  ")
            raise TieError(
                f"{self} leaves names without a counterpart:\n  {listed}\n"
                "add them to exclude=[...], in a config ties.exclude=[...]"
            )

    def _tie(self, stars: Stars, refs: list[ParameterRef]) -> Tie:
        members: list[Member] = []
        for pattern, ref in zip(self.patterns, refs, strict=True):
            members += _members(pattern, ref)
        name = refs[0].name
        if len(refs) > 1 and any(stars):
            name = ".".join(stars)
        tie = Tie(name, tuple(members))
        # `_check_named_once` refuses ties that name a member twice, all of them in one message.
        if len({member.name for member in members}) < len(members):
            return tie
        tensors = zip(members, tie.tensors(), strict=True)
        shapes = {member.name: tuple(tensor.shape) for member, tensor in tensors}
        if len(set(shapes.values())) > 1:
            listed = shortened([f"{name!r} is {shape}" for name, shape in shapes.items()], ", ")
            raise TieError(
                f"members of a tie must have one shape: {listed}; exclude them: "
                f"exclude=[{refs[0].name!r}], in a config ties.exclude=[{refs[0].name}]"
            )
        return tie

    def _check_named_once(self, found: list[Tie]) -> None:
        counts: Counter[str] = Counter()
        for tie in found:
            counts.update(member.name for member in tie.members)
        twice = [name for name, count in counts.items() if count > 1]
        if twice:
            listed = ", ".join(map(repr, twice[:_SHOWN]))
            raise TieError(
                f"{self} names a member twice: {listed}; each pattern must match parameters of its "
                "own"
            )


def _members(pattern: Pattern, ref: ParameterRef) -> list[Member]:
    """Return the members of a parameter, or raise `TieError` if it does not fit the suffix."""
    if isinstance(ref.stored, UninitializedParameter):
        raise TieError(
            f"{ref.name!r} has no shape yet: run the module once, so that its lazy layers are made"
        )
    suffix, shape = pattern.suffix, tuple(ref.tensor.shape)
    problem = suffix.problem(shape)
    if isinstance(ref.parameter, DTensor) and not suffix.takes_shards:
        problem = ", which fully_shard has sharded: use DDP"
    if problem:
        raise TieError(f"{pattern.text!r} {suffix.verb} {ref.name!r}{problem}")
    if not suffix.slices:
        return [Member(ref, suffix)]
    return [Member(ref, suffix, i) for i in range(position_count(ref.owner) or shape[0])]


def _raise_no_match(pattern: Pattern, names: list[str]) -> NoReturn:
    close = _similar_patterns(pattern, names)
    close = close or get_close_matches(pattern.name, names, n=3, cutoff=0.5)
    if close:
        options = " or ".join(map(repr, close))
        raise TieError(f"pattern {pattern.text!r} matches no parameter: did you mean {options}?")
    shown = ", ".join(map(repr, names[:_SHOWN])) or "none at all"
    shown += and_more(len(names) - _SHOWN)
    raise TieError(f"pattern {pattern.text!r} matches no parameter: the module has {shown}")


def _similar_patterns(pattern: Pattern, names: Sequence[str]) -> list[str]:
    """Return patterns that match, with a similar text before the first or after the last star."""
    # Only as many components of the names are compared as that text has.
    pieces = pattern.name.split("*")
    suffix = pattern.text.removeprefix(pattern.name)
    similar: list[str] = []
    for i in (0, -1):
        literal = pieces[i].strip(".")
        depth = literal.count(".") + 1
        outermost = {0: slice(depth), -1: slice(-depth, None)}[i]
        ends = dict.fromkeys(".".join(name.split(".")[outermost]) for name in names)
        for found in get_close_matches(literal, ends, n=3, cutoff=0.5):
            other = [*pieces]
            other[i] = pieces[i].replace(literal, found)
            similar.append("*".join(other) + suffix)
    return [text for text in dict.fromkeys(similar) if _matches_any(text, names)]


def _matches_any(text: str, names: Iterable[str]) -> bool:
    return any(Pattern(text).match(name) is not None for name in names)


def _flat(entries: Iterable[Any]) -> list[Any]:
    """Return the entries as a list, with nested lists unpacked once; a string is the only entry."""
    if isinstance(entries, str):
        return [entries]
    flat: list[Any] = []
    for entry in entries:
        if isinstance(entry, str) or not isinstance(entry, Sequence):
            flat.append(entry)
        else:
            flat += entry
    return flat
