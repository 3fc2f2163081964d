"""Which entries of a file the tensors of a manifest need."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from lit_share.compact_files._stored import Spec, Stored


class Entry(NamedTuple):
    """An entry of the file: its name, the tensor that needs it and what for, its dtype and shape."""

    name: str
    tensor: str
    suffix: str
    spec: Spec


def layout(tensors: Mapping[str, Stored]) -> Iterator[Entry]:
    """All entries that the tensors need."""
    mark = _mark(tensors)
    for name, stored, earlier in in_order(tensors):
        for suffix, spec in stored.entries(earlier).items():
            yield Entry(f"{name}{mark}{suffix}" if suffix else name, name, suffix, spec)


def in_order(tensors: Mapping[str, Stored]) -> Iterator[tuple[str, Stored, Mapping[str, Stored]]]:
    """The tensors, each with all those before it."""
    earlier: dict[str, Stored] = {}
    for name, stored in tensors.items():
        yield name, stored, earlier
        earlier[name] = stored


def _mark(names: Iterable[str]) -> str:
    """What sets a suffix off: more #s than any name has in a row, so that no other name is equal."""
    return "#" * (
        1 + max((len(run) for name in names for run in re.findall("#+", name)), default=0)
    )
