"""Random numbers of a resumed training are those of an uninterrupted one."""

from __future__ import annotations

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lit_share import KeepRandomState
from lit_share.callbacks._generators import random_states, set_random_states

from .._two_processes import errors_of

pytestmark = [
    pytest.mark.usefixtures("own_folder", "quiet"),
    pytest.mark.filterwarnings(
        "ignore:Checkpoint directory .* exists",
        "ignore:The dirpath has changed",
        "ignore:.*callbacks used to create the checkpoint",
    ),
]
CPU = torch.device("cpu")


def draw():
    return torch.rand(2).tolist(), np.random.rand(2).tolist(), random.random()


class Lit(LightningModule):
    """Draws from all generators, in hooks and in steps; keeps what it has drawn."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 1))
        self.drawn = []

    def on_train_start(self):
        # Only a training that starts, or is resumed, has this hook.
        draw()

    def on_train_epoch_start(self):
        self.drawn.append(draw())

    def training_step(self, batch):
        (x,) = batch
        self.drawn.append((x.tolist(), draw()))
        return self.net(x).square().mean()

    def validation_step(self, batch):
        self.log("val", self.net(batch[0]).mean(), sync_dist=True)

    def on_train_epoch_end(self):
        self.drawn.append(draw())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class DrawsAtTheStart(Callback):
    def on_train_start(self, *_):
        draw()


class Noisy(TensorDataset):
    """Each example has noise, which worker processes draw."""

    def __getitem__(self, index):
        (x,) = super().__getitem__(index)
        return (x + torch.rand(4) + np.random.rand() + random.random(),)


DATA = Noisy(torch.arange(32.0).reshape(8, 4))

VALIDATION = DataLoader(DATA, 2)


def loader(workers=0, generator=None):
    own = generator and generator()
    return DataLoader(DATA, 2, shuffle=True, num_workers=workers, generator=own)


def seeded():
    return torch.Generator().manual_seed(3)


def fit(epochs, folder=None, ckpt_path=None, before=(), after=(), saver=None, make=loader, **own):
    seed_everything(4, workers=True, verbose=False)
    saving = saver or ModelCheckpoint(folder, "{epoch}", save_top_k=-1)
    module = Lit()
    trainer = Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[*before, KeepRandomState(), *after, saving], **own,
    )  # fmt: skip
    trainer.fit(module, make(), VALIDATION, ckpt_path=ckpt_path)
    return module, draw()


def assert_resumes(tmp_path, epochs=3, **options):
    whole, after = fit(epochs, tmp_path / "whole", **options)
    assert len(whole.drawn) == 6 * epochs
    for epoch in range(epochs):
        random.seed(9)
        file = tmp_path / "whole" / f"epoch={epoch}.ckpt"
        module, then = fit(epochs, tmp_path / "resumed", file, **options)
        left = (epochs - 1 - epoch) * 6
        assert module.drawn[len(module.drawn) - left :] == whole.drawn[len(whole.drawn) - left :]
        assert torch.equal(module.net[1].weight, whole.net[1].weight)
        assert then == after


@pytest.mark.parametrize("generator", [None, seeded], ids=["global", "own"])
def test_shuffled_and_dropped(tmp_path, generator):
    assert_resumes(tmp_path, make=lambda: loader(generator=generator))


@pytest.mark.parametrize("place", ["before", "after"])
def test_callbacks_that_draw_at_the_start_change_nothing(tmp_path, place):
    assert_resumes(tmp_path, epochs=2, **{place: [DrawsAtTheStart()]})


def test_from_a_validation(tmp_path):
    saver = ModelCheckpoint(tmp_path / "whole", "{epoch}", save_top_k=-1, monitor="val")
    saver._save_on_train_epoch_end = False
    assert_resumes(tmp_path, epochs=2, saver=saver)


@pytest.mark.slow
@pytest.mark.multiprocess
def test_noise_of_workers(tmp_path):
    assert_resumes(tmp_path, epochs=2, make=lambda: loader(workers=1))


def test_without_the_callback_random_numbers_are_others(tmp_path):
    """The tests here can fail."""
    whole, _ = fit(2, tmp_path)
    seed_everything(4, workers=True, verbose=False)
    module = Lit()
    trainer = Trainer(max_epochs=2, accelerator="cpu", logger=False, enable_progress_bar=False)
    trainer.fit(module, loader(), VALIDATION, ckpt_path=tmp_path / "epoch=0.ckpt")
    assert module.drawn[-6:] != whole.drawn[-6:]


def test_checkpoints_load_without_pickle(tmp_path):
    fit(1, tmp_path)
    checkpoint = torch.load(tmp_path / "epoch=0.ckpt", weights_only=True)
    (own,) = checkpoint["callbacks"]["KeepRandomState"]["ranks"]
    assert own.keys() == {"torch", "numpy", "python", "devices", "loaders"}


def test_old_checkpoints_are_warned_of(tmp_path):
    fit(1, tmp_path)
    checkpoint = torch.load(tmp_path / "epoch=0.ckpt", weights_only=True)
    del checkpoint["callbacks"]["KeepRandomState"]
    torch.save(checkpoint, tmp_path / "old.ckpt")
    with pytest.warns(UserWarning, match="has no states of random number generators"):
        fit(2, tmp_path / "new", tmp_path / "old.ckpt")


def test_other_processes_and_loaders_are_warned_of(tmp_path):
    fit(1, tmp_path)
    with pytest.warns(UserWarning, match=r"of 0 generators of loaders \(now 1\)"):
        fit(2, tmp_path / "new", tmp_path / "epoch=0.ckpt", make=lambda: loader(generator=seeded))
    checkpoint = torch.load(tmp_path / "epoch=0.ckpt", weights_only=True)
    checkpoint["callbacks"]["KeepRandomState"]["ranks"] *= 2
    torch.save(checkpoint, tmp_path / "two.ckpt")
    with pytest.warns(UserWarning, match=r"random states of 2 processes \(now 1\)"):
        fit(2, tmp_path / "two", tmp_path / "two.ckpt")


def test_an_evaluation_restores_nothing(tmp_path):
    """Also not in the training that follows."""
    fit(1, tmp_path)
    modules = []
    for file in (tmp_path / "epoch=0.ckpt", None):
        trainer = Trainer(
            max_epochs=1, accelerator="cpu", logger=False, enable_progress_bar=False,
            enable_checkpointing=False, callbacks=[KeepRandomState()],
        )  # fmt: skip
        modules.append(Lit())
        if file is not None:
            trainer.validate(modules[-1], VALIDATION, ckpt_path=file, verbose=False)
        seed_everything(6, verbose=False)
        trainer.fit(modules[-1], loader(), VALIDATION)
    assert modules[0].drawn == modules[1].drawn


class Fails(Callback):
    def on_train_start(self, *_):
        raise ArithmeticError


def test_a_training_that_failed_leaves_nothing(tmp_path):
    fit(1, tmp_path)
    trainer = Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_progress_bar=False,
        enable_checkpointing=False, callbacks=[KeepRandomState(), Fails()],
    )  # fmt: skip
    with pytest.raises(ArithmeticError):
        trainer.fit(Lit(), loader(), VALIDATION, ckpt_path=tmp_path / "epoch=0.ckpt")
    assert "on_advance_start" in vars(trainer.fit_loop)
    del trainer.callbacks[1]
    trainer.fit(Lit(), loader(), VALIDATION)
    assert "on_advance_start" not in vars(trainer.fit_loop)


@pytest.mark.parametrize("bits", ["MT19937", "PCG64", "Philox", "SFC64"])
def test_all_generators_of_numpy(bits):
    before = np.random.get_bit_generator()
    np.random.set_bit_generator(getattr(np.random, bits)(5))
    try:
        states = random_states(CPU, None)
        drawn = draw()
        assert draw() != drawn
        assert set_random_states(states, CPU, None) == []
        assert draw() == drawn
    finally:
        np.random.set_bit_generator(before)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.multiprocess
def test_two_processes(tmp_path):
    table = f"{__package__}._random_in_two"
    (error,) = errors_of(table, ["each rank has its own"], tmp_path).values()
    assert error is None, error


@pytest.mark.parametrize("kind", ["all", "one"])
def test_devices(monkeypatch, kind):
    """Of CUDA, which has a state for each device, and of MPS, which has one."""
    states = [torch.tensor([1]), torch.tensor([2])]
    if kind == "all":
        module = SimpleNamespace(
            get_rng_state_all=lambda: [*states],
            set_rng_state_all=lambda new: states.__setitem__(slice(None), new),
        )
    else:
        module = SimpleNamespace(
            get_rng_state=lambda: states[0], set_rng_state=lambda new: states.__setitem__(0, new)
        )
    monkeypatch.setattr(torch, "get_device_module", lambda device: module)
    kept = random_states(torch.device("cuda"), None)
    before, states[0] = states[0], torch.tensor([3])
    assert set_random_states(kept, torch.device("cuda"), None) == []
    assert states[0] is before
    assert set_random_states(kept, CPU, None) == [
        f"{len(kept['devices'])} devices beside the CPU (now 0)"
    ]
