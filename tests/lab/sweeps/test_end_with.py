"""Workers end with the process that has started them."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time

import pytest

from lit_share.lab.sweeps import EndWith

# A child of a child, which is an orphan from the beginning, or later; it holds the pipe open.
ORPHAN = """
import os, sys, time
from lit_share.lab.sweeps import EndWith
{change}
if os.fork() == 0:
    {before}
    EndWith(int(sys.argv[1]) or os.getppid())()
    {again}
    print("started", flush=True)
    time.sleep(60)
{parent}
"""
WAIT = "time.sleep(60)"


def start(
    number: int = 0, change: str = "", before: str = "", again: str = "", parent: str = WAIT
) -> subprocess.Popen[str]:
    code = ORPHAN.format(change=change, before=before, again=again, parent=parent)
    command = [sys.executable, "-c", code, str(number)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def assert_ends(process: subprocess.Popen[str], seconds: float) -> None:
    """The pipe of the output is closed by the last process that has it."""
    assert process.stdout is not None
    begin = time.monotonic()
    readable, _, _ = select.select([process.stdout], [], [], 20)
    assert readable
    assert process.stdout.read() == ""
    assert time.monotonic() - begin < seconds
    process.stdout.close()
    process.wait()


@pytest.mark.parametrize(
    "change", ["", "del os.pidfd_open", "os.pidfd_open = lambda pid: os.open('/gone', 0)"]
)
def test_a_worker_of_a_killed_process_ends(change: str) -> None:
    process = start(change=change, again="EndWith(os.getppid())()")
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    process.send_signal(signal.SIGKILL)
    assert_ends(process, 10)


def test_a_worker_that_starts_after_its_parent_has_ended_does_nothing() -> None:
    process = start(number=os.getpid(), before="time.sleep(0.2)", parent="")
    assert_ends(process, 10)


def test_a_worker_has_one_thread() -> None:
    code = (
        "import os, threading\n"
        "from lit_share.lab.sweeps import EndWith\n"
        "[EndWith(os.getppid())() for _ in range(3)]\n"
        "print(threading.active_count())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "2\n"


def test_it_is_the_same_for_all_cells() -> None:
    """joblib starts other workers if it is given another initializer."""
    assert EndWith(3) == EndWith(3)
