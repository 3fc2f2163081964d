"""The tie language: which parameters ought to be alike."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

from torch import nn
from torch.nn.parameter import UninitializedParameter

from lit_share.text import described
from lit_share.ties._close import close_matches, matches_any, no_match
from lit_share.ties._distributed import is_dtensor
from lit_share.ties._error import TieError
from lit_share.ties._kinds import Kinds, owners_of
from lit_share.ties._layers import position_count
from lit_share.ties._names import and_more, shortened
from lit_share.ties._pattern import Pattern
from lit_share.ties._plan import Plan
from lit_share.ties._refs import BufferRef, ParameterRef, buffer_refs, parameter_refs
from lit_share.ties._suffix import WHOLE, known_brackets
from lit_share.ties._tie import Member, Tie, distinctly_named
from lit_share.ties._unaligned import find_unaligned, find_unlike_transposes

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

    `types` and `min_ndim` choose kinds of parameters, which names do not tell:
    ``Ties("a.*", "b.*", types=[nn.Linear, nn.Conv2d], min_ndim=2)`` ties the weights of linear
    layers and convolutions, without biases and normalisation. Wherever ties are an argument, a list
    of several `Ties` is one, too.

    Args:
        *patterns: A pattern of parameter names per member. Lists, as in configs, are flattened.
        exclude: Patterns of parameter names; ties with a matching member are left out. Lists are
            flattened, so that a config can add a list to that of another config.
        types: Classes of layers, or their names (``"torch.nn.Linear"``): only parameters that these
            hold themselves are tied. ``None``: those of all layers.
        min_ndim: The least number of dimensions of the parameters that are tied: 2 leaves out
            biases and normalisation.

    Raises:
        TieError: If there is no pattern, the patterns have different numbers of stars, ``[...]`` is
            not that of the only pattern, or an argument is of the wrong type.

    Example:
        >>> model = nn.ModuleDict({"a": nn.Linear(3, 2), "b": nn.Linear(3, 2)})
        >>> [tie.name for tie in Ties("a.*", "b.*").find(model)]
        ['weight', 'bias']
        >>> print(Ties("a.*", "b.*", min_ndim=2).plan(model))
        ties: 1, tied parameters: 12, saved by hard sharing: 6
          weight (2×3): a.weight = b.weight
    """

    def __init__(
        self,
        *patterns: str | Sequence[str],
        exclude: str | Sequence[str | Sequence[str]] = (),
        types: type[nn.Module] | str | Sequence[type[nn.Module] | str] | None = None,
        min_ndim: int = 0,
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
                    f"a pattern must be a string, got {described(pattern)}: write "
                    "Ties('a.*', 'b.*')"
                )
            if pattern.endswith("]") and Pattern(pattern).suffix == WHOLE:
                raise TieError(f"{pattern!r}: only {known_brackets()} are known")
        self.patterns = tuple(map(Pattern, named))
        self.exclude = tuple(excluded)
        self.kinds = Kinds.of(_flat(() if types is None else types), min_ndim)
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
        return f"Ties({', '.join([*arguments, *self.kinds.arguments])})"

    @property
    def parts(self) -> tuple[Ties, ...]:
        """The `Ties` that these ties consist of: itself, or those of a list."""
        return (self,)

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
                the members of a tie differ in shape or kind, a star is ambiguous, or a member is
                named twice.

        Warns:
            UserWarning: If a pattern of ``exclude`` matches nothing, or a class of ``types`` holds
                no parameter that the patterns match.
        """
        for remark in self.unused(module).values():
            warnings.warn(f"{self}: {remark}", stacklevel=2)
        return self.find_silently(module)

    def find_silently(self, module: nn.Module) -> list[Tie]:
        """Return the ties without warnings, for those who tell what is unused themselves."""
        # Aliases make a single tie: language models use one weight as embedding and as head.
        distinct: dict[tuple[int, ...], tuple[Stars, list[ParameterRef]]] = {}
        for stars, refs in self.refs(module):
            distinct.setdefault(tuple(id(ref.parameter) for ref in refs), (stars, refs))
        self._check_members([refs for _, refs in distinct.values()])
        found = [self._tie(stars, refs) for stars, refs in distinct.values()]
        self._check_named_once(found)
        self._check_shapes(found)
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
        found = self.find_silently(module)
        unused, unaligned = self.unused(module), find_unaligned(found, module)
        unlike = find_unlike_transposes(found)
        return Plan.of(found, self.buffers(module), unused, unaligned, unlike)

    def unused(self, module: nn.Module) -> dict[str, str]:
        """Return a remark on each pattern of ``exclude`` and each type that fits nothing, by it."""
        if not self.exclude and not self.kinds.types:
            return {}
        refs = list(parameter_refs(module))
        names = [ref.name for ref in (*refs, *buffer_refs(module))]
        remarks: dict[str, str] = {}
        for text in self.exclude:
            if not matches_any(text, names):
                remark = f"exclude matches nothing: {text!r}"
                close = close_matches(Pattern(text), names)
                if close:
                    remark += f", did you mean {' or '.join(map(repr, close))}?"
                remarks[text] = remark
        matched = [r for r in refs if any(p.match(r.name) is not None for p in self.patterns)]
        return remarks | self.kinds.unused(matched)

    def refs(self, module: nn.Module) -> list[tuple[Stars, list[ParameterRef]]]:
        """Return the stars' texts with a parameter per pattern; see `find` for the errors."""
        by_name = {ref.name: ref for ref in parameter_refs(module)}
        matches = [self._matches(pattern, module, by_name) for pattern in self.patterns]
        excluded = set(filter(self._excludes, by_name))
        others = {name for name, ref in by_name.items() if not self.kinds.includes(ref)}
        self._check_counterparts(matches, excluded | others)
        found: dict[Stars, list[ParameterRef]] = {}
        for match in matches:
            for stars, ref in match.items():
                found.setdefault(stars, []).append(ref)
        # A tie without one of its members would be another tie, so all of it is excluded.
        included = [
            (stars, refs)
            for stars, refs in found.items()
            if excluded.isdisjoint(ref.name for ref in refs)
        ]
        kept = [(s, refs) for s, refs in included if not {ref.name for ref in refs} <= others]
        if not kept:
            raise TieError(self._nothing_left(list(chain.from_iterable(r for _, r in included))))
        self._check_kinds([refs for _, refs in kept], others)
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
                if stars is None or self._excludes(name):
                    continue
                if self.kinds.includes(by_name[name]):
                    corresponding.setdefault(stars, []).append(by_name[name])
        order = {name: i for i, name in enumerate(by_name)}
        # Patterns are meant for parameters, so a buffer without counterparts is no error.
        complete = [refs for refs in corresponding.values() if len(refs) == len(self.patterns) > 1]
        return sorted(complete, key=lambda refs: order[refs[0].name])

    def _excludes(self, name: str) -> bool:
        return any(matches_any(text, [name]) for text in self.exclude)

    def _matches(
        self, pattern: Pattern, module: nn.Module, by_name: Mapping[str, ParameterRef]
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
            buffers = [buffer.name for buffer in buffer_refs(module)]
            raise TieError(no_match(pattern, list(by_name), buffers))
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

    def _nothing_left(self, refs: Sequence[ParameterRef]) -> str:
        """Return the message for ties of which all are excluded, or of other kinds."""
        arguments = self.kinds.arguments
        if self.exclude:
            arguments = [f"exclude={list(self.exclude)!r}", *arguments]
        leave = "leaves"
        if len(arguments) > 1:
            leave = "leave"
        text = f"{self} finds nothing: {' and '.join(arguments)} {leave} no parameter"
        if refs and self.kinds.types:
            text += f", as the layers that hold them are: {owners_of(refs)}"
        return text

    def _check_kinds(self, found: list[list[ParameterRef]], others: set[str]) -> None:
        mixed: list[str] = []
        for refs in found:
            other = next((ref for ref in refs if ref.name in others), None)
            if other is not None:
                kept = next(ref for ref in refs if ref.name not in others)
                described = self.kinds.described
                mixed.append(
                    f"{kept.name!r} is {described(kept)}, but {other.name!r} {described(other)}"
                )
        if mixed:
            listed = "\n  ".join(mixed[:_SHOWN]) + and_more(len(mixed) - _SHOWN, "\n  ")
            raise TieError(
                f"{self} has ties of which some members are not of these kinds:\n  {listed}\n"
                "add the classes to types=[...], or the names to exclude=[...]"
            )

    def _check_members(self, found: list[list[ParameterRef]]) -> None:
        """Raise `TieError`, naming all, if parameters do not fit the suffixes of their patterns."""
        problems: dict[str, str] = {}
        for refs in found:
            for pattern, ref in zip(self.patterns, refs, strict=True):
                problem = _problem(pattern, ref)
                if problem:
                    text = f"{pattern.text!r} {pattern.suffix.verb} {ref.name!r}{problem}"
                    problems.setdefault(ref.name, text)
        if len(problems) == 1:
            raise TieError(next(iter(problems.values())))
        if problems:
            listed = _all_of(list(problems.values()))
            raise TieError(f"{self} does not fit:{listed}{_exclude_all(list(problems))}")

    def _tie(self, stars: Stars, refs: list[ParameterRef]) -> Tie:
        members: list[Member] = []
        for pattern, ref in zip(self.patterns, refs, strict=True):
            members += _members(pattern, ref)
        name = refs[0].name
        if len(refs) > 1 and any(stars):
            name = ".".join(stars)
        return Tie(name, tuple(members))

    def _check_shapes(self, found: list[Tie]) -> None:
        """Raise `TieError`, naming all ties whose members differ in shape."""
        different: dict[str, str] = {}
        for tie in found:
            tensors = zip(tie.members, tie.tensors(), strict=True)
            shapes = {member.name: tuple(tensor.shape) for member, tensor in tensors}
            if len(set(shapes.values())) > 1:
                listed = shortened([f"{name!r} is {shape}" for name, shape in shapes.items()], ", ")
                different[tie.members[0].ref.name] = listed
        if different:
            listed = _all_of(list(different.values()))
            exclude = _exclude_all(list(different))
            raise TieError(f"members of a tie must have one shape:{listed}{exclude}")

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


def _problem(pattern: Pattern, ref: ParameterRef) -> str:
    """Return why a parameter does not fit the pattern's suffix; empty if it does.

    Raise `TieError` if it has no shape yet.
    """
    if isinstance(ref.stored, UninitializedParameter):
        raise TieError(
            f"{ref.name!r} has no shape yet: run the module once, so that its lazy layers are made"
        )
    suffix = pattern.suffix
    if is_dtensor(ref.parameter) and not suffix.takes_shards:
        return ", which fully_shard has sharded: use DDP"
    return suffix.problem(tuple(ref.tensor.shape))


def _members(pattern: Pattern, ref: ParameterRef) -> list[Member]:
    suffix = pattern.suffix
    if not suffix.slices:
        return [Member(ref, suffix)]
    count = position_count(ref.owner) or ref.tensor.shape[0]
    return [Member(ref, suffix, i) for i in range(count)]


def _all_of(lines: Sequence[str]) -> str:
    if len(lines) == 1:
        return f" {lines[0]}"
    return "\n  ".join(["", *lines[:_SHOWN]]) + and_more(len(lines) - _SHOWN, "\n  ")


def _exclude_all(names: Sequence[str]) -> str:
    """Return the end of a message that says how to exclude these parameters, all of them."""
    # A line of its own is easier to copy if there are several.
    begin = "\n"
    if len(names) == 1:
        begin = "; "
    config = f"ties.exclude=[{','.join(names)}]"
    return f"{begin}exclude them: exclude={list(names)!r}, in a config {config}"


def _flat(entries: Any) -> list[Any]:
    """Return the entries as a list, with nested lists unpacked once.

    Anything but a list or tuple is the only entry.
    """
    if isinstance(entries, str) or not isinstance(entries, Sequence):
        return [entries]
    flat: list[Any] = []
    for entry in entries:
        if isinstance(entry, str) or not isinstance(entry, Sequence):
            flat.append(entry)
        else:
            flat += entry
    return flat
