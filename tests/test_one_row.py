"""A new norm or center is one entry of a table: everything else works with it."""

from __future__ import annotations

import math

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from scipy.optimize import minimize
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import lit_share as ls
from lit_share.functional import TieBatch, TieTensors

from ._own_rows import ROWS, registered
from ._two_processes import errors_of

GROUPS = ("element", "output", "input", "tensor", "spectrum")


@pytest.fixture(autouse=True)
def _rows():
    with registered():
        yield


def members(dtype=torch.float64):
    rng = torch.Generator().manual_seed(5)
    return [torch.randn(3, 4, generator=rng, dtype=torch.float64).to(dtype) for _ in range(2)]


def own_value(groups, a, b, norm=ROWS["half_huber"]):
    """ω of the norms of (a − m, b − m), written out."""
    m = (a + b) / 2
    both = torch.stack([a - m, b - m])
    if groups == "spectrum":
        n = torch.linalg.svdvals(both.flatten(1))
    else:
        inside = {"element": (0,), "output": (0, 2), "input": (0, 1), "tensor": (0, 1, 2)}[groups]
        n = torch.linalg.vector_norm(both, dim=inside)
    return norm.value(n.flatten(), None)


@pytest.mark.parametrize("groups", GROUPS)
class TestTheAlgebra:
    def test_value_and_gradient(self, groups):
        penalty = ls.Penalty("half_huber", groups, "middle")
        a, b = (w.requires_grad_() for w in members())
        expected = own_value(groups, a, b)
        torch.testing.assert_close(penalty.value([a, b]), expected)
        torch.testing.assert_close(
            penalty.gradient([a, b]), list(torch.autograd.grad(expected, [a, b]))
        )

    def test_prox(self, groups):
        """Against a general minimiser."""
        a, b = members()
        t = 1.7

        def objective(flat):
            x = torch.tensor(flat, requires_grad=True)
            v, w = x.view(2, 3, 4)
            total = ((v - a) ** 2 + (w - b) ** 2).sum() / 2 + t * own_value(groups, v, w)
            (slope,) = torch.autograd.grad(total, x)
            return total.item(), slope.numpy()

        start = torch.stack([a, b]).flatten().numpy()
        best = minimize(objective, start, jac=True, method="BFGS", options={"gtol": 1e-10}).x
        moved = ls.Penalty("half_huber", groups, "middle").prox([a, b], step=t)
        torch.testing.assert_close(
            torch.stack(moved).flatten(), torch.from_numpy(best), rtol=1e-6, atol=1e-6
        )

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
    def test_in_place(self, groups, dtype):
        """Fast paths that do not know a row leave it to the specification."""
        for norm, center in (("half_huber", "middle"), ("half_huber", "mean"), ("l1", "middle")):
            penalty = ls.Penalty(norm, groups, center)
            pure = members(dtype)
            tie = TieTensors(
                [w.clone() for w in pure], [torch.zeros_like(w) for w in pure], [0.2, 0.2]
            )
            batch = TieBatch(penalty, [tie])
            batch.add_gradient_(1.0)
            torch.testing.assert_close(list(tie.grads), penalty.gradient(pure))
            batch.prox_()
            torch.testing.assert_close(list(tie.members), penalty.prox(pure, 0.2))

    def test_the_middle_of_two_is_their_mean(self, groups):
        """Which is scaled by √2."""
        own, mean = (ls.Penalty("l1", groups, center) for center in ("middle", "mean"))
        pair = members()
        torch.testing.assert_close(own.value(pair) * math.sqrt(2), mean.value(pair))
        torch.testing.assert_close(own.prox(pair, 0.3), mean.prox(pair, 0.3 / math.sqrt(2)))


class Pair(LightningModule):
    def __init__(self):
        super().__init__()
        rng = torch.Generator().manual_seed(5)
        for name in "ab":
            layer = nn.Linear(4, 3, dtype=torch.float64)
            layer.weight = nn.Parameter(torch.randn(3, 4, generator=rng, dtype=torch.float64))
            nn.init.zeros_(layer.bias)
            self.add_module(name, layer)

    def training_step(self, batch, _):
        (x,) = batch
        return (self.a(x) - 1).square().mean() + (self.b(x) + 1).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


DATA = torch.randn(12, 4, generator=torch.Generator().manual_seed(6), dtype=torch.float64)


def trained(*callbacks, epochs=2):
    module = Pair()
    trainer = Trainer(
        max_epochs=epochs, accelerator="cpu", callbacks=list(callbacks), logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, DataLoader(TensorDataset(DATA), 4))
    return module


def by_hand(gradient=lambda a, b: 0.0, after=lambda a, b: None, epochs=2):
    """The same training as a plain loop, with a loss term or a step after the optimizer's."""
    module = Pair()
    optimizer = module.configure_optimizers()
    for batch in DATA.split(4) * epochs:
        optimizer.zero_grad()
        term = gradient(module.a.weight, module.b.weight)
        (module.training_step((batch,), 0) + term).backward()
        optimizer.step()
        with torch.no_grad():
            after(module.a.weight, module.b.weight)
    return module


def assert_same(module, other):
    torch.testing.assert_close(module.state_dict(), other.state_dict())


@pytest.mark.usefixtures("own_folder", "quiet")
class TestTraining:
    TIES = ls.Ties("a.weight", "b.weight")

    @pytest.mark.parametrize("groups", GROUPS)
    def test_gradient(self, groups):
        penalty = ls.Penalty("half_huber", groups, "middle")
        own = trained(ls.Regularize(penalty, self.TIES, 0.7))
        assert_same(own, by_hand(lambda a, b: 0.7 * own_value(groups, a, b)))

    def test_prox(self):
        penalty = ls.Penalty("l1", "element", "middle")

        def after(a, b):
            difference, t = a - b, 0.2 * math.sqrt(2)  # (a − m, b − m) has norm |a − b| / √2
            shrunk = difference.sign() * (difference.abs() - t).clamp_min(0.0)
            m = (a + b) / 2
            a.copy_(m + shrunk / 2)
            b.copy_(m - shrunk / 2)

        assert_same(trained(ls.Regularize(penalty, self.TIES, 2.0)), by_hand(after=after))

    def test_what_became_equal_stays_so(self):
        penalty, schedule = ls.Penalty("l1", "element", "middle"), lambda _, epochs: 1.0 - epochs
        tied = [
            trained(ls.Regularize(penalty, self.TIES, 2.0, schedule, keep_tied=kept), epochs=epochs)
            for kept, epochs in ((True, 1), (True, 2), (False, 2))
        ]
        first, kept, others = ((m.a.weight == m.b.weight) for m in tied)
        assert 0 < first.sum() < first.numel()
        assert torch.equal(first, kept)
        assert not others.any()

    def test_smooth_by_proximal_steps(self):
        penalty = ls.Penalty("half_huber", "output", "middle")
        own = trained(ls.Regularize(penalty, self.TIES, 0.7, apply="prox"))

        def after(a, b):
            for w, moved in zip((a, b), penalty.prox([a.clone(), b.clone()], 0.07), strict=True):
                w.copy_(moved)

        assert_same(own, by_hand(after=after))


@pytest.mark.slow
@pytest.mark.multiprocess
def test_sharded(tmp_path_factory):
    """FSDP2 needs no further code; `tests/modes/_sharded_members.py` compares with full members."""
    from .modes import _two_processes

    errors = errors_of(
        "tests.modes._two_processes", _two_processes.table(), tmp_path_factory.getbasetemp()
    )
    own = {what: error for what, error in errors.items() if what.startswith("rows of others")}
    assert len(own) == 2
    assert set(own.values()) == {None}, own


class TestErrors:
    def test_unknown_names_list_them(self):
        with pytest.raises(ValueError, match=r"unknown norm 'half-huber': .*'half_huber', 'root'"):
            ls.Penalty("half-huber", "element", "middle")
        with pytest.raises(ValueError, match=r"unknown center 'midle': .*'middle'"):
            ls.Penalty("half_huber", "element", "midle")

    def test_too_few_members(self):
        with pytest.raises(ValueError, match="center='middle' needs at least 2 members, got 1"):
            ls.Penalty("half_huber", "element", "middle").check([(3, 4)])

    def test_no_proximal_step(self):
        penalty = ls.Penalty("root", "element", "middle")
        with pytest.raises(ValueError, match='norm="root" has no proximal step in closed form'):
            penalty.prox(members(), 0.1)
        with pytest.raises(ValueError, match='norm="root" has no proximal step in closed form'):
            trained(ls.Regularize(penalty, ls.Ties("a.weight", "b.weight"), 0.1))

    def test_different_steps(self):
        """Nothing says that the center is a mean, or stays: so nothing guesses."""
        for norm in ("half_huber", "l1", "squared"):
            with pytest.raises(ValueError, match=f"a {norm} penalty with center='middle' has no"):
                ls.Penalty(norm, "element", "middle").prox(members(), [0.1, 0.2])

    def test_keeping(self):
        penalty = ls.Penalty("l1", "element", "middle")
        with pytest.raises(ValueError, match=r'keep_zeros=True is for .* this is .*"middle"'):
            ls.Regularize(penalty, ["a.*", "b.*"], 0.1, keep_zeros=True)
        with pytest.raises(ValueError, match=r'keep_tied=True is for .*center=.*or "middle"'):
            ls.Regularize(
                ls.Penalty("half_huber", "element", "middle"), ["a.*", "b.*"], 0.1, apply="prox",
                keep_tied=True,
            )  # fmt: skip
