import copy
import pickle

import pytest
import torch
from lightning import Callback, LightningModule
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.strategies import SingleDeviceStrategy
from lightning.pytorch.utilities import CombinedLoader
from torch import nn

from lit_share.callbacks import Regularize, Share
from lit_share.functional import Penalty
from lit_share.paired import Paired
from lit_share.ties import Ties


def prefixed(metrics, name):
    return {f"{name}/{key}": value for key, value in metrics.items()}


def same_as_alone(kit, children, loaders, val_loaders, **options):
    """Copies of `children` end where they end alone: weights, optimizers, schedulers, metrics."""
    pair = Paired(**copy.deepcopy(children))
    together = kit.fit(pair, dict(loaders), dict(val_loaders), **options)
    metrics = {}
    for name, child in children.items():
        alone = kit.fit(child, loaders[name], val_loaders[name], **options)
        kit.assert_same(getattr(pair, name).state_dict(), child.state_dict())
        kit.assert_same(
            together.optimizers[0].parts[name].state_dict(), alone.optimizers[0].state_dict()
        )
        metrics |= prefixed(alone.callback_metrics, name)
    kit.assert_same(dict(sorted(together.callback_metrics.items())), dict(sorted(metrics.items())))
    assert metrics


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("clip", [None, 0.1])
def test_pair_trains_bitwise_as_two_solo_runs(kit, optimizer, accumulate, clip):
    children = {"a": kit.Lit(3, 0.05, optimizer, seed=1), "b": kit.Lit(5, 0.02, optimizer, seed=2)}
    same_as_alone(
        kit,
        children,
        {"a": kit.loader(1, 20), "b": kit.loader(2, 20)},
        {"a": kit.loader(3, 10), "b": kit.loader(4, 7)},
        accumulate_grad_batches=accumulate,
        gradient_clip_val=clip,
        max_epochs=3,
    )


def test_three_children_with_different_optimizers_and_schedulers(kit):
    children = {
        "a": kit.Lit(optimizer="adam", scheduler="step", seed=1),
        "b": kit.Lit(optimizer="sgd", scheduler="plateau", seed=2),
        "c": kit.Lit(optimizer="sgd", scheduler=None, seed=3),
    }
    loaders = {name: kit.loader(seed) for seed, name in enumerate(children)}
    val_loaders = {name: kit.loader(seed + 9, 5 + seed) for seed, name in enumerate(children)}
    same_as_alone(kit, children, loaders, val_loaders, gradient_clip_val=0.5, max_epochs=4)


def test_one_child(kit):
    same_as_alone(kit, {"a": kit.Lit()}, {"a": kit.loader(1)}, {"a": kit.loader(2, 7)})


def test_shorter_loaders_start_again(kit):
    pair = Paired(a=kit.Lit(scheduler=None), b=kit.Lit(scheduler=None))
    kit.fit(pair, {"a": kit.loader(1, 24), "b": kit.loader(2, 8)}, max_epochs=1)
    alone = kit.Lit(scheduler=None)
    kit.fit(alone, kit.loader(2, 8), max_epochs=3)
    kit.assert_same(pair.b.state_dict(), alone.state_dict())


def test_child_without_a_batch_stands_still(kit):
    pair, alone = Paired(a=kit.Lit(seed=1), b=kit.Lit(seed=2)), kit.Lit(seed=2)
    loaders = {"a": kit.loader(1, 24), "b": kit.loader(2, 8)}
    kit.fit(pair, CombinedLoader(loaders, "max_size"), max_epochs=2)
    kit.fit(alone, kit.loader(2, 8), max_epochs=2)
    kit.assert_same(pair.b.state_dict(), alone.state_dict())


def test_child_without_a_loss_stands_still(kit):
    class Undecided(kit.Lit):
        def training_step(self, batch, batch_idx):
            return None

    pair, alone = Paired(a=kit.Lit(), b=Undecided()), kit.Lit()
    before = copy.deepcopy(pair.b.state_dict())
    kit.fit(pair, {"a": kit.loader(1), "b": kit.loader(2)})
    kit.fit(alone, kit.loader(1))
    kit.assert_same(pair.b.state_dict(), before)
    kit.assert_same(pair.a.state_dict(), alone.state_dict())


@pytest.mark.filterwarnings("ignore:.*`training_step` returned `None`")
def test_no_loss_at_all(kit):
    class Undecided(kit.Lit):
        def training_step(self, batch, batch_idx):
            return None

    pair = Paired(a=Undecided())
    before = copy.deepcopy(pair.state_dict())
    kit.fit(pair, {"a": kit.loader(1)})
    kit.assert_same(pair.state_dict(), before)


def test_loss_in_a_dict(kit):
    class InDict(kit.Lit):
        def training_step(self, batch, batch_idx):
            return {"loss": super().training_step(batch, batch_idx), "size": len(batch[0])}

        def on_train_batch_end(self, outputs, batch, batch_idx):
            self.outputs = outputs

    pair, alone = Paired(a=kit.Lit(seed=1), b=InDict(seed=2)), InDict(seed=2)
    kit.fit(pair, {"a": kit.loader(1), "b": kit.loader(2)}, accumulate_grad_batches=2)
    kit.fit(alone, kit.loader(2), accumulate_grad_batches=2)
    kit.assert_same(pair.b.state_dict(), alone.state_dict())
    kit.assert_same(dict(sorted(pair.b.outputs.items())), dict(sorted(alone.outputs.items())))


@pytest.mark.filterwarnings("ignore:`parameters` is an empty generator")
def test_frozen_child_without_an_optimizer(kit):
    class Frozen(kit.Lit):
        def configure_optimizers(self):
            return None

    pair = Paired(a=kit.Lit(), b=Frozen())
    weight = pair.b.net[0].weight.clone()
    loaders = {"a": kit.loader(1), "b": kit.loader(2)}
    trainer = kit.fit(pair, loaders, loaders, gradient_clip_val=1.0)
    assert torch.equal(pair.b.net[0].weight, weight)
    assert "b/val/loss" in trainer.callback_metrics


def test_penalty_of_strength_zero_changes_nothing_and_a_strong_one_ties(kit):
    loaders = {"a": kit.loader(1), "b": kit.loader(2)}
    ties = Ties("a.net.*.weight", "b.net.*.weight")
    distances = {}
    for strength in (None, 0.0, 30.0):
        pair = Paired(
            a=kit.Lit(seed=1, scheduler=None),
            b=kit.Lit(lr=0.02, optimizer="sgd", scheduler=None, seed=2),
        )
        penalty = Regularize(
            Penalty(norm="l1", groups="tensor", center="mean"), ties, strength or 0.0
        )
        kit.fit(pair, loaders, callbacks=[] if strength is None else [penalty])
        distances[strength] = (pair.a.net[0].weight - pair.b.net[0].weight).norm()
    assert distances[None] == distances[0.0] > 0
    assert distances[30.0] == 0


def test_hard_shared_parameter_is_stepped_once_with_the_sum_of_the_gradients(kit):
    pair = Paired(a=kit.Lit(optimizer="sgd", seed=1), b=kit.Lit(optimizer="sgd", seed=2))
    share = Share(Ties("a.net.0.*", "b.net.0.*"), init="first")
    start, seen = pair.a.net[0].weight.detach().clone(), {}

    class Watching(Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            seen["gradient"] = pl_module.a.net[0].weight.grad.clone()

    loaders = {"a": kit.loader(1), "b": kit.loader(2)}
    kit.fit(pair, loaders, callbacks=[share, Watching()], max_steps=1, max_epochs=-1)
    assert pair.a.net[0].weight is pair.b.net[0].weight
    torch.testing.assert_close(pair.a.net[0].weight, start - 0.05 * seen["gradient"])


def test_names_and_hyperparameters(kit, tmp_path):
    pair = Paired(a=kit.Lit(lr=0.1), b=kit.Lit(lr=0.2))
    assert "a.net.0.weight" in dict(pair.named_parameters())
    assert pair.hparams["a"]["lr"] == 0.1
    logger = CSVLogger(tmp_path)
    kit.fit(pair, {"a": kit.loader(1), "b": kit.loader(2)}, logger=logger, max_epochs=1)
    assert logger.experiment.hparams["b"]["lr"] == 0.2


def test_hyperparameters_that_cannot_be_pickled_are_left_out(kit):
    class WithFunction(kit.Lit):
        def __init__(self, width=3, activation=lambda x: x):
            super().__init__(width)
            self.save_hyperparameters()

    with pytest.warns(UserWarning, match="activation"):
        pair = Paired(a=WithFunction())
    assert "activation" not in pair.hparams["a"]
    assert pair.hparams["a"]["width"] == 3


def test_copies_and_pickles(kit):
    pair = Paired(a=BoringModel(), b=BoringModel())
    for clone in (copy.deepcopy(pair), pickle.loads(pickle.dumps(pair))):
        kit.assert_same(clone.state_dict(), pair.state_dict())
        assert clone.a is not pair.a
        assert clone.training_step.__self__ is clone


def test_parameters_of_a_child_can_be_shared_inside_it(kit):
    class Tied(kit.Lit):
        def __init__(self):
            super().__init__()
            self.again = self.net[0]

    kit.fit(Paired(a=Tied(), b=kit.Lit()), {"a": kit.loader(1), "b": kit.loader(2)}, max_epochs=1)


def test_one_parameter_in_two_children_is_refused_unless_one_optimizer_leaves_it_out(kit):
    a, b = kit.Lit(), kit.Lit()
    b.net[0].weight = a.net[0].weight
    with pytest.raises(
        ValueError, match=r"a\.net\.0\.weight and b\.net\.0\.weight are one parameter"
    ):
        kit.fit(Paired(a=a, b=b), {"a": kit.loader(1), "b": kit.loader(2)})
    b.configure_optimizers = lambda: torch.optim.SGD(b.net[3].parameters(), lr=0.1)
    kit.fit(Paired(a=a, b=b), {"a": kit.loader(1), "b": kit.loader(2)})
    assert a.net[0].weight is b.net[0].weight


class Plain(nn.Module):
    pass


@pytest.mark.parametrize(
    ("children", "error", "message"),
    [
        (lambda Lit: {}, TypeError, "at least one LightningModule"),
        (lambda Lit: {"a": Plain()}, TypeError, "'a' must be a LightningModule, got a Plain"),
        (lambda Lit: {"a b": Lit()}, ValueError, "'a b' cannot name a child"),
        (lambda Lit: {"class": Lit()}, ValueError, "'class' cannot name a child"),
        (lambda Lit: {"trainer": Lit()}, ValueError, "'trainer' cannot name a child"),
        (lambda Lit: {"training": Lit()}, ValueError, "'training' cannot name a child"),
        (lambda Lit: {"loss": Lit()}, ValueError, "'loss' cannot name a child"),
        (lambda Lit: dict.fromkeys("ab", Lit()), ValueError, "'a' and 'b' are one module"),
        (lambda Lit: {"a": Paired(b=Lit())}, ValueError, "'a' is a pair itself"),
    ],
)
def test_children_that_cannot_be(kit, children, error, message):
    with pytest.raises(error, match=message):
        Paired(**children(kit.Lit))


def test_manual_optimization_is_refused(kit):
    class Manual(kit.Lit):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

    with pytest.raises(ValueError, match="child 'b' optimizes manually"):
        Paired(a=kit.Lit(), b=Manual())


def test_settings_that_lightning_asks_once_must_agree(kit):
    child = kit.Lit()
    child.strict_loading = False
    with pytest.raises(ValueError, match=r"agree in strict_loading: \{'a': True, 'b': False\}"):
        Paired(a=kit.Lit(), b=child)
    assert not Paired(b=child).strict_loading


@pytest.mark.parametrize("hook", ["training_step", "configure_optimizers"])
def test_child_that_cannot_train_is_named(kit, hook):
    child = type("Lacking", (kit.Lit,), {hook: getattr(LightningModule, hook)})()
    with pytest.raises(ValueError, match=rf"children \['b'\] have no {hook}"):
        kit.fit(Paired(a=kit.Lit(), b=child), {"a": kit.loader(1), "b": kit.loader(2)})


def test_output_that_is_no_loss_is_named(kit):
    class Wrong(kit.Lit):
        def training_step(self, batch, batch_idx):
            return {"los": 1.0}

    with pytest.raises(ValueError, match="training_step of child 'b' must return"):
        kit.fit(Paired(a=kit.Lit(), b=Wrong()), {"a": kit.loader(1), "b": kit.loader(2)})


def test_strategy_that_replaces_the_optimizer_is_refused(kit):
    class Replacing(SingleDeviceStrategy):
        def setup_optimizers(self, trainer):
            super().setup_optimizers(trainer)
            self.optimizers = [torch.optim.SGD(self.model.parameters(), lr=0.1)]

    with pytest.raises(ValueError, match="Replacing replaces the optimizer"):
        kit.fit(Paired(a=kit.Lit()), {"a": kit.loader(1)}, strategy=Replacing(device="cpu"))


def test_second_fit(kit):
    pair, alone = Paired(a=kit.Lit(seed=1), b=kit.Lit(seed=2)), kit.Lit(seed=2)
    for _ in range(2):
        kit.fit(pair, {"a": kit.loader(1), "b": kit.loader(2)})
        kit.fit(alone, kit.loader(2))
    kit.assert_same(pair.b.state_dict(), alone.state_dict())
    kit.fit(pair.b, kit.loader(2))
    kit.fit(alone, kit.loader(2))
    kit.assert_same(pair.b.state_dict(), alone.state_dict())


def test_children_start_from_the_first_where_asked(kit):
    children = {"a": kit.Lit(3, seed=1), "b": kit.Lit(3, seed=2), "c": kit.Lit(5, seed=3)}
    before = copy.deepcopy(children)
    pair = Paired(same_init=True, **children)
    kit.assert_same(pair.a.state_dict(), before["a"].state_dict())
    kit.assert_same(pair.b.net.state_dict(), before["a"].net.state_dict())
    assert torch.equal(pair.c.net[0].weight, before["c"].net[0].weight)
    assert torch.equal(pair.c.net[3].bias, before["a"].net[3].bias)  # what fits
    assert Ties("a.net.*", "b.net.*").plan(pair).unaligned == ()
    kit.assert_same(Paired(**copy.deepcopy(before)).b.state_dict(), before["b"].state_dict())


def test_children_that_cannot_start_from_the_first(kit):
    other = LightningModule()
    other.layer = nn.Linear(2, 2)
    with pytest.raises(
        ValueError,
        match="same_init=True: nothing in 'b' has the name and shape of something in 'a'",
    ):
        Paired(same_init=True, a=kit.Lit(3, seed=1), b=other)
    other.layer = nn.LazyLinear(2)
    with pytest.raises(
        ValueError, match="same_init=True: 'b' has lazy layers, which have no values yet"
    ):
        Paired(same_init=True, a=kit.Lit(3, seed=1), b=other)


def test_children_need_names():
    message = r"Paired takes its children by name, but 2 have none: write Paired\(a=LitA\(\), b="
    with pytest.raises(TypeError, match=message):
        Paired(BoringModel(), BoringModel(), c=BoringModel())
