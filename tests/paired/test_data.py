import copy

import pytest
import torch
from lightning import LightningDataModule
from lightning.pytorch.loggers import CSVLogger

from lit_share.paired import Paired, PairedData


@pytest.fixture
def data(kit):
    class Data(LightningDataModule):
        def __init__(self, seed, samples=20):
            super().__init__()
            self.save_hyperparameters()
            self.calls = []

        def prepare_data(self):
            self.calls.append("prepare_data")

        def setup(self, stage):
            self.calls.append(f"setup {stage}")
            self.scale = 2.0

        def teardown(self, stage):
            self.calls.append(f"teardown {stage}")

        def train_dataloader(self):
            assert self.trainer is not None
            return kit.loader(self.hparams.seed, self.hparams.samples)

        def val_dataloader(self):
            return kit.loader(self.hparams.seed + 10, 6)

        def on_after_batch_transfer(self, batch, dataloader_idx):
            return [batch[0] * self.scale, batch[1]]

        def state_dict(self):
            return {"calls": len(self.calls)}

        def load_state_dict(self, state_dict):
            self.loaded = state_dict

    return Data


@pytest.fixture
def lit(kit):
    class Scaled(kit.Lit):
        def on_train_start(self):
            self.scale = self.trainer.datamodule.scale

        def on_after_batch_transfer(self, batch, dataloader_idx):
            raise AssertionError("the datamodule's is used")

    return Scaled


@pytest.mark.filterwarnings("ignore:You have overridden `on_after_batch_transfer`")
def test_each_child_has_its_own_datamodule(kit, data, lit, tmp_path):
    children = {"a": lit(seed=1), "b": lit(seed=2)}
    modules = {"a": data(1), "b": data(2)}
    pair = Paired(**copy.deepcopy(children))
    paired = PairedData(**copy.deepcopy(modules))
    trainer = kit.trainer(logger=CSVLogger(tmp_path), max_epochs=1)
    trainer.fit(pair, datamodule=paired)
    assert trainer.logger.experiment.hparams["datamodules"]["b"]["seed"] == 2
    for name, child in children.items():
        alone = kit.trainer(max_epochs=1)
        alone.fit(child, datamodule=modules[name])
        kit.assert_same(getattr(pair, name).state_dict(), child.state_dict())
        assert paired.by_name()[name].calls == modules[name].calls
        assert getattr(pair, name).scale == 2.0
        metric = trainer.callback_metrics[f"{name}/val/mae"]
        assert torch.equal(metric, alone.callback_metrics["val/mae"])


@pytest.mark.filterwarnings("ignore:You have overridden `on_after_batch_transfer`")
def test_states_and_hyperparameters_of_datamodules_are_kept(kit, data, lit, tmp_path):
    pair, paired = Paired(a=lit(), b=lit()), PairedData(a=data(1), b=data(2))
    trainer = kit.trainer(max_epochs=1)
    trainer.fit(pair, datamodule=paired)
    trainer.save_checkpoint(tmp_path / "pair.ckpt")
    fresh = PairedData(a=data(1), b=data(2))
    again = Paired(a=lit(), b=lit())
    kit.trainer(max_epochs=2).fit(again, datamodule=fresh, ckpt_path=tmp_path / "pair.ckpt")
    assert fresh.by_name()["b"].loaded == paired.state_dict()["b"] == {"calls": 3}
    pair.export_child("b", tmp_path / "b.ckpt", checkpoint=tmp_path / "pair.ckpt")
    assert data.load_from_checkpoint(tmp_path / "b.ckpt").hparams.seed == 2
    with pytest.raises(KeyError, match="a state of the datamodule 'b', but the datamodules are"):
        PairedData(a=data(1)).load_state_dict(paired.state_dict())


def test_only_the_stages_that_datamodules_have(kit, data):
    class Untested(data):
        def val_dataloader(self):
            raise AssertionError("not asked for")

    Untested.val_dataloader = LightningDataModule.val_dataloader
    pair, paired = Paired(a=kit.Lit(), b=kit.Lit()), PairedData(a=Untested(1), b=Untested(2))
    with pytest.warns(UserWarning, match="Skipping val loop|no `val_dataloader`"):
        kit.trainer(max_epochs=1).fit(pair, datamodule=paired)


def test_what_is_no_datamodule(kit):
    with pytest.raises(TypeError, match="PairedData needs a LightningDataModule for each child"):
        PairedData()
    with pytest.raises(TypeError, match="'a' must be a LightningDataModule, got a DataLoader"):
        PairedData(a=kit.loader(1))
