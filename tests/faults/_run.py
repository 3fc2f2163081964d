"""Running what the rows say."""

from __future__ import annotations

import math
import shlex
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import (
    LambdaCallback,
    ModelCheckpoint,
    StochasticWeightAveraging,
)
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy
from omegaconf import OmegaConf, open_dict
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import lit_share as ls
from lit_share.lab import cli
from lit_share.lab.app.config import register_schema
from lit_share.lab.app.run import run

from ._row import without_colours

ROOT = Path(__file__).parents[2]
FAST = ("debug=fast", "logger=csv", "callbacks=quiet")


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))


class Pair(LightningModule):
    """Two networks `a` and `b` of 4, 3 and 2 units."""

    def __init__(self, optimizer: Any = torch.optim.SGD, poison: float | None = None) -> None:
        super().__init__()
        self.a, self.b = mlp(), mlp()
        self.optimizer, self.poison = optimizer, poison

    def training_step(self, batch: Any) -> torch.Tensor:
        x, y = batch
        loss = nn.functional.mse_loss(self.a(x), y) + nn.functional.mse_loss(self.b(x), y)
        return loss * self.poison if self.poison is not None and self.global_step == 3 else loss

    def configure_optimizers(self) -> Any:
        return self.optimizer(self.parameters(), lr=0.1)


class Embedded(Pair):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Embedding(5, 2, sparse=True), nn.Embedding(5, 2, sparse=True)


def fit(
    module: LightningModule, *callbacks: Callback, ckpt_path: str | None = None, **options: Any
) -> Trainer:
    generator = torch.Generator().manual_seed(0)
    data = DataLoader(
        TensorDataset(
            torch.randn(40, 4, generator=generator), torch.randn(40, 2, generator=generator)
        ),
        4,
    )
    quiet: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": any(isinstance(c, ModelCheckpoint) for c in callbacks),
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = Trainer(callbacks=list(callbacks), **({"max_epochs": 2} | quiet | options))
    trainer.fit(module, data, ckpt_path=ckpt_path)
    return trainer


def with_strategy(callback: Callback, kind: type) -> None:
    """Ask a callback about a strategy that Lightning itself refuses without a GPU."""
    from types import SimpleNamespace

    trainer: Any = SimpleNamespace(strategy=kind.__new__(kind), global_step=0)
    callback.setup(trainer, Pair(), "fit")


def names(pair: Pair) -> dict[str, Any]:
    """What the code of the rows may use."""
    ties, one = ls.Ties("a.*", "b.*"), ls.Ties("a.0.weight")
    return {
        "ls": ls,
        "torch": torch,
        "nn": nn,
        "nan": math.nan,
        "inf": math.inf,
        "pair": pair,
        "Pair": Pair,
        "Embedded": Embedded,
        "fit": fit,
        "mlp": mlp,
        "ties": ties,
        "one": one,
        "soft": ls.Penalty(norm="squared", groups="element", center="mean"),
        "exact": ls.Penalty(norm="l1", groups="element", center="mean"),
        "with_strategy": with_strategy,
        "FSDPStrategy": FSDPStrategy,
        "DeepSpeedStrategy": DeepSpeedStrategy,
        "ModelCheckpoint": ModelCheckpoint,
        "StochasticWeightAveraging": StochasticWeightAveraging,
        "LambdaCallback": LambdaCallback,
        "LBFGS": torch.optim.LBFGS,
    }


def run_code(text: str, pair: Pair) -> None:
    exec(compile(text, "what", "exec"), names(pair))


def run_command(text: str, folder: Path) -> tuple[str, str] | None:
    """`python train.py` and `lit-share` in this process."""
    program, *arguments = shlex.split(text.removeprefix("python "))
    if program == "train.py":
        train(arguments, folder)
        return None
    assert program == "lit-share"
    from contextlib import redirect_stderr
    from io import StringIO

    with redirect_stderr(StringIO()) as stderr:
        code = cli.main(arguments)
    return f"exit code {code}", stderr.getvalue().strip()


def train(overrides: list[str], folder: Path) -> None:
    register_schema()
    output = folder / "out"
    output.mkdir(exist_ok=True)
    own = {override.partition("=")[0] for override in overrides}
    fast = [option for option in FAST if option.partition("=")[0] not in own]
    try:
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            config = compose(
                "train",
                [*fast, *overrides, f"hydra.runtime.output_dir={output}"],
                return_hydra_config=True,
            )
        HydraConfig.instance().set_config(config)
        OmegaConf.set_readonly(config.hydra, None)
        with open_dict(config):
            del config["hydra"]
        run(config, output, overrides)
    finally:
        HydraConfig.instance().cfg = None


def run_row(row: Any, folder: Path, pair: Pair) -> tuple[str, str]:
    """Do what a row says; return the kind of error and its text, with `DIR` for the folder."""
    text = row.what.replace("DIR", str(folder))
    try:
        if row.do is not None:
            heard = row.do(folder)
        elif text.startswith(("python train.py ", "lit-share ")):
            heard = run_command(text, folder)
        else:
            heard = run_code(text, pair)
    except BaseException as error:
        heard = type(error).__name__, str(error)
    assert heard is not None, "no error at all"
    kind, message = heard
    return kind, without_colours(message).replace(str(folder), "DIR")
