"""List the entries of a file that the tensors of a manifest need."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from lit_share.compact_files._stored import Spec, Stored


class Entry(NamedTuple):
    """An entry of the file, the tensor that needs it, and its role in that tensor (the suffix)."""

    name: str
    tensor: str
    suffix: str
    spec: Spec


def layout(tensors: Mapping[str, Stored]) -> Iterator[Entry]:
    """Yield all entries that the tensors need."""
    separator = _separator(tensors)
    for name, stored, earlier in in_order(tensors):
        for suffix, spec in stored.entries(earlier).items():
            # A tensor stored as it is keeps its name, so that any reader of safetensors finds it.
            key = f"{name}{separator}{suffix}" if suffix else name
            yield Entry(key, name, suffix, spec)


def in_order(tensors: Mapping[str, Stored]) -> Iterator[tuple[str, Stored, Mapping[str, Stored]]]:
    """Yield the name of each tensor, how it is stored, and all earlier tensors by name."""
    earlier: dict[str, Stored] = {}
    for name, stored in tensors.items():
        yield name, stored, earlier
        earlier[name] = stored


def _separator(names: Iterable[str]) -> str:
    # A name may contain #s. With a run that is longer than theirs, no two keys are equal.
    longest = 0
    for name in names:
        longest = max(longest, *map(len, re.findall("#+", name)), 0)
    return "#" * (1 + longest)
