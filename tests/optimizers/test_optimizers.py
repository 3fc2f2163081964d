"""What optimizers do with penalties and shared parameters is what a plain loop does, or refused."""

from __future__ import annotations

import copy
import warnings
from contextlib import suppress
from itertools import product

import pytest
import pytorch_optimizer as others
import torch
from lightning.pytorch import LightningModule
from torch import nn

from lit_share import Penalty, Regularize, Share, Ties
from lit_share.penalties._optimizers import refuse_unsupported

from ..callbacks._by_hand import tie_by_hand
from ..callbacks._modules import assert_same, fit, loader, mlp, weights
from ._document import REFUSED, WAYS, page
from ._optimizers import OPTIMIZERS

TIES, STRENGTH = Ties("a.*", "b.*"), 0.3
CALLBACKS = {
    "gradient": lambda: Regularize("soft_tie", TIES, STRENGTH),
    "prox": lambda: Regularize(Penalty("l1", "element", "mean"), TIES, STRENGTH),
    "share": lambda: Share(TIES),
}
# torch and other packages warn of their own code.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")


class Two(LightningModule):
    def __init__(self, make):
        super().__init__()
        self.a, self.b, self.make = mlp(0, torch.float32), mlp(1, torch.float32), make

    def losses(self, batch):
        x, y, z = batch
        return nn.functional.mse_loss(self.a(x), y) + nn.functional.mse_loss(self.b(x), z)

    def training_step(self, batch):
        return self.sign * self.losses(batch)

    def configure_optimizers(self):
        return self.make(self.parameters())

    @property
    def sign(self):
        """The loss is minimised, whatever the optimizer does with what it is given."""
        return -1.0 if getattr(self.make, "keywords", {}).get("maximize") else 1.0

    def on_train_start(self):
        switch(self.optimizers().optimizer, "train")


def switch(optimizer, mode):
    if hasattr(optimizer, mode):
        getattr(optimizer, mode)()


def distance(module):
    pairs = zip(module.a.parameters(), module.b.parameters(), strict=True)
    return sum((a - b).square().sum() / 2.0 for a, b in pairs)


def plain_loop(module, way):
    if way == "share":
        for name in ("0", "2"):
            one, other = module.a.get_submodule(name), module.b.get_submodule(name)
            with torch.no_grad():
                for p, q in zip(one.parameters(), other.parameters(), strict=True):
                    p.add_(q).div_(2.0)
            other.weight, other.bias = one.weight, one.bias
    optimizer = module.configure_optimizers()
    switch(optimizer, "train")
    for batch in loader(dtype=torch.float32):

        def closure(batch=batch):
            optimizer.zero_grad()
            loss = module.losses(batch)
            if way == "gradient":
                loss = loss + STRENGTH * distance(module)
            loss = module.sign * loss
            loss.backward()
            return loss

        optimizer.step(closure)
        if way == "prox":
            (group,) = optimizer.param_groups
            size = STRENGTH * float(group["lr"])
            if type(optimizer).__name__ in ("Prodigy", "DAdaptAdam"):
                size *= group["d"]
            with torch.no_grad():
                tie_by_hand(None)(module, {"a": size, "b": size})


# A few of each kind; the others run with the long tests.
QUICK = {"SGD, maximize", "Adam", "Rprop", "LBFGS", "Lookahead", "Prodigy", "SAM"}


@pytest.mark.parametrize(
    ("name", "way"),
    [
        pytest.param(*cell, marks=[pytest.mark.slow, pytest.mark.long] * (cell[0] not in QUICK))
        for cell in product(OPTIMIZERS, WAYS)
    ],
)
def test_the_weights_are_those_of_a_plain_loop(name, way):
    module = Two(OPTIMIZERS[name])
    by_hand, untied = copy.deepcopy(module), copy.deepcopy(module)
    callback = CALLBACKS[way]()
    if (name, way) in REFUSED:
        with pytest.raises(ValueError, match=r"LBFGS|Lookahead|WithSchedule|proximal|evaluated"):
            fit(module, callback, data=loader(dtype=torch.float32), epochs=1)
        return
    fit(module, callback, data=loader(dtype=torch.float32), epochs=1)
    plain_loop(by_hand, way)
    assert_same(weights(module), weights(by_hand), 2e-4)
    plain_loop(untied, None)
    both = zip(weights(by_hand).values(), weights(untied).values(), strict=True)
    assert max((p - q).abs().max() for p, q in both) > 1e-3


def test_the_page_is_that_of_the_table(up_to_date):
    up_to_date("optimizers.md", page())


# All of a package

# These pull weights towards copies that lag behind, after which the next proximal step goes on.
LAGGING = {"accsgd", "focus", "ranger", "spectralsphere", "adasmooth"}
# These need modules, other packages, several processes, second derivatives or the number of steps.
NEED_MORE = {
    "adago", "adahessian", "adalomo", "adammini", "adamuon", "bsam", "demo", "distributedmuon",
    "lomo", "muon", "muonclip", "normuon", "ranger21", "sophiah", "lbfgs",
}  # fmt: skip


def after_steps(kind, moved):
    """Return weights after steps with given gradients, and the optimizer."""
    parameter = nn.Parameter(torch.linspace(-1.0, 1.0, 24).view(6, 4))
    optimizer = kind([parameter], lr=0.01)
    switch(optimizer, "train")
    rng = torch.Generator().manual_seed(1)
    for step in range(6):
        gradient = torch.randn(6, 4, generator=rng)

        def closure(gradient=gradient):
            parameter.grad = gradient.clone()
            return torch.tensor(1.0)

        if step == 3:
            parameter.data.add_(moved)
        closure()
        optimizer.step(closure)
    return parameter.detach(), optimizer, parameter


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("name", sorted(set(others.get_supported_optimizers()) - NEED_MORE))
def test_a_motion_between_steps_is_kept(name):
    kind = others.load_optimizer(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        still, optimizer, parameter = after_steps(kind, 0.0)
        torch.manual_seed(0)
        moved, _, _ = after_steps(kind, 0.01)
    module = nn.ParameterDict({"weight": parameter})
    kept = (moved - still) / 0.01
    is_refused = False
    with suppress(ValueError):
        is_refused = True
        refuse_unsupported([optimizer], Ties("weight").find(module), uses_prox=True)
        is_refused = False
    assert is_refused or name in LAGGING or bool(((kept - 1.0).abs() < 0.1).all()), kept
