"""A sweep that is killed at a file event goes on, and is bitwise one that was not killed."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[3]
MODULE = "tests.lab.app._file_events"
# What is of one attempt, or of the place where it was.
OWN = ("seconds", "started", "checkpoint")


def content_of(directory: Path) -> dict[str, Any]:
    """All that is compared, by the names of files."""
    found: dict[str, Any] = {"cells.json": json.loads((directory / "cells.json").read_text())}
    for path in directory.glob("*/result.json"):
        result = json.loads(path.read_text())
        named = Path(result["checkpoint"]).relative_to(directory).as_posix()
        kept = {key: value for key, value in result.items() if key not in OWN}
        found[path.relative_to(directory).as_posix()] = {**kept, "named": named}
    for path in directory.glob("*/checkpoints/**/*"):
        if path.is_file():
            checkpoint = torch.load(path, weights_only=True)
            bits = {name: t.numpy().tobytes() for name, t in checkpoint["state_dict"].items()}
            random = checkpoint["callbacks"]["KeepRandomState"]["ranks"]
            words = [rank["torch"].tolist() + list(rank["python"][1]) for rank in random]
            own = (checkpoint["epoch"], checkpoint["global_step"], bits, words)
            found[path.relative_to(directory).as_posix()] = own
    with (directory / "results.csv").open(newline="") as file:
        found["results.csv"] = [
            {key: value for key, value in row.items() if key not in OWN}
            for row in csv.DictReader(file)
        ]
    return found


@pytest.mark.slow
@pytest.mark.multiprocess
@pytest.mark.parametrize("which", ["some", pytest.param("all", marks=pytest.mark.long)])
def test_killed_at_file_events(which: str, tmp_path: Path) -> None:
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(paths),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    command = [sys.executable, "-m", MODULE, str(tmp_path), which]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    events = json.loads((tmp_path / "events.json").read_text())
    whole = content_of(tmp_path / "whole")
    names = {"best.ckpt", "last.ckpt"}
    assert {Path(name).name for name in whole if "checkpoints" in name} == names
    tried = [path for path in tmp_path.iterdir() if path.name.isdigit()]
    wrong = {}
    for directory in tried:
        if (differs := differences(content_of(directory), whole)) or leftovers(directory):
            event = events[int(directory.name)]
            wrong[f"{directory.name}: {event}"] = [*differs, *leftovers(directory)]
    survived = f"{len(tried) - len(wrong)} of {len(tried)} file events survived"
    print(survived)
    assert not wrong, f"{survived}; {wrong}"
    assert len(tried) == {"some": 3, "all": len(events)}[which]


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    return [name for name in {**one, **other} if one.get(name) != other.get(name)]


def leftovers(directory: Path) -> list[str]:
    return [str(path) for path in directory.rglob(".lit-share-*")]
