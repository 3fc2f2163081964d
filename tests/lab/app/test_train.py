"""`train.py` from the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from ..._programs import run
from .conftest import ROOT

FAST = ("debug=fast", "logger=none", "callbacks=quiet")


def train(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return run([ROOT / "train.py", *arguments], cwd=cwd)


def test_help_imports_nothing_heavy() -> None:
    code = f"""
import sys, runpy
sys.argv = ['train.py', '--help']
try:
    runpy.run_path({str(ROOT / "train.py")!r}, run_name='__main__')
except SystemExit:
    pass
heavy = {{'torch', 'lightning', 'wandb', 'scipy', 'sklearn'}}
print('HEAVY', sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert "soft_tie" in done.stdout
    assert "HEAVY []" in done.stdout


@pytest.mark.slow
def test_misspelt_group_is_an_error_before_anything_is_built(tmp_path: Path) -> None:
    done = train(*FAST, "+regulariser=x", cwd=tmp_path)
    assert done.returncode != 0
    assert (
        "'regulariser'" in done.stderr
        or "regulariser: unknown key: did you mean 'regularizer'?" in done.stderr
    )
    assert "Tie plan" not in done.stdout


@pytest.mark.slow
def test_errors_of_users_end_with_one_line(tmp_path: Path) -> None:
    done = train(*FAST, "strength=-1", cwd=tmp_path)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert (
        "\nregularizer.soft_tie: strength must be a finite number >= 0, got -1.0\n" in done.stderr
    )


OWN = """
    import torch
    from lightning.pytorch import LightningDataModule, LightningModule

    class Mine(LightningModule):
        def __init__(self, optimizer):
            super().__init__()
            self.save_hyperparameters()
            layers = torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1)
            self.net = torch.nn.Sequential(*layers)
        def training_step(self, batch, _):
            return self.net(batch).square().mean()
        def validation_step(self, batch, _):
            self.log("val/loss", self.net(batch).square().mean())
        def configure_optimizers(self):
            return self.hparams.optimizer(self.parameters())

    class Data(LightningDataModule):
        def train_dataloader(self):
            return {"north": torch.utils.data.DataLoader(torch.randn(8, 4), 4)} | {
                "south": torch.utils.data.DataLoader(torch.randn(8, 4), 4)}
        val_dataloader = train_dataloader
"""


@pytest.mark.slow
def test_own_model_and_data(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(dedent(OWN))
    # A partial optimizer is a hyperparameter that checkpoints store as a pickled object.
    optimizer = "{_target_: torch.optim.SGD, _partial_: true, lr: 0.1}"
    child = f"{{_target_: own.Mine, optimizer: {optimizer}}}"
    for group, text in {
        "model": f"{{_target_: lit_share.Paired, north: {child}, south: {child}}}",
        "data": "{_target_: own.Data}",
    }.items():
        (tmp_path / "conf" / group).mkdir(parents=True)
        (tmp_path / "conf" / group / "mine.yaml").write_text(text)
    own = (
        "--config-dir",
        "conf",
        "model=mine",
        "data=mine",
        "objective=south/val/loss",
        "mode=min",
    )
    quiet = ("logger=none", "callbacks=quiet", "trainer.max_epochs=1", "hydra.run.dir=out")

    done = train(*own, *quiet, cwd=tmp_path)
    assert "pattern 'a.net.*' matches no parameter" in done.stderr
    assert (
        "These are the patterns of ties=all: write your own with ties.patterns=[...]" in done.stderr
    )

    done = train(*own, *quiet, "ties.patterns=[north.*,south.*]", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "start from unrelated weights" in " ".join(done.stdout.split())
    assert done.stdout.count("write self.log('test/loss', ...) in the test_step of 'south'") == 1
    assert "logging interval" not in done.stdout + done.stderr
    assert json.loads((tmp_path / "out" / "result.json").read_text())["test"] == {}

    go_on = (
        "ties.patterns=[north.*,south.*]",
        "trainer.max_epochs=2",
        "ckpt_path=out/checkpoints/last.ckpt",
    )
    done = train(*own, *quiet, *go_on, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "unrelated" not in done.stdout
    done = train(
        *own, *quiet, "+model.same_init=true", "ties.patterns=[north.*,south.*]", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "unrelated" not in done.stdout


@pytest.mark.slow
def test_multirun_ends_with_the_comparison(tmp_path: Path) -> None:
    sweep = (
        "-m",
        "regularizer=none,soft_tie,hard_tie",
        "strength=0.01,0.1",
        "seed=0",
        f"hydra.sweep.dir={tmp_path}/s",
    )
    done = train(*sweep, *FAST, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    results = [json.loads(path.read_text()) for path in tmp_path.glob("s/*/result.json")]
    cells = sorted((r["strategy"], r["strength"]) for r in results if r["strategy"] == "soft_tie")
    assert cells == [("soft_tie", 0.01), ("soft_tie", 0.1)]
    assert sorted(r["strategy"] for r in results) == ["hard_tie", "none", "soft_tie", "soft_tie"]
    assert "− none" in done.stdout
    assert (tmp_path / "s" / "results.csv").exists()


@pytest.mark.slow
@pytest.mark.multiprocess
def test_two_processes_train_as_one_does(tmp_path: Path) -> None:
    """Two processes share a batch of the same size, so only the order of additions differs."""
    tests = {}
    for name, trainer in (
        ("one", ("trainer=cpu",)),
        ("two", ("trainer=ddp_cpu", "data.batch_size=10")),
    ):
        data = ("data.n_a=40", "data.n_b=20") + (("data.batch_size=20",) if name == "one" else ())
        fast = ("debug=fast", "logger=csv", "callbacks=quiet", "regularizer=l2_sp")
        done = train(*fast, *trainer, *data, f"hydra.run.dir={tmp_path / name}", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        tests[name] = json.loads((tmp_path / name / "result.json").read_text())
    assert tests["two"]["status"] == "finished"
    assert tests["two"]["sharing"]["total"] == tests["one"]["sharing"]["total"]
    assert tests["two"]["sharing"]["penalty"] > 0.0
    assert (
        "b/test/acc"
        in (tmp_path / "two" / "csv" / "version_0" / "metrics.csv").read_text().splitlines()[0]
    )
    assert tests["two"]["test"]["b/test/acc"] == pytest.approx(
        tests["one"]["test"]["b/test/acc"], abs=0.3
    )
