"""Compact files: safetensors files in which each number is stored once."""

from lit_share.sharing.compact._error import CompactFileError
from lit_share.sharing.compact._file import read, write
from lit_share.sharing.compact._manifest import Manifest
from lit_share.sharing.compact._module import compact_bytes, load_compact, save_compact
from lit_share.sharing.compact._pack import Packed, pack, unpack

__all__ = [
    "CompactFileError",
    "Manifest",
    "Packed",
    "compact_bytes",
    "load_compact",
    "pack",
    "read",
    "save_compact",
    "unpack",
    "write",
]
