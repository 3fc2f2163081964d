"""Sweeps from the command line: killed, failing, and in several processes."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ..._programs import run
from .conftest import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.multiprocess]

FAST = ("debug=fast", "logger=none", "callbacks=quiet", "~callbacks.sharing")
IMPOSSIBLE = "data.n_a=40,100000"  # of 1,797 images


def command(directory: Path, *overrides: str) -> list[str]:
    fast = [
        option
        for option in FAST
        if option.partition("=")[0] not in {o.partition("=")[0] for o in overrides}
    ]
    return [
        str(ROOT / "train.py"),
        "-m",
        f"hydra.sweep.dir={directory}",
        *overrides,
        *fast,
    ]


def sweep(directory: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(directory.parent), "CUDA_VISIBLE_DEVICES": ""}
    environment.pop("WANDB_SERVICE", None)  # of this process, which other tests may end
    if "hydra/launcher=gpus" in overrides:
        del environment["CUDA_VISIBLE_DEVICES"]
    return run(command(directory, *overrides), cwd=directory.parent, env=environment)


def sweep_until(
    there: Callable[[], bool], how: signal.Signals, directory: Path, *overrides: str
) -> int:
    """Start a sweep, and send it a signal as soon as something is there."""
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # what a shell has ignored in the background stays so below
    with subprocess.Popen(
        [sys.executable, *command(directory, *overrides)],
        cwd=directory.parent,
        stdout=subprocess.DEVNULL,
    ) as process:
        deadline = time.monotonic() + 120
        while not there() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        process.send_signal(how)
        return process.wait(timeout=60)


def results(directory: Path) -> dict[tuple[str, ...], dict[str, Any]]:
    found = [json.loads(path.read_text()) for path in directory.glob("*/result.json")]
    return {tuple(result["overrides"]): result for result in found}


def table(directory: Path) -> list[dict[str, str]]:
    with (directory / "results.csv").open(newline="") as file:
        return [
            {name: cell for name, cell in row.items() if name != "seconds"}
            for row in csv.DictReader(file)
        ]


def cut_off(directory: Path) -> list[Path]:
    """Folders of cells that have a checkpoint, but no result."""
    checkpoints = directory.glob("*/checkpoints/last.ckpt")
    return [
        path.parents[1] for path in checkpoints if not (path.parents[1] / "result.json").exists()
    ]


def test_a_killed_sweep_goes_on_where_it_stopped(tmp_path: Path) -> None:
    grid = (
        "regularizer=none,soft_tie,hard_tie",
        "strength=0.01,0.1",
        "seed=0,1",
        "trainer.max_epochs=8",
    )
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert sweep(whole, *grid).returncode == 0
    assert len(results(whole)) == 8

    sweep_until(
        lambda: len(results(killed)) > 2 and bool(cut_off(killed)), signal.SIGKILL, killed, *grid
    )
    (middle,) = cut_off(killed)
    before = {path: path.stat().st_mtime_ns for path in killed.glob("*/result.json")}
    assert 2 < len(before) < 8
    done = sweep(killed, *grid)
    assert done.returncode == 0, done.stderr
    assert f"{len(before)} of 8 cells have finished already" in done.stdout
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert f"ckpt_path: {middle}/checkpoints/last.ckpt" in (middle / "config.yaml").read_text()
    for cell, result in results(whole).items():
        assert results(killed)[cell]["test"] == result["test"]
        assert results(killed)[cell]["sharing"] == result["sharing"]
    assert table(killed) == table(whole)

    again = sweep(killed, *grid)
    assert again.returncode == 0, again.stderr
    assert "8 of 8 cells have finished already" in again.stdout
    assert table(killed) == table(whole)


@pytest.mark.long
def test_a_killed_search_has_the_trials_of_a_whole_one(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    options = (
        "hydra/sweeper=optuna",
        "hydra.sweeper.n_trials=4",
        "hydra.sweeper.pruner.n_warmup_steps=1",
        "regularizer=none,soft_tie",
        "strength=tag(log,interval(0.001,10))",
        "seed=0,1",
        "trainer.max_epochs=8",
    )
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    planned = sweep(whole, *options, "dry_run=true")
    assert planned.returncode == 0, planned.stderr
    assert "10 cells: 10 to run" in planned.stdout
    assert not whole.exists()
    done = sweep(whole, *options, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    assert done.returncode == 0, done.stderr
    ended = results(whole)
    assert len(ended) == 10
    pruned = [result for result in ended.values() if result["status"] == "pruned"]
    assert pruned
    assert all(result["epochs"] < 8 for result in pruned)
    assert f"as a search or a race pruned them: {len(pruned)}" in done.stdout

    sweep_until(lambda: len(results(killed)) > 5, signal.SIGKILL, killed, *options)
    assert sweep(killed, *options).returncode == 0
    assert {cell: r["course"] for cell, r in results(killed).items()} == {
        cell: r["course"] for cell, r in ended.items()
    }
    assert table(killed) == table(whole)


def has_winner(directory: Path) -> bool:
    """Whether the winner of a race has begun to train to the end."""
    file = directory / "cells.json"
    cells = json.loads(file.read_text()) if file.exists() else {}
    return any("race" in cell and "trial" not in cell for cell in cells.values())


@pytest.mark.long
@pytest.mark.parametrize(
    "there", [lambda path: len(results(path)) > 2, has_winner], ids=["trials", "winner"]
)
def test_a_killed_race_has_the_winners_of_a_whole_one(
    tmp_path: Path, there: Callable[[Path], bool]
) -> None:
    options = (
        "hydra/sweeper=race",
        "hydra.sweeper.epochs=2",
        "regularizer=none,hard_tie",
        "data.domain=inverted",
        "seed=0,1",
        "trainer.max_epochs=6",
    )
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    done = sweep(whole, *options, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    assert done.returncode == 0, done.stderr
    assert "2 of 4 cells run without a race" in done.stdout
    ended = results(whole)
    winners = [r for r in ended.values() if r["status"] == "finished" and r["layers"]]
    assert {winner["seed"] for winner in winners} == {0, 1}
    assert all(winner["epochs"] == len(winner["course"]) == 6 for winner in winners)
    assert all(r["epochs"] == 2 for r in ended.values() if r["status"] == "pruned")

    sweep_until(lambda: there(killed), signal.SIGKILL, killed, *options)
    assert sweep(killed, *options).returncode == 0
    assert {cell: (r["status"], r["course"]) for cell, r in results(killed).items()} == {
        cell: (r["status"], r["course"]) for cell, r in ended.items()
    }
    assert table(killed) == table(whole)


def check_failures(directory: Path, done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 1, done.stderr
    cells = results(directory)
    assert len(cells) == 4
    for cell, result in cells.items():
        assert result["status"] == ("failed" if "data.n_a=100000" in cell else "finished")
        if result["status"] == "failed":
            assert "make one of them smaller" in result["error"]
    assert "4/4 cells done, 2 failed" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert "2 failed: ValueError: n_a + n_b + n_val + n_test = 100000" in done.stdout
    assert (
        "2 of 4 cells have not finished. To run only these again, repeat the command" in done.stderr
    )
    assert sorted(row["failed"] for row in table(directory)) == ["0", "0", "1", "1"]


def test_failed_cells_stop_no_others_and_run_again(tmp_path: Path) -> None:
    grid = ("regularizer=none,soft_tie", IMPOSSIBLE)
    check_failures(tmp_path / "s", sweep(tmp_path / "s", *grid))
    again = sweep(tmp_path / "s", *grid)
    assert "2 of 4 cells have finished already" in again.stdout
    check_failures(tmp_path / "s", again)
    corrected = sweep(tmp_path / "s", "regularizer=none,soft_tie", "data.n_a=40,50")
    assert corrected.returncode == 0, corrected.stderr
    assert (
        "2 failed: in an earlier command: ValueError: n_a + n_b + n_val + n_test = 100000"
        in corrected.stdout
    )
    assert [row["failed"] for row in table(tmp_path / "s")] == ["0"] * 4


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_sweep(tmp_path: Path, how: signal.Signals) -> None:
    grid = ("regularizer=none", "seed=0,1,2,3", "trainer.max_epochs=200")
    code = sweep_until(lambda: bool(cut_off(tmp_path / "s")), how, tmp_path / "s", *grid)
    assert code != 0
    assert not results(tmp_path / "s")
    assert len(list(tmp_path.glob("s/*/checkpoints"))) == 1


def test_several_processes_in_the_cells_of_a_sweep(tmp_path: Path) -> None:
    done = sweep(
        tmp_path / "s",
        "regularizer=none,l2_sp",
        "trainer=ddp_cpu",
        "data.n_a=40",
        "data.batch_size=10",
    )
    assert done.returncode == 0, done.stderr
    assert {result["status"] for result in results(tmp_path / "s").values()} == {"finished"}
    refused = sweep(tmp_path / "t", "seed=0,1", "trainer.devices=2")
    assert refused.returncode == 1
    assert all(
        "would run the whole multirun again" in result["error"]
        for result in results(tmp_path / "t").values()
    )
    assert not list(tmp_path.glob("t/*/checkpoints"))


@pytest.mark.parametrize(
    ("variable", "override", "message"),
    [
        ("1", "seed=0,1", "torchrun would start"),
        ("", "hydra.sweep.subdir=x", "numbers the folders of cells itself"),
    ],
)
def test_what_a_sweep_cannot_be_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, override: str, message: str
) -> None:
    if variable:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", variable)
    done = sweep(tmp_path / "s", override)
    assert done.returncode == 1
    assert message in done.stderr
    assert not results(tmp_path / "s")


def test_joblib(tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    joblib = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    done = sweep(tmp_path / "s", "regularizer=none,soft_tie", IMPOSSIBLE, "logger=wandb", *joblib)
    check_failures(tmp_path / "s", done)
    assert len(list(tmp_path.glob("s/*/wandb/offline-run-*"))) == 2
    assert len(list(tmp_path.glob("s/wandb/offline-run-*"))) == 1  # the comparison


def test_joblibs_workers_end_with_a_killed_sweep(tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    grid = ("regularizer=none", "seed=0,1", "trainer.max_epochs=3000", "logger=csv")
    joblib = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    directory = tmp_path / "s"
    sweep_until(lambda: len(cut_off(directory)) == 2, signal.SIGKILL, directory, *grid, *joblib)

    def newest() -> int:
        return max(path.stat().st_mtime_ns for path in directory.glob("*/checkpoints/last.ckpt"))

    time.sleep(3.0)
    before = newest()
    time.sleep(2.0)
    assert newest() == before


def test_submitit(tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    done = sweep(
        tmp_path / "s", "regularizer=none,soft_tie", IMPOSSIBLE, "hydra/launcher=submitit_local"
    )
    check_failures(tmp_path / "s", done)


WHERE = """
    import json, os, time
    from pathlib import Path
    from lightning.pytorch import Callback

    class Where(Callback):
        def __init__(self, folder: str) -> None:
            self.folder = folder

        def on_fit_start(self, trainer, pl_module) -> None:
            self.begin = time.time()
            time.sleep(2.0)  # so that cells side by side can be seen

        def on_fit_end(self, trainer, pl_module) -> None:
            slot = os.environ.get("CUDA_VISIBLE_DEVICES")
            seen = {"process": os.getpid(), "slot": slot, "begin": self.begin, "end": time.time()}
            Path(self.folder, "where.json").write_text(json.dumps(seen))
"""


def test_ray_gives_every_cell_a_process_and_a_gpu(tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_ray_launcher")
    (tmp_path / "where.py").write_text(textwrap.dedent(WHERE))
    where = "+callbacks.where={_target_:where.Where,folder:'${hydra:runtime.output_dir}'}"
    pretended = ("hydra/launcher=gpus", "+hydra.launcher.ray.init.num_gpus=2")
    done = sweep(
        tmp_path / "s", "regularizer=none,soft_tie", "data.n_a=40,50,100000", where, *pretended
    )
    assert done.returncode == 1, done.stderr
    assert "6/6 cells done, 2 failed" in done.stdout
    seen = [json.loads(path.read_text()) for path in tmp_path.glob("s/*/where.json")]
    assert len(seen) == 4
    assert len({cell["process"] for cell in seen}) == 4
    assert {cell["slot"] for cell in seen} == {"0", "1"}
    together = [sum(a["begin"] < b["end"] and b["begin"] < a["end"] for b in seen) for a in seen]
    assert max(together) == 2
    for slot in "01":
        one, two = sorted(
            (cell for cell in seen if cell["slot"] == slot), key=lambda cell: cell["begin"]
        )[:2]
        assert one["end"] <= two["begin"]
