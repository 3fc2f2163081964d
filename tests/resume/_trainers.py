"""Several trainings of modules with a plain reference loop, and what they may not leave."""

from __future__ import annotations

from functools import partial

import torch
from lightning.pytorch import Callback

from ..modes._modules import Lit as Plain
from ..modes._modules import assert_trained, strategy
from ..modes._reference import STRATEGIES, Mode
from ._training import trainer

ROWS = list(STRATEGIES)
# Every fit makes new optimizers: these have nothing to forget.
FORGETFUL = partial(Mode, torch.optim.SGD)


class Lit(Plain):
    """Is evaluated, too."""

    def validation_step(self, batch, batch_idx):
        self.log("value", self(*batch))

    test_step = validation_step
    val_dataloader = test_dataloader = Plain.train_dataloader


class Elsewhere(Lit):
    """Starts from weights of its own, to tell the trainings apart."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.add_(0.75)


class Hooks(Callback):
    """Counts, during training, the hooks of all optimizers."""

    def __init__(self):
        self.counts = []

    def on_train_batch_start(self, trainer, *_):
        self.counts.append(count_hooks(trainer))


def count_hooks(made):
    kinds = "_optimizer_step_post_hooks", "_optimizer_step_pre_hooks"
    return sum(len(getattr(optimizer, kind)) for optimizer in made.optimizers for kind in kinds)


def assert_nothing_left(made, module, untouched):
    """Optimizers have no hooks; strategy and parameters no more attributes than others."""
    assert count_hooks(made) == 0
    assert vars(made.strategy).keys() == vars(untouched.strategy).keys()
    for parameter in module.parameters():
        assert not parameter._backward_hooks
        assert not parameter._post_accumulate_grad_hooks
    for part in module.modules():
        own = {
            name
            for name, value in vars(part).items()
            if callable(value) and name not in ("_apply", "mode")
        }
        assert not own, f"{part} has {own}"


__all__ = ["FORGETFUL", "ROWS", "Elsewhere", "Hooks", "Lit", "Mode", "assert_nothing_left"]
__all__ += ["assert_trained", "strategy", "trainer"]
