"""`Regularize` with the precision of elements."""

from __future__ import annotations

import logging

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule, Trainer
from torch import nn
from torch.testing import assert_close
from torch.utils.data import DataLoader, TensorDataset

from lit_share import Paired, Regularize, Ties, fisher, second_moments
from lit_share.callbacks import SharingMonitor

pytestmark = pytest.mark.usefixtures("own_folder", "quiet")
PAIR = Ties("a.*", "b.*")


class Lit(LightningModule):
    def __init__(self, seed=0, optimizer=torch.optim.Adam, two=False):
        super().__init__()
        torch.manual_seed(seed)
        self.a, self.b = nn.Linear(4, 3), nn.Linear(4, 3)
        self.optimizer, self.automatic_optimization = optimizer, not two

    def loss(self, batch):
        x, y = batch
        return F.cross_entropy(self.a(x), y) + F.cross_entropy(self.b(x), 2 - y)

    def training_step(self, batch, _):
        loss = self.loss(batch)
        if self.automatic_optimization:
            self.log("loss", loss)
            return loss
        for optimizer in self.optimizers():
            optimizer.zero_grad()
        self.manual_backward(loss)
        for optimizer in self.optimizers():
            optimizer.step()
        return None

    def configure_optimizers(self):
        if self.automatic_optimization:
            return self.optimizer(self.parameters(), lr=0.1)
        return [self.optimizer(part.parameters(), lr=0.1) for part in (self.a, self.b)]


class Child(LightningModule):
    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.net = nn.Linear(4, 3)

    def training_step(self, batch, _):
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.1)


def loader(seed=1):
    rng = torch.Generator().manual_seed(seed)
    return DataLoader(TensorDataset(torch.randn(12, 4, generator=rng), torch.arange(12) % 3), 4)


def fit(module, *callbacks, epochs=2, data=None, **options):
    trainer = Trainer(
        max_epochs=epochs, accelerator="cpu", callbacks=list(callbacks), logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, data or loader(), **options)
    return trainer


def pull(module, moments):
    """½ · 2fg / (f + g) · (a − b)²."""
    total = 0.0
    for name, a in module.a.named_parameters():
        f, g = moments[f"a.{name}"], moments[f"b.{name}"]
        weight = 2 * f * g / (f + g).clamp_min(1e-30)
        total = total + 0.5 * (weight * (a - module.b.get_parameter(name)).square()).sum()
    return total


def by_hand(strength, steps=6):
    module = Lit()
    optimizer = module.configure_optimizers()
    for number, batch in enumerate([*loader(), *loader()][:steps]):
        optimizer.zero_grad()
        loss = module.loss(batch)
        if number > 0:
            loss = loss + strength * pull(module, second_moments(module, optimizer))
        loss.backward()
        optimizer.step()
    return module, strength * pull(module, second_moments(module, optimizer)).item()


@pytest.mark.parametrize("two", [False, True], ids=["one optimizer", "two optimizers"])
def test_live_second_moments(two):
    module, callback = Lit(two=two), Regularize("soft_tie", PAIR, 5.0, precision="adam")
    trainer = fit(module, callback, SharingMonitor(PAIR))
    expected, penalty = by_hand(5.0)
    assert_close(module.state_dict(), expected.state_dict())
    assert float(trainer.callback_metrics["sharing/penalty"]) == pytest.approx(penalty, rel=1e-4)
    assert callback.value(module, 6, 2) == pytest.approx(penalty, rel=1e-4)
    assert not torch.allclose(by_hand(0.0)[0].a.weight, expected.a.weight, atol=1e-3)


def test_it_is_said_that_the_first_step_is_without_it(caplog):
    with caplog.at_level(logging.INFO):
        fit(Lit(), Regularize("soft_tie", PAIR, 5.0, precision="adam"))
    assert "the penalty of Ties('a.*', 'b.*') begins with the second step" in caplog.text


def test_a_pair_of_modules():
    """Its optimizer steps those of its children."""
    pair = Paired(a=Child(1), b=Child(2))
    callback = Regularize("soft_tie", Ties("a.net.*", "b.net.*"), 50.0, precision="adam")
    fit(pair, callback, data={"a": loader(), "b": loader(2)})
    alone = Paired(a=Child(1), b=Child(2))
    fit(alone, data={"a": loader(), "b": loader(2)})

    def distance(module):
        a, b = module.a.net.weight, module.b.net.weight
        return (a - b).norm().item()

    assert distance(pair) < 0.9 * distance(alone)


def test_one_task_after_the_other(tmp_path):
    """The old task's Fisher information, from the module's own training step."""
    module = Lit()
    fit(module, epochs=20)
    old = fisher(module, loader())
    assert old.keys() == module.state_dict().keys()
    file = tmp_path / "fisher.pt"
    torch.save(old, file)
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    found = {}
    for name, callbacks in {
        "none": [],
        "mapping": [Regularize("ewc", ["*"], 100.0, precision=old)],
        "file": [Regularize("ewc", ["*"], 100.0, precision=str(file))],
    }.items():
        own = Lit()
        own.load_state_dict(before)
        fit(own, *callbacks, data=loader(2))
        terms = (
            (old[n] * (p - before[n]).square()).sum().item() for n, p in own.named_parameters()
        )
        found[name] = sum(terms)
    assert found["mapping"] == found["file"] < 0.5 * found["none"]


def test_states_do_not_mix(tmp_path):
    weights = {name: torch.ones_like(p) for name, p in Lit().named_parameters()}

    def callbacks():
        return Regularize("l2_sp", ["*"], 0.1), Regularize("ewc", ["*"], 0.2, precision=weights)

    module = Lit()
    fit(module, *callbacks(), epochs=1).save_checkpoint(tmp_path / "one.ckpt")
    assert len({callback.state_key for callback in callbacks()}) == 2
    resumed, again = Lit(seed=3), callbacks()
    fit(resumed, *again, ckpt_path=tmp_path / "one.ckpt")
    whole = Lit()
    fit(whole, *callbacks())
    assert_close(resumed.state_dict(), whole.state_dict(), rtol=0, atol=0)
    assert not again[0].state_dict()["precision"]
    assert_close(again[1].state_dict()["precision"], weights)


def test_what_a_new_optimizer_does_not_know():
    callback = Regularize("ewc", ["*"], 1.0, precision="adam")
    with pytest.raises(
        ValueError, match=r"have not stepped yet: pass precision=lit_share.second_m"
    ):
        fit(Lit(), callback)
    with pytest.raises(TypeError, match="SGD has no second moments"):
        fit(Lit(optimizer=torch.optim.SGD), callback)
