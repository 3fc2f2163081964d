"""Print the progress of a sweep."""

from __future__ import annotations

import time
from collections.abc import Collection
from pathlib import Path
from threading import Event, Lock, Thread
from types import TracebackType

from lit_share.lab.sweeps._cells import status

# A sweep prints about ten lines if its cells take seconds, and a line for each cell that takes
# longer than a minute.
_LINES = 10
_LONG = 60.0


class Progress:
    """Prints a line when cells of a sweep have ended, in any process.

    Of many short cells only each tenth of the sweep is printed, failures always.

    Args:
        directory: The sweep's directory.
        folders: Names of all its cells' folders.
        seconds: Seconds between two counts of `result.json` files.
        total: The number of all cells, if there will be others.
    """

    # A thread counts files, because launchers return only after all cells.
    def __init__(
        self,
        directory: Path,
        folders: Collection[str],
        seconds: float = 1.0,
        total: int | None = None,
    ) -> None:
        self.directory, self.seconds = directory, seconds
        self.total = total or len(folders)
        self.waiting = {directory / folder for folder in folders}
        self.done = self.failed = self.pruned = 0
        self._counting = Lock()
        self._update()
        # Cells that a resumed sweep does not run again would make the estimate too small.
        self.before, self.begin = self.done, time.monotonic()
        self._last = (self.done, self.failed, self.begin)
        self._stop = Event()
        self._thread = Thread(target=self._watch, daemon=True)

    def expect(self, folders: Collection[str]) -> None:
        """Watch the folders of other cells, which are among the total."""
        self._print_if_changed()
        before = self.done
        with self._counting:
            self.waiting = self.waiting | {self.directory / folder for folder in folders}
        # Cells that have finished before this command say nothing about its pace.
        self._update()
        self.before += self.done - before

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
        self._print_if_changed()

    def __str__(self) -> str:
        text = f"{self.done}/{self.total} cells done"
        if self.failed:
            text += f", {self.failed} failed"
        if self.pruned:
            text += f", {self.pruned} pruned"
        left = self.total - self.done
        if left and self.done > self.before:
            each = (time.monotonic() - self.begin) / (self.done - self.before)
            text += f", about {duration(each * left)} left"
        return text

    def _watch(self) -> None:
        while not self._stop.wait(self.seconds):
            self._print_if_changed()

    def _print_if_changed(self) -> None:
        if self._update() and self._is_news():
            print(self, flush=True)
            self._last = (self.done, self.failed, time.monotonic())

    def _is_news(self) -> bool:
        done, failed, at = self._last
        is_much = self.done - done >= self.total / _LINES or self.done == self.total
        return is_much or self.failed > failed or time.monotonic() - at >= _LONG

    def _update(self) -> bool:
        # The sweeper counts, too, when it adds folders.
        with self._counting:
            ended = {folder: how for folder in self.waiting if (how := status(folder)) is not None}
            self.waiting = self.waiting - set(ended)
            self.done += len(ended)
            self.failed += sum(how == "failed" for how in ended.values())
            self.pruned += sum(how == "pruned" for how in ended.values())
        return bool(ended)


def duration(seconds: float) -> str:
    """Format seconds for people.

    Example:
        >>> duration(20), duration(1200), duration(10_000)
        ('20 s', '20 min', '2.8 h')
    """
    minutes = seconds / 60
    if minutes < 1:
        return f"{seconds:.0f} s"
    if minutes < 90:
        return f"{minutes:.0f} min"
    return f"{minutes / 60:.1f} h"
