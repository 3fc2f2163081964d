"""Compact files: safetensors files in which each number is stored once."""

from lit_share.compact_files._error import CompactFileError
from lit_share.compact_files._file import entry_specs, is_compact, read, write
from lit_share.compact_files._layers import codebooks_among
from lit_share.compact_files._manifest import Manifest
from lit_share.compact_files._module import compact_bytes, load_compact, save_compact
from lit_share.compact_files._pack import Packed, pack, unpack
from lit_share.compact_files._sizes import CompactSizes, compact_sizes
from lit_share.compact_files._ties import saved_ties

__all__ = [
    "CompactFileError",
    "CompactSizes",
    "Manifest",
    "Packed",
    "codebooks_among",
    "compact_bytes",
    "compact_sizes",
    "entry_specs",
    "is_compact",
    "load_compact",
    "pack",
    "read",
    "save_compact",
    "saved_ties",
    "unpack",
    "write",
]
