import os
from pathlib import Path

import pytest

from .._programs import run

SCRIPT = """
import torch
from lightning import LightningModule, Trainer
from torch.utils.data import DataLoader, TensorDataset
from lit_share.paired import Paired
from lit_share.lab.app._processes import spawned


class Lit(LightningModule):
    def __init__(self, lr):
        super().__init__()
        self.save_hyperparameters()
        self.net = torch.nn.Linear(4, 1)

    def training_step(self, batch, batch_idx):
        loss = (self.net(batch[0]) - batch[1]).square().mean()
        self.log("train/loss", loss, on_step=False, on_epoch=True, sync_dist=True)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", (self.net(batch[0]) - batch[1]).square().mean(), sync_dist=True)

    def on_train_end(self):
        weights = self.all_gather(self.net.weight)
        assert weights.shape[0] == 2
        assert torch.equal(weights[0], weights[1])

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=self.hparams.lr)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]


def loader(samples):
    inputs = torch.randn(samples, 4)
    return DataLoader(TensorDataset(inputs, inputs.sum(1, keepdim=True)), batch_size=4)


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(0)
    pair = Paired(a=Lit(0.1), b=Lit(0.01))
    before = pair.a.net.weight.detach().clone()
    trainer = Trainer(
        max_epochs=2, accelerator="cpu", devices=2, strategy=spawned(),
        gradient_clip_val=1.0,
        logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )
    loaders = {"a": loader(32), "b": loader(16)}
    trainer.fit(pair, loaders, {"a": loader(8), "b": loader(16)})
    assert not torch.equal(pair.a.net.weight, before)
    logged = {f"{n}/{s}/loss" for n in "ab" for s in ("train", "val")}
    assert trainer.callback_metrics.keys() == logged
    assert all(value.isfinite() for value in trainer.callback_metrics.values())
"""


@pytest.mark.slow
@pytest.mark.multiprocess
def test_two_processes_train_and_stay_equal(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = run([script], env=environment, timeout=180)
    assert done.returncode == 0, done.stderr[-3000:]
