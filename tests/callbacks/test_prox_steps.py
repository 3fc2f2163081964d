"""`Regularize(every=..., keep_zeros=...)`, against loops that are written out here."""

from __future__ import annotations

import re
from functools import partial

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.optim.lr_scheduler import ExponentialLR, StepLR

from lit_share.callbacks import Regularize
from lit_share.functional import Penalty
from lit_share.penalties import PenaltySteps, Ramp
from lit_share.ties import Ties

from ._by_hand import PROXES, ramp_weights, shrink
from ._modules import (
    Manual,
    ManualUneven,
    Skips,
    Still,
    Two,
    assert_same,
    each,
    fit,
    loader,
    pairs,
    sgd,
    trainer,
    two_optimizers,
    weights,
)

MATRICES = Ties("*.weight")
MOMENTUM = partial(torch.optim.SGD, momentum=0.9)
# Name: the penalty, its ties, and a strength at which something becomes exact, but not all.
PENALTIES = {
    "lasso": (Penalty("l1", "element", "zero"), Ties("*"), 0.1),
    "group_lasso": (Penalty("l1", "input", "zero"), MATRICES, 0.3),
    "oscar": (Penalty("owl", "element", "zero", ramp_weights), Ties("*"), 0.2),
    "growl": (Penalty("owl", "input", "zero", ramp_weights), MATRICES, 0.6),
    "exact_tie": (Penalty("l1", "element", "mean"), Ties("a.*", "b.*"), 0.2),
    "layer_tie": (Penalty("l1", "tensor", "mean"), Ties("a.*", "b.*"), 0.1),
}
ZEROS = ("lasso", "group_lasso", "oscar", "growl")


def regularize(name, **options):
    penalty, ties, strength = PENALTIES[name]
    return Regularize(penalty, ties, options.pop("strength", strength), **options)


def groups_of(name, w):
    """One number per group: zero if all of the group is."""
    return w if PENALTIES[name][0].groups == "element" else w.abs().amax(dim=0, keepdim=True)


def by_hand(
    name,
    every="step",
    keep_zeros=False,
    epochs=2,
    lrs=(0.1, 0.1),
    decay=1.0,
    ramp=None,
    module=None,
):
    """A loop without Trainer, with momentum; learning rates decay in every step."""
    module = Two() if module is None else module
    optimizers = {
        key: MOMENTUM(getattr(module, key).parameters(), lr=lr)
        for key, lr in zip("ab", lrs, strict=True)
    }
    due, done = {"a": 0.0, "b": 0.0}, 0
    dead = [torch.zeros_like(w, dtype=torch.bool) for w in each(module)]

    def prox():
        before = [groups_of(name, w).clone() for w in each(module)]
        PROXES[name](module, due)
        if keep_zeros:
            for w, old, d in zip(each(module), before, dead, strict=True):
                if PENALTIES[name][0].groups == "element" or w.ndim == 2:
                    d |= (groups_of(name, w) == 0.0) & (old != 0.0)
        due.update(a=0.0, b=0.0)

    for epoch in range(epochs):
        for batch in loader():
            module.zero_grad()
            sum(Two.losses(module, batch)).backward()
            for key, optimizer in optimizers.items():
                optimizer.step()
                factor = 1.0 if ramp is None else ramp(done, epoch)
                due[key] += PENALTIES[name][2] * factor * optimizer.param_groups[0]["lr"]
                optimizer.param_groups[0]["lr"] *= decay
            done += 1
            with torch.no_grad():
                for w, d in zip(each(module), dead, strict=True):
                    w[d] = 0.0
                if every == "step":
                    prox()
        if every == "epoch":
            with torch.no_grad():
                prox()
    return module


def with_decay(module, lrs=(0.1, 0.1), decay=1.0, interval="step"):
    made = MOMENTUM(
        [
            {"params": net.parameters(), "lr": lr}
            for net, lr in zip((module.a, module.b), lrs, strict=True)
        ]
    )
    return [made], [{"scheduler": ExponentialLR(made, decay), "interval": interval}]


def exact(name, module):
    """How many numbers are exactly equal or exactly zero."""
    if name.endswith("_tie"):
        return sum(int((a == b).sum()) for a, b in pairs(module))
    return sum(int((w == 0.0).sum()) for w in each(module))


def assert_like_by_hand(name, module, expected):
    assert_same(weights(module), weights(expected), 1e-12)
    numbers = sum(w.numel() for w in each(module))
    assert 0 < exact(name, module) == exact(name, expected) < numbers, "a weak test"


# Once per epoch


@pytest.mark.parametrize("lrs", [(0.1, 0.1), (0.1, 0.03)], ids=["one rate", "two rates"])
@pytest.mark.parametrize("name", PENALTIES)
def test_every_epoch_equals_a_loop_by_hand(name, lrs):
    """Step sizes add up, also where learning rates and strengths change in every step."""
    ramp = Ramp(duration=15, start=0.8, end=1.2)
    module = Two(optimizer=partial(with_decay, lrs=lrs, decay=0.97))
    fit(module, regularize(name, every="epoch", schedule=ramp))
    assert_like_by_hand(name, module, by_hand(name, "epoch", lrs=lrs, decay=0.97, ramp=ramp))


@pytest.mark.parametrize("lrs", [(0.1, 0.1), (0.1, 0.03)], ids=["one rate", "two rates"])
@pytest.mark.parametrize("name", ["lasso", "growl", "exact_tie"])
def test_every_epoch_of_two_optimizers(name, lrs):
    module = Manual(optimizer=partial(two_optimizers, lrs=lrs))
    fit(module, regularize(name, every="epoch"))
    assert_like_by_hand(name, module, by_hand(name, "epoch", lrs=lrs))


def test_every_epoch_of_optimizers_that_step_unevenly():
    module, expected = ManualUneven(optimizer=partial(two_optimizers, make=torch.optim.SGD)), Two()
    fit(module, regularize("exact_tie", every="epoch"))
    optimizers = two_optimizers(expected, make=torch.optim.SGD)
    for _ in range(2):
        for i, batch in enumerate(loader()):
            expected.zero_grad()
            sum(expected.losses(batch)).backward()
            optimizers[0].step()
            if i % 2:
                optimizers[1].step()
        with torch.no_grad():
            PROXES["exact_tie"](expected, {"a": 10 * 0.1 * 0.2, "b": 5 * 0.1 * 0.2})
    assert_like_by_hand("exact_tie", module, expected)


def test_an_optimizer_that_pauses_for_an_epoch_is_waited_for():
    class Pauses(Manual):
        def training_step(self, batch, batch_idx):
            one, two = self.optimizers()
            one.zero_grad()
            two.zero_grad()
            self.manual_backward(0.0 * sum(self.losses(batch)))
            one.step()
            if self.current_epoch == 1:
                two.step()

    class Watch(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            after.append(weights(pl_module))

    after, module = [], Pauses(optimizer=partial(two_optimizers, make=torch.optim.SGD))
    before, expected = weights(module), Two()
    fit(module, Watch(), regularize("exact_tie", every="epoch", strength=0.02))
    assert_same(after[0], before)
    with torch.no_grad():
        PROXES["exact_tie"](expected, {"a": 20 * 0.1 * 0.02, "b": 10 * 0.1 * 0.02})
    assert_same(weights(module), weights(expected), 1e-12)


@pytest.mark.parametrize(
    ("options", "sizes"),
    [
        ({}, [10 * 0.1, 10 * 0.05, 10 * 0.025]),  # the rate of the epoch that is over
        ({"accumulate_grad_batches": 4}, [3 * 0.1, 3 * 0.05, 3 * 0.025]),
        ({"limit_train_batches": 3}, [3 * 0.1, 3 * 0.05, 3 * 0.025]),
        ({"max_steps": 14, "epochs": -1}, [10 * 0.1, 4 * 0.05]),  # ends in the middle of an epoch
    ],
    ids=str,
)
def test_size_of_the_step(options, sizes):
    def optimizer(module):
        made = sgd(module)
        return [made], [StepLR(made, 1, gamma=0.5)]

    module, total = Still(optimizer), 0.0
    before = weights(module)
    fit(module, regularize("lasso", every="epoch", strength=0.1), **({"epochs": 3} | options))
    for size in sizes:
        total += 0.1 * size
    assert_same(
        weights(module), {name: shrink(value, total) for name, value in before.items()}, 1e-12
    )


def test_an_epoch_that_the_module_ends():
    class Stops(Still):
        def on_train_batch_start(self, batch, batch_idx):
            return -1 if batch_idx == 4 else None

    module = Stops()
    before = weights(module)
    fit(module, regularize("lasso", every="epoch"), epochs=1)
    assert_same(
        weights(module),
        {name: shrink(value, 4 * 0.1 * 0.1) for name, value in before.items()},
        1e-12,
    )


def test_steps_without_a_loss_add_nothing():
    class StillSkips(Skips, Still):
        def losses(self, batch):
            return [0.0 * sum(p.sum() for p in self.parameters())]

    module = StillSkips()
    before = weights(module)
    fit(module, regularize("lasso", every="epoch"), epochs=1)
    assert_same(
        weights(module),
        {name: shrink(value, 7 * 0.1 * 0.1) for name, value in before.items()},
        1e-12,
    )


def test_validation_and_its_checkpoints_see_the_weights_after_the_step(tmp_path):
    class Validated(Two):
        def validation_step(self, batch, batch_idx):
            self.log("zeros", float(exact("lasso", self)))

    module = Validated(optimizer=lambda m: MOMENTUM(m.parameters(), lr=0.1))
    saved = ModelCheckpoint(
        tmp_path, filename="{epoch}", monitor="zeros", mode="max", save_top_k=-1
    )
    made = trainer(
        regularize("lasso", every="epoch"), saved, enable_checkpointing=True, num_sanity_val_steps=0
    )
    made.fit(module, loader(), loader())
    expected = [by_hand("lasso", "epoch", epochs=epochs) for epochs in (1, 2)]
    assert made.callback_metrics["zeros"] == exact("lasso", expected[1]) > 0
    for epoch, after in enumerate(expected):
        file = torch.load(tmp_path / f"epoch={epoch}.ckpt", weights_only=True)
        assert_same(file["state_dict"], weights(after), 1e-12)


# Zeros that stay


@pytest.mark.parametrize("every", ["step", "epoch"])
@pytest.mark.parametrize("name", ZEROS)
def test_kept_zeros_equal_a_loop_by_hand(name, every):
    epochs = 2 if every == "step" else 4
    module, free = (Two(optimizer=with_decay) for _ in range(2))
    fit(module, regularize(name, every=every, keep_zeros=True), epochs=epochs)
    fit(free, regularize(name, every=every), epochs=epochs)
    assert_like_by_hand(name, module, by_hand(name, every, keep_zeros=True, epochs=epochs))
    assert any(
        not torch.equal(p, q) for p, q in zip(module.parameters(), free.parameters(), strict=True)
    ), "nothing came back by itself: a weak test"


@pytest.mark.parametrize("every", ["step", "epoch"])
@pytest.mark.parametrize("lrs", [(0.1, 0.1), (0.1, 0.03)], ids=["one rate", "two rates"])
def test_kept_zeros_of_two_optimizers(every, lrs):
    module = Manual(optimizer=partial(two_optimizers, lrs=lrs))
    fit(module, regularize("growl", every=every, keep_zeros=True), epochs=3)
    assert_like_by_hand(
        "growl", module, by_hand("growl", every, keep_zeros=True, epochs=3, lrs=lrs)
    )


class Watch(Callback):
    """Which groups of one penalty were zero after each batch."""

    def __init__(self, name):
        self.name, self.zero = name, []

    def on_train_batch_end(self, trainer, pl_module, *args):
        found = [
            w.detach() for w in each(pl_module) if w.ndim == 2 or self.name in ("lasso", "oscar")
        ]
        self.zero.append([groups_of(self.name, w) == 0.0 for w in found])

    def revived(self):
        steps = zip(self.zero, self.zero[1:], strict=False)
        return sum(
            int((old & ~new).sum())
            for before, after in steps
            for old, new in zip(before, after, strict=True)
        )


@pytest.mark.parametrize("every", ["step", "epoch"])
@pytest.mark.parametrize("name", ZEROS)
def test_no_group_comes_back(name, every):
    """Not by momentum or gradients, and not where the strength goes down to zero."""
    ramp = Ramp(duration=1, start=1.0, end=0.0, begin=1, unit="epochs")
    free, kept = Watch(name), Watch(name)
    options = {"every": every, "schedule": ramp}
    fit(Two(optimizer=with_decay), regularize(name, **options), free, epochs=4)
    fit(Two(optimizer=with_decay), regularize(name, keep_zeros=True, **options), kept, epochs=4)
    assert free.revived() > 0
    assert kept.revived() == 0
    assert any(zero.any() for zero in kept.zero[-1])


def test_members_are_zero_together():
    """A group of several members, which is zero in all of them or in none."""
    penalty, ties = Penalty("l1", "input", "zero"), Ties("a.*.weight", "b.*.weight")
    module = Two(optimizer=with_decay)
    fit(module, Regularize(penalty, ties, 0.55, keep_zeros=True), epochs=3)
    zero = [[not bool(column.any()) for column in w.T] for w in each(module) if w.ndim == 2]
    assert zero[0] == zero[1]
    assert zero[2] == zero[3]
    assert 0 < sum(map(sum, zero)) < sum(map(len, zero))


def test_elements_of_a_group_that_is_not_zero_are_free():
    class Held(Two):
        """A zero in a group of others, at the beginning."""

        def on_train_start(self):
            with torch.no_grad():
                self.a[0].weight[1, 2] = 0.0

    module = Held()
    fit(module, regularize("group_lasso", strength=0.01, keep_zeros=True), epochs=1)
    assert module.a[0].weight[1, 2] != 0.0


def test_what_no_proximal_step_made_zero_is_free():
    """Weights that start at zero, without gradients for a while, are not zeros of the penalty."""

    class Late(Two):
        def on_train_start(self):
            with torch.no_grad():
                self.b[0].bias.zero_()

        def losses(self, batch):
            return super().losses(batch)[: 1 if self.current_epoch == 0 else 2]

    module = Late(optimizer=lambda m: torch.optim.SGD(m.parameters(), lr=0.1))
    fit(module, regularize("lasso", strength=1e-4, keep_zeros=True), epochs=2)
    assert bool((module.b[0].bias != 0.0).all())


def test_kept_zeros_of_an_older_fit_are_forgotten():
    callback = regularize("lasso", keep_zeros=True)
    first, second, fresh = Two(), Two(), Two()
    fit(first, callback)
    fit(second, callback)
    fit(fresh, regularize("lasso", keep_zeros=True))
    assert_same(weights(second), weights(fresh))


@pytest.mark.parametrize("every", ["step", "epoch"])
def test_nothing_waits_for_the_device(every, monkeypatch):
    """A step reads no number from a tensor, and writes no weights before the first zero."""
    module, calls, inside = Two(), [], []

    def counted(name, original):
        def call(*args, **kwargs):
            if inside:
                calls.append(name)
            return original(*args, **kwargs)

        return call

    def after_step(*args):
        inside.append(True)
        original(*args)
        inside.clear()

    original = PenaltySteps.after_step
    monkeypatch.setattr(PenaltySteps, "after_step", lambda *args: after_step(*args))
    for name in ("cpu", "item", "tolist", "__bool__", "__float__", "nonzero"):
        monkeypatch.setattr(Tensor, name, counted(name, getattr(Tensor, name)))
    monkeypatch.setattr(Tensor, "copy_", counted("copy_", Tensor.copy_))
    fit(module, regularize("lasso", every=every, strength=1e-6, keep_zeros=True))
    assert calls == []
    fit(Two(optimizer=with_decay), regularize("lasso", every=every, keep_zeros=True))
    assert set(calls) <= {"copy_"}
    assert bool(calls) == (every == "epoch"), (
        "a proximal step in every step has kept the zeros by itself"
    )


# Resuming


def whole_and_resumed(make_callback, tmp_path):
    """The modules after four epochs at once, and after two and two."""
    whole, first, second = (Two(optimizer=with_decay) for _ in range(3))
    fit(whole, make_callback(), epochs=4)
    fit(first, make_callback(), epochs=2).save_checkpoint(tmp_path / "half.ckpt")
    fit(second, make_callback(), epochs=4, ckpt_path=tmp_path / "half.ckpt")
    return whole, second


@pytest.mark.parametrize("keep_zeros", [False, True])
@pytest.mark.parametrize("every", ["step", "epoch"])
@pytest.mark.parametrize("name", ZEROS)
def test_resuming_is_bitwise_as_if_never_stopped(name, every, keep_zeros, tmp_path):
    make = partial(
        regularize, name, every=every, keep_zeros=keep_zeros, schedule=Ramp(duration=30, start=0.8)
    )
    whole, resumed = whole_and_resumed(make, tmp_path)
    assert_same(weights(resumed), weights(whole))
    assert exact(name, whole) > 0


@pytest.mark.filterwarnings("ignore:.*Checkpoint directory .* exists and is not empty")
@pytest.mark.parametrize("every", ["step", "epoch"])
@pytest.mark.parametrize("kind", [Two, Manual])
def test_resuming_from_the_checkpoint_of_a_validation(kind, every, tmp_path):
    class Validated(kind):
        def validation_step(self, batch, batch_idx):
            self.log("value", 1.0)

    optimizer = with_decay if kind is Two else two_optimizers
    make = partial(regularize, "growl", every=every, keep_zeros=True)
    whole, first, second = (Validated(optimizer=optimizer) for _ in range(3))
    options = {"enable_checkpointing": True, "num_sanity_val_steps": 0}
    trainer(make(), epochs=4, num_sanity_val_steps=0).fit(whole, loader(), loader())
    saved = ModelCheckpoint(
        tmp_path, "{epoch}", monitor="value", save_top_k=-1, save_on_train_epoch_end=False
    )
    trainer(make(), saved, epochs=2, **options).fit(first, loader(), loader())
    again = ModelCheckpoint(
        tmp_path, "{epoch}", monitor="value", save_top_k=-1, save_on_train_epoch_end=False
    )
    resuming = trainer(make(), again, epochs=4, **options)
    resuming.fit(second, loader(), loader(), ckpt_path=tmp_path / "epoch=1.ckpt")
    assert_same(weights(second), weights(whole))


@pytest.mark.filterwarnings("ignore:.*Checkpoint directory .* exists and is not empty")
@pytest.mark.filterwarnings(
    "ignore:You're resuming from a checkpoint that ended before the epoch ended"
)
def test_steps_of_an_epoch_that_is_resumed_in_its_middle(tmp_path):
    make = partial(regularize, "lasso", every="epoch", strength=0.02)
    every_four = partial(ModelCheckpoint, tmp_path, "{step}", every_n_train_steps=4, save_top_k=-1)
    module, before = Still(), weights(Still())
    fit(module, make(), every_four(), epochs=1, enable_checkpointing=True)
    state = torch.load(tmp_path / "step=4.ckpt", weights_only=True)
    (callback,) = (s for s in state["callbacks"].values() if "pending" in s)
    assert state["global_step"] == 4
    assert callback["pending"]["a.0.bias"] == {0: [pytest.approx(4 * 0.1 * 0.02)]}
    assert_same(state["state_dict"], before)
    resumed = Still()
    fit(
        resumed,
        make(),
        every_four(),
        epochs=1,
        ckpt_path=tmp_path / "step=4.ckpt",
        enable_checkpointing=True,
    )
    assert_same(
        weights(resumed),
        {name: shrink(value, 10 * 0.1 * 0.02) for name, value in before.items()},
        1e-12,
    )


@pytest.mark.parametrize("every", ["step", "epoch"])
def test_checkpoints_have_the_groups_that_stay_zero(every, tmp_path):
    module = Two(optimizer=with_decay)
    fit(module, regularize("growl", every=every, keep_zeros=True)).save_checkpoint(
        tmp_path / "last.ckpt"
    )
    (state,) = torch.load(tmp_path / "last.ckpt", weights_only=True)["callbacks"].values()
    parameters = dict(module.named_parameters())
    expected = {
        name.removesuffix(".weight"): (w == 0.0).all(dim=0, keepdim=True)
        for name, w in parameters.items()
        if w.ndim == 2 and bool((w == 0.0).all(dim=0).any())
    }
    assert expected
    assert state["pending"] == {}
    assert_same(
        {name.removesuffix(".weight"): zero for name, zero in state["frozen"].items()}, expected
    )


def test_checkpoints_without_kept_zeros_have_none(tmp_path):
    fit(Two(), regularize("growl")).save_checkpoint(tmp_path / "last.ckpt")
    (state,) = torch.load(tmp_path / "last.ckpt", weights_only=True)["callbacks"].values()
    kept = {"starting_values", "pending", "frozen", "precision", "edge_weights"}
    assert set(state) >= kept
    assert not any(state.values())


def test_zeros_are_let_go_where_they_are_not_kept_any_more(tmp_path):
    fit(Two(optimizer=with_decay), regularize("lasso", keep_zeros=True)).save_checkpoint(
        tmp_path / "half.ckpt"
    )
    watch = Watch("lasso")
    fit(
        Two(optimizer=with_decay),
        regularize("lasso"),
        watch,
        epochs=4,
        ckpt_path=tmp_path / "half.ckpt",
    )
    assert watch.revived() > 0


# Refusals


@pytest.mark.parametrize(
    ("penalty", "options", "message"),
    [
        (
            ("l1", "element", "zero"),
            {"every": "batch"},
            "unknown every 'batch': write one of 'step', 'epoch'",
        ),
        (("squared", "element", "zero"), {"every": "epoch"}, 'every="epoch" is for proximal steps'),
        (
            ("l1", "element", "zero"),
            {"every": "epoch", "apply": "gradient"},
            'write apply="prox", or every="step"',
        ),
        (
            ("l1", "element", "zero"),
            {"keep_zeros": True, "apply": "gradient"},
            "gradients make nothing exact: write apply=",
        ),
        (
            ("squared", "element", "zero"),
            {"keep_zeros": True, "apply": "prox"},
            'this is norm="squared"',
        ),
        (("l1", "element", "mean"), {"keep_zeros": True}, 'this is norm="l1", center="mean"'),
        (("l1", "element", "first"), {"keep_zeros": True}, 'center="first"'),
        (("l1", "element", "start"), {"keep_zeros": True}, 'center="start"'),
        (("l1", "spectrum", "zero"), {"keep_zeros": True}, 'groups="spectrum"'),
    ],
)
def test_refused(penalty, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Regularize(Penalty(*penalty), Ties("*"), 0.1, **options)
