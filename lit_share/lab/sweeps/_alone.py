"""One process works in the directory of a sweep, and one in the folder of a run."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from lit_share.files import InUseError, locked
from lit_share.lab.sweeps._cells import known_cells


@contextmanager
def alone_in(folder: Path, work: str) -> Iterator[None]:
    """Lock a folder while the block runs; exit with 2 if another process works there.

    Args:
        folder: The folder, which exists.
        work: What this process does there: see `lit_share.files.locked`.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(folder, work))
        except InUseError as error:
            print(f"{error}: wait for it or stop it, or name another folder", file=sys.stderr)
            sys.exit(2)
        yield


@contextmanager
def alone_in_run(folder: Path, is_cell: bool) -> Iterator[None]:
    """Lock the folder of a run, and the directory of the sweep if it is a folder of its cells.

    Args:
        folder: The folder, which exists.
        is_cell: Whether a sweep runs in this process or has started it, and so has its directory.

    Raises:
        InUseError: If another process trains this cell of a sweep; single runs exit with 2.
    """
    if is_cell:
        # Jobs of a cluster may outlive the sweep that has submitted them. The sweep that submits
        # others goes on with other cells.
        with locked(folder, "a cell of a sweep"):
            yield
        return
    with ExitStack() as stack:
        parent = folder.absolute().parent
        if folder.name in known_cells(parent):
            stack.enter_context(alone_in(parent, f"a run of its cell {folder.name}"))
        stack.enter_context(alone_in(folder, "a run"))
        yield
