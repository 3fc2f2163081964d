"""Read a safetensors file through a single open file, without mapping it into memory.

A mapped file is read again at each use: what was verified may have changed since, and a file that
became shorter kills the process with SIGBUS. safetensors maps every file that it opens.
"""

from __future__ import annotations

import math
import os
import struct
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import torch
from pydantic_core import from_json
from torch import Tensor

from lit_share.compact_files._bits import DTYPES, bits
from lit_share.compact_files._error import CompactFileError
from lit_share.compact_files._stored import Spec

# The limit of safetensors.
_MAX_HEADER_BYTES = 100_000_000
_MAX_DIMENSIONS = 64


@dataclass(frozen=True)
class Header:
    """The header of a safetensors file.

    Attributes:
        metadata: Texts by name.
        specs: Dtype and shape of each entry by name, in the order of their data.
    """

    metadata: dict[str, str]
    specs: dict[str, Spec]


def read_header(file: BinaryIO) -> Header:
    """Read the header, and check that its entries fill the file.

    Raises:
        CompactFileError: If the file is not a safetensors file, or is cut off.
    """
    total = os.fstat(file.fileno()).st_size
    start = file.read(8)
    if len(start) < 8:
        raise _broken("it is shorter than 8 bytes")
    (size,) = struct.unpack("<Q", start)
    if size > min(total - 8, _MAX_HEADER_BYTES):
        raise _broken("its header is said to be longer than it could be")
    # Files of other formats are read no further.
    if file.read(1) != b"{":
        raise _broken("its header does not begin with a brace")
    try:
        content = from_json(b"{" + file.read(size - 1), allow_inf_nan=False, cache_strings=False)
    except ValueError as error:
        raise _broken(f"its header is not valid: {error}") from None
    metadata = content.pop("__metadata__", None)
    if metadata is None:
        metadata = {}
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise _broken("its metadata are not texts")
    entries = sorted((*_offsets(name, entry), name) for name, entry in content.items())
    end = 0
    for begin, entry_end, name in entries:
        if begin != end:
            raise _broken(f"its entry {name!r} does not begin where the one before it ends")
        end = entry_end
    if end != total - 8 - size:
        raise _broken("its entries are not as long as its data")
    specs = {name: (content[name]["dtype"], tuple(content[name]["shape"])) for *_, name in entries}
    return Header(metadata, specs)


def read_entries(file: BinaryIO, header: Header) -> dict[str, Tensor]:
    """Read all entries, after `read_header`, whose dtypes are all known.

    Raises:
        CompactFileError: If the file has become shorter, or there is not enough memory.
    """
    entries = {}
    for name, (dtype, shape) in header.specs.items():
        try:
            entries[name] = torch.empty(shape, dtype=DTYPES[dtype], device="cpu")
        except RuntimeError:
            nbytes = math.prod(shape) * DTYPES[dtype].itemsize
            problem = f"needs {nbytes:,} bytes of memory for its entry {name!r}, which are not free"
            raise CompactFileError(problem) from None
        memory = bits(entries[name]).reshape(-1).view(np.uint8)
        if file.readinto(memory.data) < len(memory):  # type: ignore[attr-defined]
            raise _broken("it became shorter while it was read")
    return entries


def _offsets(name: str, entry: Any) -> tuple[int, int]:
    """Return where an entry's data begin and end."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise _broken(f"its entry {name!r} has not a dtype, a shape and two offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not _are_counts(shape) or not _are_counts(offsets) or len(offsets) != 2:
        raise _broken(f"the shape or the offsets of its entry {name!r} are no numbers of elements")
    if not isinstance(dtype, str):
        raise _broken(f"the dtype of its entry {name!r} is not a text")
    begin, end = offsets
    # Other dtypes may be those of newer versions, which a manifest of this one does not name.
    if dtype in DTYPES and end - begin != math.prod(shape) * DTYPES[dtype].itemsize:
        raise _broken(f"its entry {name!r} has not as many bytes as its shape says")
    return begin, end


def _are_counts(values: Any) -> bool:
    # The product of very many or very long numbers would take time without bound.
    if not isinstance(values, list) or len(values) > _MAX_DIMENSIONS:
        return False
    return all(type(value) is int and 0 <= value < 2**63 for value in values)


def _broken(reason: str) -> CompactFileError:
    return CompactFileError(f"is not a safetensors file, or is damaged or cut off: {reason}")
