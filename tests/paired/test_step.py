import copy

import pytest
import torch
from lightning import Callback

from lit_share.paired import Paired


@pytest.fixture
def lits(kit):
    """Modules whose `optimizer_step` does something before, or after, or around the step."""

    class WarmUp(kit.Lit):
        def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure):
            for group in optimizer.param_groups:
                group["lr"] = self.hparams.lr * min(1.0, (self.global_step + 1) / 5)
            assert isinstance(optimizer, torch.optim.Optimizer)
            super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)

    class Averaging(kit.Lit):
        """Decays its input layer before the forward pass, and averages after the step."""

        def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure):
            with torch.no_grad():
                self.net[0].weight.mul_(0.9)
            optimizer.step(closure=optimizer_closure)
            mean = getattr(self, "mean", torch.zeros(()))
            self.mean = mean.lerp(self.net[0].weight.detach(), 0.1)
            self.log("norm", self.mean.norm(), on_step=True, on_epoch=False)

    class Trusting(kit.Lit):
        """Scales gradients between the backward pass and the step, like LARS."""

        def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure):
            def closure():
                loss = optimizer_closure()
                for parameter in self.parameters():
                    parameter.grad.mul_(parameter.detach().norm() / parameter.grad.norm())
                return loss

            optimizer.step(closure=closure)

    class Early(kit.Lit):
        def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure):
            optimizer_closure()
            self.net[0].weight.grad.clamp_(-0.01, 0.01)
            optimizer.step()

    return {"warm": WarmUp, "ema": Averaging, "lars": Trusting, "early": Early, "plain": kit.Lit}


@pytest.mark.parametrize("options", [{}, {"accumulate_grad_batches": 2, "gradient_clip_val": 0.3}])
def test_children_step_as_alone(kit, lits, options):
    names = ["warm", "ema", "lars", "plain"]
    children = {name: lits[name](scheduler=None, seed=seed) for seed, name in enumerate(names)}
    loaders = {name: kit.loader(seed) for seed, name in enumerate(names)}
    pair = Paired(**copy.deepcopy(children))
    trainer = kit.fit(pair, loaders, max_epochs=1, **options)
    for name, child in children.items():
        kit.fit(child, loaders[name], max_epochs=1, **options)
        kit.assert_same(getattr(pair, name).state_dict(), child.state_dict())
    assert torch.equal(pair.ema.mean, children["ema"].mean)
    assert "ema/norm" in trainer.callback_metrics


@pytest.mark.parametrize("name", ["early", "warm"])
def test_closure_before_the_step_and_hooks_run_once_for_all(kit, lits, name):
    class Counting(Callback):
        calls = 0

        def on_before_optimizer_step(self, *_):
            self.calls += 1

    child, counting = lits[name](scheduler=None, seed=1), Counting()
    pair = Paired(a=copy.deepcopy(child), b=lits["lars"](scheduler=None, seed=2))
    loaders = {"a": kit.loader(1), "b": kit.loader(2)}
    trainer = kit.fit(pair, loaders, callbacks=[counting], max_epochs=1)
    kit.fit(child, loaders["a"], max_epochs=1)
    kit.assert_same(pair.a.state_dict(), child.state_dict())
    assert counting.calls == trainer.global_step == 6


@pytest.mark.parametrize("times", [0, 2])
def test_steps_other_than_one_are_refused_with_a_subclass(kit, times):
    class Skipping(kit.Lit):
        def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure):
            optimizer_closure()
            for _ in range(times):
                optimizer.step()

    loaders = {"a": kit.loader(1), "b": kit.loader(2)}
    how = {0: "not at all", 2: "more than once"}[times]
    with pytest.raises(ValueError, match=rf"child 'a' calls optimizer.step {how}") as error:
        kit.fit(Paired(a=Skipping(), b=kit.Lit()), loaders, max_epochs=1)
    # The message is the code that makes it work.
    code = [line[4:] for line in str(error.value).splitlines() if line.startswith("    ")]
    scope = {"Skipping": Skipping}
    exec("\n".join(code), scope)
    kit.fit(Paired(a=scope["InPair"](), b=kit.Lit()), loaders, max_epochs=1)
