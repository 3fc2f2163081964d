"""Compact files: safetensors files with a manifest."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from lit_share.compact_files._bits import checksum
from lit_share.compact_files._error import CompactFileError
from lit_share.compact_files._layout import layout
from lit_share.compact_files._manifest import Manifest
from lit_share.compact_files._pack import Packed
from lit_share.text import visible

_MOST_LETTERS = 800
_MANIFEST, _CHECKSUM = "lit_share", "lit_share_crc32"

PathLike = str | os.PathLike[str]


def write(packed: Packed, path: PathLike) -> None:
    """Write a compact file: all of it, or nothing, so that what was there before is never half overwritten.

    Args:
        packed: What `pack` returned.
        path: The file; one that exists is replaced.

    Raises:
        OSError: If it cannot be written.
    """
    target = Path(path).resolve()  # what a link points to is replaced, not the link
    temporary = target.with_name(f".{uuid4().hex}.tmp")
    text = packed.manifest.dump()
    metadata = {"format": "pt", _MANIFEST: text, _CHECKSUM: str(zlib.crc32(text.encode()))}
    entries, memory = dict(packed.entries), set()
    for name, entry in entries.items():
        if entry.data_ptr() in memory:
            entries[name] = (
                entry.clone()
            )  # safetensors refuses tensors that share memory, as views of one buffer do
        memory.add(entry.data_ptr())
    try:
        temporary.touch()
        mode = (target if target.exists() else temporary).stat().st_mode
        save_file(entries, temporary, metadata)
        temporary.chmod(mode)  # safetensors makes files that nobody else can read
        temporary.replace(target)
    except (OSError, SafetensorError) as error:
        raise OSError(
            f"cannot write {str(path)!r}: {getattr(error, 'strerror', None) or error}"
        ) from None
    finally:
        temporary.unlink(missing_ok=True)


def read(path: PathLike) -> Packed:
    """Read a compact file, and check that it is whole.

    Args:
        path: The file.

    Returns:
        Its entries, which are all of the dtypes and shapes that its manifest demands, with the right checksums.

    Raises:
        OSError: If it cannot be opened.
        CompactFileError: If it is not a compact file, or is damaged.
    """
    with naming(path):
        if Path(path).exists() and not (Path(path).is_file() or Path(path).is_dir()):
            raise CompactFileError("is not a file but a device or a pipe, which may have no end")
        with Path(path).open("rb"):
            pass  # the usual errors for a file that is not there, or a folder
        try:
            with safe_open(path, framework="pt") as file:
                manifest = _manifest(file.metadata() or {})
                needed = {entry.name: entry.spec for entry in layout(manifest.tensors)}
                found = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
                kinds = {
                    name: (entry.get_dtype(), tuple(entry.get_shape()))
                    for name, entry in found.items()
                }
                if wrong := sorted(
                    name
                    for name in needed.keys() | kinds.keys()
                    if needed.get(name) != kinds.get(name)
                ):
                    raise CompactFileError(
                        f"is damaged: its entry {wrong[0]!r} is not what its manifest says"
                    )
                if manifest.checksums.keys() != needed.keys():
                    raise CompactFileError(
                        "is damaged: its manifest has not one checksum for each entry"
                    )
                entries = {name: file.get_tensor(name) for name in needed}
        except SafetensorError as error:
            if zipfile.is_zipfile(path):
                raise CompactFileError(
                    "is not a compact file but a checkpoint: write lit-share compact"
                ) from None
            raise CompactFileError(
                f"is not a safetensors file, or is damaged or cut off: {error}"
            ) from None
        for name, entry in entries.items():
            if checksum(entry) != manifest.checksums[name]:
                raise CompactFileError(
                    f"is damaged: its entry {name!r} has another checksum than when it was written"
                )
        return Packed(entries, manifest)


def is_compact(path: PathLike) -> bool:
    """Whether a file is a safetensors file with a manifest, be it a right one or not."""
    try:
        with safe_open(path, framework="pt") as file:
            return _MANIFEST in (file.metadata() or {})
    except SafetensorError:
        return False


@contextmanager
def naming(path: PathLike) -> Iterator[None]:
    """Put the file's name before the message of a `CompactFileError`, which may have names from the file in it."""
    try:
        yield
    except CompactFileError as error:
        message = visible(str(error))
        if len(message) > _MOST_LETTERS:
            message = f"{message[:_MOST_LETTERS]} …"
        raise CompactFileError(f"{str(path)!r} {message}") from None


def _manifest(metadata: dict[str, str]) -> Manifest:
    text = metadata.get(_MANIFEST)
    if text is None:
        raise CompactFileError(
            "has no manifest, so it was not written by save_compact: read it with safetensors.torch.load_file"
        )
    if metadata.get(_CHECKSUM) != str(zlib.crc32(text.encode())):
        raise CompactFileError(
            "is damaged: its manifest has another checksum than when it was written"
        )
    return Manifest.parse(text)
