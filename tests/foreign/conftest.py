import warnings
from importlib import import_module

import pytest

from . import _agents, _images, _science, _self_supervised, _tables

# The package that the modules and their Trainer come from.
PACKAGES = ("lightning.pytorch", "pytorch_lightning")
# What the modules do in the ways of their authors, and Lightning remarks on.
REMARKS = (
    ".*Skipping val loop.*",
    ".*`IterableDataset` has `__len__` defined.*",
    "You called `self.log.*have no logger configured.*",
    ".*is already saved during checkpointing.*",
    ".*in `training_step` but the value needs to be floating point.*",
)


def define(L):
    """All modules, by what is special about them, of the LightningModule of a package."""
    files = (_images, _agents, _science, _tables, _self_supervised)
    return {name: each for file in files for name, each in file.define(L).items()}


@pytest.fixture(params=PACKAGES)
def L(request):
    return import_module(request.param)


@pytest.fixture
def foreign(L):
    return define(L)


@pytest.fixture
def fit(L):
    def fit(module, train=None, val=None, datamodule=None, ckpt_path=None, **options):
        defaults = {
            "max_epochs": 2,
            "limit_train_batches": 4,
            "accelerator": "cpu",
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "num_sanity_val_steps": 0,
            "log_every_n_steps": 1,
        }
        trainer = L.Trainer(**(defaults | options))
        trainer.fit(module, train, val, datamodule, ckpt_path=ckpt_path, weights_only=False)
        return trainer

    return fit


@pytest.fixture(autouse=True)
def _quieter(quiet):
    for message in REMARKS:
        warnings.filterwarnings("ignore", message=message)
