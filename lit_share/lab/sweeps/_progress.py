"""The progress of a sweep."""

from __future__ import annotations

import time
from collections.abc import Collection
from pathlib import Path
from threading import Event, Thread
from types import TracebackType

from lit_share.lab.sweeps._cells import status


class Progress:
    """Prints a line whenever cells of a sweep have ended, wherever they run.

    Counts `result.json` files, once a second and in a thread, because launchers come back only after all cells.

    Args:
        directory: Of the sweep.
        folders: Names of all its cells' folders.
        seconds: Between two looks.
    """

    def __init__(self, directory: Path, folders: Collection[str], seconds: float = 1.0) -> None:
        self.waiting = {directory / folder for folder in folders}
        self.total, self.seconds = len(folders), seconds
        self.failed = 0
        self._look()
        self.before, self.begin = self.done, time.monotonic()
        self._stop = Event()
        self._thread = Thread(target=self._watch, daemon=True)

    @property
    def done(self) -> int:
        """How many cells have ended."""
        return self.total - len(self.waiting)

    def __enter__(self) -> Progress:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._tell()

    def __str__(self) -> str:
        failed = f", {self.failed} failed" if self.failed else ""
        left = ""
        if self.waiting and self.done > self.before:
            each = (time.monotonic() - self.begin) / (self.done - self.before)
            left = f", about {_duration(each * len(self.waiting))} left"
        return f"{self.done}/{self.total} cells done{failed}{left}"

    def _watch(self) -> None:
        while not self._stop.wait(self.seconds):
            self._tell()

    def _tell(self) -> None:
        if self._look():
            print(self, flush=True)

    def _look(self) -> bool:
        ended = {folder: how for folder in self.waiting if (how := status(folder)) is not None}
        self.waiting -= set(ended)
        self.failed += sum(how == "failed" for how in ended.values())
        return bool(ended)


def _duration(seconds: float) -> str:
    minutes = seconds / 60
    return (
        f"{seconds:.0f} s"
        if minutes < 1
        else f"{minutes:.0f} min"
        if minutes < 90
        else f"{minutes / 60:.1f} h"
    )
