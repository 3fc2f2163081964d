"""Open a file that has an end."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a regular file to read its bytes, without waiting for anybody.

    Args:
        path: The file, or a link to one.

    Returns:
        The opened file.

    Raises:
        OSError: If the file is missing, is a folder, or may not be read.
        ValueError: If it is a device, a pipe or a socket, which may have no end. It is then not
            opened, which could wait for a writer.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     _ = Path(folder, "note.txt").write_text("all of it")
        ...     with open_regular(Path(folder, "note.txt")) as file:
        ...         file.read()
        b'all of it'
    """
    mode = Path(path).stat().st_mode
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        # Python's own error says of a folder that it is one.
        file = open(path, "rb", opener=_without_waiting)  # noqa: SIM115
        # Somebody may have put a pipe in its place.
        if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            return file
        file.close()
    raise ValueError(f"{str(path)!r} is not a file but a device or a pipe, which may have no end")


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
