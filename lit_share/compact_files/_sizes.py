"""How many bytes a compact file takes, without writing it."""

from __future__ import annotations

import json
import zlib
from functools import cache
from typing import Any, NamedTuple

import torch
from safetensors.torch import save
from torch import nn

from lit_share.compact_files._bits import CODES, DTYPES
from lit_share.compact_files._file import _CHECKSUM, _MANIFEST
from lit_share.compact_files._module import _packed
from lit_share.compact_files._pack import Packed


class CompactSizes(NamedTuple):
    """Bytes of a module's compact file.

    Attributes:
        numbers: Bytes of the stored numbers.
        file: Bytes of the whole file, with its header.
    """

    numbers: int
    file: int


def compact_sizes(module: nn.Module) -> CompactSizes:
    """Return the bytes of the file that `save_compact` would write, without writing it.

    A header lists tensors, ties and checksums, about 250 bytes for each tensor and its name: most
    of the file of a model with few numbers.

    Args:
        module: The module.

    Raises:
        CompactFileError: If `save_compact` would raise it.

    Example:
        >>> compact_sizes(nn.Linear(30, 20)).numbers == 4 * (30 * 20 + 20)
        True
        >>> 2600 < compact_sizes(nn.Linear(30, 20)).file < 3200
        True
    """
    packed = _packed(module)
    return CompactSizes(packed.nbytes, 8 + _header_bytes(packed) + packed.nbytes)


def _header_bytes(packed: Packed) -> int:
    # The format of safetensors: JSON, padded with spaces to a multiple of 8 bytes.
    text = packed.manifest.dump()
    header: dict[str, Any] = {
        "__metadata__": {
            "format": "pt",
            _MANIFEST: text,
            _CHECKSUM: str(zlib.crc32(text.encode())),
        }
    }
    order = _order_of_dtypes()
    coded = [(CODES[entry.dtype], name, entry) for name, entry in packed.entries.items()]
    end = 0
    for code, name, entry in sorted(coded, key=lambda each: (order.index(each[0]), each[1])):
        start, end = end, end + entry.nbytes
        header[name] = {"dtype": code, "shape": [*entry.shape], "data_offsets": [start, end]}
    written = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    return -(-len(written) // 8) * 8


@cache
def _order_of_dtypes() -> list[str]:
    """Return the codes of dtypes in the order in which safetensors stores tensors of these."""
    # Large elements come first, so that all are aligned. Among equal sizes, versions differ.
    content = save({code: torch.zeros(1, dtype=dtype) for code, dtype in DTYPES.items()})
    entries = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return sorted(DTYPES, key=lambda code: entries[code]["data_offsets"])
