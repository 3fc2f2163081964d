"""Python programs in processes of their own that need not import torch and Lightning again.

They are forked from a process that has imported these, which each pytest worker starts when it
needs it. What is tested of a fresh interpreter needs `subprocess`: what it imports, how it is
killed, and variables and options that Python reads when it starts.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from selectors import EVENT_READ, DefaultSelector
from typing import IO

from ._program_server import NUMBER

# What `train.py` imports of other libraries. Not wandb, which makes temporary folders when it is
# imported and removes them at the end of a process. Nothing of lit_share, which looks for its own
# modules among those that are imported; nor pytorch_lightning, as it asks which package it is.
LIBRARIES = (
    "lightning.pytorch",
    "numba.typed",
    "scipy.optimize",
    "sklearn.datasets",
    "torchmetrics",
    "hydra.main",
    "jinja2",
    "plotly.subplots",
    "plotly.graph_objs._figure",
    "rich.table",
    "pydantic",
    "safetensors.torch",
)


def run(
    command: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float = 300.0,
    check: bool = False,
) -> subprocess.CompletedProcess[str]:
    """Run a Python program, as `subprocess.run` with ``capture_output=True, text=True`` does.

    Args:
        command: The program's path, or ``-m`` and the name of a module; and its arguments.
        cwd: Where it runs.
        env: Its environment variables.
        timeout: In seconds. What has not ended by then is killed, and its children.
        check: Whether to raise an error for an exit status other than 0.
    """
    command = [str(word) for word in command]
    with tempfile.TemporaryFile("w+") as stdout, tempfile.TemporaryFile("w+") as stderr:
        program = Program(command, stdout, stderr, cwd=cwd, env=env)
        try:
            code = program.wait(timeout)
        finally:
            program.kill()
        for file in (stdout, stderr):
            file.seek(0)
        done = subprocess.CompletedProcess(command, code, stdout.read(), stderr.read())
    if check:
        done.check_returncode()
    return done


class Program:
    """A program that runs; arguments are those of `run`, and files for what it prints."""

    def __init__(
        self,
        command: Sequence[str | Path],
        stdout: IO[str],
        stderr: IO[str],
        *,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.command = [str(word) for word in command]
        request = {
            "arguments": self.command,
            "cwd": str(cwd or Path.cwd()),
            "environment": dict(os.environ if env is None else env),
        }
        self._pipe, theirs = os.pipe()
        with tempfile.TemporaryFile("w+") as file:
            json.dump(request, file)
            file.seek(0)
            files = [file.fileno(), stdout.fileno(), stderr.fileno(), theirs]
            socket.send_fds(_server(), [b"."], files)
        os.close(theirs)
        self.returncode: int | None = None
        self.pid = self._number(timeout=60.0)

    def wait(self, timeout: float) -> int:
        """Return the exit status, negative that of a signal."""
        if self.returncode is None:
            self.returncode = self._number(timeout)
            os.close(self._pipe)
        return self.returncode

    def kill(self) -> None:
        """Kill it unless it has ended, and its children."""
        if self.returncode is None:
            os.killpg(self.pid, signal.SIGKILL)
            self.wait(timeout=60.0)

    def _number(self, timeout: float) -> int:
        with DefaultSelector() as selector:
            selector.register(self._pipe, EVENT_READ)
            if not selector.select(timeout):
                raise subprocess.TimeoutExpired(self.command, timeout)
        number: int
        (number,) = NUMBER.unpack(os.read(self._pipe, NUMBER.size))
        return number


@cache
def _server() -> socket.socket:
    """A socket to the process that forks; it ends when this one does."""
    ours, theirs = socket.socketpair()
    program = Path(__file__).with_name("_program_server.py")
    command = [sys.executable, str(program), str(theirs.fileno()), *LIBRARIES]
    # The programs' own variables come with each of them.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with theirs:
        server = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            cwd=Path(__file__).parent,
            env=environment | {"OMP_NUM_THREADS": "1"},
            pass_fds=[theirs.fileno()],
        )

    def stop() -> None:
        ours.close()
        server.wait(timeout=60.0)

    atexit.register(stop)
    return ours
