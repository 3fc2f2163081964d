"""End a worker process with the process that has started it."""

from __future__ import annotations

import os
import select
import time
from contextlib import suppress
from dataclasses import dataclass
from threading import Thread
from threading import enumerate as enumerate_threads

_THREAD = "end with the sweep"


@dataclass(frozen=True)
class EndWith:
    """Exits a worker as soon as its parent has ended, however that was.

    Otherwise workers of joblib would outlive a sweep that is killed, and write to the same folders
    as the resumed sweep. Workers call it when they start, before they import a task: a parent that
    was killed by then is noticed, too.

    Args:
        parent: The number of the parent process.
    """

    parent: int

    def __call__(self) -> None:
        """Exit if the parent has ended, and start a thread that exits when it does."""
        if os.getppid() != self.parent:
            os._exit(1)
        # A worker runs several cells, but needs a single thread.
        if all(thread.name != _THREAD for thread in enumerate_threads()):
            Thread(target=self._watch, name=_THREAD, daemon=True).start()

    def _watch(self) -> None:
        # The kernel could send a signal instead, but does so when the thread ends that has started
        # the worker, and joblib has several.
        if hasattr(os, "pidfd_open"):
            # The parent may have ended, or the kernel be older than Python was built for.
            with suppress(OSError):
                select.select([os.pidfd_open(self.parent)], [], [])
        while os.getppid() == self.parent:
            time.sleep(0.5)
        os._exit(1)
