"""Write a file beside its place, and put it there in one step."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from stat import S_IMODE
from uuid import uuid4

# Short, so that a name of any length that a filesystem takes has room for it.
_PREFIX, _SUFFIX = ".lit-share-", ".tmp"


@contextmanager
def beside(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield an empty file in the same folder, which replaces ``path`` when the block ends.

    If the block raises, or the process dies, ``path`` stays what it was. The yielded file's name is
    unique, so that several processes may write ``path`` at once: the last one wins, and no file is
    a mixture. A symbolic link stays a link, and permissions stay what they were.

    Args:
        path: The file to write. A device or a pipe, such as ``/dev/stdout``, is yielded itself.

    Raises:
        OSError: If the file cannot be written. The message names ``path``.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     with beside(f"{folder}/note.txt") as unfinished:
        ...         _ = unfinished.write_text("all of it")
        ...     Path(folder, "note.txt").read_text()
        'all of it'
    """
    target = Path(path).resolve()
    if target.exists() and not (target.is_file() or target.is_dir()):
        # What went into a pipe cannot be replaced, and there is nothing beside a device.
        yield Path(path)
        return
    unfinished = target.with_name(f"{_PREFIX}{uuid4().hex}{_SUFFIX}")
    try:
        unfinished.touch()
        mode = S_IMODE(unfinished.stat().st_mode)
        yield unfinished
        if target.exists():
            mode = S_IMODE(target.stat().st_mode)
        # Writers such as safetensors make files that only their owner can read.
        if S_IMODE(unfinished.stat().st_mode) != mode:
            unfinished.chmod(mode)
        unfinished.replace(target)
    except OSError as error:
        if error.errno is None:
            raise
        # The user knows the file's name, but not the temporary one.
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        with suppress(OSError):
            unfinished.unlink()


def write_text(path: str | os.PathLike[str], text: str) -> None:
    r"""Write a text file in UTF-8 as `beside` does; line ends stay as they are in ``text``.

    Raises:
        OSError: If the file cannot be written.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     write_text(f"{folder}/table.csv", "strategy,mean\r\n")
        ...     Path(folder, "table.csv").read_bytes()
        b'strategy,mean\r\n'
    """
    with beside(path) as unfinished, unfinished.open("w", encoding="utf-8", newline="") as file:
        file.write(text)


def remove_unfinished(folder: str | os.PathLike[str]) -> None:
    """Remove files that processes which died had begun to write to a folder.

    No process may be writing to the folder.

    Args:
        folder: The folder, which need not exist. Folders in it are left as they are.
    """
    for path in Path(folder).glob(f"{_PREFIX}*{_SUFFIX}"):
        path.unlink(missing_ok=True)
