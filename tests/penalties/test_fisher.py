"""The diagonal of the empirical Fisher information."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.testing import assert_close
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MeanMetric

from lit_share import fisher, share
from lit_share.ties import Ties


class Net(nn.Module):
    def __init__(self, dtype=torch.float64):
        super().__init__()
        self.first, self.norm = nn.Linear(4, 3, dtype=dtype), nn.BatchNorm1d(3, dtype=dtype)
        self.drop, self.last = nn.Dropout(0.5), nn.Linear(3, 5, dtype=dtype)

    def forward(self, x):
        return self.last(self.drop(self.norm(torch.tanh(self.first(x)))))


class Lit(LightningModule):
    def __init__(self):
        super().__init__()
        self.net, self.mean = Net(), MeanMetric()

    def training_step(self, batch, batch_idx):
        loss = cross_entropy(self.net, batch)
        self.mean(loss.detach())
        self.log("loss", loss)
        return {"loss": loss}


def cross_entropy(module, batch):
    x, y = batch
    return F.cross_entropy(module(x), y)


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net()


@pytest.fixture
def data():
    rng = torch.Generator().manual_seed(1)
    x = torch.randn(10, 4, generator=rng, dtype=torch.float64)
    return TensorDataset(x, torch.randint(5, (10,), generator=rng))


def by_vmap(net, data):
    """All examples at once."""
    net = net.eval()
    parameters = {name: p.detach() for name, p in net.named_parameters()}

    def loss(parameters, x, y):
        return F.cross_entropy(functional_call(net, parameters, (x[None],)), y[None])

    slopes = vmap(grad(loss), in_dims=(None, 0, 0))(parameters, *data.tensors)
    return {name: g.square().mean(0) for name, g in slopes.items()}


@pytest.mark.parametrize("size", [1, 4, 10])
def test_is_that_of_examples_whatever_the_batches(size, net, data):
    found = fisher(net, DataLoader(data, size), cross_entropy)
    assert_close(found, by_vmap(net, data))


def test_of_batches(net, data):
    """The squares of averages, which are smaller."""
    found = fisher(net, DataLoader(data, 5), cross_entropy, per="batch")
    net.eval()
    expected = {name: torch.zeros_like(p) for name, p in net.named_parameters()}
    for batch in DataLoader(data, 5):
        slopes = torch.autograd.grad(cross_entropy(net, batch), list(net.parameters()))
        for total, slope in zip(expected.values(), slopes, strict=True):
            total += slope.square() / 2
    assert_close(found, expected)
    assert sum(f.sum() for f in found.values()) < sum(f.sum() for f in by_vmap(net, data).values())


def test_training_step(net, data):
    module = Lit()
    module.net = net
    found = fisher(module, DataLoader(data, 4))
    assert_close({name[4:]: f for name, f in found.items()}, by_vmap(net, data))


class OnlyBatch(Lit):
    def training_step(self, batch):
        return cross_entropy(self.net, batch)


class WithDefault(Lit):
    def training_step(self, batch, batch_idx=None, factor=1.0):
        return factor * cross_entropy(self.net, batch)


class Variadic(Lit):
    def training_step(self, *arguments):
        batch, _ = arguments
        return cross_entropy(self.net, batch)


@pytest.mark.parametrize("kind", [OnlyBatch, WithDefault, Variadic])
def test_training_steps_that_a_trainer_calls(net, data, kind):
    module = kind()
    module.net = net
    found = fisher(module, DataLoader(data, 4))
    assert_close({name[4:]: f for name, f in found.items()}, by_vmap(net, data))


def test_nothing_else_changes(net, data):
    module = Lit().train()
    module.net.norm.eval()
    module.net.last.requires_grad_(False)
    module.net.first.weight.grad = torch.ones_like(module.net.first.weight)
    modes = {name: inner.training for name, inner in module.named_modules()}
    state = {name: w.clone() for name, w in module.state_dict().items()}
    random = torch.get_rng_state()
    found = fisher(module, DataLoader(data, 4, shuffle=True))
    assert torch.equal(torch.get_rng_state(), random)
    assert {name: inner.training for name, inner in module.named_modules()} == modes
    assert_close(dict(module.state_dict()), state, rtol=0, atol=0)
    assert module.mean.update_count == 0
    grads = [name for name, p in module.named_parameters() if p.grad is not None]
    assert grads == ["net.first.weight"]
    assert module.net.first.weight.grad.eq(1.0).all()
    assert found.keys() == {f"net.{n}" for n in net.state_dict() if n.split(".")[0] == "first"} | {
        "net.norm.weight", "net.norm.bias"
    }  # fmt: skip
    assert not any(f.requires_grad for f in found.values())


def test_dicts_of_tensors(net, data):
    x, y = data.tensors
    batches = [{"in": {"x": x[:6]}, "y": y[:6]}, {"in": {"x": x[6:]}, "y": y[6:]}]
    found = fisher(net, batches, lambda m, b: F.cross_entropy(m(b["in"]["x"]), b["y"]))
    assert_close(found, by_vmap(net, data))


def test_half_precision_is_summed_in_float32(data):
    torch.manual_seed(0)
    net = Net(torch.bfloat16)
    found = fisher(net, DataLoader(data, 4), lambda m, b: F.cross_entropy(m(b[0].bfloat16()), b[1]))
    assert {f.dtype for f in found.values()} == {torch.float32}


def test_shared_parameters_have_one_entry(data):
    pair = nn.ModuleDict({"a": Net(), "b": Net()})
    share(pair, Ties("a.first.*", "b.first.*"))

    def loss(module, batch):
        return cross_entropy(module["a"], batch) + cross_entropy(module["b"], batch)

    found = fisher(pair, DataLoader(data, 4), loss)
    assert "a.first.weight" in found
    assert "b.first.weight" not in found


class TestErrors:
    def test_no_training_step(self, net, data):
        with pytest.raises(TypeError, match=r"Net has no training_step: pass loss=, a function"):
            fisher(net, DataLoader(data, 4))

    def test_a_training_step_that_needs_a_trainer(self, data):
        class Needy(Lit):
            def training_step(self, batch, batch_idx):
                return cross_entropy(self.net, batch) * self.trainer.max_epochs

        with pytest.raises(TypeError, match="training_step of Needy needs a Trainer: pass loss="):
            fisher(Needy(), DataLoader(data, 4))

    def test_a_training_step_without_a_loss(self, data):
        class Silent(Lit):
            def training_step(self, batch, batch_idx):
                return None

        with pytest.raises(TypeError, match="training_step of Silent returned no loss"):
            fisher(Silent(), DataLoader(data, 4))

    def test_training_steps_of_other_arguments(self, data):
        class Draws(Lit):
            def training_step(self, dataloader_iter):
                return None

        class Three(Lit):
            def training_step(self, batch, batch_idx, hidden):
                return None

        with pytest.raises(TypeError, match="Draws draws its own batches from dataloader_iter"):
            fisher(Draws(), DataLoader(data, 4))
        with pytest.raises(TypeError, match=r"takes \(batch, batch_idx, hidden\), not \(batch\)"):
            fisher(Three(), DataLoader(data, 4))

    def test_manual_optimization(self, data):
        module = Lit()
        module.automatic_optimization = False
        with pytest.raises(TypeError, match="Lit is optimized manually"):
            fisher(module, DataLoader(data, 4))

    def test_examples_that_cannot_be_sliced(self, net, data):
        x, y = data.tensors
        for batch in ((x, y[:3]), (x, y, "text"), (x, torch.tensor(1.0)), ()):
            with pytest.raises(ValueError, match=r'examples along dim 0, .*per="batch"'):
                fisher(net, [batch], cross_entropy)

    def test_no_batches(self, net):
        with pytest.raises(ValueError, match="batches is empty"):
            fisher(net, [], cross_entropy)

    def test_a_loss_of_another_module(self, net, data):
        """The module is copied, so the loss of a closure has no gradients."""
        net.eval()
        with pytest.raises(ValueError, match=r"of every example is zero.*which is a copy"):
            fisher(net, DataLoader(data, 4), lambda _, batch: cross_entropy(net, batch))
        with pytest.raises(ValueError, match=r"depends on no parameter.*which is a copy"):
            fisher(net, DataLoader(data, 4), lambda _, batch: batch[0].sum())

    def test_a_vector(self, net, data):
        with pytest.raises(ValueError, match=r"loss must be a scalar, got .* \(1, 5\)"):
            fisher(net, DataLoader(data, 4), lambda m, batch: m(batch[0]))

    def test_nan(self, net, data):
        with pytest.raises(
            ValueError, match=r"gradients of 'first.weight', .* are NaN or infinite"
        ):
            fisher(net, DataLoader(data, 4), lambda m, b: cross_entropy(m, b) * float("nan"))

    def test_nothing_is_trained(self, net, data):
        with pytest.raises(ValueError, match="no parameter of the module requires a gradient"):
            fisher(net.requires_grad_(False), DataLoader(data, 4), cross_entropy)

    def test_an_unknown_per(self, net, data):
        with pytest.raises(ValueError, match="unknown per 'sample': write one of 'example', 'ba"):
            fisher(net, DataLoader(data, 4), cross_entropy, per="sample")
