"""Write and read compact files: safetensors files with a manifest."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from safetensors import SafetensorError
from safetensors.torch import save_file

from lit_share.compact_files._bits import checksum
from lit_share.compact_files._content import read_entries, read_header
from lit_share.compact_files._error import CompactFileError
from lit_share.compact_files._layout import layout
from lit_share.compact_files._manifest import Manifest
from lit_share.compact_files._pack import Packed
from lit_share.compact_files._stored import Spec
from lit_share.files import beside, open_regular
from lit_share.text import visible

# Messages quote names from files, which may be of any length.
_MAX_CHARACTERS = 800
_MANIFEST, _CHECKSUM = "lit_share", "lit_share_crc32"

PathLike = str | os.PathLike[str]


def write(packed: Packed, path: PathLike) -> None:
    """Write a compact file atomically.

    Args:
        packed: The result of `pack`.
        path: The file, which is replaced if it exists.

    Raises:
        OSError: If the file cannot be written. An existing file is then unchanged.
    """
    text = packed.manifest.dump()
    metadata = {"format": "pt", _MANIFEST: text, _CHECKSUM: str(zlib.crc32(text.encode()))}
    entries, memory = dict(packed.entries), set()
    for name, entry in entries.items():
        # safetensors refuses tensors that share memory, as views of the same buffer do.
        if entry.data_ptr() in memory:
            entries[name] = entry.clone()
        memory.add(entry.data_ptr())
    try:
        with beside(path) as unfinished:
            save_file(entries, unfinished, metadata)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OSError(f"cannot write {str(path)!r}: {reason}") from None


def read(path: PathLike) -> Packed:
    """Read a compact file, and check dtype, shape and checksum of each entry.

    Args:
        path: The file.

    Returns:
        The entries that the manifest demands, and the manifest.

    Raises:
        OSError: If the file cannot be opened.
        CompactFileError: If it is not a compact file, or is damaged.
    """
    with _opened(path) as file, naming(path):
        try:
            header = read_header(file)
        except CompactFileError:
            # torch.save writes zip files, and a checkpoint is the likeliest mistake.
            if zipfile.is_zipfile(file):
                problem = "is not a compact file but a checkpoint: write lit-share compact"
                raise CompactFileError(problem) from None
            raise
        manifest = _manifest(header.metadata)
        # The header is checked before any data are read.
        needed = {entry.name: entry.spec for entry in layout(manifest.tensors)}
        names = needed.keys() | header.specs.keys()
        wrong = [name for name in names if needed.get(name) != header.specs.get(name)]
        if wrong:
            problem = f"its entry {min(wrong)!r} is not what its manifest says"
            raise CompactFileError(f"is damaged: {problem}")
        if manifest.checksums.keys() != needed.keys():
            problem = "its manifest has not one checksum for each entry"
            raise CompactFileError(f"is damaged: {problem}")
        entries = read_entries(file, header)
        for name, tensor in entries.items():
            if checksum(tensor) != manifest.checksums[name]:
                problem = f"its entry {name!r} has another checksum than when it was written"
                raise CompactFileError(f"is damaged: {problem}")
        return Packed(entries, manifest)


def is_compact(path: PathLike) -> bool:
    """Whether the file is a safetensors file with a manifest, valid or not."""
    with _opened(path) as file:
        try:
            return _MANIFEST in read_header(file).metadata
        except CompactFileError:
            return False


def entry_specs(path: PathLike) -> dict[str, Spec] | None:
    """Return dtype and shape of each entry of any safetensors file; `None` for other formats."""
    with _opened(path) as file:
        try:
            return read_header(file).specs
        except CompactFileError:
            return None


def _opened(path: PathLike) -> BinaryIO:
    try:
        return open_regular(path)
    except ValueError as error:
        raise CompactFileError(str(error)) from None


@contextmanager
def naming(path: PathLike) -> Iterator[None]:
    """Put the path before the message of a `CompactFileError`."""
    try:
        yield
    except CompactFileError as error:
        # The message may quote the file, and a terminal obeys control characters. What follows is
        # cut off before, as well, because a name may have as many letters as the file has.
        message = visible(str(error)[: _MAX_CHARACTERS + 1])
        if len(message) > _MAX_CHARACTERS:
            message = f"{message[:_MAX_CHARACTERS]} …"
        raise CompactFileError(f"{str(path)!r} {message}") from None


def _manifest(metadata: dict[str, str]) -> Manifest:
    text = metadata.get(_MANIFEST)
    if text is None:
        raise CompactFileError(
            "has no manifest, so it was not written by save_compact: "
            "read it with safetensors.torch.load_file"
        )
    # Flipped bits may leave a valid manifest that describes other tensors.
    if metadata.get(_CHECKSUM) != str(zlib.crc32(text.encode())):
        problem = "its manifest has another checksum than when it was written"
        raise CompactFileError(f"is damaged: {problem}")
    return Manifest.parse(text)
