"""`Share(where="equal", epoch=...)`: from soft to hard, in the middle of training."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from typing import ClassVar

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EMAWeightAveraging, StochasticWeightAveraging
from torch import nn

from lit_share.callbacks import Regularize, Share, SharingMonitor
from lit_share.functional import Penalty
from lit_share.paired import Paired
from lit_share.ties import TieError, Ties

from ._modules import (
    Manual,
    ManualEach,
    Two,
    assert_same,
    fit,
    loader,
    mlp,
    sgd,
    trainer,
    two_optimizers,
    weights,
)

PAIR = Ties("a.*", "b.*")
ADAM = partial(torch.optim.Adam, lr=0.05)


def adam(module):
    return ADAM(module.parameters())


def shared(module):
    """The names of parameters with aliases."""
    parameters = list(module.named_parameters(remove_duplicate=False))
    names = {}
    for name, parameter in parameters:
        names.setdefault(id(parameter), []).append(name)
    return [group for group in names.values() if len(group) > 1]


class Alike(Two):
    """Models that start with equal units in the first layer, and equal second layers."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        with torch.no_grad():
            self.b[0].weight[:2] = self.a[0].weight[:2]
            self.b[2].load_state_dict(self.a[2].state_dict())


SECOND_LAYER = [["a.2.weight", "b.2.weight"], ["a.2.bias", "b.2.bias"]]


class ByHand(nn.Module):
    """The same models, written with one second layer."""

    def __init__(self):
        super().__init__()
        start = Alike()
        self.a, self.b, self.second = start.a[0], start.b[0], start.a[2]

    def losses(self, batch):
        x, *targets = batch
        for first, y in zip((self.a, self.b), targets, strict=True):
            yield nn.functional.mse_loss(self.second(torch.tanh(first(x))), y)

    def tensors(self):
        layers = {"a.0": self.a, "b.0": self.b, "a.2": self.second, "b.2": self.second}
        return {f"{k}.{n}": p for k, layer in layers.items() for n, p in layer.named_parameters()}


@pytest.mark.parametrize("make", [ADAM, partial(torch.optim.SGD, lr=0.1, momentum=0.9)])
def test_equal_members_are_trained_as_one(make):
    module, expected = Alike(optimizer=lambda m: make(m.parameters())), ByHand()
    fit(module, Share(PAIR, where="equal"))
    assert shared(module) == SECOND_LAYER
    optimizer = make(expected.parameters())
    for _ in range(2):
        for batch in loader():
            optimizer.zero_grad()
            sum(expected.losses(batch)).backward()
            optimizer.step()
    state = module.state_dict()
    for name, value in expected.tensors().items():
        torch.testing.assert_close(state[name], value.detach(), rtol=1e-10, atol=1e-10)


LAYER_TIE = (Penalty("l1", "tensor", "mean"), PAIR, 2.0)


def test_what_a_penalty_made_equal_is_stored_once():
    """layer_tie makes tensors equal; the third epoch shares them and regularises the rest."""

    class Watch(Callback):
        seen: ClassVar = []

        def on_train_epoch_end(self, trainer, pl_module):
            equal = sum(
                torch.equal(x, y)
                for x, y in zip(pl_module.a.parameters(), pl_module.b.parameters(), strict=True)
            )
            stored = sum(
                p.numel() for group in trainer.optimizers[0].param_groups for p in group["params"]
            )
            self.seen.append((equal, stored))

    module = Two(optimizer=adam)
    with torch.no_grad():
        module.b[2].load_state_dict(module.a[2].state_dict())
    Watch.seen.clear()
    made = fit(
        module,
        Regularize(*LAYER_TIE),
        Share(PAIR, where="equal", epoch=2),
        SharingMonitor(),
        Watch(),
        epochs=4,
    )
    assert [stored for _, stored in Watch.seen[:2]] == [46, 46]
    equal = Watch.seen[1][0]
    assert equal >= 1
    assert Watch.seen[2][1] < 46
    states = made.optimizers[0].state
    owned = {p for group in made.optimizers[0].param_groups for p in group["params"]}
    assert set(states) == owned == set(module.parameters())
    assert made.callback_metrics["sharing/tied"] > 0


def test_states_of_optimizers_are_taken_over():
    """The first member's state stays; members that are not shared keep their own."""
    kept = {}

    class Keep(Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            if trainer.current_epoch == 1:
                state = trainer.optimizers[0].state
                kept.update(
                    {n: state[p]["exp_avg"].clone() for n, p in pl_module.named_parameters()}
                )
                with torch.no_grad():
                    pl_module.b[2].load_state_dict(pl_module.a[2].state_dict())

        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if trainer.current_epoch == 1 and batch_idx == 0:
                state = trainer.optimizers[0].state
                now = {n: state[p]["exp_avg"] for n, p in pl_module.named_parameters()}
                torch.testing.assert_close(now["a.0.weight"], kept["a.0.weight"])
                torch.testing.assert_close(now["b.0.weight"], kept["b.0.weight"])
                torch.testing.assert_close(now["a.2.weight"], kept["a.2.weight"])
                kept["checked"] = True

    module = Two(optimizer=adam)
    fit(module, Keep(), Share(PAIR, where="equal", epoch=1), epochs=2)
    assert kept["checked"]
    assert shared(module) == SECOND_LAYER


class Five(Two):
    """Models of which the first two and the next two become equal, and the fifth does not."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.c, self.d, self.e = (mlp(seed) for seed in (2, 3, 4))

    def losses(self, batch):
        x, *targets = batch
        models = (self.a, self.b, self.c, self.d, self.e)
        targets = [targets[0], targets[0], targets[1], targets[1], targets[0] + targets[1]]
        return tuple(nn.functional.mse_loss(m(x), y) for m, y in zip(models, targets, strict=True))


FIVE = Ties("a.*", "b.*", "c.*", "d.*", "e.*")


def two_ties():
    """What makes two clusters."""
    return [Regularize("layer_tie", ties, 50.0) for ties in (PAIR, Ties("c.*", "d.*"))]


def clusters_of_five():
    leaves = ("0.weight", "0.bias", "2.weight", "2.bias")
    return [[f"{one}.{leaf}", f"{two}.{leaf}"] for one, two in ("ab", "cd") for leaf in leaves]


@pytest.mark.parametrize("norm", ["squared", "l1"])
def test_each_cluster_is_a_parameter(norm):
    """Another penalty goes on pulling all five together, of which some are one Parameter now."""
    module = Five(optimizer=adam)
    soft = Regularize(Penalty(norm, "tensor", "mean"), FIVE, 1e-3)
    equal = Share(FIVE, where="equal", epoch=2)
    made = fit(module, *two_ties(), soft, equal, SharingMonitor(FIVE), epochs=4)
    assert shared(module) == clusters_of_five()
    states = made.optimizers[0].state
    owned = {p for group in made.optimizers[0].param_groups for p in group["params"]}
    assert set(states) == owned == set(module.parameters())
    assert len(owned) == 12
    assert made.callback_metrics["sharing/clusters"] == 12
    assert made.callback_metrics["sharing/unique"] == 3 * 23


def test_states_of_a_cluster_are_those_of_its_first_member():
    kept = {}

    class Keep(Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            state = trainer.optimizers[0].state
            if trainer.current_epoch == 1:
                names = dict(pl_module.named_parameters())
                kept.update({n: state[p]["exp_avg"].clone() for n, p in names.items()})
                with torch.no_grad():
                    pl_module.e[2].load_state_dict(pl_module.c[2].state_dict())

        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if trainer.current_epoch == 1 and batch_idx == 0:
                state = trainer.optimizers[0].state
                for name, parameter in pl_module.named_parameters():
                    torch.testing.assert_close(state[parameter]["exp_avg"], kept[name])
                kept["checked"] = True

    module = Five(optimizer=adam)
    fit(module, Keep(), Share(FIVE, where="equal", epoch=1), epochs=2)
    assert kept["checked"]
    assert shared(module) == [["c.2.weight", "e.2.weight"], ["c.2.bias", "e.2.bias"]]


def test_clusters_are_told(caplog):
    module = Five(optimizer=adam)
    with caplog.at_level("INFO"):
        fit(module, *two_ties(), Share(FIVE, where="equal", epoch=1), epochs=2)
    assert (
        "20 members are stored as 12 Parameters:\nties: 4, members: 20, clusters: 12" in caplog.text
    )
    line = "0.weight: a.0.weight = b.0.weight | c.0.weight = d.0.weight | e.0.weight"
    assert line in caplog.text


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_resuming_clusters_is_bitwise_as_if_never_stopped(stop):
    def run(module, epochs, **options):
        share = Share(FIVE, where="equal", epoch=2)
        return fit(module, *two_ties(), share, epochs=epochs, **options)

    whole, first, second = (Five(optimizer=adam) for _ in range(3))
    run(whole, 4)
    assert shared(whole) == clusters_of_five()
    early = pytest.warns(UserWarning, match="training ended before epoch 2")
    with early if stop < 3 else nullcontext():
        run(first, stop).save_checkpoint("half.ckpt")
    run(second, 4, ckpt_path="half.ckpt")
    assert_same(whole.state_dict(), second.state_dict())
    assert shared(whole) == shared(second)


def test_all_at_an_epoch():
    """Two models that are warmed up apart and then merged."""
    module = Two(optimizer=adam)
    fit(module, Share(PAIR, epoch=1), epochs=3)
    assert len(list(module.parameters())) == 4
    assert module.a[0].weight is module.b[0].weight


def test_twice():
    module = Two(optimizer=adam)
    with torch.no_grad():
        module.b[0].load_state_dict(module.a[0].state_dict())
    made = fit(module, Share(PAIR, where="equal"), Share(PAIR, epoch=1), epochs=2)
    assert len(list(module.parameters())) == 4
    assert set(made.optimizers[0].state) == set(module.parameters())


@pytest.mark.parametrize("kind", [Manual])
def test_several_optimizers(kind):
    optimizer = partial(two_optimizers, make=torch.optim.Adam, lrs=(0.1, 0.1))
    module = kind(optimizer=optimizer)
    with torch.no_grad():
        module.b[2].load_state_dict(module.a[2].state_dict())
    made = fit(module, Share(PAIR, where="equal", epoch=0), epochs=1)
    assert module.a[2].weight is module.b[2].weight
    assert [
        sum(p.numel() for g in o.param_groups for p in g["params"]) for o in made.optimizers
    ] == [23, 15]


def test_paired_modules():
    class Child(Two):
        def __init__(self, seed):
            super().__init__(optimizer=adam)
            self.a = mlp(0)
            del self.b
            with torch.no_grad():
                self.a[0].weight[2] += seed

        def losses(self, batch):
            return (nn.functional.mse_loss(self.a(batch[0]), batch[1]),)

    pair = Paired(x=Child(0), y=Child(1))

    class MakeEqual(Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            if trainer.current_epoch == 1:
                with torch.no_grad():
                    pl_module.y.a[0].weight.copy_(pl_module.x.a[0].weight)

    made = fit(
        pair,
        MakeEqual(),
        Share(Ties("x.*", "y.*"), where="equal", epoch=1),
        data={"x": loader(), "y": loader()},
    )
    assert ["x.a.0.weight", "y.a.0.weight"] in shared(pair)
    (composite,) = made.optimizers
    parts = composite.parts.values()
    assert {p for part in parts for p in part.state} == set(pair.parameters())
    made.save_checkpoint("pair.ckpt")
    pair.export_child("y", "child.ckpt", checkpoint="pair.ckpt")
    alone = Child(0)
    alone.load_state_dict(torch.load("child.ckpt", weights_only=True)["state_dict"])
    assert torch.equal(alone.a[0].weight, pair.y.a[0].weight)


# Resuming


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_resuming_is_bitwise_as_if_never_stopped(stop):
    def run(module, epochs, **options):
        share = Share(PAIR, where="equal", epoch=2)
        return fit(module, Regularize(*LAYER_TIE), share, epochs=epochs, **options)

    def two():
        module = Two(optimizer=adam)
        with torch.no_grad():
            module.b[2].load_state_dict(module.a[2].state_dict())
        return module

    whole, first, second = two(), two(), two()
    run(whole, 4)
    assert len(list(whole.parameters())) < 8
    with (
        pytest.warns(UserWarning, match="training ended before epoch 2")
        if stop < 3
        else nullcontext()
    ):
        run(first, stop).save_checkpoint("half.ckpt")
    run(second, 4, ckpt_path="half.ckpt")
    assert_same(whole.state_dict(), second.state_dict())
    assert shared(whole) == shared(second)


def test_resuming_what_was_equal_before_training():
    whole, first, second = (Alike(optimizer=adam) for _ in range(3))
    callback = partial(Share, PAIR, where="equal")
    fit(whole, callback(), epochs=4)
    fit(first, callback(), epochs=2).save_checkpoint("half.ckpt")
    torch.load("half.ckpt", weights_only=True)
    fit(second, callback(), epochs=4, ckpt_path="half.ckpt")
    assert shared(second) == SECOND_LAYER
    assert_same(whole.state_dict(), second.state_dict())


def test_a_checkpoint_of_what_was_equal_is_tested_with_and_without_the_callback():
    module = Alike(optimizer=adam)

    def test_step(self, batch, batch_idx):
        self.log("test", sum(self.losses(batch)))

    kind = type("Tested", (Two,), {"test_step": test_step})
    fit(module, Share(PAIR, where="equal")).save_checkpoint("equal.ckpt")
    (expected,) = trainer(Share(PAIR, where="equal")).test(
        kind(), loader(), ckpt_path="equal.ckpt", verbose=False
    )
    with pytest.warns(UserWarning, match="Please add the following callbacks.*Share"):
        assert trainer().test(kind(), loader(), ckpt_path="equal.ckpt", verbose=False) == [expected]


class MakeEqual(Callback):
    """Copies the last layer of a to b at the start of the second epoch."""

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == 1:
            with torch.no_grad():
                pl_module.b[2].load_state_dict(pl_module.a[2].state_dict())


def test_two_fits_in_a_row():
    module = Two(optimizer=adam)
    callback = Share(PAIR, where="equal", epoch=1)
    made = trainer(MakeEqual(), callback, epochs=2)
    made.fit(module, loader())
    assert shared(module) == SECOND_LAYER
    made.fit_loop.max_epochs = 4
    made.fit(module, loader())
    assert shared(module) == SECOND_LAYER
    other = Two(optimizer=adam)
    with pytest.warns(UserWarning, match="training ended before epoch 1"):
        fit(other, callback, epochs=1)
    assert shared(other) == [], "another module is not shared before its epoch"


# Refusals


@pytest.mark.parametrize(
    "average", [EMAWeightAveraging(decay=0.9), StochasticWeightAveraging(swa_lrs=0.1)]
)
def test_averaging_is_refused(average):
    module = Two()
    with pytest.raises(TieError, match=r"WeightAveraging cannot follow Share\(epoch=1\)"):
        fit(module, Share(PAIR, epoch=1), average)
    assert module.steps_taken == 0


def test_several_processes_are_refused():
    made = trainer(Share(PAIR, epoch=1), devices=2, strategy="ddp_spawn")
    with pytest.raises(TieError, match="works in one process, but the Trainer has 2"):
        made.callbacks[0].setup(made, Two(), "fit")


def test_nothing_is_equal():
    with pytest.warns(UserWarning, match="shared nothing: no members are equal"):
        fit(Two(), Share(PAIR, where="equal", epoch=1))


@pytest.mark.parametrize("apply", ["gradient", "prox"])
def test_penalties_count_shared_parameters_once(apply):
    """Ties of one member each become one Parameter, and are found as if it always was."""
    modules = [Alike(optimizer=sgd) for _ in range(2)]
    for module in modules:
        module.b.load_state_dict(module.a.state_dict())
    late, early = modules
    l2 = partial(Regularize, Penalty("squared", "element", "zero"), Ties("*"), 0.3, apply=apply)

    class Restart(Callback):
        """Makes the second epoch start from the same values."""

        def on_train_epoch_start(self, trainer, pl_module):
            pl_module.load_state_dict(start)

    start = {k: v.clone() for k, v in early.state_dict().items()}
    fit(late, Restart(), l2(), Share(PAIR, epoch=1), epochs=2)
    fit(early, Restart(), l2(), Share(PAIR), epochs=2)
    assert_same(weights(late), weights(early), 1e-12)


def test_two_callbacks_that_share_one_after_the_other():
    module = Alike(optimizer=adam)
    callbacks = [Share(PAIR, where="equal"), Share(PAIR, epoch=2)]
    made = fit(module, *callbacks, epochs=4)
    assert len(list(module.parameters())) == 4
    made.save_checkpoint("both.ckpt")
    again = Alike(optimizer=adam)
    fit(again, Share(PAIR, where="equal"), Share(PAIR, epoch=2), epochs=6, ckpt_path="both.ckpt")
    whole = Alike(optimizer=adam)
    fit(whole, Share(PAIR, where="equal"), Share(PAIR, epoch=2), epochs=6)
    assert_same(whole.state_dict(), again.state_dict())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"where": "some"}, "unknown where 'some': write one of 'all', 'equal'"),
        ({"init": "last"}, "unknown init 'last'"),
        ({"epoch": -1}, "epoch must be a whole number >= 0, got -1"),
        ({"epoch": 1.5}, "epoch must be a whole number >= 0, got 1.5"),
    ],
)
def test_wrong_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        Share(PAIR, **options)


def test_a_parameter_that_is_replaced_during_training():
    class Replace(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            for net in (pl_module.a, pl_module.b):
                net[0].weight = nn.Parameter(pl_module.a[0].weight.detach().clone())

    with pytest.raises(TieError, match=r"'a\.0\.weight' was replaced during training"):
        fit(Two(), Share(PAIR), Replace())


def test_a_parameter_that_is_untied_during_training():
    class Replace(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            pl_module.b[0].weight = nn.Parameter(torch.zeros(3, 4, dtype=torch.float64))

    with pytest.raises(
        TieError, match=r"'a\.0\.weight' and 'b\.0\.weight' were shared, but have different values"
    ):
        fit(Two(), Share(PAIR), Replace())


# Manual optimisation


def test_a_lost_gradient_is_warned_of():
    """Parameters belong to the first optimizer: what the second loss adds is cleared."""
    with pytest.warns(UserWarning, match="was lost: it is shared") as warned:
        fit(ManualEach(), Share(PAIR), epochs=1)
    assert len([w for w in warned if "was lost" in str(w.message)]) == 1


def test_one_backward_pass_loses_nothing():
    fit(Manual(), Share(PAIR), epochs=2)


def test_hooks_are_removed():
    module = Manual()
    fit(module, Share(PAIR), epochs=1)
    assert not any(p._post_accumulate_grad_hooks for p in module.parameters())
    assert sgd(module).param_groups


# Checkpoints from before the epoch, in a module that is shared by now


class Evaluated(Two):
    def test_step(self, batch, batch_idx):
        self.log("test", sum(self.losses(batch)))


@pytest.fixture
def before_and_after():
    """A Trainer and its module, shared since epoch 1, with checkpoints of epochs 0 and 2."""
    module = Evaluated(optimizer=adam)

    class Save(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            trainer.save_checkpoint(f"{trainer.current_epoch}.ckpt")
            trainer.save_checkpoint(f"{trainer.current_epoch}.weights.ckpt", weights_only=True)

    made = fit(module, MakeEqual(), Share(PAIR, where="equal", epoch=1), Save(), epochs=3)
    return made, module


@pytest.mark.parametrize("kind", ["ckpt", "weights.ckpt"])
def test_a_checkpoint_from_before_is_tested_in_a_shared_module(before_and_after, kind):
    made, module = before_and_after
    for epoch, expected in (("0", []), ("2", SECOND_LAYER), ("0", [])):
        path = f"{epoch}.{kind}"
        (found,) = made.test(module, loader(), ckpt_path=path, verbose=False)
        state = torch.load(path, weights_only=True)["state_dict"]
        assert_same(module.state_dict(), state)
        plain = Evaluated()
        plain.load_state_dict(state)
        assert [found] == trainer().test(plain, loader(), verbose=False)
        # Weights alone do not say what was shared: a module that is not shared stays so.
        if kind == "ckpt" or epoch == "0":
            assert shared(module) == expected


def test_training_resumes_from_before_in_a_shared_module(before_and_after):
    _, module = before_and_after
    whole = weights(module)
    callbacks = MakeEqual(), Share(PAIR, where="equal", epoch=1)
    fit(module, *callbacks, epochs=3, ckpt_path="0.ckpt")
    assert_same(weights(module), whole)
    assert shared(module) == SECOND_LAYER


def test_aliases_of_the_user_and_of_before_stay(before_and_after):
    """Nothing but what `Share` made since then is separate again."""
    module = Evaluated(optimizer=adam)
    module.a[0].weight = module.b[0].weight
    made = trainer(MakeEqual(), Share(PAIR, where="equal", epoch=1), epochs=1)
    with pytest.warns(UserWarning, match="training ended before epoch 1"):
        made.fit(module, loader())
    made.save_checkpoint("tied.ckpt")
    made.fit_loop.max_epochs = 2
    made.fit(module, loader())
    both = [["a.0.weight", "b.0.weight"], *SECOND_LAYER]
    assert shared(module) == both
    made.test(module, loader(), ckpt_path="tied.ckpt", verbose=False)
    assert shared(module) == both[:1]


def test_a_checkpoint_of_version_0_1_from_before_is_tested(before_and_after):
    made, module = before_and_after
    saved = torch.load("0.ckpt", weights_only=True)
    for state in saved["callbacks"].values():
        state.pop("aliases", None)
    torch.save(saved, "old.ckpt")
    made.test(module, loader(), ckpt_path="old.ckpt", verbose=False)
    assert_same(module.state_dict(), saved["state_dict"])
    assert shared(module) == []


def test_it_is_said_of_which_epoch_the_checkpoint_is(before_and_after, caplog):
    made, module = before_and_after
    with caplog.at_level("INFO"):
        made.test(module, loader(), ckpt_path="0.ckpt", verbose=False)
    assert "the checkpoint is of epoch 0, when fewer parameters were shared" in caplog.text
