"""`Share` of positions: locally connected layers that are, or become, convolutions in training."""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from functools import partial

import pytest
import torch
from lightning.pytorch import Callback, LightningModule
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lit_share.callbacks import Regularize, Share, SharingMonitor
from lit_share.functional import Penalty
from lit_share.local import LocallyConnected2d
from lit_share.ties import TieError, Ties

from ._modules import assert_same, fit, trainer, weights

POSITIONS = Ties("net.0.*[:]")
ADAM = partial(torch.optim.Adam, lr=0.05)
SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
NEW_STATE = r"the optimizer's state of 'net\.0\.\w+' has another shape, so it is reset"


def images():
    rng = torch.Generator().manual_seed(2)
    x = torch.randn(24, 1, 5, 4, generator=rng, dtype=torch.float64)
    return DataLoader(TensorDataset(x, x[:, 0, 1:4, 1:3].tanh().flatten(1)), 4)


class Net(LightningModule):
    """A filter for each of 3 × 2 positions, or a convolution; all start from the same filter."""

    def __init__(self, local=True, make=ADAM, apart=0.0):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            conv, head = nn.Conv2d(1, 2, 3), nn.Linear(12, 6)
            layer = LocallyConnected2d.from_conv(conv, (5, 4)) if local else conv
            self.net = nn.Sequential(layer, nn.Tanh(), nn.Flatten(), head).double()
            with torch.no_grad():
                for p in layer.parameters() if apart else ():
                    p.add_(apart * torch.randn(p.shape, dtype=torch.float64))
        self.make = make
        self.steps_taken = 0

    def training_step(self, batch, batch_idx):
        self.steps_taken += 1
        x, y = batch
        return nn.functional.mse_loss(self.net(x), y)

    def test_step(self, batch, batch_idx):
        self.log("test", self.training_step(batch, batch_idx))

    def configure_optimizers(self):
        return self.make(self.parameters())


def train(module, *callbacks, **options):
    return fit(module, *callbacks, data=images(), **options)


@pytest.mark.parametrize("make", [ADAM, SGD])
@pytest.mark.parametrize("options", [{}, {"init": "first"}, {"where": "equal"}])
def test_shared_before_training_is_a_convolution_by_hand(make, options):
    module, expected = Net(make=make), Net(local=False, make=make)
    train(module, Share(POSITIONS, **options))
    train(expected)
    assert type(module.net[0]) is nn.Conv2d
    assert_same(weights(module), weights(expected))
    apart = Net(make=make)
    train(apart)
    assert not torch.equal(apart.net[0].weight[0], apart.net[0].weight[1]), (
        "which the positions would not stay"
    )


def test_the_mean_of_positions_that_differ():
    module, expected = Net(apart=1.0), Net(local=False)
    with torch.no_grad():
        for name, parameter in expected.net[0].named_parameters():
            parameter.copy_(module.net[0].get_parameter(name).mean(dim=0))
    train(module, Share(POSITIONS))
    train(expected)
    assert_same(weights(module), weights(expected), 1e-10)


class Watch(Callback):
    """Notes the kind of the layer at the end of each epoch, and its weight."""

    def __init__(self):
        self.kinds, self.weights = [], []

    def on_train_epoch_end(self, trainer, pl_module):
        self.kinds.append(type(pl_module.net[0]))
        self.weights.append(pl_module.net[0].weight.detach().clone())


def layer_tie(strength=1e3, ties=POSITIONS):
    return Regularize(Penalty("l1", "tensor", "mean"), ties, strength)


def soft_to_hard(module, *callbacks, epochs=4, strength=1e3, epoch=2, **options):
    """Positions are pulled together, and are one from the third epoch on."""
    share = Share(POSITIONS, where="equal", epoch=epoch)
    return train(module, layer_tie(strength), share, *callbacks, epochs=epochs, **options)


@pytest.mark.filterwarnings(f"ignore:{NEW_STATE}")
@pytest.mark.parametrize("make", [ADAM, SGD, partial(torch.optim.SGD, lr=0.1)])
def test_what_a_penalty_made_equal_becomes_a_convolution(make):
    module, watch = Net(make=make, apart=0.5), Watch()
    made = soft_to_hard(module, watch)
    assert watch.kinds == [LocallyConnected2d] * 2 + [nn.Conv2d] * 2
    assert torch.equal(watch.weights[1], watch.weights[1][:1].expand_as(watch.weights[1]))
    assert not torch.equal(watch.weights[2], watch.weights[1][0]), "training goes on"
    assert not torch.equal(watch.weights[3], watch.weights[2])
    (group,) = made.optimizers[0].param_groups
    assert group["params"] == list(module.parameters())
    assert set(made.optimizers[0].state) <= set(module.parameters())


def test_training_goes_on_as_that_of_a_convolution():
    """With plain SGD, which has no state, the convolution resumes from the positions' values."""
    module, watch = Net(make=partial(torch.optim.SGD, lr=0.1), apart=0.5), Watch()
    soft_to_hard(module, watch, epochs=3)

    class Start(Callback):
        def on_train_start(self, trainer, pl_module):
            pl_module.net[0].weight.data.copy_(watch.weights[1][0])
            pl_module.net[0].bias.data.copy_(start["net.0.bias"][0])
            pl_module.net[3].load_state_dict(
                {k[6:]: v for k, v in start.items() if k.startswith("net.3.")}
            )

    half = Net(make=module.make, apart=0.5)
    with pytest.warns(UserWarning, match="training ended before epoch 2"):
        soft_to_hard(half, epochs=2)
    start, expected = weights(half), Net(local=False, make=module.make)
    train(expected, Start(), epochs=1)
    assert_same(weights(module), weights(expected), 1e-12)


@pytest.mark.parametrize(
    ("make", "state"), [(ADAM, 2), (SGD, 2), (partial(torch.optim.SGD, lr=0.1), 0)]
)
def test_the_state_of_an_optimizer_starts_anew(make, state):
    module = Net(make=make)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        soft_to_hard(module, epochs=3)
    assert sum("is reset" in str(w.message) for w in caught) == state


def test_positions_that_are_not_equal_stay():
    module, watch = Net(apart=0.5), Watch()
    with pytest.warns(
        UserWarning, match="shared nothing: in no layer all parameters of all positions are equal"
    ):
        soft_to_hard(module, watch, epochs=3, strength=1e-6)
    assert watch.kinds == [LocallyConnected2d] * 3


@pytest.mark.filterwarnings(f"ignore:{NEW_STATE}")
def test_all_at_an_epoch():
    module, watch = Net(), Watch()
    train(module, Share(POSITIONS, epoch=1), watch, epochs=2)
    assert watch.kinds == [LocallyConnected2d, nn.Conv2d]


# Resuming


@pytest.mark.filterwarnings(f"ignore:{NEW_STATE}")
@pytest.mark.parametrize("make", [ADAM, SGD])
@pytest.mark.parametrize("stop", [1, 2, 3])
def test_resuming_is_bitwise_as_if_never_stopped(make, stop):
    whole, first, second = (Net(make=make, apart=0.5) for _ in range(3))
    soft_to_hard(whole)
    with (
        pytest.warns(UserWarning, match="training ended before epoch 2")
        if stop < 3
        else nullcontext()
    ):
        soft_to_hard(first, epochs=stop).save_checkpoint("half.ckpt")
    torch.load("half.ckpt", weights_only=True)
    soft_to_hard(second, ckpt_path="half.ckpt")
    assert type(second.net[0]) is nn.Conv2d
    assert_same(whole.state_dict(), second.state_dict())


def test_resuming_what_was_shared_before_training():
    whole, first, second = (Net(apart=0.5) for _ in range(3))
    train(whole, Share(POSITIONS), epochs=4)
    train(first, Share(POSITIONS), epochs=2).save_checkpoint("half.ckpt")
    train(second, Share(POSITIONS), epochs=4, ckpt_path="half.ckpt")
    assert_same(whole.state_dict(), second.state_dict())


def test_a_checkpoint_of_a_convolution_is_tested_with_and_without_the_callback():
    module = Net(apart=0.5)
    train(module, Share(POSITIONS)).save_checkpoint("conv.ckpt")
    with_it, without = Net(), Net()
    (expected,) = trainer(Share(POSITIONS)).test(
        with_it, images(), ckpt_path="conv.ckpt", verbose=False
    )
    with pytest.warns(UserWarning, match="Please add the following callbacks.*Share"):
        (found,) = trainer().test(without, images(), ckpt_path="conv.ckpt", verbose=False)
    assert found["test"] == pytest.approx(expected["test"], rel=1e-12)
    assert [type(m.net[0]) for m in (with_it, without)] == [nn.Conv2d, LocallyConnected2d]
    plain = Net(local=False)
    plain.load_state_dict(torch.load("conv.ckpt", weights_only=True)["state_dict"])
    assert_same(weights(plain), weights(module))


def test_a_checkpoint_of_positions_is_not_loaded_into_a_convolution():
    train(Net()).save_checkpoint("local.ckpt")
    module = Net()
    with pytest.raises(
        RuntimeError, match=r"net\.0\.weight is one for all positions here, but the weight differs"
    ):
        train(module, Share(POSITIONS), ckpt_path="local.ckpt", epochs=4)
    assert module.steps_taken == 0


# What is logged


@pytest.mark.filterwarnings(f"ignore:{NEW_STATE}")
@pytest.mark.parametrize("ties", [None, POSITIONS])
def test_the_monitor(ties):
    monitor, module = SharingMonitor(ties), Net(apart=0.5)
    logged = []

    class Collect(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            logged.append({k: float(v) for k, v in trainer.callback_metrics.items()})

    soft_to_hard(module, monitor, Collect())
    assert monitor.history.keys() == {"net.0.weight", "net.0.bias"}
    for distances in monitor.history.values():
        assert len(distances) == 5
        assert distances[0] > 0.01
        assert distances[2:] == [0.0] * 3
    total = 6 * (18 + 2) + 12 * 6 + 6
    for values in logged[1:]:
        assert (
            values["sharing/distance"]
            == values["sharing/penalty"]
            == values["sharing/distance_of/net.0.weight"]
            == 0.0
        )
        assert values["sharing/tied"] == 1.0
        assert values["sharing/unique"] == total - 5 * (18 + 2)
        assert values["sharing/compression"] == pytest.approx(total / values["sharing/unique"])


def test_the_monitor_of_what_was_shared_before_training():
    monitor = SharingMonitor()
    made = train(Net(apart=0.5), Share(POSITIONS), monitor, epochs=1)
    assert monitor.history == {"net.0.weight": [0.0, 0.0], "net.0.bias": [0.0, 0.0]}
    assert made.callback_metrics["sharing/tied"] == 1.0
    assert made.callback_metrics["sharing/unique"] == 18 + 2 + 12 * 6 + 6


# Penalties of other ties go on


@pytest.mark.filterwarnings(f"ignore:{NEW_STATE}")
def test_a_proximal_step_towards_zero_goes_on():
    """It would have no closed form for units, but positions are shared as a whole or not at all."""
    module, watch = Net(apart=0.5), Watch()
    lasso = Regularize(Penalty("l1", "element", "zero"), POSITIONS, 0.02)
    soft_to_hard(module, lasso, watch)
    assert watch.kinds == [LocallyConnected2d] * 2 + [nn.Conv2d] * 2


@pytest.mark.filterwarnings(f"ignore:{NEW_STATE}")
@pytest.mark.parametrize("apply", ["gradient", "prox"])
def test_a_penalty_of_the_whole_weight_goes_on(apply):
    """``Ties("net.*")`` finds the convolution's filters then."""
    module = Net(apart=0.5, make=partial(torch.optim.SGD, lr=0.1))
    l2 = Regularize(Penalty("squared", "element", "zero"), Ties("net.*"), 0.01, apply=apply)
    soft_to_hard(module, l2)
    assert type(module.net[0]) is nn.Conv2d


# Refusals


def test_a_bias_that_is_not_tied_is_refused_before_training():
    module = Net()
    with pytest.raises(TieError, match=r"'net\.0' has a bias for each position, too"):
        train(module, Share(Ties("net.0.weight[:]")))
    assert module.steps_taken == 0


@pytest.mark.filterwarnings(f"ignore:{NEW_STATE}")
@pytest.mark.parametrize(
    "penalty",
    [
        lambda ties: Regularize(Penalty("squared", "element", "start"), ties, 0.01),
        lambda ties: Regularize(Penalty("l1", "element", "zero"), ties, 0.5, keep_zeros=True),
    ],
    ids=["start", "keep_zeros"],
)
def test_penalties_that_remember_the_whole_weight_are_refused_before_training(penalty):
    """As memories of slices they go on: those are of positions before and after."""
    module = Net(apart=0.5)
    soft_to_hard(module, penalty(POSITIONS))
    assert type(module.net[0]) is nn.Conv2d
    module = Net(apart=0.5)
    with pytest.raises(TieError, match=r"give it the pattern 'net.0.bias\[:\]'"):
        soft_to_hard(module, penalty(Ties("net.*")))
    assert module.steps_taken == 0


@pytest.mark.filterwarnings("ignore:the optimizer's state of")
def test_two_callbacks_share_at_different_epochs():
    module = Net()
    module.net[3] = nn.Sequential(nn.Linear(12, 12), nn.Linear(12, 6)).double()
    first, second = Share(POSITIONS, epoch=1), Share(Ties("net.*[:]", exclude=["net.3.*"]), epoch=2)
    train(module, first, second, epochs=3)
    assert type(module.net[0]) is nn.Conv2d
    assert all(tie.is_shared for tie in (*first.ties.find(module), *second.ties.find(module)))


def test_positions_that_cannot_be_shared_are_refused_before_training():
    module = Net()
    with pytest.raises(TieError, match="has a bias for each position, too"):
        train(module, Share(Ties("net.0.weight[:]"), epoch=1))
    assert module.steps_taken == 0


@pytest.mark.filterwarnings(f"ignore:{NEW_STATE}")
def test_a_checkpoint_of_positions_does_not_fit_the_convolution_of_later():
    class Save(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            trainer.save_checkpoint(f"{trainer.current_epoch}.ckpt")

    module = Net(apart=0.5)
    made = soft_to_hard(module, Save(), epochs=3)
    made.fit_loop.max_epochs = 4
    message = r"is of epoch 1, before Share\(.*epoch=2\), and 'net.0' is a convolution now"
    with pytest.raises(TieError, match=message):
        made.fit(module, images(), ckpt_path="1.ckpt")
    new = Net(apart=0.5)
    soft_to_hard(new, ckpt_path="1.ckpt")
    assert type(new.net[0]) is nn.Conv2d
