"""How long it takes until something happens: `python -m benchmarks.speed start_up`.

CPU seconds of processes, in alternation: importing the package on top of Lightning, ``train.py
--help``, ``lit-share --help``, and what a cell of a sweep takes beyond its training.
"""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.speed._clock import Row, spread

ROOT = Path(__file__).parents[2]
REPEATS = 5
COMMANDS = {
    "train": ["train.py", "--help"],
    "lit-share": ["-m", "lit_share.lab.cli", "--help"],
}
IMPORTS = """
import time, lightning.pytorch
begin = time.process_time()
import lit_share
print(time.process_time() - begin)
[getattr(lit_share, name) for name in lit_share.__all__]
print(time.process_time() - begin)
"""
# What Numba itself takes to call the smallest function from its cache.
SMALLEST = """
import numba

@numba.njit(cache=True)
def increment(number):
    return number + 1
"""
NUMBA = """
import time, torch, lightning.pytorch
begin = time.process_time()
import smallest
smallest.increment(1)
print(time.process_time() - begin)
"""
FIRST_STEP = """
import time, torch, lightning.pytorch, lit_share as ls
pair = torch.nn.ModuleDict({"a": torch.nn.Linear(3, 2), "b": torch.nn.Linear(3, 2)})
steps = ls.PenaltySteps("exact_tie", ls.Ties("a.*", "b.*"), 0.1)
optimizer = torch.optim.SGD(pair.parameters(), lr=0.1)
steps.attach(pair, optimizer)
sum(p.sum() for p in pair.parameters()).backward()
steps.before_step()
optimizer.step()
begin = time.process_time()
steps.after_step()
print(time.process_time() - begin)
"""
SWEEP = (
    "train.py",
    "-m",
    "regularizer=none",
    "seed=range(0,6)",
    "logger=csv",
    "callbacks=quiet",
    "trainer.max_epochs=5",
)


def seconds(arguments: list[str]) -> float:
    """CPU seconds of a process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-W", "ignore", *arguments],
        cwd=ROOT,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def overhead_of_a_cell() -> float:
    """Seconds per cell of a sweep by the basic launcher, without its start and its trainings."""
    with tempfile.TemporaryDirectory() as directory:
        command = [*SWEEP, f"hydra.sweep.dir={directory}"]
        environment = os.environ | {"WANDB_MODE": "disabled"}
        done = subprocess.run(
            [sys.executable, "-W", "ignore", *command],
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
            env=environment,
        )
        results = [json.loads(path.read_text()) for path in Path(directory).glob("*/result.json")]
        times = sorted(path.stat().st_mtime for path in Path(directory).glob("*/result.json"))
    assert len(results) > 1, re.sub(r"\s+", " ", done.stderr[-500:])
    between = (times[-1] - times[0]) / (len(times) - 1)
    return between - sum(result["seconds"] for result in results) / len(results)


def printed(script: str, **environment: str) -> list[float]:
    """The numbers that a process prints."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | environment,
    )
    return [float(line) for line in done.stdout.split()]


def measure() -> Iterator[Row]:
    """The rows."""
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(REPEATS):
        for name, arguments in COMMANDS.items():
            times[name].append(seconds(arguments))
    imports = [printed(IMPORTS) for _ in range(REPEATS)]
    for what, own in zip(
        ("import lit_share", "all its names"), zip(*imports, strict=True), strict=True
    ):
        yield spread(what, list(own), unit="s", against="after import lightning", target=0.15)
    compiled, cached, alone = [], [], []
    for _ in range(REPEATS):
        with tempfile.TemporaryDirectory() as cache:
            compiled += printed(FIRST_STEP, NUMBA_CACHE_DIR=cache)
            cached += printed(FIRST_STEP, NUMBA_CACHE_DIR=cache)
            Path(cache, "smallest.py").write_text(SMALLEST)
            printed(NUMBA, NUMBA_CACHE_DIR=cache, PYTHONPATH=cache)
            alone += printed(NUMBA, NUMBA_CACHE_DIR=cache, PYTHONPATH=cache)
    yield spread("first step of exact_tie, from the cache", cached, unit="s", target=0.3)
    yield spread("the smallest function of Numba, from the cache", alone, unit="s")
    yield spread("first step of exact_tie, compiled", compiled, unit="s", target=10.0)
    yield spread("train.py --help", times["train"], unit="s", target=3.0)
    yield spread("lit-share --help", times["lit-share"], unit="s")
    cell = overhead_of_a_cell()
    yield Row("a cell of a sweep", cell, cell, cell, unit="s", against="beyond its training")
