"""One callback in two Trainers at a time is refused, and a copy works as the callback does."""

from __future__ import annotations

import copy
import threading

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

import lit_share as ls

TIES = ls.Ties("a.*", "b.*")


def net():
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))


class Lit(LightningModule):
    def __init__(self):
        super().__init__()
        self.a, self.b = net(), net()
        numbers = torch.Generator().manual_seed(0)
        for parameter in self.parameters():
            nn.init.normal_(parameter, generator=numbers)

    def training_step(self, x, _):
        return (self.a(x) - 1).square().mean() + (self.b(x) + 1).square().mean()

    def validation_step(self, x, _):
        loss = self.training_step(x, 0)
        self.log("val", loss)
        return loss

    test_step = validation_step

    def predict_step(self, x):
        return self.a(x)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)

    def train_dataloader(self):
        rows = torch.randn(24, 3, generator=torch.Generator().manual_seed(1))
        return torch.utils.data.DataLoader(rows, batch_size=6)

    val_dataloader = test_dataloader = predict_dataloader = train_dataloader


class Within(Callback):
    """Does something once, in the middle of training."""

    def __init__(self, do):
        self.do = do

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == 3:
            self.do()


def trainer(*callbacks, epochs=2):
    return Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, callbacks=list(callbacks),
        num_sanity_val_steps=0,
    )  # fmt: skip


def fit(*callbacks):
    module = Lit()
    trainer(*callbacks).fit(module)
    return torch.cat([p.detach().flatten() for p in module.parameters()])


MAKE = {
    "Regularize": lambda: ls.Regularize("soft_tie", TIES, 1.0),
    "Regularize, prox": lambda: ls.Regularize("exact_tie", TIES, 0.1, keep_tied=True),
    "Regularize, every epoch": lambda: ls.Regularize("exact_tie", TIES, 0.1, every="epoch"),
    "Regularize, start": lambda: ls.Regularize("l2_sp", TIES, 0.1),
    "Regularize, learned": lambda: ls.Regularize("soft_tie", TIES, ls.Learned(every=2)),
    "Share": lambda: ls.Share(TIES),
    "Share, later": lambda: ls.Share(TIES, epoch=1),
    "TieRows": lambda: ls.TieRows(["a.0.weight"], by="data", clusters=2),
    "Align": lambda: ls.Align(TIES, inputs=torch.ones(2, 3)),
    "SharingMonitor": lambda: ls.SharingMonitor(TIES),
}
FAST = ["Regularize, prox", "Share, later"]
callbacks = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in FAST)) for name in MAKE]
)
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*(num_workers|logging interval).*"),
    pytest.mark.usefixtures("own_folder", "quiet"),
]


@callbacks
def test_a_run_within_a_fit(name):
    check_run_within(name, "fit")


@pytest.mark.slow
@pytest.mark.parametrize("run", ["validate", "test", "predict"])
def test_an_evaluation_within_a_fit(run):
    check_run_within("Regularize, prox", run)
    check_run_within("Share", run)


def check_run_within(name, run):
    """What would go wrong is refused; if the inner run is refused, the outer one goes on right."""
    callback, refused = MAKE[name](), []

    def inner():
        try:
            getattr(trainer(callback), run)(Lit())
        except ValueError as error:
            refused.append(str(error))

    assert torch.equal(fit(callback, Within(inner)), fit(MAKE[name]()))
    kind = name.partition(",")[0]
    assert len(refused) == 1
    message = f"another Trainer that is still running has this {kind}: give each Trainer callbacks"
    assert refused[0].startswith(message)


def test_two_threads():
    name = "Regularize, prox"
    callback, results = MAKE[name](), []
    begun, go = threading.Event(), threading.Event()

    def hold():
        begun.set()
        go.wait(30)

    thread = threading.Thread(target=lambda: results.append(fit(callback, Within(hold))))
    thread.start()
    try:
        assert begun.wait(30)
        with pytest.raises(ValueError, match="another Trainer that is still running"):
            fit(callback)
    finally:
        go.set()
        thread.join()
    assert torch.equal(results[0], fit(MAKE[name]()))


@callbacks
def test_one_after_the_other(name):
    callback = MAKE[name]()
    first, second = fit(callback), fit(callback)
    assert torch.equal(first, second)

    class Fails(Callback):
        def on_train_batch_end(self, *_):
            raise RuntimeError("as anything may")

    with pytest.raises(RuntimeError, match="as anything may"):
        fit(callback, Fails())
    assert torch.equal(fit(callback), first)


@callbacks
@pytest.mark.parametrize(
    "when", ["in training", *(pytest.param(w, marks=pytest.mark.slow) for w in ("before", "after"))]
)
def test_copies(name, when):
    callback, right, copies = MAKE[name](), fit(MAKE[name]()), []

    def use():
        copies.append(fit(copy.deepcopy(callback)))

    if when == "before":
        use()
    assert torch.equal(fit(callback, *[Within(use)] * (when == "in training")), right)
    if when == "after":
        use()
    assert torch.equal(copies[0], right)
