"""Tables of cases for two processes, run in one pair of them, as starting takes longest.

A module that has a table is run in each process, with the variables that torchrun sets, and calls
`run_here`.
"""

from __future__ import annotations

import json
import os
import pickle
import socket
import subprocess
import traceback
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import torch
from filelock import FileLock
from torch import distributed

from ._programs import Program
from ._warnings import ignore_warnings_of_others

Table = Mapping[str, Callable[[], object]]
ROOT = Path(__file__).parents[1]


def run_here(table: Table, directory: str) -> None:
    """Run everything in one of the processes."""
    warnings.simplefilter("error")
    ignore_warnings_of_others()
    torch.set_num_threads(1)
    # Where one process fails and the other waits for it.
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if _on_gpus() else "gloo", timeout=timedelta(seconds=30)
    )
    with Path(directory, f"{distributed.get_rank()}.jsonl").open("w") as results:
        for what, run in table.items():
            try:
                run()
                error = None
            except BaseException:
                error = traceback.format_exc()
            print(json.dumps([what, error]), file=results, flush=True)
    distributed.destroy_process_group()


def errors_of(module: str, names: Iterable[str], directory: Path) -> dict[str, str | None]:
    """Run a module's table in two processes.

    Args:
        module: Its name, which is run.
        names: What is in its table.
        directory: Of the test session. With xdist, the first worker that asks runs them.

    Returns:
        The tracebacks of what failed, and ``None`` for what did not.
    """
    if "PYTEST_XDIST_WORKER" in os.environ:
        directory = directory.parent
    with FileLock(directory / f"{module}.lock"):
        results = directory / f"{module}.pickle"
        if not results.exists():
            (directory / module).mkdir()
            results.write_bytes(pickle.dumps(_run_in_two(module, list(names), directory / module)))
        found: dict[str, str | None] = pickle.loads(results.read_bytes())
        return found


def _on_gpus() -> bool:
    """Whether each process has a GPU."""
    return os.environ.get("LIT_SHARE_DEVICE") == "cuda" and torch.cuda.device_count() >= 2


def _run_in_two(module: str, names: Iterable[str], directory: Path) -> dict[str, str | None]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }
    if not _on_gpus():
        common["LIT_SHARE_DEVICE"] = "cpu"
    common["PYTHONPATH"] = os.pathsep.join(
        [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    command = ["-m", module, directory]
    started: list[Program] = []
    for rank in range(2):
        with Path(directory, f"{rank}.log").open("w") as log:
            variables = {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "NODE_RANK": "0",
                "GROUP_RANK": "0",
            }
            environment = os.environ | common | variables
            started.append(Program(command, log, log, cwd=directory, env=environment))
    try:
        # Cases that did not run are reported below.
        with suppress(subprocess.TimeoutExpired):
            for process in started:
                process.wait(timeout=400)
    finally:
        for process in started:
            process.kill()
    errors: dict[str, str | None] = {}
    for rank in range(2):
        results = Path(directory, f"{rank}.jsonl")
        got = dict(map(json.loads, results.read_text().splitlines() if results.exists() else []))
        log_ends = Path(directory, f"{rank}.log").read_text()[-2000:]
        for what in names:
            error = got.get(what, f"process {rank} did not get there:\n{log_ends}")
            errors[what] = errors.get(what) or error
    return errors
