"""What Python does on behalf of the code under test: files, programs, imports, code."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

WATCHED = (
    "compile", "ctypes.dlopen", "exec", "import", "marshal.loads", "open", "os.chmod", "os.exec",
    "os.fork", "os.link", "os.mkdir", "os.posix_spawn", "os.remove", "os.rename", "os.rmdir",
    "os.startfile", "os.symlink", "os.system", "os.truncate", "pickle.find_class", "shutil.rmtree",
    "socket.connect", "socket.getaddrinfo", "subprocess.Popen",
)  # fmt: skip

Event = tuple[str, tuple]

_found: list[Event] | None = None
_installed = False


def _hook(event: str, arguments: tuple) -> None:
    if _found is not None and event in WATCHED:
        _found.append((event, arguments))


@contextmanager
def audited() -> Iterator[list[Event]]:
    """Record the events of the block. A hook cannot be removed, so there is a single one."""
    global _found, _installed
    if not _installed:
        sys.addaudithook(_hook)
        _installed = True
    _found = events = []
    try:
        yield events
    finally:
        _found = None
