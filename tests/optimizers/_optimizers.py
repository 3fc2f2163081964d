"""Optimizers to train with: of torch and of other packages, and wrappers in their styles."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from functools import partial

import pytorch_optimizer as others
import schedulefree
import torch
from torch import optim


class Lookahead(optim.Optimizer):
    """Wraps another optimizer and leaves out `Optimizer.__init__`, as timm's does."""

    def __init__(self, params, lr):
        self._optimizer_step_pre_hooks = OrderedDict()
        self._optimizer_step_post_hooks = OrderedDict()
        self.base, self.steps, self.slow = optim.SGD(params, lr), 0, {}
        self.param_groups, self.defaults = self.base.param_groups, self.base.defaults
        self.state = defaultdict(dict)

    @torch.no_grad()
    def step(self, closure=None):
        loss = self.base.step(closure)
        self.steps += 1
        if self.steps % 3 == 0:
            for p in (p for group in self.param_groups for p in group["params"]):
                slow = self.slow.setdefault(p, p.clone())
                slow.lerp_(p, 0.5)
                p.copy_(slow)
        return loss


class WithSchedule(Lookahead):
    """A scheduler has bound the step before any hook could be called."""

    def __init__(self, params, lr):
        super().__init__(params, lr)
        unhooked, self.step = type(self).step, lambda closure=None: unhooked(self, closure)


def sam(params, lr):
    return others.SAM(params, base_optimizer=optim.SGD, lr=lr)


# The rate of each: large enough for a penalty to show in a few steps.
OPTIMIZERS = {
    "SGD": partial(optim.SGD, lr=0.1),
    "SGD, Nesterov": partial(optim.SGD, lr=0.1, momentum=0.9, nesterov=True),
    "SGD, maximize": partial(optim.SGD, lr=0.1, maximize=True),
    "SGD, a tensor as rate": partial(optim.SGD, lr=torch.tensor(0.1)),
    "Adam": partial(optim.Adam, lr=0.03),
    "Adam, maximize": partial(optim.Adam, lr=0.03, maximize=True),
    "AdamW, amsgrad": partial(optim.AdamW, lr=0.03, amsgrad=True),
    "AdamW, foreach": partial(optim.AdamW, lr=0.03, foreach=True),
    "NAdam": partial(optim.NAdam, lr=0.03),
    "RAdam": partial(optim.RAdam, lr=0.03),
    "Adamax": partial(optim.Adamax, lr=0.03),
    "Adagrad": partial(optim.Adagrad, lr=0.1),
    "Adagrad, lr_decay": partial(optim.Adagrad, lr=0.1, lr_decay=0.1),
    "Adadelta": partial(optim.Adadelta, lr=1.0),
    "RMSprop": partial(optim.RMSprop, lr=0.01),
    "Rprop": partial(optim.Rprop, lr=0.01),
    "ASGD": partial(optim.ASGD, lr=0.1),
    "Adafactor": partial(optim.Adafactor, lr=0.03, d=2.0),
    "LBFGS": partial(optim.LBFGS, lr=0.1, max_iter=2),
    "Adafactor, relative_step": partial(others.AdaFactor, lr=0.03),
    "AdaBelief": partial(others.AdaBelief, lr=0.03),
    "AdEMAMix": partial(others.AdEMAMix, lr=0.03),
    "Adan": partial(others.Adan, lr=0.03),
    "DAdaptAdam": partial(others.DAdaptAdam, lr=1.0, d0=0.01),
    "LAMB": partial(others.Lamb, lr=0.03),
    "LARS": partial(others.LARS, lr=1.0),
    "Lion": partial(others.Lion, lr=0.01),
    "Lookahead": partial(Lookahead, lr=0.1),
    "Lookahead, bound before": partial(WithSchedule, lr=0.1),
    "MADGRAD": partial(others.MADGRAD, lr=0.03),
    "Prodigy": partial(others.Prodigy, lr=1.0, d0=0.01),
    "SAM": partial(sam, lr=0.1),
    "ScheduleFreeAdamW": partial(schedulefree.AdamWScheduleFree, lr=0.03),
    "SOAP": partial(others.SOAP, lr=0.03),
}
