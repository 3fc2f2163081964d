"""Programs in processes that are forked from one that has imported what takes seconds to import.

It is started by `tests/_programs.py`, with the number of a socket and the modules to import.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import random
import runpy
import socket
import struct
import sys
import threading
import weakref
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

FILES = 4  # The request, stdout, stderr, and a pipe for the process id and the exit status.
NUMBER = struct.Struct("i")


def serve(channel: socket.socket) -> dict[str, Any]:
    """Fork a process for each request until the socket is closed, and return in each of them."""
    while True:
        message, files, *_ = socket.recv_fds(channel, 1, FILES)
        if not message:
            sys.exit()
        # Of those that wait for a program, what has ended.
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if os.fork() == 0:
            break
        for file in files:
            os.close(file)
    channel.close()
    request, stdout, stderr, pipe = files
    program = os.fork()
    if program:
        os.write(pipe, NUMBER.pack(program))
        _, status = os.waitpid(program, 0)
        os.write(pipe, NUMBER.pack(os.waitstatus_to_exitcode(status)))
        os._exit(0)
    os.close(pipe)
    os.setsid()
    for number, file in ((1, stdout), (2, stderr)):
        os.dup2(file, number)
        os.close(file)
    with os.fdopen(request, encoding="utf-8") as text:
        asked: dict[str, Any] = json.load(text)
        return asked


def run(arguments: list[str], cwd: str, environment: dict[str, str]) -> None:
    """Run a program as Python does when it starts; the end of this process is the program's."""
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    # These are seeded from the system when they are imported.
    random.seed()
    np.random.seed()
    torch.seed()
    is_module = arguments[0] == "-m"
    sys.argv[:] = arguments[is_module:]
    paths = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
    first = cwd if is_module else str(Path(arguments[0]).resolve().parent)
    sys.path[:] = [first, *map(os.path.abspath, paths), *sys.path[1:]]
    importlib.invalidate_caches()
    if is_module:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(str(Path(arguments[0]).absolute()), run_name="__main__")


if __name__ == "__main__":
    before = dict(os.environ)
    for name in sys.argv[2:]:
        importlib.import_module(name)
    set_by_libraries = {k: v for k, v in os.environ.items() if before.get(k) != v}
    # Threads are not forked, and locks that they hold stay locked.
    assert threading.active_count() == 1, threading.enumerate()
    # The first program that ends would remove temporary folders of all others.
    ends = [end.func.__qualname__ for end in weakref.finalize._registry.values()]
    assert "TemporaryDirectory._cleanup" not in ends, "a library makes a folder when imported"
    gc.collect()
    gc.freeze()
    request = serve(socket.socket(fileno=int(sys.argv[1])))
    request["environment"] = set_by_libraries | request["environment"]
    run(**request)
