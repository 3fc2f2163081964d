"""Let one process at a time work in a folder."""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from io import FileIO
from pathlib import Path

try:
    import fcntl
# Windows has none.
except ImportError:
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

LOCK_FILE = ".lock"
# A filesystem without locks says one of these.
_HAS_NONE = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL}


class InUseError(ValueError):
    """Another process works in the folder; the message says who, and since when."""


@contextmanager
def locked(folder: str | os.PathLike[str], work: str) -> Iterator[None]:
    """Lock a folder while the block runs.

    The kernel releases the lock when the process ends, however it ends. Processes that this one
    forks do not hold it. On network filesystems it holds for all machines if the filesystem has
    locks, as NFS has; if it has none, that is logged, and nothing is locked.

    Args:
        folder: The folder, which exists; the file ``.lock`` stays in it.
        work: What this process does there, for the message of others, such as ``"a sweep"``.

    Raises:
        InUseError: If another process, or another block, has locked it.
        OSError: If the file cannot be written.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder, locked(folder, "a sweep"):
        ...     with locked(folder, "another one"):
        ...         pass
        Traceback (most recent call last):
            ...
        lit_share.files._lock.InUseError: ...: a sweep works there since ...
    """
    path = Path(folder, LOCK_FILE)
    file = FileIO(path, "a+")
    _opened.add(file)
    try:
        if _lock(file, path):
            _write(file, work)
        yield
    finally:
        _opened.discard(file)
        file.close()


def _lock(file: FileIO, path: Path) -> bool:
    """Return whether there are locks; raise `InUseError` if others have this one."""
    try:
        if fcntl is None:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InUseError(f"{path.parent}: {_holder(path)}") from None
    except OSError as error:
        if error.errno not in _HAS_NONE:
            raise
        log.warning(
            "%s is on a filesystem without locks (%s): start nothing else there meanwhile",
            path.parent,
            error.strerror,
        )
        return False
    return True


def _write(file: FileIO, work: str) -> None:
    since = datetime.now().astimezone().isoformat(" ", timespec="seconds")
    content = {"work": work, "host": socket.gethostname(), "pid": os.getpid(), "since": since}
    # In place, as another file of this name would have another lock.
    file.truncate(0)
    file.write(json.dumps(content).encode())


def _holder(path: Path) -> str:
    # Another process may be writing, or may have died while it wrote.
    with suppress(OSError, ValueError, KeyError, TypeError):
        content = json.loads(path.read_text(encoding="utf-8"))
        return "{work} works there since {since}, process {pid} on {host}".format(**content)
    return "another process works there"


# Open files of the locks of this process.
_opened: set[FileIO] = set()


def _release_in_child() -> None:
    # A process that was forked, such as a worker of a loader, may live longer than this one.
    for file in _opened:
        file.close()
    _opened.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_release_in_child)
