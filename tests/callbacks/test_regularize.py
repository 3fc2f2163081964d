"""`Regularize`, against the penalty in the loss and against proximal steps written out."""

from __future__ import annotations

import copy
import re
from functools import partial
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.plugins import MixedPrecision
from torch import nn
from torch.optim.lr_scheduler import ExponentialLR, StepLR
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from lit_share.callbacks import Regularize, Share, SharingMonitor
from lit_share.functional import Penalty
from lit_share.lab.app._processes import spawned
from lit_share.penalties import Ramp
from lit_share.ties import TieError, Ties

from .._norms import norms_of_groups
from ._by_hand import PROXES, follow_by_hand, ramp_weights, shrink
from ._modules import (
    Frozen,
    Manual,
    ManualEach,
    ManualToggled,
    ManualUneven,
    OneLearns,
    Skips,
    Still,
    Two,
    assert_same,
    each,
    fit,
    loader,
    mlp,
    pairs,
    sgd,
    trainer,
    two_optimizers,
    weights,
)

PAIR = Ties("a.*", "b.*")
ALL = Ties("*")
MATRICES = Ties("*.weight")
SOFT_TIE = Penalty("squared", "element", "mean")


def owl(n):
    return (n.sort(descending=True).values * ramp_weights(len(n)).to(n)).sum()


def matrices(module):
    return [w for w in each(module) if w.ndim == 2]


# Name: the penalty, its ties, and the same written out.
FORMULAS = {
    "l2": ("l2", ALL, lambda m: sum(0.5 * w.square().sum() for w in each(m))),
    "lasso": ("lasso", ALL, lambda m: sum(w.abs().sum() for w in each(m))),
    "group_lasso": (
        "group_lasso",
        MATRICES,
        lambda m: sum(norms_of_groups(w, 0).sum() for w in matrices(m)),
    ),
    "oscar": (
        Penalty("owl", "element", "zero", ramp_weights),
        ALL,
        lambda m: sum(owl(w.abs().flatten()) for w in each(m)),
    ),
    "growl": (
        Penalty("owl", "input", "zero", ramp_weights),
        MATRICES,
        lambda m: sum(owl(norms_of_groups(w, 0)) for w in matrices(m)),
    ),
    "soft_tie": (
        "soft_tie",
        PAIR,
        lambda m: sum(0.5 * (a - b).square().sum() for a, b in pairs(m)),
    ),
    "exact_tie": (
        "exact_tie",
        PAIR,
        lambda m: sum((a - b).abs().sum() for a, b in pairs(m)),
    ),
    "unit_tie": (
        "unit_tie",
        PAIR,
        lambda m: sum(norms_of_groups((a - b).reshape(len(a), -1), 1).sum() for a, b in pairs(m)),
    ),
    "layer_tie": ("layer_tie", PAIR, lambda m: sum(norms_of_groups(a - b) for a, b in pairs(m))),
    "follow": (
        "follow",
        PAIR,
        lambda m: sum(0.5 * (b - a.detach()).square().sum() for a, b in pairs(m)),
    ),
    "l2_sp": (
        "l2_sp",
        ALL,
        lambda m: sum(0.5 * (w - o).square().sum() for w, o in zip(each(m), m.origin, strict=True)),
    ),
    "joint_lasso": (
        "joint_lasso",
        Ties("a.*.weight", "b.*.weight"),
        lambda m: sum(
            # Groups are as large as those of a single member.
            norms_of_groups(torch.cat([a, b]), 0).sum() / 2**0.5
            for a, b in pairs(m)
            if a.ndim == 2
        ),
    ),
    "trace_norm": (
        "trace_norm",
        PAIR,
        lambda m: sum(
            torch.linalg.svdvals(torch.stack([a.flatten(), b.flatten()])).sum() for a, b in pairs(m)
        ),
    ),
}


def regularize(name, strength, **options):
    penalty, ties, _ = FORMULAS[name]
    return Regularize(penalty, ties, strength, **options)


def formula(name, strength):
    return lambda module: strength * FORMULAS[name][2](module)


# The gradient: equal to the penalty in the loss


def adam(module):
    return torch.optim.Adam((p for p in module.parameters() if p.requires_grad), lr=0.02)


def sgd_with_schedule(module):
    optimizer = sgd(module, momentum=0.9)
    return [optimizer], [{"scheduler": ExponentialLR(optimizer, 0.8), "interval": "step"}]


def groups(module):
    parts = [
        {"params": module.a.parameters()},
        {"params": module.b.parameters(), "lr": 0.3, "weight_decay": 0.1},
    ]
    return torch.optim.SGD(parts, lr=0.1)


def all_of_them(module):
    """Frozen parameters too."""
    return torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)


# Name: the module, its optimizer, and the Trainer's options.
REGIMES = {
    "sgd": (Two, sgd, {}),
    "momentum": (Two, partial(sgd, momentum=0.9, nesterov=True), {}),
    "adam": (Two, adam, {}),
    "fused": (Two, lambda m: torch.optim.AdamW(m.parameters(), lr=0.02, fused=True), {}),
    "groups": (Two, groups, {}),
    "scheduler": (Two, sgd_with_schedule, {}),
    "accumulation": (Two, partial(sgd, momentum=0.9), {"accumulate_grad_batches": 4}),
    "accumulation with adam": (Two, adam, {"accumulate_grad_batches": 4}),
    "clip norm": (Two, partial(sgd, momentum=0.9), {"gradient_clip_val": 0.05}),
    "clip value": (Two, adam, {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"}),
    "clip accumulated": (Two, sgd, {"gradient_clip_val": 0.05, "accumulate_grad_batches": 4}),
    "frozen member": (Frozen, partial(sgd, momentum=0.9), {}),
    "frozen member in the optimizer": (Frozen, all_of_them, {}),
    "member without a loss": (OneLearns, partial(sgd, momentum=0.9), {}),
    "member without a loss, adam": (OneLearns, adam, {}),
    "steps without a loss": (Skips, partial(sgd, momentum=0.9), {}),
    "manual": (Manual, two_optimizers, {}),
    "manual, adam": (Manual, partial(two_optimizers, make=torch.optim.Adam, lrs=(0.02, 0.01)), {}),
    "manual, a backward pass each": (ManualEach, two_optimizers, {}),
    "manual, a backward pass each, adam": (
        ManualEach,
        partial(two_optimizers, make=torch.optim.Adam),
        {},
    ),
    "manual, toggled": (ManualToggled, two_optimizers, {}),
    "manual, uneven": (ManualUneven, two_optimizers, {}),
}


def penalty_in_the_loss(name, strength, kind, optimizer, **options):
    accumulate = options.get("accumulate_grad_batches", 1)
    module = kind(omega=formula(name, strength), optimizer=optimizer, accumulate=accumulate)
    fit(module, **options)
    return module


# Where b is frozen, nothing follows.
COMBINATIONS = [
    (name, regime)
    for name in ("soft_tie", "unit_tie", "l2_sp", "follow")
    for regime in REGIMES
    if not (name == "follow" and regime.startswith("frozen"))
]


@pytest.mark.parametrize(
    ("name", "regime"),
    [
        pytest.param(*each, marks=[pytest.mark.slow] * (each[0] in ("unit_tie", "follow")))
        for each in COMBINATIONS
    ],
)
def test_gradient_equals_the_penalty_in_the_loss(name, regime):
    kind, optimizer, options = REGIMES[regime]
    expected = penalty_in_the_loss(name, 0.3, kind, optimizer, **options)
    module, without = kind(optimizer=optimizer), kind(optimizer=optimizer)
    fit(module, regularize(name, 0.3, apply="gradient"), **options)
    assert_same(weights(module), weights(expected), 1e-12)
    fit(without, **options)
    difference = max(
        (p - q).abs().max() for p, q in zip(module.parameters(), without.parameters(), strict=True)
    )
    assert difference > 1e-5, "the penalty has no effect, so the test is of nothing"


@pytest.mark.parametrize("name", FORMULAS)
def test_gradient_of_every_penalty(name):
    options = {"gradient_clip_val": 0.5, "accumulate_grad_batches": 4}
    expected = penalty_in_the_loss(name, 0.05, Two, adam, **options)
    module = Two(optimizer=adam)
    fit(module, regularize(name, 0.05, apply="gradient"), **options)
    # Singular values come from squares, so they have half of the digits.
    assert_same(weights(module), weights(expected), 1e-8 if name == "trace_norm" else 1e-12)


@pytest.mark.parametrize("regime", ["momentum", "accumulation", "clip norm", "manual"])
def test_gradient_in_single_precision(regime):
    kind, optimizer, options = REGIMES[regime]
    data = loader(dtype=torch.float32)
    accumulate = options.get("accumulate_grad_batches", 1)
    expected = kind(
        omega=formula("soft_tie", 0.3),
        optimizer=optimizer,
        dtype=torch.float32,
        accumulate=accumulate,
    )
    fit(expected, data=data, **options)
    module = kind(optimizer=optimizer, dtype=torch.float32)
    fit(module, regularize("soft_tie", 0.3), data=data, **options)
    assert_same(weights(module), weights(expected), 1e-6)


def test_three_members():
    class Three(Two):
        def __init__(self, **options):
            super().__init__(**options)
            self.c = mlp(2)

        def losses(self, batch):
            return *super().losses(batch), self.c(batch[0]).square().mean()

    def omega(m):
        triples = zip(m.a.parameters(), m.b.parameters(), m.c.parameters(), strict=True)
        return sum(
            0.1 * norms_of_groups(((a - b).square() + (a - c).square() + (b - c).square()).sqrt())
            for a, b, c in triples
        )

    expected, module = Three(omega=omega), Three()
    fit(expected)
    fit(
        module,
        Regularize(
            Penalty("l1", "tensor", "mean"), Ties("a.*", "b.*", "c.*"), 0.1, apply="gradient"
        ),
    )
    assert_same(weights(module), weights(expected), 1e-12)


def test_schedule_is_a_factor_of_the_strength():
    strength, ramp = 0.3, Ramp(duration=7, start=0.5, end=2.0, begin=3)

    def omega(m):
        u = min(max((m.trainer.global_step - 3) / 7, 0.0), 1.0)
        return (0.5 + 1.5 * u) * formula("soft_tie", strength)(m)

    expected, module = Two(omega=omega), Two()
    fit(expected)
    fit(module, regularize("soft_tie", strength, schedule=ramp))
    assert_same(weights(module), weights(expected), 1e-12)


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("apply", ["gradient", "prox"])
def test_identical_initial_weights(name, apply):
    """No deviation on the first step gives no NaN, and training continues."""
    module = Two(seeds=(0, 0))
    before = weights(module)
    fit(module, regularize(name, 0.01, apply=apply))
    for key, value in weights(module).items():
        assert bool(torch.isfinite(value).all())
        assert not torch.equal(value, before[key])
    assert any(not torch.equal(a, b) for a, b in pairs(module))


@pytest.mark.parametrize("apply", ["gradient", "prox"])
def test_strength_zero_is_no_penalty(apply):
    module, without = Two(optimizer=adam), Two(optimizer=adam)
    fit(module, regularize("unit_tie", 0.0, apply=apply))
    fit(without)
    assert_same(weights(module), weights(without))


@pytest.mark.parametrize("apply", ["gradient", "prox"])
@pytest.mark.parametrize(
    "options",
    [
        {"data": (12, 1)},
        {"data": (6, 3)},
        {"data": (12, 1), "accumulate_grad_batches": 2},
        {"data": (16, 1), "accumulate_grad_batches": 3},  # the last window has one batch
        {"data": (6, 3), "precision": "bf16-mixed", "dtype": torch.float32},
        {"data": (6, 3), "precision": "32-true", "dtype": torch.float32},
        {"data": (6, 3), "precision": "64-true"},
        {"data": (6, 3), "plugins": "fp16", "dtype": torch.float32},
        {"data": (6, 3), "gradient_clip_val": 1e3},
    ],
    ids=str,
)
def test_strength_depends_on_nothing_but_the_number_of_steps(apply, options):
    """Under l2 and gradients of zero, weights shrink by one factor per step."""
    options = dict(options)
    batches, size = options.pop("data")
    dtype = options.pop("dtype", torch.float64)
    if options.get("plugins") == "fp16":
        options["plugins"] = [fp16()]
    module = Still(dtype=dtype)
    before = weights(module)
    made = fit(
        module,
        regularize("l2", 0.5, apply=apply),
        data=loader(batches, size, dtype=dtype),
        epochs=1,
        **options,
    )
    steps = made.global_step
    assert steps == -(-batches // options.get("accumulate_grad_batches", 1))
    factor = (1 - 0.1 * 0.5) ** steps if apply == "gradient" else (1 + 0.1 * 0.5) ** -steps
    tolerance = 1e-12 if dtype == torch.float64 else 1e-6
    assert_same(
        weights(module), {name: factor * value for name, value in before.items()}, tolerance
    )


# The proximal step: equal to a loop without this package


def by_hand(
    name,
    strength,
    lrs,
    epochs=2,
    make=torch.optim.SGD,
    decay=1.0,
    second=lambda batch_idx: True,
    kind=Two,
):
    """A loop without Trainer: backward, step, prox."""
    module = kind()
    optimizers = {
        key: make(getattr(module, key).parameters(), lr=lr)
        for key, lr in zip("ab", lrs, strict=True)
    }
    waiting = {"a": 0.0, "b": 0.0}
    for _ in range(epochs):
        for batch_idx, batch in enumerate(loader()):
            module.zero_grad()
            sum(kind.losses(module, batch)).backward()
            for key, optimizer in optimizers.items():
                if key == "a" or second(batch_idx):
                    optimizer.step()
                    waiting[key] += strength * optimizer.param_groups[0]["lr"]
            if all(waiting.values()):
                with torch.no_grad():
                    PROXES[name](module, waiting)
                waiting = {"a": 0.0, "b": 0.0}
        for optimizer in optimizers.values():
            optimizer.param_groups[0]["lr"] *= decay
    return module


def one_optimizer(module, lrs, make=torch.optim.SGD):
    return make(
        [
            {"params": net.parameters(), "lr": lr}
            for net, lr in zip((module.a, module.b), lrs, strict=True)
        ]
    )


def assert_same_with_zeros(module, expected, name):
    """The same weights, and exactly equal or exactly zero in the same places."""
    assert_same(weights(module), weights(expected), 1e-12)
    if name.endswith("_tie"):
        where = [
            (a == b, c == d) for (a, b), (c, d) in zip(pairs(module), pairs(expected), strict=True)
        ]
    else:
        where = [(w == 0.0, v == 0.0) for w, v in zip(each(module), each(expected), strict=True)]
    assert all(torch.equal(x, y) for x, y in where)
    return sum(int(x.sum()) for x, _ in where)


STRENGTHS = {"unit_tie": 0.2, "layer_tie": 0.15, "oscar": 0.3, "growl": 0.3, "l2": 0.3}


@pytest.mark.parametrize("lrs", [(0.1, 0.1), (0.1, 0.03)], ids=["one rate", "two rates"])
@pytest.mark.parametrize("name", PROXES)
def test_prox_equals_proximal_gradient_descent_by_hand(name, lrs):
    strength = STRENGTHS.get(name, 0.2)
    module = Two(optimizer=partial(one_optimizer, lrs=lrs))
    fit(module, regularize(name, strength, apply="prox"))
    special = assert_same_with_zeros(module, by_hand(name, strength, lrs), name)
    numbers = sum(w.numel() for w in each(module))
    assert name == "l2" or 0 < special < numbers, "nothing or everything is exact: a weak test"


@pytest.mark.parametrize("kind", [Manual, ManualEach, ManualToggled])
@pytest.mark.parametrize("lrs", [(0.1, 0.1), (0.1, 0.03)], ids=["one rate", "two rates"])
@pytest.mark.parametrize("name", ["exact_tie", "layer_tie", "lasso"])
def test_prox_of_two_optimizers_is_taken_once_after_both(name, lrs, kind):
    strength = STRENGTHS.get(name, 0.2)
    module = kind(optimizer=partial(two_optimizers, make=torch.optim.SGD, lrs=lrs))
    fit(module, regularize(name, strength))
    assert assert_same_with_zeros(module, by_hand(name, strength, lrs), name) > 0


def test_prox_of_optimizers_that_step_unevenly():
    """Steps add up until both have stepped."""
    lrs, strength = (0.1, 0.03), 0.2
    module = ManualUneven(optimizer=partial(two_optimizers, make=torch.optim.SGD, lrs=lrs))
    fit(module, regularize("exact_tie", strength))
    expected = by_hand("exact_tie", strength, lrs, second=lambda batch_idx: batch_idx % 2 == 1)
    assert assert_same_with_zeros(module, expected, "exact_tie") > 0


@pytest.mark.parametrize("make", [partial(torch.optim.SGD, momentum=0.9), torch.optim.Adam])
def test_prox_of_other_optimizers_has_the_size_of_their_learning_rate(make):
    lrs = (0.02, 0.01)
    module = Two(optimizer=partial(one_optimizer, lrs=lrs, make=make))
    fit(module, regularize("exact_tie", 0.5))
    assert (
        assert_same_with_zeros(module, by_hand("exact_tie", 0.5, lrs, make=make), "exact_tie") > 0
    )


def test_prox_follows_the_scheduler():
    def optimizer(module):
        made = one_optimizer(module, (0.1, 0.1))
        return [made], [StepLR(made, 1, gamma=0.5)]

    module = Two(optimizer=optimizer)
    fit(module, regularize("exact_tie", 0.2), epochs=3)
    expected = by_hand("exact_tie", 0.2, (0.1, 0.1), epochs=3, decay=0.5)
    assert assert_same_with_zeros(module, expected, "exact_tie") > 0


def test_prox_follows_the_schedule():
    module = Still()
    before = weights(module)
    fit(module, regularize("lasso", 0.1, schedule=Ramp(duration=4)), epochs=1)
    total = 0.1 * 0.1 * sum(min(t / 4, 1.0) for t in range(10))
    expected = {name: shrink(value, total) for name, value in before.items()}
    assert_same(weights(module), expected, 1e-12)


@pytest.mark.parametrize(
    "optimizer", [sgd, lambda module: torch.optim.SGD(module.parameters(), lr=0.1)]
)
def test_prox_of_a_frozen_member(optimizer):
    """The other one comes to it, whether or not an optimizer has the frozen one."""
    strength = 0.5
    module = Frozen(optimizer=optimizer)
    before = weights(module)
    fit(module, regularize("exact_tie", strength))
    expected = Frozen()
    for _ in range(2):
        for batch in loader():
            grads = torch.autograd.grad(sum(expected.losses(batch)), list(expected.a.parameters()))
            with torch.no_grad():
                for (a, b), grad in zip(pairs(expected), grads, strict=True):
                    a.copy_(b + shrink(a - 0.1 * grad - b, 0.1 * strength))
    assert assert_same_with_zeros(module, expected, "exact_tie") > 0
    assert all(torch.equal(p, before[f"b.{name}"]) for name, p in module.b.named_parameters())


def test_prox_of_a_member_that_is_frozen_for_one_epoch():
    class Thaws(Manual):
        def on_train_epoch_start(self):
            self.b.requires_grad_(self.current_epoch > 0)

    strength = 0.3
    module, expected = Thaws(optimizer=partial(two_optimizers, make=torch.optim.SGD)), Two()
    fit(module, regularize("exact_tie", strength))
    for epoch in range(2):
        expected.b.requires_grad_(epoch > 0)
        for batch in loader():
            expected.zero_grad()
            sum(expected.losses(batch)).backward()
            with torch.no_grad():
                for p in each(expected):
                    p.sub_(0.0 if p.grad is None else 0.1 * p.grad)
                if epoch > 0:
                    PROXES["exact_tie"](expected, {"a": 0.1 * strength, "b": 0.1 * strength})
                else:
                    for a, b in pairs(expected):
                        a.copy_(b + shrink(a - b, 0.1 * strength))
    assert assert_same_with_zeros(module, expected, "exact_tie") > 0


def test_prox_of_the_first_member_as_center():
    module = Two(optimizer=partial(one_optimizer, lrs=(0.03, 0.1)))
    fit(module, Regularize(Penalty("l1", "element", "first"), PAIR, 0.3))
    PROXES["follow"] = follow_by_hand
    expected = by_hand("follow", 0.3, (0.03, 0.1))
    del PROXES["follow"]
    assert assert_same_with_zeros(module, expected, "follow_tie") > 0


def test_prox_of_a_learning_rate_that_is_a_tensor():
    module = Still(partial(sgd, lr=torch.tensor(0.1, dtype=torch.float64)))
    before = weights(module)
    fit(module, regularize("lasso", 0.1), epochs=1)
    assert_same(
        weights(module),
        {name: shrink(value, 10 * 0.1 * 0.1) for name, value in before.items()},
        1e-12,
    )


def test_prox_is_taken_once_per_accumulated_step():
    module = Still()
    before = weights(module)
    fit(module, regularize("lasso", 0.1), epochs=1, accumulate_grad_batches=4)
    assert_same(
        weights(module),
        {name: shrink(value, 3 * 0.1 * 0.1) for name, value in before.items()},
        1e-12,
    )


def test_steps_without_a_loss_take_no_prox():
    class StillSkips(Still):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            return None if batch_idx % 2 else loss

    module = StillSkips()
    before = weights(module)
    fit(module, regularize("lasso", 0.1), epochs=1)
    assert_same(
        weights(module),
        {name: shrink(value, 5 * 0.1 * 0.1) for name, value in before.items()},
        1e-12,
    )


def test_auto_is_gradient_for_the_squared_norm_and_prox_for_others():
    for name, apply in (
        ("soft_tie", "gradient"),
        ("exact_tie", "prox"),
        ("growl", "prox"),
        ("l2_sp", "gradient"),
    ):
        auto, explicit = Two(), Two()
        fit(auto, regularize(name, 0.1))
        fit(explicit, regularize(name, 0.1, apply=apply))
        assert_same(weights(auto), weights(explicit))


# Several penalties, several fits


def test_two_penalties_apply_and_keep_apart(tmp_path):
    strengths = {"soft_tie": 0.2, "l2_sp": 0.3, "unit_tie": 0.1}
    expected = Two(omega=lambda m: sum(formula(name, s)(m) for name, s in strengths.items()))
    fit(expected)
    callbacks = [
        regularize(name, strength, apply="gradient") for name, strength in strengths.items()
    ]
    module = Two()
    made = fit(module, *callbacks)
    assert_same(weights(module), weights(expected), 1e-12)
    assert len({callback.state_key for callback in callbacks}) == 3
    made.save_checkpoint(tmp_path / "last.ckpt")
    states = torch.load(tmp_path / "last.ckpt", weights_only=True)["callbacks"]
    assert set(states) == {callback.state_key for callback in callbacks}


def test_one_penalty_on_two_ties():
    first, second = Ties("a.0.*", "b.0.*"), Ties("a.2.*", "b.2.*")
    module, together = Two(), Two()
    fit(module, *(Regularize(SOFT_TIE, ties, 0.3) for ties in (first, second)))
    fit(together, Regularize(SOFT_TIE, PAIR, 0.3))
    assert_same(weights(module), weights(together), 1e-12)


def test_gradient_and_prox_together():
    module = Two()
    fit(module, regularize("lasso", 0.1), regularize("soft_tie", 0.3))
    expected = Two()
    for _ in range(2):
        for batch in loader():
            loss = sum(expected.losses(batch)) + formula("soft_tie", 0.3)(expected)
            grads = torch.autograd.grad(loss, each(expected))
            with torch.no_grad():
                for w, grad in zip(each(expected), grads, strict=True):
                    w.copy_(shrink(w - 0.1 * grad, 0.1 * 0.1))
    assert assert_same_with_zeros(module, expected, "lasso") > 0


def hooks(made):
    return [
        hook
        for optimizer in made.optimizers
        for hook in optimizer._optimizer_step_post_hooks.values()
    ]


@pytest.mark.parametrize("name", ["soft_tie", "exact_tie"])
def test_fits_in_a_row_do_not_add_up(name):
    kept, fresh = Two(), Two()
    callback = regularize(name, 0.2)
    for _ in range(3):
        assert hooks(fit(kept, callback)) == []
        fit(fresh, regularize(name, 0.2))
    assert_same(weights(kept), weights(fresh))


@pytest.mark.parametrize("name", ["soft_tie", "exact_tie", "l2_sp"])
def test_a_fit_that_is_continued(name):
    """The same Trainer again, with more epochs: the origin stays."""
    module, whole = Two(), Two()
    made = fit(module, regularize(name, 0.2), epochs=2)
    made.fit_loop.max_epochs = 4
    made.fit(module, loader())
    assert hooks(made) == []
    fit(whole, regularize(name, 0.2), epochs=4)
    assert_same(weights(module), weights(whole))


class Raises(Two):
    def training_step(self, batch, batch_idx):
        if self.trainer.global_step == 3:
            raise ArithmeticError("stop here")
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize("name", ["soft_tie", "exact_tie"])
def test_after_an_exception_nothing_is_left(name):
    callback = regularize(name, 0.2)
    made = trainer(callback)
    with pytest.raises(ArithmeticError):
        made.fit(Raises(), loader())
    assert hooks(made) == []
    after, fresh = Two(), Two()
    fit(after, callback)
    fit(fresh, regularize(name, 0.2))
    assert_same(weights(after), weights(fresh))


def test_other_loops_leave_weights_alone():
    class Evaluated(Two):
        def validation_step(self, batch, batch_idx):
            self.log("val", sum(self.losses(batch)))

        test_step = validation_step

    module = Evaluated()
    before = weights(module)
    made = trainer(regularize("exact_tie", 0.5))
    made.validate(module, loader(), verbose=False)
    made.test(module, loader(), verbose=False)
    assert_same(weights(module), before)


# Resuming


def uninterrupted_and_resumed(make_callback, tmp_path, optimizer, kind=Two):
    """The modules after four epochs, and after two and two; and the Trainer that resumed."""
    whole, first, second = (
        kind(optimizer=optimizer),
        kind(optimizer=optimizer),
        kind(optimizer=optimizer),
    )
    fit(whole, make_callback(), epochs=4)
    fit(first, make_callback(), epochs=2).save_checkpoint(tmp_path / "half.ckpt")
    made = fit(second, make_callback(), epochs=4, ckpt_path=tmp_path / "half.ckpt")
    return whole, second, made


@pytest.mark.parametrize(
    "ramp",
    [
        Ramp(duration=30, shape="cosine"),
        Ramp(duration=3, start=2.0, end=0.0, unit="epochs"),
        Ramp(duration=5, begin=17),
    ],
    ids=lambda ramp: f"{ramp.shape} {ramp.unit} {ramp.begin}",
)
@pytest.mark.parametrize("name", ["soft_tie", "exact_tie"])
def test_resuming_a_ramp_is_bitwise_as_if_never_stopped(name, ramp, tmp_path):
    whole, resumed, _ = uninterrupted_and_resumed(
        lambda: regularize(name, 0.2, schedule=ramp), tmp_path, partial(sgd, momentum=0.9)
    )
    assert_same(weights(resumed), weights(whole))
    unramped = Two(optimizer=partial(sgd, momentum=0.9))
    fit(unramped, regularize(name, 0.2), epochs=4)
    assert any(
        not torch.equal(p, q)
        for p, q in zip(unramped.parameters(), whole.parameters(), strict=True)
    )


@pytest.mark.parametrize("apply", ["gradient", "prox"])
def test_resuming_keeps_the_origin(apply, tmp_path):
    whole, resumed, made = uninterrupted_and_resumed(
        lambda: regularize("l2_sp", 0.5, apply=apply), tmp_path, partial(sgd, momentum=0.9)
    )
    assert_same(weights(resumed), weights(whole))
    made.save_checkpoint(tmp_path / "last.ckpt")
    for file in ("half.ckpt", "last.ckpt"):
        (state,) = torch.load(tmp_path / file, weights_only=True)["callbacks"].values()
        assert_same(state["starting_values"], weights(Two()))


def test_origin_of_a_new_fit_is_where_it_starts():
    callback = regularize("l2_sp", 0.5)
    again, fresh = Two(), Two()
    fit(again, callback)
    fresh.load_state_dict(again.state_dict())
    fit(again, callback)
    fit(fresh, regularize("l2_sp", 0.5))
    assert_same(weights(again), weights(fresh))


def test_origin_of_a_new_fit_after_resuming(tmp_path):
    fit(Two(), regularize("l2_sp", 0.5), epochs=1).save_checkpoint(tmp_path / "half.ckpt")
    callback, again, fresh = regularize("l2_sp", 0.5), Two(), Two()
    fit(again, callback, ckpt_path=tmp_path / "half.ckpt")
    fresh.load_state_dict(again.state_dict())
    fit(again, callback)
    fit(fresh, regularize("l2_sp", 0.5))
    assert_same(weights(again), weights(fresh))


@pytest.mark.parametrize("used", [False, True])
def test_origin_of_fine_tuning_is_the_checkpoint(used, tmp_path):
    """A checkpoint that was trained without the penalty has no origin, so it is the origin."""
    fit(Two(), epochs=2).save_checkpoint(tmp_path / "pretrained.ckpt")
    module, expected, callback = Two(seeds=(5, 6)), Two(), regularize("l2_sp", 0.5)
    if used:
        fit(Two(), callback)
    fit(module, callback, epochs=4, ckpt_path=tmp_path / "pretrained.ckpt")
    expected.load_state_dict(
        torch.load(tmp_path / "pretrained.ckpt", weights_only=True)["state_dict"]
    )
    expected.origin, expected.omega = (
        [w.detach().clone() for w in each(expected)],
        formula("l2_sp", 0.5),
    )
    fit(expected, epochs=2)
    assert_same(weights(module), weights(expected), 1e-12)


def test_checkpoints_without_an_origin_are_small(tmp_path):
    fit(Two(), regularize("soft_tie", 0.1)).save_checkpoint(tmp_path / "last.ckpt")
    states = torch.load(tmp_path / "last.ckpt", weights_only=True)["callbacks"]
    assert not any(
        isinstance(value, torch.Tensor)
        for s in states.values()
        for value in s["starting_values"].values()
    )


# Refusals, before the first step


def refused(error, match, callback, module=None, data=None):
    module = Two() if module is None else module
    before = weights(module)
    with pytest.raises(error, match=match):
        fit(module, callback, data=data)
    assert_same(weights(module), before)
    assert module.steps_taken == 0


@pytest.mark.parametrize("apply", ["gradient", "prox"])
def test_wrong_patterns(apply):
    penalty = Penalty("l1", "element", "mean")
    refused(
        TieError,
        r"'c\.\*' matches no parameter",
        Regularize(penalty, Ties("a.*", "c.*"), 0.1, apply=apply),
    )
    refused(
        TieError,
        r"'a\.0\.weight' is \(3, 4\)",
        Regularize(penalty, Ties("a.0.*", "b.2.*"), 0.1, apply=apply),
    )


@pytest.mark.parametrize("apply", ["gradient", "prox"])
def test_ties_that_do_not_fit_the_penalty(apply):
    callback = Regularize(Penalty("l1", "input", "zero"), ALL, 0.1, apply=apply)
    refused(
        ValueError,
        r'a\.0\.bias: groups="input" needs tensors of at least 2 dimensions.*min_ndim=2',
        callback,
    )
    callback = Regularize(SOFT_TIE, ALL, 0.1, apply=apply)
    refused(ValueError, r"a\.0\.weight: center='mean' needs at least 2 members", callback)


class ThreeRates(Two):
    def __init__(self):
        super().__init__()
        self.c = mlp(2)

    def configure_optimizers(self):
        nets = (self.a, self.b, self.c)
        return torch.optim.SGD(
            [{"params": n.parameters(), "lr": 0.1 * (i + 1)} for i, n in enumerate(nets)]
        )


def test_three_members_with_different_rates():
    three = Ties("a.*", "b.*", "c.*")
    match = (
        r"a\.0\.weight, b\.0\.weight, c\.0\.weight: .*"
        r"no closed-form proximal step for 3 members.*0\.1, 0\.2, 0\.3"
    )
    refused(
        ValueError, match, Regularize(Penalty("l1", "element", "mean"), three, 1.0), ThreeRates()
    )
    callback = Regularize(Penalty("l1", "input", "zero"), Ties("a.*.weight", "b.*.weight"), 0.1)
    refused(ValueError, r"a\.0\.weight, b\.0\.weight: .*no closed-form", callback, ThreeRates())
    # As a gradient it needs no closed form; and the squared penalty has one.
    fit(ThreeRates(), Regularize(Penalty("l1", "element", "mean"), three, 0.1, apply="gradient"))
    fit(ThreeRates(), Regularize(SOFT_TIE, three, 0.1, apply="prox"))


@pytest.mark.parametrize("rate", [0.1, 0.2])
def test_three_members_of_which_one_is_frozen(rate):
    """It has a step of zero, whatever its rate."""

    class FrozenRates(ThreeRates):
        def configure_optimizers(self):
            self.c.requires_grad_(False)
            groups = [{"params": net.parameters()} for net in (self.a, self.b)]
            return torch.optim.SGD([*groups, {"params": self.c.parameters(), "lr": rate}], lr=0.1)

    callback = Regularize(Penalty("l1", "element", "mean"), Ties("a.*", "b.*", "c.*"), 1.0)
    refused(
        ValueError, r"c\.0\.weight: .*no closed-form.*\[0\.1, 0\.1, 0\.0\]", callback, FrozenRates()
    )


def test_three_members_in_two_optimizers_that_are_toggled():
    """One rate for all has a closed form, whatever requires a gradient at the moment."""

    class Toggled(ManualToggled):
        def __init__(self, **options):
            super().__init__(**options)
            self.c = mlp(2)

        def configure_optimizers(self):
            both = [*self.b.parameters(), *self.c.parameters()]
            return [torch.optim.SGD(self.a.parameters(), lr=0.1), torch.optim.SGD(both, lr=0.1)]

    module = Toggled()
    fit(module, Regularize(Penalty("l1", "tensor", "mean"), Ties("a.*", "b.*", "c.*"), 10.0))
    for a, b, c in zip(
        module.a.parameters(), module.b.parameters(), module.c.parameters(), strict=True
    ):
        assert torch.equal(a, b)
        assert torch.equal(a, c)


@pytest.mark.parametrize("apply", ["gradient", "prox"])
def test_lbfgs(apply):
    module = Two(optimizer=lambda m: torch.optim.LBFGS(m.parameters()))
    refused(
        ValueError,
        r"LBFGS.*loss in training_step",
        regularize("soft_tie", 0.1, apply=apply),
        module,
    )


def test_optimizer_without_a_learning_rate():
    def optimizer(module):
        made = sgd(module)
        del made.param_groups[0]["lr"]
        return made

    refused(
        ValueError,
        'SGD have no learning rate "lr"',
        regularize("soft_tie", 0.1),
        Two(optimizer=optimizer),
    )


@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
def test_sparse_embeddings(kind):
    class Words(Two):
        def __init__(self):
            super().__init__()
            self.words = kind(5, 2, sparse=True)

    callback = Regularize(Penalty("l1", "input", "zero"), Ties("words.*"), 0.1)
    refused(
        ValueError,
        r"'words\.weight' belongs to an embedding with sparse gradients",
        callback,
        Words(),
    )


@pytest.mark.parametrize("strength", [-0.1, float("nan"), float("inf")])
def test_strength(strength):
    with pytest.raises(ValueError, match=f"strength must be a finite number >= 0, got {strength}"):
        Regularize(SOFT_TIE, PAIR, strength)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            (0.1, PAIR, 0.1),
            r"penalty must be a lit_share\.Penalty\(\.\.\.\) or the name of a recipe, got 0\.1",
        ),
        ((SOFT_TIE, "a.*", 0.1), r"ties must be a lit_share\.Ties\(\.\.\.\), got 'a\.\*'"),
        (
            (SOFT_TIE, PAIR, "0.1"),
            "strength must be a number, a lit_share.Learned or a lit_share.Path, got '0.1'",
        ),
    ],
)
def test_types(arguments, message):
    with pytest.raises(TypeError, match=message):
        Regularize(*arguments)


def test_names():
    named, written = (
        Regularize("layer_tie", PAIR, 0.1),
        Regularize(Penalty("l1", "tensor", "mean"), PAIR, 0.1),
    )
    assert named.state_key == written.state_key
    with pytest.raises(ValueError, match="no recipe is named 'layertie': did you mean 'layer_tie'"):
        Regularize("layertie", PAIR, 0.1)


def test_one_penalty_twice():
    with pytest.raises((RuntimeError, ValueError), match="Regularize"):
        fit(Two(), regularize("soft_tie", 0.1), regularize("soft_tie", 0.2))


def test_apply():
    with pytest.raises(
        ValueError, match=re.escape("unknown apply 'both': write one of 'auto', 'gradient', 'prox'")
    ):
        Regularize(SOFT_TIE, PAIR, 0.1, apply="both")


def test_no_optimizer_owns_the_ties():
    module = Two(optimizer=lambda m: torch.optim.SGD(m.a.parameters(), lr=0.1))
    ties = Ties("b.*")
    before = weights(module)
    with pytest.warns(UserWarning, match=r"no optimizer owns a parameter of Ties\('b\.\*'\)"):
        fit(module, Regularize(Penalty("l1", "element", "zero"), ties, 0.1))
    assert all(torch.equal(p, before[f"b.{name}"]) for name, p in module.b.named_parameters())


@pytest.mark.parametrize(
    ("apply", "center"), [("gradient", "zero"), ("gradient", "mean"), ("prox", "mean")]
)
def test_members_that_no_optimizer_owns_stay(apply, center):
    module = Two(optimizer=lambda m: torch.optim.SGD(m.a.parameters(), lr=0.1))
    before = weights(module)
    message = (
        r"'b\.0\.weight' requires a gradient, but no optimizer owns it, "
        r"so the penalty of Ties\('a\.\*', 'b\.\*'\)"
    )
    with pytest.warns(UserWarning, match=message) as warned:
        fit(module, Regularize(Penalty("l1", "tensor", center), PAIR, 0.1, apply=apply))
    assert sum("no optimizer owns" in str(warning.message) for warning in warned) == 1
    assert all(torch.equal(p, before[f"b.{name}"]) for name, p in module.b.named_parameters())
    assert not torch.equal(module.a[0].weight, before["a.0.weight"])


@pytest.mark.parametrize("apply", ["gradient", "prox"])
def test_the_member_that_others_follow_needs_no_optimizer(apply):
    module = Two(optimizer=lambda m: torch.optim.SGD(m.b.parameters(), lr=0.1))
    before = weights(module)
    fit(module, Regularize("follow", PAIR, 0.1, apply=apply))
    assert all(torch.equal(p, before[f"a.{name}"]) for name, p in module.a.named_parameters())


@pytest.mark.parametrize("first", [0, 3])
@pytest.mark.parametrize("name", ["soft_tie", "exact_tie"])
def test_optimizers_that_are_stepped_behind_the_back(name, first):
    class Raw(Manual):
        def training_step(self, batch, batch_idx):
            self.manual_backward(sum(self.losses(batch)))
            for optimizer in self.optimizers(use_pl_optimizer=batch_idx < first):
                optimizer.step()

    made = trainer(regularize(name, 0.1))
    with pytest.raises(
        RuntimeError,
        match=r"SGD was stepped without.*not self\.optimizers\(use_pl_optimizer=False\); whe",
    ):
        made.fit(Raw(), loader())
    assert made.global_step == 2 * first
    assert hooks(made) == []


# Precision


def fp16(**options):
    return MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", **options))


@pytest.mark.parametrize("fused", [False, True])
def test_half_precision_equals_the_penalty_in_the_loss(fused):
    """Also in the first steps, which are skipped until the scale is small enough."""
    optimizer = partial(sgd, fused=fused)
    data = loader(dtype=torch.float32)

    def omega(module):
        with torch.autocast("cpu", enabled=False):
            return formula("soft_tie", 0.3)(module)

    expected, module, plugin = (
        Two(omega=o, optimizer=optimizer, dtype=torch.float32) for o in (omega, None, None)
    )
    fit(expected, data=data, plugins=[fp16(init_scale=2.0**30)])
    plugin = fp16(init_scale=2.0**30)
    fit(module, regularize("soft_tie", 0.3), data=data, plugins=[plugin])
    assert plugin.scaler.get_scale() < 2.0**30, "no step was skipped"
    assert_same(weights(module), weights(expected), 1e-6)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.Adam])
def test_skipped_steps_of_half_precision_take_no_prox(make, fused):
    module = Still(
        lambda m: make(m.parameters(), lr=0.1, fused=fused), dtype=torch.float32, infinite=(0, 3, 4)
    )
    before = weights(module)
    made = fit(
        module,
        regularize("lasso", 0.05),
        data=loader(dtype=torch.float32),
        epochs=1,
        plugins=[fp16(init_scale=8.0)],
    )
    assert made.global_step == 10
    expected = {name: shrink(value, 7 * 0.1 * 0.05) for name, value in before.items()}
    assert_same(weights(module), expected, 1e-6)


@pytest.mark.parametrize("fused", [False, True])
def test_gradient_of_half_precision_is_not_scaled(fused):
    module = Still(
        lambda m: torch.optim.SGD(m.parameters(), lr=0.1, fused=fused),
        dtype=torch.float32,
        infinite=(0, 3, 4),
    )
    before = weights(module)
    fit(module, regularize("l2", 0.5), data=loader(dtype=torch.float32), epochs=1, plugins=[fp16()])
    assert_same(weights(module), {name: 0.95**7 * value for name, value in before.items()}, 1e-6)


@pytest.mark.parametrize("kind", [Two, Manual])
@pytest.mark.parametrize("name", ["trace_norm", "soft_tie"])
def test_mixed_precision_computes_the_penalty_in_single_precision(name, kind):
    """Hooks run within autocast, where matrix products would be of 8 bits."""

    class StillOf(kind):
        def losses(self, batch):
            return [0.0 * sum(p.sum() for net in (self.a, self.b) for p in net.parameters())]

    options = {"dtype": torch.float32}
    if kind is Two:
        options["optimizer"] = sgd
    mixed, full = StillOf(**options), StillOf(**options)
    callback = regularize(name, 0.1, apply="gradient")
    fit(mixed, callback, data=loader(dtype=torch.float32), precision="bf16-mixed")
    fit(full, copy.deepcopy(callback), data=loader(dtype=torch.float32))
    assert_same(weights(mixed), weights(full), 1e-7)


def test_mixed_precision_equals_the_penalty_in_the_loss():
    def omega(module):
        with torch.autocast("cpu", enabled=False):
            return formula("unit_tie", 0.1)(module)

    data = loader(dtype=torch.float32)
    expected, module = Two(omega=omega, dtype=torch.float32), Two(dtype=torch.float32)
    fit(expected, data=data, precision="bf16-mixed", accumulate_grad_batches=1)
    fit(module, regularize("unit_tie", 0.1, apply="gradient"), data=data, precision="bf16-mixed")
    assert_same(weights(module), weights(expected), 1e-6)


def test_true_half_precision():
    """Weights of 8 bits: the penalty is computed in float32 and rounded once."""
    module, data = Still(dtype=torch.float32), loader(batches=1, dtype=torch.float32)
    expected = {
        name: shrink(value.bfloat16().float(), 0.1 * 0.3).bfloat16()
        for name, value in weights(module).items()
    }
    fit(module, regularize("lasso", 0.3), data=data, epochs=1, precision="bf16-true")
    assert_same(weights(module), expected)


@pytest.mark.parametrize("name", ["soft_tie", "l2_sp", "exact_tie", "growl", "trace_norm"])
def test_true_half_precision_trains(name):
    module = Two(dtype=torch.float32)
    fit(module, regularize(name, 0.05), data=loader(dtype=torch.float32), precision="bf16-true")
    assert all(
        p.dtype == torch.bfloat16 and bool(torch.isfinite(p).all()) for p in module.parameters()
    )


# Several processes


class Three(Two):
    """The two, and a third that shares its first layer with the first one."""

    def __init__(self):
        super().__init__(optimizer=partial(sgd, momentum=0.9))
        self.c = mlp(2)

    def losses(self, batch):
        return *super().losses(batch), self.c(batch[0]).square().mean()

    def train_dataloader(self):
        """The same global batches of 8 samples, however many processes there are."""
        data, world = loader().dataset, self.trainer.world_size
        # Lightning's own sampler would shuffle.
        order = DistributedSampler(data, world, self.trainer.global_rank, shuffle=False)
        return DataLoader(data, 8 // world, sampler=order)


def callbacks_of_three():
    return [
        Share(Ties("a.0.*", "c.0.*")),
        regularize("soft_tie", 0.2, schedule=Ramp(duration=10)),
        Regularize(Penalty("l1", "output", "mean"), Ties("b.2.*", "c.2.*"), 2.0),
        SharingMonitor(PAIR),
    ]


@pytest.mark.slow
@pytest.mark.multiprocess
@pytest.mark.usefixtures("warm_spawn")
def test_two_processes_train_as_one_does(monkeypatch):
    monkeypatch.syspath_prepend(
        Path(__file__).parents[2]
    )  # where the new processes find this module
    together, alone = Three(), Three()
    made = trainer(
        *callbacks_of_three(),
        strategy=spawned(),
        devices=2,
        use_distributed_sampler=False,
    )
    made.fit(together)
    single = trainer(*callbacks_of_three())
    single.fit(alone)
    assert_same(weights(together), weights(alone), 1e-12)
    assert torch.equal(together.a[0].weight, together.c[0].weight)
    assert any(
        bool((b == c).any())
        for b, c in zip(together.b.parameters(), together.c.parameters(), strict=True)
    )
    for key, value in single.callback_metrics.items():
        torch.testing.assert_close(made.callback_metrics[key].cpu(), value.cpu())


def test_an_optimizer_that_never_steps_is_named():
    """The proximal step of its ties waits for it in vain."""

    class Starved(Manual):
        def training_step(self, batch, batch_idx):
            one, two = self.optimizers()
            one.zero_grad()
            two.zero_grad()
            self.manual_backward(sum(self.losses(batch)))
            one.step()

    module = Starved(optimizer=partial(two_optimizers, make=torch.optim.SGD))
    with pytest.warns(
        UserWarning, match=r"optimizer 1 never stepped, so the proximal step of 0\.weight"
    ):
        fit(module, regularize("exact_tie", 0.3))


def test_a_list_of_patterns():
    """As YAML has it, which knows no positional arguments."""
    penalty = Penalty(norm="squared", groups="element", center="mean")
    assert repr(Regularize(penalty, ["a.*", "b.*"], strength=0.1).ties) == repr(Ties("a.*", "b.*"))
    with pytest.raises(TypeError, match=r"ties must be a lit_share.Ties\(...\), got 'a.\*'"):
        Regularize(penalty, "a.*", strength=0.1)


def test_members_that_start_apart_are_told_of_at_a_fresh_start(caplog, tmp_path):
    class Pair(LightningModule):
        def __init__(self, same):
            super().__init__()
            torch.manual_seed(0)
            self.a = nn.Sequential(nn.Linear(30, 40), nn.Linear(40, 1))
            self.b = nn.Sequential(nn.Linear(30, 40), nn.Linear(40, 1))
            if same:
                self.b.load_state_dict(self.a.state_dict())

        def training_step(self, batch):
            return self.a(batch).sum() + self.b(batch).sum()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=1e-4)

    def warned(same, checkpoint=None):
        caplog.clear()
        callback = Regularize("soft_tie", Ties("a.*", "b.*"), strength=0.1)
        trainer = Trainer(
            max_epochs=1 + (checkpoint is not None), accelerator="cpu", callbacks=[callback],
            logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False,
        )  # fmt: skip
        with caplog.at_level("INFO", "lightning.pytorch.utilities.rank_zero"):
            trainer.fit(
                Pair(same), DataLoader(torch.randn(8, 30), batch_size=2), ckpt_path=checkpoint
            )
        trainer.save_checkpoint(tmp_path / "last.ckpt")
        return "start from unrelated weights" in caplog.text

    assert warned(same=False)
    assert not warned(same=False, checkpoint=tmp_path / "last.ckpt")
    assert not warned(same=True)


@pytest.mark.parametrize("name", ["soft_tie", "joint_lasso"])
def test_a_transpose_that_starts_apart_is_said(name, caplog):
    class Autoencoder(LightningModule):
        def __init__(self):
            super().__init__()
            self.encoder, self.decoder = nn.Linear(30, 9), nn.Linear(9, 30)

        def training_step(self, batch):
            return (self.decoder(self.encoder(batch)) - batch).square().mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=1e-4)

    callback = Regularize(name, Ties("encoder.weight", "decoder.weight.T"), strength=0.1)
    with caplog.at_level("INFO", "lightning.pytorch.utilities.rank_zero"):
        trainer(callback).fit(Autoencoder(), DataLoader(torch.randn(8, 30), batch_size=2))
    # A penalty towards zero does not compare members.
    assert ("weight start from unrelated weights: their" in caplog.text) == (name == "soft_tie")


def test_value_tie_of_members_is_refused_at_once():
    with pytest.raises(ValueError, match=r"write 'a\.\*\[...\]', or exact_tie"):
        Regularize("value_tie", ["a.*", "b.*"], 0.1)
