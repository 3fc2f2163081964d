"""`Share`: one Parameter, wherever the modules are built and whatever is done with them."""

from __future__ import annotations

import re
from functools import partial

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import (
    BaseFinetuning,
    EMAWeightAveraging,
    StochasticWeightAveraging,
)
from torch import nn

from lit_share.callbacks import Regularize, Share, SharingMonitor
from lit_share.functional import Penalty
from lit_share.sharing import share
from lit_share.ties import TieError, Ties

from ._modules import (
    Manual,
    Two,
    assert_same,
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


def is_shared(module):
    return all(a is b for a, b in pairs(module))


class Recorded(Two):
    """Remembers whether parameters were shared, whenever it was asked something."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.shared = {}

    def record(self, when):
        self.shared.setdefault(when, is_shared(self))

    def configure_optimizers(self):
        self.record("configure_optimizers")
        return super().configure_optimizers()

    def on_fit_start(self):
        self.record("on_fit_start")

    def training_step(self, batch, batch_idx):
        self.record("training_step")
        return super().training_step(batch, batch_idx)

    def val_dataloader(self):
        return loader(batches=2)

    def validation_step(self, batch, batch_idx):
        self.record("validation_step")
        self.log("val", sum(self.losses(batch)))

    def test_step(self, batch, batch_idx):
        self.record("test_step")
        self.log("test", sum(self.losses(batch)))

    def predict_step(self, batch, batch_idx):
        self.record("predict_step")
        return self.a(batch[0])


class BuiltInSetup(Recorded):
    """Built again, and only there, in ``setup``."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        del self.a, self.b

    def build(self):
        if not hasattr(self, "a"):
            self.a, self.b = mlp(0), mlp(1)

    def setup(self, stage):
        self.build()


class BuiltInConfigureModel(BuiltInSetup):
    def setup(self, stage):
        pass

    def configure_model(self):
        self.build()


KINDS = [Recorded, BuiltInSetup, BuiltInConfigureModel]
each_kind = pytest.mark.parametrize("kind", KINDS)


class OneNet(Two):
    """What sharing amounts to: one network, used twice."""

    def __init__(self, start, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.a.load_state_dict(start)
        self.b = self.a


@each_kind
def test_one_parameter_before_the_optimizer_exists_and_ever_after(kind):
    module = kind()
    made = fit(module, Share(PAIR))
    made.validate(module, loader(), verbose=False)
    made.test(module, loader(), verbose=False)
    made.predict(module, loader())
    asked = {
        "configure_optimizers",
        "on_fit_start",
        "training_step",
        "validation_step",
        "test_step",
        "predict_step",
    }
    assert module.shared == dict.fromkeys(asked, True)
    assert is_shared(module)
    assert (
        sum(p.numel() for group in made.optimizers[0].param_groups for p in group["params"]) == 23
    )


@each_kind
@pytest.mark.parametrize("entry", ["validate", "test", "predict"])
def test_loops_that_do_not_train(kind, entry):
    module = kind()
    options = {} if entry == "predict" else {"verbose": False}
    getattr(trainer(Share(PAIR)), entry)(module, loader(), **options)
    assert is_shared(module)


@each_kind
@pytest.mark.parametrize("init", ["mean", "first"])
def test_training_is_that_of_one_network_used_twice(kind, init):
    a, b = mlp(0), mlp(1)
    start = (
        a.state_dict()
        if init == "first"
        else {n: (v + b.state_dict()[n]) / 2 for n, v in a.state_dict().items()}
    )
    optimizer = partial(sgd, momentum=0.9)
    expected, module = OneNet(start, optimizer=optimizer), kind(optimizer=optimizer)
    fit(expected, gradient_clip_val=0.5, accumulate_grad_batches=3)
    fit(module, Share(PAIR, init=init), gradient_clip_val=0.5, accumulate_grad_batches=3)
    assert_same(weights(module), weights(expected), 1e-12)


def test_modules_that_are_complete_only_after_configure_model():
    """Some pairs are there at first and some are not: all are shared."""

    class Grows(Recorded):
        def configure_model(self):
            if len(self.a) == 3:
                for net, seed in ((self.a, 3), (self.b, 4)):
                    net.append(mlp(seed)[2])
                    net.insert(3, nn.Linear(2, 3, dtype=torch.float64))

    module = Grows()
    fit(module, Share(PAIR))
    assert {
        name: a is b
        for (name, a), b in zip(module.a.named_parameters(), module.b.parameters(), strict=True)
    } == {f"{layer}.{leaf}": True for layer in (0, 2, 3, 4) for leaf in ("weight", "bias")}
    assert all(module.shared.values())


def test_two_callbacks():
    module = BuiltInConfigureModel()
    callbacks = [Share(Ties("a.0.*", "b.0.*")), Share(Ties("a.2.*", "b.2.*"), init="first")]
    made = trainer(*callbacks)
    made.fit(module, loader())
    assert is_shared(module)
    assert module.shared["configure_optimizers"]


def test_fits_in_a_row():
    module = BuiltInConfigureModel()
    made = fit(module, Share(PAIR))
    after = weights(module)
    made.fit_loop.max_epochs = 4
    made.fit(module, loader())
    assert is_shared(module)
    whole = BuiltInConfigureModel()
    fit(whole, Share(PAIR), epochs=4)
    assert_same(weights(module), weights(whole))
    assert any(not torch.equal(value, after[name]) for name, value in weights(module).items())


def test_one_callback_for_several_modules():
    callback = Share(PAIR)
    for kind in KINDS:
        module = kind()
        fit(module, callback)
        assert is_shared(module)


def test_buffers_and_names_stay():
    module, plain = Two(), Two()
    names = list(plain.state_dict())
    made = fit(module, Share(PAIR))
    assert list(module.state_dict()) == names
    made.save_checkpoint("last.ckpt")
    plain.load_state_dict(torch.load("last.ckpt", weights_only=True)["state_dict"])
    assert_same(weights(plain), weights(module))


def test_the_rest_is_not_shared():
    module = Two()
    fit(module, Share(Ties("a.0.*", "b.0.*")))
    assert [a is b for a, b in pairs(module)] == [True, True, False, False]


# Optimizers that were given a parameter twice


class OneStep(Callback):
    """Keeps the gradients of the first step."""

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        if not hasattr(self, "grads"):
            self.grads = [p.grad.clone() for p in pl_module.a.parameters()]


def both_in_one_group(module):
    return torch.optim.SGD([*module.a.parameters(), *module.b.parameters()], lr=0.5)


@pytest.mark.filterwarnings(
    "ignore:.*parameter group with duplicate parameters.*:UserWarning"
)  # torch sees it too
@pytest.mark.parametrize("kind", [Two, BuiltInConfigureModel])
def test_one_group_with_both_copies_steps_once(kind):
    recorder, module, expected = OneStep(), kind(optimizer=both_in_one_group), Two()
    made = fit(module, Share(PAIR, init="first"), recorder, epochs=1, limit_train_batches=1)
    for p, start, grad in zip(
        module.a.parameters(), expected.a.parameters(), recorder.grads, strict=True
    ):
        torch.testing.assert_close((start - p) / 0.5, grad)
    assert [len(group["params"]) for group in made.optimizers[0].param_groups] == [4]


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_two_optimizers_step_once(momentum):
    optimizer = partial(
        two_optimizers, make=partial(torch.optim.SGD, momentum=momentum), lrs=(0.1, 0.1)
    )
    module, expected = (
        Manual(optimizer=optimizer),
        OneNet(mlp(0).state_dict(), optimizer=partial(sgd, momentum=momentum)),
    )
    fit(module, Share(PAIR, init="first"))
    fit(expected)
    assert_same(weights(module), weights(expected), 1e-12)


def test_rates_of_the_first_group_hold():
    optimizer = partial(two_optimizers, make=torch.optim.SGD, lrs=(0.1, 0.7))
    module, expected = Manual(optimizer=optimizer), OneNet(mlp(0).state_dict(), optimizer=sgd)
    with pytest.warns(UserWarning, match="given to several optimizers, whose options differ"):
        fit(module, Share(PAIR, init="first"))
    fit(expected)
    assert_same(weights(module), weights(expected), 1e-12)


def test_a_shared_parameter_that_no_optimizer_has():
    def optimizer(module):
        return torch.optim.SGD(module.a[2].parameters(), lr=0.1)

    with pytest.warns(
        UserWarning, match=r"'a\.0\.weight' is shared and requires a gradient, but no optimizer has"
    ):
        fit(Two(optimizer=optimizer), Share(PAIR))


def test_names_that_the_optimizer_was_given():
    def optimizer(module):
        return torch.optim.Adam(list(module.named_parameters(remove_duplicate=False)), lr=0.1)

    with pytest.warns(UserWarning, match="duplicate parameters"):
        made = fit(Two(optimizer=optimizer), Share(PAIR))
    (group,) = made.optimizers[0].param_groups
    assert group["param_names"] == ["a.0.weight", "a.0.bias", "a.2.weight", "a.2.bias"]


def test_two_groups_with_both_copies_are_an_error_before_training():
    def optimizer(module):
        return torch.optim.SGD(
            [{"params": module.a.parameters()}, {"params": module.b.parameters()}], lr=0.1
        )

    module = Two(optimizer=optimizer)
    with pytest.raises(ValueError, match="more than one parameter group"):
        fit(module, Share(PAIR))
    assert module.steps_taken == 0


# Checkpoints


def optimizer_with_both_copies(module):
    return torch.optim.SGD([*module.a.parameters(), *module.b.parameters()], lr=0.1, momentum=0.9)


@pytest.mark.filterwarnings("ignore:.*parameter group with duplicate parameters.*:UserWarning")
@each_kind
@pytest.mark.parametrize(
    "optimizer",
    [partial(sgd, momentum=0.9), optimizer_with_both_copies],
    ids=["module.parameters()", "both copies"],
)
def test_resuming_is_bitwise_as_if_never_stopped(kind, optimizer):
    whole, first, second = (
        kind(optimizer=optimizer),
        kind(optimizer=optimizer),
        kind(optimizer=optimizer),
    )
    fit(whole, Share(PAIR), epochs=4)
    fit(first, Share(PAIR), epochs=2).save_checkpoint("half.ckpt")
    fit(second, Share(PAIR), epochs=4, ckpt_path="half.ckpt")
    assert_same(weights(second), weights(whole))
    assert is_shared(second)


def test_resuming_two_optimizers():
    whole, first, second = Manual(), Manual(), Manual()
    fit(whole, Share(PAIR), epochs=4)
    fit(first, Share(PAIR), epochs=2).save_checkpoint("half.ckpt")
    fit(second, Share(PAIR), epochs=4, ckpt_path="half.ckpt")
    assert_same(weights(second), weights(whole))


@each_kind
def test_a_checkpoint_of_shared_parameters_is_tested_as_it_is(kind):
    module, again = kind(), kind()
    made = fit(module, Share(PAIR))
    made.save_checkpoint("shared.ckpt")
    (expected,) = made.test(module, loader(), verbose=False)
    assert trainer(Share(PAIR)).test(again, loader(), ckpt_path="shared.ckpt", verbose=False) == [
        expected
    ]
    assert is_shared(again)


@each_kind
def test_a_checkpoint_of_different_parameters_is_refused(kind):
    """It would be overwritten by the last name's values without a word."""
    fit(Recorded()).save_checkpoint("apart.ckpt")
    with pytest.raises(ValueError, match=re.escape("a.0.weight")):
        trainer(Share(PAIR)).test(kind(), loader(), ckpt_path="apart.ckpt", verbose=False)


# With a penalty


@pytest.mark.parametrize("apply", ["gradient", "prox"])
def test_a_penalty_on_shared_parameters(apply):
    """One pattern finds a shared parameter once."""
    module = Two()
    l2 = Regularize(Penalty("squared", "element", "zero"), Ties("*"), 0.3, apply=apply)
    fit(module, Share(PAIR, init="first"), l2)
    expected = OneNet(mlp(0).state_dict())
    for _ in range(2):
        for batch in loader():
            parameters = list(expected.a.parameters())
            grads = torch.autograd.grad(sum(expected.losses(batch)), parameters)
            with torch.no_grad():
                for p, grad in zip(parameters, grads, strict=True):
                    if apply == "gradient":
                        p.sub_(0.1 * (grad + 0.3 * p))
                    else:
                        p.sub_(0.1 * grad).div_(1.0 + 0.1 * 0.3)
    assert_same(weights(module), weights(expected), 1e-12)


@pytest.mark.parametrize("apply", ["gradient", "prox"])
def test_a_soft_tie_of_what_is_shared_pulls_nothing(apply):
    both, shared = Two(), Two()
    fit(both, Share(PAIR), Regularize(Penalty("l1", "tensor", "mean"), PAIR, 0.3, apply=apply))
    fit(shared, Share(PAIR))
    assert_same(weights(both), weights(shared))


def test_averaged_weights_are_shared_too():
    module, expected = Two(), OneNet(mlp(0).state_dict())
    fit(module, Share(PAIR, init="first"), EMAWeightAveraging(decay=0.9))
    fit(expected, EMAWeightAveraging(decay=0.9))
    assert is_shared(module)
    assert_same(weights(module), weights(expected), 1e-12)


# Refusals, before the first step


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("ties", "message"),
    [
        (Ties("a.*", "c.*"), r"'c\.\*' matches no parameter"),
        (Ties("a.*"), r"'a\.0\.weight' needs at least two members"),
        (Ties("a.0.weight", "b.0.weight.T"), r"'b\.0\.weight\.T' is \(4, 3\)"),
    ],
)
def test_wrong_ties(kind, ties, message):
    module = kind()
    with pytest.raises(TieError, match=message):
        fit(module, Share(ties))
    assert module.steps_taken == 0


def test_members_of_different_kind():
    module = Two()
    module.b.float()
    with pytest.raises(TieError, match=r"agree in dtype: 'a\.0\.weight' has torch\.float64"):
        fit(module, Share(PAIR))
    assert module.steps_taken == 0


@pytest.mark.parametrize("kind", [Share, SharingMonitor])
def test_patterns_without_ties(kind):
    with pytest.raises(TypeError, match=r"ties must be a lit_share\.Ties\(\.\.\.\), got 'a\.\*'"):
        kind("a.*")


def test_a_trainer_can_be_used_again_after_a_refusal():
    first = BuiltInConfigureModel()
    fit(first, Share(PAIR), epochs=1).save_checkpoint("shared.ckpt")
    made = trainer(Share(PAIR))
    with pytest.raises(TieError):
        made.fit(Lonely(), loader())
    module = BuiltInConfigureModel()
    made.fit(module, loader(), ckpt_path="shared.ckpt")
    assert is_shared(module)
    assert made.current_epoch == 2


class Lonely(Two):
    def __init__(self):
        super().__init__()
        del self.b


@pytest.mark.parametrize("options", [{}, {"where": "equal", "epoch": 2}])
def test_numbers_of_a_tensor_are_refused_at_once(options):
    with pytest.raises(TieError, match=r"'a\.\*\.weight\[\.\.\.\]' cannot be shared"):
        Share(["a.*.weight[...]"], **options)


@pytest.mark.parametrize(
    "average",
    [partial(EMAWeightAveraging, decay=0.9), partial(StochasticWeightAveraging, swa_lrs=0.1)],
)
@pytest.mark.parametrize("options", [{}, {"where": "equal"}])
def test_averages_of_parameters_that_are_not_shared_yet_are_refused(average, options):
    module, own = Two(), average()
    callbacks = [own, Share(PAIR, **options)]
    if options:
        callbacks.reverse()
    with pytest.raises(TieError, match=r"list Share first|cannot follow Share\(where=\"equal\"\)"):
        fit(module, *callbacks)
    assert module.steps_taken == 0


class Unfreeze(BaseFinetuning):
    """Adds a group with both names of each shared parameter."""

    def freeze_before_training(self, module):
        self.freeze([module.a[0], module.b[0]], train_bn=False)

    def finetune_function(self, module, epoch, optimizer):
        if epoch == 1:
            self.unfreeze_and_add_param_group([module.a[0], module.b[0]], optimizer, lr=0.1)


@pytest.mark.filterwarnings("ignore:optimizer contains a parameter group with duplicate")
@pytest.mark.parametrize("first", [False, True])
def test_groups_that_are_added_in_training_step_once(first):
    module, callbacks = Two(), [Share(PAIR), Unfreeze()]
    made = fit(module, *(reversed(callbacks) if first else callbacks), epochs=3)
    assert [len(group["params"]) for group in made.optimizers[0].param_groups] == [2, 2]
    by_hand = Two()
    share(by_hand, PAIR)
    by_hand.a[0].requires_grad_(False)
    optimizer = by_hand.configure_optimizers()
    for epoch in range(3):
        if epoch == 1:
            by_hand.a[0].requires_grad_(True)
            optimizer.add_param_group({"params": list(by_hand.a[0].parameters()), "lr": 0.1})
        for batch in loader():
            optimizer.zero_grad()
            sum(by_hand.losses(batch)).backward()
            optimizer.step()
    assert_same(weights(module), weights(by_hand))
