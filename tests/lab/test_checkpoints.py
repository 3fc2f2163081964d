"""Checkpoints say what they are, wherever their folder is."""

from __future__ import annotations

import shutil

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lit_share.lab.checkpoints import Checkpoint

pytestmark = [
    pytest.mark.usefixtures("own_folder", "quiet"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists"),
]


class Lit(LightningModule):
    """Logs given scores, one for each epoch."""

    def __init__(self, scores):
        super().__init__()
        self.net, self.scores = nn.Linear(1, 1), scores

    def training_step(self, batch):
        return self.net(batch[0]).mean()

    def validation_step(self, batch):
        self.log("score", self.scores[self.current_epoch])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(folder, scores, epochs, ckpt_path=None):
    own = {"enable_version_counter": False}
    best = Checkpoint(folder, "best", monitor="score", mode="max", **own)
    last = Checkpoint(folder, "last", save_on_train_epoch_end=True, **own)
    trainer = Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, callbacks=[best, last],
    )  # fmt: skip
    loader = DataLoader(TensorDataset(torch.ones(1, 1)))
    trainer.fit(Lit(scores), loader, loader, ckpt_path=ckpt_path)
    return best


def epochs_in(folder):
    return {
        path.name: torch.load(path, weights_only=True)["epoch"] for path in sorted(folder.iterdir())
    }


def test_the_last_is_the_last_and_the_best_the_best(tmp_path):
    for epochs in range(1, 5):
        fit(tmp_path / f"{epochs}", [0.1, 0.4, 0.2, 0.3], epochs)
        best = 0 if epochs == 1 else 1
        assert epochs_in(tmp_path / f"{epochs}") == {"best.ckpt": best, "last.ckpt": epochs - 1}


@pytest.mark.parametrize("how", ["stays", "moved", "copied"])
def test_the_best_is_known_after_resuming(tmp_path, how):
    folder = tmp_path / "before"
    fit(folder, [0.1, 0.4], 2)
    if how == "moved":
        folder = folder.rename(tmp_path / "after")
    if how == "copied":
        folder = shutil.copytree(folder, tmp_path / "after")
    best = fit(folder, [0.0, 0.0, 0.2, 0.3], 4, ckpt_path=folder / "last.ckpt")
    assert best.best_model_path == str(folder / "best.ckpt")
    assert best.best_model_score == 0.4
    assert epochs_in(folder) == {"best.ckpt": 1, "last.ckpt": 3}


@pytest.mark.parametrize(("score", "best"), [(0.2, 1), (0.5, 3)])
def test_the_best_is_copied_from_a_folder_that_is_not_that_of_the_resumed(tmp_path, score, best):
    fit(tmp_path / "before", [0.1, 0.4], 2)
    saved = fit(
        tmp_path / "new", [0.0, 0.0, 0.2, score], 4, ckpt_path=tmp_path / "before" / "last.ckpt"
    )
    assert saved.best_model_path == str(tmp_path / "new" / "best.ckpt")
    assert epochs_in(tmp_path / "new") == {"best.ckpt": best, "last.ckpt": 3}
    assert epochs_in(tmp_path / "before") == {"best.ckpt": 1, "last.ckpt": 1}


def test_a_best_that_is_gone_is_named_before_training(tmp_path):
    fit(tmp_path, [0.1, 0.4], 2)
    (tmp_path / "best.ckpt").unlink()
    with pytest.raises(ValueError, match=r"best\.ckpt, the best checkpoint until epoch 2, is not"):
        fit(tmp_path, [0.0, 0.0, 0.9], 3, ckpt_path=tmp_path / "last.ckpt")


def test_a_second_training_replaces_files(tmp_path):
    fit(tmp_path, [0.1, 0.4], 2)
    fit(tmp_path, [0.3], 1)
    assert epochs_in(tmp_path) == {"best.ckpt": 0, "last.ckpt": 0}


def test_several_best_ones(tmp_path):
    """Paths of all of them are those of the folder that they are in now."""
    before = tmp_path / "before"
    fit(before, [0.1, 0.4, 0.3], 3)
    shutil.copy(before / "best.ckpt", before / "kept.ckpt")
    callback = Checkpoint(before.rename(tmp_path / "after"), "best", monitor="score", mode="max")
    state = {
        **callback.state_dict(), "dirpath": str(before), "best_model_path": f"{before}/kept.ckpt",
        "best_k_models": {f"{before}/kept.ckpt": 1.0, f"{before}/gone.ckpt": 2.0, "/a.ckpt": 3.0},
        "kth_best_model_path": "", "last_model_path": "s3://bucket/last.ckpt",
    }  # fmt: skip
    callback.load_state_dict(state)
    assert callback.best_model_path == f"{tmp_path}/after/kept.ckpt"
    assert list(callback.best_k_models) == [
        f"{tmp_path}/after/kept.ckpt", f"{before}/gone.ckpt", "/a.ckpt",
    ]  # fmt: skip
    assert (callback.kth_best_model_path, callback.last_model_path) == ("", "s3://bucket/last.ckpt")
