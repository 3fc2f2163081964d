"""Several `Ties` as one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import chain

from torch import nn
from typing_extensions import override

from lit_share.ties._error import TieError
from lit_share.ties._refs import BufferRef, ParameterRef
from lit_share.ties._tie import Tie, distinctly_named
from lit_share.ties._ties import Stars, Ties


class JoinedTies(Ties):
    """The ties of several `Ties`, which have no member in common.

    Args:
        parts: The `Ties`, at least one. A single one stands for itself.
    """

    def __init__(self, parts: Sequence[Ties]) -> None:
        self._parts = tuple(parts)
        self.patterns = tuple(chain.from_iterable(part.patterns for part in parts))
        self.exclude = tuple(chain.from_iterable(part.exclude for part in parts))

    @override
    def __repr__(self) -> str:
        return f"[{', '.join(map(repr, self.parts))}]"

    @property
    @override
    def parts(self) -> tuple[Ties, ...]:
        return self._parts

    @property
    @override
    def inside(self) -> bool:
        return all(part.inside for part in self.parts)

    @override
    def refuse_numbers(self, reason: str) -> None:
        for part in self.parts:
            part.refuse_numbers(reason)

    @override
    def find_silently(self, module: nn.Module) -> list[Tie]:
        found = list(chain.from_iterable(part.find_silently(module) for part in self.parts))
        self._check_in_one_part(found)
        return distinctly_named(found)

    @override
    def unused(self, module: nn.Module) -> dict[str, str]:
        unused: dict[str, str] = {}
        for part in self.parts:
            unused |= part.unused(module)
        return unused

    @override
    def refs(self, module: nn.Module) -> list[tuple[Stars, list[ParameterRef]]]:
        return list(chain.from_iterable(part.refs(module) for part in self.parts))

    @override
    def buffers(self, module: nn.Module) -> list[list[BufferRef]]:
        return list(chain.from_iterable(part.buffers(module) for part in self.parts))

    def _check_in_one_part(self, found: Sequence[Tie]) -> None:
        # One proximal step would undo what the other one has made equal.
        counts = Counter(member.name for member in chain.from_iterable(t.members for t in found))
        twice = [name for name, count in counts.items() if count > 1]
        if twice:
            raise TieError(
                f"several of {self} name {twice[0]!r}: write one Ties with a pattern for each "
                "member, exclude it in the others, or give each Ties a callback"
            )
