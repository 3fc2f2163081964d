import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins import MixedPrecision
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    LinearLR,
    OneCycleLR,
    ReduceLROnPlateau,
    StepLR,
)

from lit_share.paired import Paired
from lit_share.paired._optimizer import PairedOptimizer


@pytest.fixture
def parts():
    torch.manual_seed(0)
    a, b = torch.nn.Linear(3, 1), torch.nn.Linear(2, 1)
    return {
        "a": torch.optim.Adam(a.parameters(), lr=0.1, weight_decay=0.1),
        "b": torch.optim.SGD(
            [{"params": [b.weight]}, {"params": [b.bias], "lr": 0.5}], lr=0.2, momentum=0.9
        ),
    }


def parameters(optimizer):
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def give_gradients(optimizer):
    for parameter in parameters(optimizer):
        parameter.grad = torch.ones_like(parameter)


def test_groups_and_state_are_the_childrens_own(parts):
    optimizer = PairedOptimizer(parts)
    give_gradients(optimizer)
    optimizer.step()
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.2, 0.5]
    assert optimizer.param_groups[1] is parts["b"].param_groups[0]
    assert optimizer.state[parameters(parts["a"])[0]] is parts["a"].state[parameters(parts["a"])[0]]
    optimizer.param_groups[2]["lr"] = 0.0
    before = parameters(parts["b"])[1].clone()
    optimizer.step()
    assert torch.equal(parameters(parts["b"])[1], before)


def test_step_evaluates_the_closure_once_and_fires_hooks_once(parts):
    optimizer, fired = PairedOptimizer(parts), []
    weights = parameters(optimizer)

    def closure():
        fired.append("closure")
        optimizer.zero_grad()
        loss = sum(weight.square().sum() for weight in weights)
        loss.backward()
        return loss

    before = [weight.detach().clone() for weight in weights]
    optimizer.register_step_pre_hook(lambda *_: fired.append("pre"))

    def after(*_):
        fired.append("post")
        assert not any(
            torch.equal(weight, old) for weight, old in zip(weights, before, strict=True)
        )

    optimizer.register_step_post_hook(after)
    assert optimizer.step(closure) > 0
    assert fired == ["pre", "closure", "post"]


def test_child_without_gradients_does_not_decay(parts):
    optimizer = PairedOptimizer(parts)
    give_gradients(optimizer)
    optimizer.step()
    optimizer.zero_grad()
    before = [weight.detach().clone() for weight in parameters(optimizer)]
    optimizer.step()
    assert all(map(torch.equal, parameters(optimizer), before))


def test_state_round_trip(parts, kit):
    optimizer = PairedOptimizer(parts)
    give_gradients(optimizer)
    optimizer.step()
    state = optimizer.state_dict()
    fresh = PairedOptimizer(
        {
            "a": torch.optim.Adam(parameters(parts["a"]), lr=9.0),
            "b": torch.optim.SGD(
                [{"params": [weight]} for weight in parameters(parts["b"])], lr=9.0
            ),
        }
    )
    fresh.load_state_dict(state)
    kit.assert_same(fresh.state_dict(), state)
    assert [group["lr"] for group in fresh.param_groups] == [0.1, 0.2, 0.5]
    with pytest.raises(
        ValueError, match=r"states of \['a', 'b'\], but the children are \['a', 'c'\]"
    ):
        PairedOptimizer({"a": parts["a"], "c": parts["b"]}).load_state_dict(state)


def test_group_is_added_to_a_child(parts):
    optimizer, weight = PairedOptimizer(parts), torch.nn.Parameter(torch.ones(1))
    with pytest.raises(ValueError, match=r"parts\['a'\].add_param_group"):
        optimizer.add_param_group({"params": [weight]})
    parts["a"].add_param_group({"params": [weight]})
    assert parameters(optimizer)[2] is weight


def configured(kit, configure):
    class Configured(kit.Lit):
        configure_optimizers = configure

    return Configured()


KEPT = []  # optimizers of the test below


def sgd(self):
    return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize(
    ("configure", "message"),
    [
        (lambda self: [sgd(self), sgd(self)], "child 'b' configures 2 optimizers: return one"),
        (lambda self: torch.optim.LBFGS(self.parameters()), "child 'b' uses LBFGS"),
        (
            lambda self: KEPT[-1],
            "'a' and 'b' return one and the same optimizer",
        ),
    ],
)
def test_optimizers_that_cannot_be_stepped_together(kit, configure, message):
    class Keeping(kit.Lit):
        def configure_optimizers(self):
            KEPT.append(sgd(self))
            return KEPT[-1]

    pair = Paired(a=Keeping(), b=configured(kit, configure))
    with pytest.raises(ValueError, match=message):
        kit.fit(pair, {"a": kit.loader(1), "b": kit.loader(2)})


def plateau(optimizer):
    return {
        "scheduler": ReduceLROnPlateau(optimizer, patience=0, threshold=1.0),
        "monitor": "train/loss_step",
    }


@pytest.mark.parametrize(
    "schedule",
    [
        lambda optimizer: optimizer,
        lambda optimizer: [optimizer],
        lambda optimizer: ([optimizer], [StepLR(optimizer, 1)]),
        lambda optimizer: (
            [optimizer],
            [{"scheduler": StepLR(optimizer, 2), "interval": "step", "frequency": 2}],
        ),
        lambda optimizer: {"optimizer": optimizer, "lr_scheduler": CosineAnnealingLR(optimizer, 3)},
        lambda optimizer: [{"optimizer": optimizer, "lr_scheduler": StepLR(optimizer, 1)}],
        lambda optimizer: {
            "optimizer": optimizer,
            "lr_scheduler": plateau(optimizer) | {"interval": "step"},
        },
        lambda optimizer: (
            [optimizer],
            [LinearLR(optimizer), {"scheduler": StepLR(optimizer, 1), "name": "own"}],
        ),
        lambda optimizer: {
            "optimizer": optimizer,
            "lr_scheduler": {
                "scheduler": OneCycleLR(optimizer, 0.5, total_steps=12),
                "interval": "step",
            },
        },
    ],
)
def test_schedulers_of_all_forms(kit, schedule):
    class Scheduled(kit.Lit):
        def configure_optimizers(self):
            return schedule(torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.5))

    pair, alone = Paired(a=kit.Lit(seed=1), b=Scheduled(seed=2)), Scheduled(seed=2)
    together = kit.fit(pair, {"a": kit.loader(1), "b": kit.loader(2)})
    solo = kit.fit(alone, kit.loader(2))
    kit.assert_same(pair.b.state_dict(), alone.state_dict())
    kit.assert_same(together.optimizers[0].parts["b"].state_dict(), solo.optimizers[0].state_dict())
    names = [config.name for config in together.lr_scheduler_configs]
    assert len(names) == 1 + len(solo.lr_scheduler_configs)
    assert names[0] == "a/lr-Adam"


def test_plateau_without_its_metric_names_the_prefixed_key(kit):
    class Scheduled(kit.Lit):
        def configure_optimizers(self):
            return {
                "optimizer": (optimizer := sgd(self)),
                "lr_scheduler": plateau(optimizer) | {"monitor": "nope"},
            }

    with pytest.raises(Exception, match="conditioned on metric b/nope which is not available"):
        kit.fit(Paired(a=kit.Lit(), b=Scheduled()), {"a": kit.loader(1), "b": kit.loader(2)})


@pytest.mark.parametrize("fused", [(False, False), (True, False), (True, True)])
def test_gradient_scaler_skips_and_scales_whole_steps(kit, fused):
    class Scaled(kit.Lit):
        def __init__(self, fused, seed):
            super().__init__(seed=seed)
            self.fused = fused
            self.overflow = False

        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            return loss * float("inf") if self.overflow and batch_idx == 1 else loss

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), lr=0.1, fused=self.fused)

        def on_before_optimizer_step(self, optimizer):
            self.weights = [*getattr(self, "weights", []), self.net[0].weight.detach().clone()]

    def fit(module, loaders):
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
        kit.fit(module, loaders, max_epochs=1, plugins=[MixedPrecision("16-mixed", "cpu", scaler)])

    pair = Paired(a=Scaled(fused[0], seed=1), b=Scaled(fused[1], seed=2))
    loaders = {"a": kit.loader(1), "b": kit.loader(2)}
    fit(pair, loaders)
    for name, loader in loaders.items():
        alone = Scaled(fused=False, seed={"a": 1, "b": 2}[name])
        fit(alone, loader)
        torch.testing.assert_close(getattr(pair, name).net[0].weight, alone.net[0].weight)

    pair = Paired(a=Scaled(fused[0], seed=1), b=Scaled(fused[1], seed=2))
    pair.b.overflow = True
    fit(pair, loaders)
    for child in (pair.a, pair.b):
        first, second, third, *_ = child.weights
        assert not torch.equal(first, second)
        assert torch.equal(second, third)
        assert child.net[0].weight.isfinite().all()


def test_checkpoint_state_is_loadable_with_weights_only(kit, tmp_path):
    pair = Paired(a=kit.Lit(), b=kit.Lit(optimizer="sgd"))
    saving = ModelCheckpoint(tmp_path / "checkpoints")
    kit.fit(
        pair,
        {"a": kit.loader(1), "b": kit.loader(2)},
        callbacks=[saving],
        enable_checkpointing=True,
    )
    checkpoint = torch.load(saving.best_model_path, weights_only=True)
    assert checkpoint["optimizer_states"][0].keys() == {"a", "b"}
    assert len(checkpoint["lr_schedulers"]) == 2
