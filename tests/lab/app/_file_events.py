"""A small sweep that is killed at one of its file events, and resumed.

Run as `python -m tests.lab.app._file_events DIRECTORY some`, or `all`: it lists the events of a
whole sweep in `events.json`, kills one at some or all of them, resumes each, and leaves it in a
folder of the event's number. All are forks of one process, as starting takes longest.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
# Dropout, and a cell with two phases.
SWEEP = (
    "-m",
    "debug=fast",
    "callbacks=quiet",
    "logger=csv",
    "regularizer=soft_tie,lasso",
    "model.net.dropout=0.3",
    "trainer.max_epochs=2",
    "trainer.limit_train_batches=2",
)
# Audited are creations, also of folders, renames and removals. What is written and closed is the
# state before the next event.
_EVENTS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate")


def run_sweep(directory: Path) -> None:
    sys.argv = [f"{ROOT}/train.py", *SWEEP, f"hydra.sweep.dir={directory}"]
    runpy.run_path(sys.argv[0], run_name="__main__")


def watch(directory: Path, note: Callable[[str], None]) -> None:
    """Call a function before each file event in a directory, with its name."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in _EVENTS:
            return
        reads = event == "open" and not _writes(arguments)
        paths = [os.fsdecode(a) for a in arguments[:2] if isinstance(a, (str, bytes, os.PathLike))]
        if not reads and any(path.startswith(f"{directory}/") for path in paths):
            note(f"{event} {Path(paths[-1]).name}")

    sys.addaudithook(hook)


def _writes(arguments: tuple[Any, ...]) -> bool:
    _, mode, flags = arguments
    if isinstance(mode, str):
        return any(letter in mode for letter in "wax+")
    return bool(flags & (os.O_WRONLY | os.O_RDWR))


def kill_at(number: int) -> Callable[[str], None]:
    left = [number]

    def note(_: str) -> None:
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    return note


def fork(function: Callable[[], None], log: Path) -> int:
    """Return the signal by which a function in a new process was killed; 0 if it has ended.

    Raises:
        SystemExit: If it has raised.
    """
    child = os.fork()
    if child:
        status = os.waitpid(child, 0)[1]
        if os.WIFEXITED(status) and os.WEXITSTATUS(status):
            sys.exit(log.read_text()[-3000:])
        return os.WTERMSIG(status)
    file = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    try:
        function()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


def killed(directory: Path, number: int) -> None:
    watch(directory, kill_at(number))
    run_sweep(directory)


def some_of(events: list[str]) -> list[int]:
    """The first checkpoint to resume from, the last best one of the second phase, the end."""
    renames = [f"os.rename {name}" for name in ("last.ckpt", "best.ckpt", "result.json")]
    places = {name: [i for i, event in enumerate(events) if event == name] for name in renames}
    return [places[renames[0]][0], places[renames[1]][-1], places[renames[2]][-1]]


def main(base: Path, which: str) -> None:
    events: list[str] = []
    watch(base / "whole", events.append)
    # Here, as it imports and compiles what forks need.
    run_sweep(base / "whole")
    (base / "events.json").write_text(json.dumps(events))
    numbers = [*range(len(events))]
    if which == "some":
        numbers = some_of(events)
    for number in numbers:
        directory, log = base / f"{number}", base / f"{number}.log"
        if fork(partial(killed, directory, number), log) != signal.SIGKILL:
            sys.exit(f"event {number} did not come")
        fork(partial(run_sweep, directory), log)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
