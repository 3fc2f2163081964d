"""Hyperparameters that are no plain values are read from checkpoints, and nothing else is."""

from __future__ import annotations

import enum
import functools
import pathlib
import pickle
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from omegaconf import OmegaConf
from torch import nn

from lit_share.paired import Paired, readable_hyperparameters


class Colour(enum.Enum):
    RED = 1


@dataclass
class Sizes:
    width: int = 3

    class Inner(enum.Enum):
        ONE = 1


class Lit(LightningModule):
    def __init__(self, given=None):
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Linear(1, 1)

    def training_step(self, batch, batch_idx):
        return self.net(batch).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


VALUES = {
    "partial": functools.partial(torch.optim.Adam, lr=0.1),
    "path": pathlib.Path("x"),
    "enum": Colour.RED,
    "dataclass": Sizes(4),
    "numpy scalar": np.float32(0.5),
    "numpy array": np.arange(3),
    "class": nn.Linear,
    "config": OmegaConf.create({"lr": [0.1]}),
}


def read(path, *modules):
    with readable_hyperparameters(*modules):
        return torch.load(path, weights_only=True)


@pytest.fixture
def saved(tmp_path):
    def save(value):
        torch.save({"hyper_parameters": {"given": value}}, tmp_path / "a.ckpt")
        return tmp_path / "a.ckpt"

    return save


@pytest.mark.parametrize("name", VALUES)
def test_what_a_module_saves_is_read(saved, name):
    value = VALUES[name]
    path = saved(value)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)
    found = read(path, Lit(value))["hyper_parameters"]["given"]
    assert type(found) is type(value)
    if name == "partial":
        assert (found.func, found.keywords) == (value.func, value.keywords)
    else:
        assert np.all(found == value)


def test_nothing_else_is_read(saved):
    path = saved(pathlib.Path("x"))
    before = set(torch.serialization.get_safe_globals())
    with pytest.raises(pickle.UnpicklingError):
        read(path, Lit(Colour.RED), nn.Linear(1, 1))
    assert set(torch.serialization.get_safe_globals()) == before


def test_a_module_as_hyperparameter(saved):
    net = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    with pytest.warns(UserWarning, match="is an instance of `nn.Module`"):
        lit = Lit(net)
    found = read(saved(net), lit)["hyper_parameters"]["given"]
    assert torch.equal(found[0].weight, net[0].weight)


def test_a_container_of_omegaconf(tmp_path):
    config = OmegaConf.create({"given": {"lr": 0.1}})
    torch.save(config, tmp_path / "a.ckpt")
    assert read(tmp_path / "a.ckpt", SimpleNamespace(hparams=config)) == config


def test_what_cannot_be_read_is_told_by_name():
    # Objects of nested classes are pickled with `getattr`, by which a file could get anything.
    lit = SimpleNamespace(hparams={"lr": 0.1, "odd": Sizes.Inner.ONE})
    message = (
        r"SimpleNamespace saves the hyperparameter 'odd' of type Inner, which cannot be read back "
        r"from a checkpoint: leave it out, by self\.save_hyperparameters\(ignore=\['odd'\]\)"
    )
    with pytest.raises(ValueError, match=message), readable_hyperparameters(lit):
        pass


def test_what_a_hook_adds_is_read(tmp_path):
    class Adding(Lit):
        def on_save_checkpoint(self, checkpoint):
            checkpoint["colour"] = Colour.RED

    class Failing(Lit):
        def on_save_checkpoint(self, checkpoint):
            checkpoint["colour"] = self.trainer.current_epoch

    torch.save({"colour": Colour.RED}, tmp_path / "a.ckpt")
    pair = Paired(a=Adding(1), b=Failing(2))
    # Without a Trainer, the hook of the second child fails after that of the first.
    assert read(tmp_path / "a.ckpt", pair)["colour"] is Colour.RED
    with pytest.raises(pickle.UnpicklingError):
        read(tmp_path / "a.ckpt", Lit(1))


def test_a_child_is_exported_from_a_checkpoint(tmp_path):
    pair = Paired(a=Lit(Colour.RED), b=Lit(pathlib.Path("x")))
    trainer = Trainer(max_epochs=1, logger=False, enable_checkpointing=False, accelerator="cpu")
    loader = torch.utils.data.DataLoader(torch.ones(2, 1))
    trainer.fit(pair, {"a": loader, "b": loader})
    trainer.save_checkpoint(tmp_path / "pair.ckpt")
    pair.export_child("b", tmp_path / "b.ckpt", tmp_path / "pair.ckpt")
    child = Lit.load_from_checkpoint(tmp_path / "b.ckpt", weights_only=False)
    assert child.hparams["given"] == pathlib.Path("x")
