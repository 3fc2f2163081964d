"""Modules and data of two sites, of either Lightning, as a project of somebody else has them."""

from __future__ import annotations

from typing import Any

import lightning.pytorch
import pytorch_lightning
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import lit_share as ls


def _module_of(L: Any) -> Any:
    class Regressor(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(4, 1)

        def step(self, batch: Any, name: str) -> torch.Tensor:
            x, y = batch
            loss = (self.net(x) - y).square().mean()
            self.log(f"{name}/loss", loss)
            return loss

        def training_step(self, batch: Any) -> torch.Tensor:
            return self.step(batch, "train")

        def validation_step(self, batch: Any) -> None:
            self.step(batch, "val")

        def test_step(self, batch: Any) -> None:
            self.step(batch, "test")

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    return Regressor


def _data_of(L: Any) -> Any:
    class Site(L.LightningDataModule):
        def __init__(self, refused: str = "") -> None:
            super().__init__()
            self.refused = refused
            self.stages: list[str] = []

        def setup(self, stage: str) -> None:
            if stage == self.refused:
                raise ValueError(f"Invalid stage {stage}")
            self.stages.append(stage)

        def train_dataloader(self) -> Any:
            # The last stage decides, so that a check which leaves another one would be noticed.
            assert self.stages[-1] == "fit"
            return self.loader()

        def val_dataloader(self) -> Any:
            return self.loader()

        def test_dataloader(self) -> Any:
            return self.loader()

        def loader(self) -> Any:
            generator = torch.Generator().manual_seed(0)
            x = torch.randn(20, 4, generator=generator)
            return DataLoader(TensorDataset(x, x.sum(dim=1, keepdim=True)), batch_size=10)

    return Site


PACKAGES = {"lightning.pytorch": lightning.pytorch, "pytorch_lightning": pytorch_lightning}
MODULES = {name: _module_of(package) for name, package in PACKAGES.items()}
DATA = {name: _data_of(package) for name, package in PACKAGES.items()}


class OwnTrainer(lightning.pytorch.Trainer):
    """A Trainer of a project, which its modules ask for more than Lightning's has."""


def pair(package: str = "lightning.pytorch") -> ls.Paired:
    return ls.Paired(old=MODULES[package](), new=MODULES[package](), same_init=True)


def alone(package: str = "lightning.pytorch") -> Any:
    return MODULES[package]()


def data(package: str = "lightning.pytorch", refused: str = "") -> ls.PairedData:
    return ls.PairedData(old=DATA[package](), new=DATA[package](refused))


class Kept:
    """An object that a checkpoint would hold."""

    class Nested:
        """An object that a checkpoint cannot be read back with."""


def _with_entry(entry: Any) -> ls.Paired:
    class Keeping(MODULES["lightning.pytorch"]):  # type: ignore[misc]
        def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            checkpoint["kept"] = entry

    return ls.Paired(old=pair().old, new=Keeping())


def keeping() -> ls.Paired:
    return _with_entry(Kept())


def keeping_unreadable() -> ls.Paired:
    return _with_entry(Kept.Nested())


class KeptByCallback(lightning.pytorch.Callback):
    """A callback whose state has an object."""

    def state_dict(self) -> dict[str, Any]:
        return {"kept": Kept()}
