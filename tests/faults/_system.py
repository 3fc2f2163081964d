"""What goes wrong around a training: disks, folders, networks and processes."""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

import lit_share as ls
from lit_share.files import locked
from lit_share.lab.checkpoints import Checkpoint
from lit_share.lab.report import compare, write_report
from lit_share.lab.results import _json, read_results
from lit_share.lab.sweeps import alone_in, alone_in_run, settle

from ._files import files
from ._left import processes
from ._row import Row
from ._run import ROOT, Pair, fit, train

TRAIN = (sys.executable, str(ROOT / "train.py"))
FAST = ("debug=fast", "callbacks=quiet", "~callbacks.sharing")


@contextmanager
def full_disk(size: int = 30_000) -> Iterator[None]:
    """No file gets larger than so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def no_room_for(name: str) -> Iterator[None]:
    """The first file of this name does not fit on the disk."""
    left, write = [name], _json.write_text

    def write_text(path: Path, text: str) -> None:
        if path.name in left:
            left.remove(path.name)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        write(path, text)

    with patch.object(_json, "write_text", write_text):
        yield


@contextmanager
def nobody() -> Iterator[None]:
    """Without the rights of the superuser, to whom no folder is read-only."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(before)


def save_on_a_full_disk(folder: Path) -> tuple[str, str]:
    with full_disk():
        ls.save_compact(nn.Linear(100, 100), folder / "good.safetensors")
    raise AssertionError


def finished_runs(folder: Path) -> None:
    for seed, strategy in enumerate(["none", "soft_tie"]):
        run = folder / str(seed)
        run.mkdir()
        numbers = {"validation": {"b/val/acc": 0.5}, "test": {"b/test/acc": 0.5 + seed / 10}}
        known = {"schema": 1, "status": "finished", "strategy": strategy, "seed": 0, **numbers}
        content = {**known, "objective": "b/val/acc", "mode": "max"}
        (run / "result.json").write_text(json.dumps(content))
    report_of(folder)


def report_of(folder: Path) -> None:
    write_report(compare(read_results([folder])), folder)


def report_on_a_full_disk(folder: Path) -> tuple[str, str]:
    with full_disk():
        report_of(folder)
    raise AssertionError


def save_into_a_read_only_folder(folder: Path) -> tuple[str, str]:
    with tempfile.TemporaryDirectory(dir="/tmp") as readable:
        Path(readable).chmod(0o755)
        shut = Path(readable, "shut")
        shut.mkdir()
        shut.chmod(0o555)
        try:
            with nobody():
                ls.save_compact(nn.Linear(3, 2), shut / "new.safetensors")
        except OSError as error:
            assert not list(shut.iterdir())
            return type(error).__name__, str(error).replace(str(shut), "DIR")
    raise AssertionError


def checkpoint_on_a_full_disk(folder: Path) -> tuple[str, str]:
    pair = Pair()
    pair.large = nn.Linear(100, 100)
    with full_disk():
        fit(pair, ModelCheckpoint(folder / "checkpoints"))
    raise AssertionError


def result_on_a_full_disk(folder: Path) -> tuple[str, str]:
    (folder / "out").mkdir()
    try:
        with no_room_for("result.json"):
            train([], folder)
    finally:
        result = json.loads((folder / "out" / "result.json").read_text())  # at the second try
        assert (result["status"], "b/test/acc" in result["test"]) == ("failed", True)
        assert "b/test/acc" in (folder / "out" / "csv" / "version_0" / "metrics.csv").read_text()
        assert (folder / "out" / "checkpoints" / "best.ckpt").exists()
    raise AssertionError


def failure_on_a_full_disk(folder: Path) -> tuple[str, str]:
    (folder / "out").mkdir()
    with no_room_for("result.json"):
        train(["objective=b/val/accuracy"], folder)
    raise AssertionError


def exit_of(lock: Path, work: AbstractContextManager[None]) -> tuple[str, str]:
    """Begin some work in a folder that a sweep has locked."""
    with locked(lock, "a sweep"), redirect_stderr(StringIO()) as said:
        try:
            with work:
                raise AssertionError
        except SystemExit as error:
            return f"exit code {error.code}", said.getvalue().strip()


def sweep_started_twice(folder: Path) -> tuple[str, str]:
    (folder / "sweep").mkdir()
    return exit_of(folder / "sweep", alone_in(folder / "sweep", "a sweep"))


def run_in_a_cell(folder: Path) -> tuple[str, str]:
    settle(folder, {("seed=0",): "x"})
    (folder / "0").mkdir()
    return exit_of(folder, alone_in_run(folder / "0", is_cell=False))


class Logged(Pair):
    """Logs its loss."""

    def training_step(self, batch: Any) -> torch.Tensor:
        loss = super().training_step(batch)
        self.log("loss", loss, on_step=False, on_epoch=True)
        return loss


def fit_and_save(folder: Path, epochs: int, **options: Any) -> None:
    """Save the best checkpoint and the last one."""
    best = Checkpoint(folder / "checkpoints", "best", monitor="loss", enable_version_counter=False)
    last = Checkpoint(folder / "checkpoints", "last", enable_version_counter=False)
    fit(Logged(), best, last, max_epochs=epochs, **options)


def best_is_gone(folder: Path) -> None:
    fit_and_save(folder, 1)
    (folder / "checkpoints" / "best.ckpt").unlink()


def resume_without_the_best(folder: Path) -> tuple[str, str]:
    with warnings.catch_warnings():
        # The folder is not empty, as Lightning says of every training that is resumed.
        warnings.simplefilter("ignore")
        fit_and_save(folder, 2, ckpt_path=str(folder / "checkpoints" / "last.ckpt"))
    raise AssertionError


def cells_cut_off(folder: Path) -> tuple[str, str]:
    (folder / "cells.json").write_text('{"0": {"overr')
    settle(folder, {("seed=0",): "x"})
    raise AssertionError


def command(
    folder: Path, *arguments: str, timeout: float = 300, **variables: str
) -> tuple[int, str]:
    """Run a command in its own session, of which nothing remains; return exit code and output."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("WANDB")
    }
    environment |= {
        "PYTHONPATH": str(ROOT),
        "CUDA_VISIBLE_DEVICES": "",
        "COLUMNS": "1000",
    } | variables
    with (folder / "output.txt").open("w+") as output:
        process = subprocess.Popen(
            arguments,
            cwd=folder,
            env=environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        deadline = time.monotonic() + 30
        while processes(process.pid) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert not processes(process.pid), "there are processes left"
    return code, (folder / "output.txt").read_text()


def line_with(text: str, output: str) -> str:
    """From some text to the end of its line."""
    found = re.search(re.escape(text) + ".*", output)
    assert found is not None, output
    return found[0]


def train_into_a_file(folder: Path) -> tuple[str, str]:
    code, output = command(folder, *TRAIN, f"hydra.run.dir={folder}/empty/x")
    return f"exit code {code}", line_with("NotADirectoryError", output)


def wandb_unreachable(folder: Path) -> tuple[str, str]:
    """At a port where nobody listens; its own waiting, of 90 seconds, is shortened."""
    variables = {
        "WANDB_API_KEY": "0" * 40,
        "WANDB_BASE_URL": "http://127.0.0.1:9",
        "WANDB_INIT_TIMEOUT": "1",
    }
    options = ("logger=[wandb,csv]", "logger.wandb.offline=false", f"hydra.run.dir={folder}/out")
    code, output = command(folder, *TRAIN, *FAST, *options, **variables)
    assert code == 0, output
    assert json.loads((folder / "out" / "result.json").read_text())["status"] == "finished"
    assert "b/test/acc" in (folder / "out" / "csv" / "version_0" / "metrics.csv").read_text()
    assert len(list(folder.glob("out/wandb/offline-run-*/run-*.wandb"))) == 1
    return "warning", line_with("W&B cannot be reached", output)


def worker_killed_twice(folder: Path) -> tuple[str, str]:
    """Two cells, in two processes of joblib's, of which that of seed 1 dies whenever it runs."""
    target = "tests.faults._killed.Killed"
    killed = f"+callbacks.killed={{_target_:{target},folder:{folder},seed:'${{seed}}'}}"
    joblib = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2", f"hydra.sweep.dir={folder}/sweep")
    code, output = command(folder, *TRAIN, "-m", "seed=0,1", "logger=none", *FAST, killed, *joblib)
    results = {
        r["seed"]: r
        for r in (json.loads(p.read_text()) for p in folder.glob("sweep/*/result.json"))
    }
    assert {seed: result["status"] for seed, result in results.items()} == {
        0: "finished",
        1: "failed",
    }, output
    assert "its process died twice: joblib" in results[1]["error"]
    assert results[1]["data"] == results[0]["data"]
    assert (folder / "deaths").read_text() == "xx"
    line_with("A process died: joblib", output)
    return f"exit code {code}", line_with("1 of 2 cells", output)


def rank_1_killed(folder: Path) -> tuple[str, str]:
    code, output = command(folder, sys.executable, "-m", "tests.faults._ddp", "1")
    return f"exit code {code}", line_with("RuntimeError: ", output)


def rank_0_killed(folder: Path) -> tuple[str, str]:
    code, output = command(folder, sys.executable, "-m", "tests.faults._ddp", "0")
    return f"exit code {code}", line_with("RuntimeError: ", output)


SECTIONS: dict[str, list[Row]] = {
    "disks, folders, networks and processes": [
        Row(
            "full disk for a compact file",
            'The disk is full: ls.save_compact(model, "DIR/good.safetensors")',
            "at once",
            "OSError",
            "cannot write 'DIR/good.safetensors': …",
            before=files,
            do=save_on_a_full_disk,
        ),
        Row(
            "read-only folder for a compact file",
            'DIR is read-only: ls.save_compact(model, "DIR/new.safetensors")',
            "at once",
            "OSError",
            "cannot write 'DIR/new.safetensors': Permission denied",
            do=save_into_a_read_only_folder,
        ),
        Row(
            "full disk for a report",
            "The disk is full: lit-share compare DIR",
            "at once",
            "OSError",
            "[Errno 27] File too large: 'DIR/report.html'",
            before=finished_runs,
            do=report_on_a_full_disk,
        ),
        Row(
            "full disk for a checkpoint",
            'The disk is full: fit(model, ModelCheckpoint("DIR/checkpoints"))',
            "in training",
            "OSError",
            "[Errno 27] File too large",
            do=checkpoint_on_a_full_disk,
        ),
        Row(
            "full disk for the result",
            "The disk is full when python train.py has finished; its table was printed, curves "
            "and checkpoints are there",
            "at the end",
            "OSError",
            "[Errno 28] No space left on device: 'DIR/out/result.json'",
            do=result_on_a_full_disk,
            leaves=("out/*",),
        ),
        Row(
            "full disk after another error",
            "The disk is full: python train.py objective=b/val/accuracy",
            "before training",
            "ValueError",
            "objective=b/val/accuracy is not among the validation metrics: write one of "
            "a/val/loss, a/val/acc, b/val/loss, b/val/acc",
            do=failure_on_a_full_disk,
            leaves=("out/*",),
        ),
        Row(
            "list of cells is cut off",
            "DIR/cells.json is cut off: python train.py -m hydra.sweep.dir=DIR seed=0,1",
            "before training",
            "ValueError",
            "DIR/cells.json does not say any more which cell is whose (…): name another "
            "hydra.sweep.dir",
            do=cells_cut_off,
            leaves=("cells.json",),
        ),
        Row(
            "sweep started twice",
            "python train.py -m hydra.sweep.dir=DIR/sweep seed=0,1, while it runs already",
            "before training",
            "exit code 2",
            "DIR/sweep: a sweep works there since …, process … on …: wait for it or stop it, or "
            "name another folder",
            do=sweep_started_twice,
            leaves=("sweep/.lock",),
        ),
        Row(
            "single run in a cell of a sweep",
            "python train.py hydra.run.dir=DIR/0, while a sweep works in DIR",
            "before training",
            "exit code 2",
            "DIR: a sweep works there since …, process … on …: wait for it or stop it, or name "
            "another folder",
            do=run_in_a_cell,
            leaves=("0/*", "cells.json", ".lock"),
        ),
        Row(
            "best checkpoint is gone",
            "python train.py ckpt_path=DIR/checkpoints/last.ckpt, without the best.ckpt beside it",
            "before training",
            "ValueError",
            "DIR/checkpoints/best.ckpt, the best checkpoint until epoch 1, is not there any more: "
            "put it back, or train from the start",
            before=best_is_gone,
            do=resume_without_the_best,
        ),
        Row(
            "folder of a run is a file",
            "python train.py hydra.run.dir=DIR/empty/x",
            "before training",
            "exit code 1",
            "NotADirectoryError: [Errno 20] Not a directory: 'DIR/empty/x'",
            before=files,
            do=train_into_a_file,
            slow=True,
        ),
        Row(
            "W&B cannot be reached",
            "python train.py logger.wandb.offline=false, and no network: after WANDB_INIT_TIMEOUT "
            "(90 seconds if it is not set) training goes on",
            "before training",
            "warning",
            "W&B cannot be reached (…): this run is logged offline, and `wandb sync` uploads it",
            do=wandb_unreachable,
            slow=True,
        ),
        Row(
            "worker killed twice",
            "kill -9 of a process of python train.py -m hydra/launcher=joblib: the cells that "
            "were under way are run again, one by one; the cell that dies again has failed, and "
            "the others go on",
            "in training",
            "exit code 1",
            "1 of 2 cells have not finished. To run only these again, repeat the command with "
            "hydra.sweep.dir=DIR/sweep",
            do=worker_killed_twice,
            slow=True,
        ),
        Row(
            "rank 1 killed",
            "kill -9 of the second of two processes of a DDP training",
            "in training",
            "exit code 1",
            "RuntimeError: …gloo…",
            do=rank_1_killed,
            slow=True,
        ),
        Row(
            "rank 0 killed",
            "kill -9 of the first of two processes of a DDP training",
            "in training",
            "exit code -9",
            "RuntimeError: …gloo…",
            do=rank_0_killed,
            slow=True,
        ),
    ]
}
