"""Callbacks in Trainers of both packages."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from types import SimpleNamespace

import pytest
import torch

import lit_share as ls
from lit_share.lightnings import PACKAGES, package_of

from ._both import assert_same, loader, trainer, two

TIES = ls.Ties("a.*", "b.*")
PATH = ls.Path(0.1, 1.0, steps=2, epochs=1, first=1)
SETS = {
    "soft": lambda: [ls.Regularize("soft_tie", TIES, 0.1), ls.SharingMonitor()],
    "exact, once per epoch": lambda: [ls.Regularize("exact_tie", TIES, 0.1, every="epoch")],
    "hard": lambda: [ls.Share(TIES), ls.SharingMonitor()],
    "hard, later": lambda: [ls.Share(TIES, epoch=1)],
    "aligned": lambda: [ls.Align(TIES), ls.Regularize("unit_tie", TIES, 0.1)],
    "learned": lambda: [ls.Regularize("soft_tie", TIES, ls.Learned(start=0.1, every=1))],
    "path": lambda: [
        ls.Regularize("soft_tie", TIES, ls.Path(0.1, 1.0, steps=2, epochs=1, first=1))
    ],
}


def fit(package, callbacks, **options):
    module, made = two(package)(), trainer(package, callbacks, **options)
    made.fit(module, loader(), loader(2))
    return module, made


@pytest.mark.parametrize("name", SETS)
def test_both_train_alike(name):
    epochs = 3 if name == "path" else 2
    (one, by), (other, by_other) = (
        fit(package, SETS[name](), max_epochs=epochs) for package in PACKAGES
    )
    untied = two(PACKAGES[0])()
    trainer(PACKAGES[0], max_epochs=epochs).fit(untied, loader(), loader(2))
    assert package_of(other) == "pytorch_lightning"
    assert_same(one, other)
    assert not torch.equal(one.b[0].weight, untied.b[0].weight)
    assert by.callback_metrics.keys() == by_other.callback_metrics.keys()
    for key, value in by.callback_metrics.items():
        assert torch.equal(value, by_other.callback_metrics[key])


@pytest.mark.parametrize("package", PACKAGES)
def test_a_callback_need_not_be_in_a_list(package):
    soft_tie = ls.Regularize("soft_tie", TIES, 0.1)
    assert trainer(package, soft_tie).callbacks[0] is soft_tie


@pytest.mark.parametrize("package", PACKAGES)
def test_states_are_restored_from_the_other_package(package, tmp_path):
    (other,) = set(PACKAGES) - {package}
    options = {"max_epochs": 1}
    _, made = fit(other, [ls.Regularize("exact_tie", TIES, 5.0, keep_tied=True)], **options)
    made.save_checkpoint(tmp_path / "one.ckpt")
    resumed = ls.Regularize("exact_tie", TIES, 0.0, keep_tied=True)
    module = two(package)()
    trainer(package, [resumed]).fit(
        module, loader(), loader(2), ckpt_path=tmp_path / "one.ckpt", weights_only=False
    )
    assert_same(module.a, module.b)


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("name", ["FSDPStrategy", "DeepSpeedStrategy"])
@pytest.mark.parametrize("make", [SETS["soft"], SETS["hard"], SETS["aligned"]])
def test_strategies_that_flatten_are_refused(package, name, make):
    flattening = getattr(import_module(f"{package}.strategies"), name)
    # Neither can be made without devices or DeepSpeed.
    attributes = {"callbacks": [], "loggers": [], "global_step": 0}
    made = type("Made", (), {"strategy": object.__new__(flattening), **attributes})()
    with pytest.raises(ValueError, match=f"cannot serve {name}, which flattens"):
        make()[0].setup(made, two(package)(), "fit")


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("name", ["hard, later", "path", "aligned"])
def test_averages_are_refused(package, name):
    averages = import_module(f"{package}.callbacks").StochasticWeightAveraging(swa_lrs=0.1)
    with pytest.raises(ValueError, match="StochasticWeightAveraging"):
        fit(package, [*SETS[name](), averages], max_epochs=3)


@pytest.mark.parametrize("package", PACKAGES)
def test_figures_go_to_wandb(package):
    class Wandb(import_module(f"{package}.loggers").WandbLogger):
        def __init__(self):
            self.logged = []

        def __getattr__(self, name):
            return None

        @property
        def experiment(self):
            return SimpleNamespace(log=self.logged.append)

        def log_metrics(self, *_, **__): ...
        def log_graph(self, *_, **__): ...
        def log_hyperparams(self, *_, **__): ...
        def finalize(self, status): ...
        def save(self): ...

    logger = Wandb()
    fit(package, SETS["soft"](), logger=logger, log_every_n_steps=1)
    (figures,) = logger.logged
    assert figures["sharing/distances"].data


@pytest.mark.parametrize("package", PACKAGES)
def test_callbacks_of_the_other_package_are_told(package):
    (other,) = set(PACKAGES) - {package}
    stopping = import_module(f"{other}.callbacks").EarlyStopping("val/loss")
    said = f"EarlyStopping is of {other}, but the Trainer of {package}, .* import it from {package}"
    with pytest.warns(UserWarning, match=said):
        fit(package, [*SETS["soft"](), stopping])


@pytest.mark.parametrize("package", PACKAGES)
def test_noting_inputs_leaves_attributes_as_they_were(package):
    class Counts(two(package)):
        steps = 0

        def training_step(self, batch, batch_idx):
            self.steps += 1
            return super().training_step(batch, batch_idx)

    module = Counts()
    trainer(package, [ls.Align(TIES)], max_epochs=1).fit(module, loader(1))
    assert module.steps == 1


@pytest.mark.parametrize("package", PACKAGES)
def test_lightning_cli_takes_callbacks(package, monkeypatch):
    pytest.importorskip("jsonargparse")
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # of what Lightning uses
    monkeypatch.setattr("sys.argv", ["main.py"])
    cli = import_module(f"{package}.cli").LightningCLI
    regularize = {
        "class_path": "lit_share.Regularize",
        "init_args": {"penalty": "soft_tie", "ties": ["a.*", "b.*"], "strength": 0.5},
    }
    made = cli(
        two(package),
        args={"trainer": {"callbacks": [regularize], "logger": False, "accelerator": "cpu"}},
        run=False,
        save_config_callback=None,
        seed_everything_default=False,
    )
    (own,) = (each for each in made.trainer.callbacks if isinstance(each, ls.Regularize))
    assert own.strength == 0.5


@pytest.mark.slow
def test_the_package_that_is_not_used_is_not_imported():
    lines = [
        # Sorted imports have it before pytorch_lightning.
        "from lit_share import Align, Learned, Paired, PairedData, Path, Regularize, Share",
        "from lit_share import SharingMonitor",
        "import sys, torch, pytorch_lightning as pl",
        "from torch import nn, optim",
        "class Lit(pl.LightningModule):",
        "    def __init__(self):",
        "        super().__init__()",
        "        self.net = nn.Linear(2, 2)",
        "    def training_step(self, batch, batch_idx):",
        "        return self.net(batch[0]).square().mean()",
        "    def validation_step(self, batch, batch_idx):",
        "        return self.net(batch[0]).square().mean()",
        "    def configure_optimizers(self):",
        "        return optim.SGD(self.parameters(), lr=0.1)",
        "ties = ['a.net.*', 'b.net.*']",
        "data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.ones(4, 2)))",
        "calls = [Align(ties), Regularize('soft_tie', ties, Learned(start=0.1)), SharingMonitor(),",
        "         Regularize('exact_tie', ties, Path(0.1, 1.0, steps=2, epochs=1, first=1))]",
        "loaders = {'a': data, 'b': data}",
        "trainer = pl.Trainer(max_epochs=3, callbacks=calls, accelerator='cpu')",
        "trainer.fit(Paired(a=Lit(), b=Lit()), loaders, loaders)",
        "trainer = pl.Trainer(max_epochs=1, callbacks=Share(ties), accelerator='cpu')",
        "trainer.fit(Paired(a=Lit(), b=Lit()), loaders)",
        "class Data(pl.LightningDataModule):",
        "    def train_dataloader(self):",
        "        return data",
        "    val_dataloader = train_dataloader",
        "trainer = pl.Trainer(max_epochs=1, callbacks=Share(ties), accelerator='cpu')",
        "trainer.fit(Paired(a=Lit(), b=Lit()), PairedData(a=Data(), b=Data()))",
        "print('foreign:', *[name for name in sys.modules if name.split('.')[0] == 'lightning'])",
    ]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", "\n".join(lines)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "foreign:"
