"""`Align`: units are permuted once in a Trainer, and training goes on as if they had been so."""

from __future__ import annotations

import copy
import os
import warnings
from pathlib import Path
from textwrap import dedent

import pytest
import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import EMAWeightAveraging, StochasticWeightAveraging
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.strategies import FSDPStrategy
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MeanMetric, MetricCollection

from lit_share.alignment import AlignError, align, axis_graph
from lit_share.callbacks import Align, Regularize, Share
from lit_share.lab.models import MLP, Classifier
from lit_share.paired import Paired
from lit_share.ties import TieError, Ties

from .._programs import run
from ._modules import Manual, Two, assert_same, fit, trainer

PAIR = Ties("a.*", "b.*")
INPUTS = torch.randn(16, 5, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """A net whose units may be permuted, with batch normalisation, called with a keyword."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(5, 7)
        self.norm = nn.BatchNorm1d(7)
        self.second = nn.Linear(7, 6)
        self.last = nn.Linear(6, 3)

    def forward(self, x, scale=1.0):
        return self.last(self.second(self.norm(self.first(scale * x)).relu()).relu())


def shuffled(net, seed=1):
    """Return a copy that computes the same, with its units in another order."""
    other = copy.deepcopy(net)
    graph = axis_graph(other, INPUTS)
    generator = torch.Generator().manual_seed(seed)
    graph.permute_(
        other, {a.index: torch.randperm(a.size, generator=generator) for a in graph.free}
    )
    return other


def momentum(module):
    return torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9)


class Lit(LightningModule):
    """Two nets on the same inputs, of which the second starts as a permutation of the first."""

    def __init__(self, same=False, optimizer=momentum):
        super().__init__()
        torch.manual_seed(0)
        self.a = Net()
        self.b = copy.deepcopy(self.a) if same else shuffled(self.a)
        self.optimizer, self.calls = optimizer, 0
        self.mean = MetricCollection([MeanMetric()])
        self.dropout = nn.Dropout(0.2)

    def training_step(self, batch, batch_idx):
        self.calls += 1
        x, y, z = batch
        one = nn.functional.mse_loss(self.a(self.dropout(x)), y)
        self.mean.update(one.detach())
        self.log("one", one)
        two = nn.functional.mse_loss(self.b(x + 0.1 * torch.rand_like(x), scale=1.0), z)
        self.log_dict({"two": two, "mean": self.mean["MeanMetric"]}, on_step=False, on_epoch=True)
        return one + two

    def configure_optimizers(self):
        return self.optimizer(self)


def loader(size=4):
    rng = torch.Generator().manual_seed(7)
    tensors = (torch.randn(16, width, generator=rng) for width in (5, 3, 3))
    return DataLoader(TensorDataset(*tensors), size)


class Notes(Callback):
    """Note states before the first batch of each epoch is trained on, after `Align`."""

    def __init__(self):
        self.states, self.momenta = [], []

    def on_train_batch_start(self, trainer_, pl_module, batch, batch_idx):
        if batch_idx == 0:
            self.states.append(copy.deepcopy(pl_module.state_dict()))
            state = trainer_.optimizers[0].state
            self.momenta.append(
                {
                    name: state[p]["momentum_buffer"].clone()
                    for name, p in pl_module.named_parameters()
                    if p in state
                }
            )


def members(state):
    """Split a state into those of `a` and of `b`."""
    return ({k[2:]: v for k, v in state.items() if k.startswith(f"{name}.")} for name in ("a", "b"))


@pytest.mark.parametrize("by", ["weights", "activations"])
def test_members_correspond_before_anything_is_trained(by):
    module, before, after = Lit(), Notes(), Notes()
    callback = Align(PAIR, by=by)
    # In a smaller batch, several units are zero for all samples.
    fit(module, before, callback, after, data=loader(16), epochs=1)
    a, b = members(after.states[0])
    assert_same(a, b)
    assert_same(next(members(before.states[0])), a)
    assert callback.report.moved > 0
    assert callback.report.after == pytest.approx(1.0)


def test_at_the_start_of_an_epoch_states_of_optimizers_move_along():
    module, before, after = Lit(), Notes(), Notes()
    callback = Align(PAIR, epoch=2)
    fit(module, before, callback, after, data=loader(), epochs=3)
    for epoch in range(2):
        assert_same(before.states[epoch], after.states[epoch])
    expected = Lit()
    expected.load_state_dict(before.states[2])
    optimizer = momentum(expected)
    for name, p in expected.named_parameters():
        optimizer.state[p]["momentum_buffer"] = before.momenta[2][name]
    report = align(expected, PAIR, INPUTS, optimizers=optimizer)
    assert report.moved == callback.report.moved > 0
    assert_same(dict(expected.state_dict()), dict(after.states[2]))
    for name, p in expected.named_parameters():
        assert torch.equal(optimizer.state[p]["momentum_buffer"], after.momenta[2][name]), name


def test_what_corresponds_is_trained_as_without_the_callback():
    """The step that is run for its inputs changes neither numbers nor what is logged."""
    runs = []
    for callbacks in ([], [Align(PAIR)], [Align(PAIR, epoch=1, by="activations")]):
        module = Lit(same=True)
        torch.manual_seed(3)
        made = fit(module, *callbacks, data=loader())
        runs.append((dict(module.state_dict()), dict(made.callback_metrics), module.calls))
        assert module.training
        assert "log" not in vars(module)
        assert "log_dict" not in vars(module)
        assert not module.a._forward_pre_hooks
        assert all(callback.report.moved == 0 for callback in callbacks)
    plain, *others = runs
    for state, metrics, calls in others:
        assert_same(plain[0], state)
        assert_same(plain[1], metrics)
        assert calls == plain[2]


@pytest.mark.filterwarnings("ignore:training ended before epoch 1")
@pytest.mark.parametrize("epoch", [None, 1])
@pytest.mark.parametrize("stop", [1, 2])
def test_a_resumed_training_is_bitwise_the_same(epoch, stop, tmp_path):
    def callbacks():
        return Align(PAIR, epoch=epoch), Regularize("l2_sp", PAIR, strength=0.1)

    class Seeds(Callback):
        def on_train_batch_start(self, trainer_, pl_module, batch, batch_idx):
            torch.manual_seed(trainer_.global_step)

    results = []
    for epochs in ([3], [stop, 3]):
        path = None
        for until in epochs:
            module, own = Lit(), callbacks()
            made = fit(module, *own, Seeds(), data=loader(), epochs=until, ckpt_path=path)
            path = tmp_path / f"{until}.ckpt"
            made.save_checkpoint(path)
        results.append((module, own[0]))
    (whole, _), (resumed, callback) = results
    assert_same(dict(whole.state_dict()), dict(resumed.state_dict()))
    done_before = epoch is None or stop > epoch
    assert (callback.report is None) == done_before


def test_a_checkpoint_without_alignment(tmp_path):
    made = fit(Lit(), data=loader(), epochs=1)
    made.save_checkpoint(tmp_path / "last.ckpt")
    callback = Align(PAIR)
    with pytest.warns(UserWarning, match=r"resumes after 4 steps without it.*write epoch=1"):
        fit(Lit(), callback, data=loader(), ckpt_path=tmp_path / "last.ckpt")
    assert callback.report is None
    callback = Align(PAIR, epoch=0)
    fit(Lit(), callback, data=loader(), ckpt_path=tmp_path / "last.ckpt")
    assert callback.report.moved > 0


def test_a_second_training_aligns_again():
    callback = Align(PAIR)
    fit(Lit(), callback, data=loader(), epochs=1)
    first, module, after = callback.report, Lit(), Notes()
    fit(module, callback, after, data=loader(), epochs=1)
    assert callback.report is not first
    assert_same(*members(after.states[0]))


@pytest.mark.parametrize(
    "inputs", [INPUTS, {"x": INPUTS, "scale": 2.0}, {"a": INPUTS, "b": (INPUTS, 2.0)}]
)
def test_given_inputs_need_no_step(inputs):
    class ByHand(Lit):
        """With a loop of its own."""

        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch, batch_idx):
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(super().training_step(batch, batch_idx))
            optimizer.step()

    module, after = ByHand(), Notes()
    callback = Align(PAIR, inputs=inputs)
    fit(module, callback, after, data=loader(), epochs=1)
    assert_same(*members(after.states[0]))
    assert module.calls == 4


def test_numbers_are_logged_once(tmp_path, caplog):
    logger = CSVLogger(tmp_path)
    callback = Align(PAIR)
    with caplog.at_level("INFO", "lightning.pytorch.utilities.rank_zero"):
        fit(Lit(), callback, data=loader(), logger=logger, log_every_n_steps=1)
    logger.finalize("success")
    lines = [
        line.split(",") for line in Path(logger.log_dir, "metrics.csv").read_text().splitlines()
    ]
    table = [dict(zip(lines[0], line, strict=True)) for line in lines[1:]]
    rows = [row for row in table if row["align/moved"]]
    assert len(rows) == 1
    assert float(rows[0]["align/moved"]) == callback.report.moved
    assert float(rows[0]["align/cosine_before"]) == pytest.approx(callback.report.before)
    assert float(rows[0]["align/cosine_after"]) == pytest.approx(1.0)
    assert caplog.text.count("aligned b to a by weights") == 1


@pytest.mark.parametrize("epoch", [None, 1])
def test_starting_values_move_along(epoch):
    """Towards its starting values, a member is pulled as if it had started in that order."""
    module, notes = Lit(), Notes()
    start = copy.deepcopy(module)
    l2_sp = Regularize("l2_sp", Ties("a.*", "b.*", exclude=["*.norm.*"]), strength=0.1)
    aligned = Align(PAIR, epoch=epoch)
    fit(module, l2_sp, aligned, notes, data=loader())
    graph = aligned.report.permute["b"]
    values = l2_sp.state_dict()["starting_values"]
    for name, value in values.items():
        member, _, own = name.partition(".")
        expected = start.get_submodule(member).get_parameter(own).detach()
        if member == "b":
            expected = graph({own: expected})[own]
        assert torch.equal(value, expected), name
    assert l2_sp.value(module, 0, 0) > 0.0


def test_starting_values_of_slices_and_transposes_move_along():
    steps = Regularize("l2_sp", Ties("b.first.weight[:]"), strength=0.1)
    other = Regularize("l2_sp", Ties("b.second.weight.T"), strength=0.1)
    module, aligned, start = Lit(), Align(PAIR), Lit()
    fit(module, steps, other, aligned, data=loader(), epochs=1)
    moved = aligned.report.permute["b"](
        {f"{n}.weight": start.b.get_submodule(n).weight.detach() for n in ("first", "second")}
    )
    values = steps.state_dict()["starting_values"]
    for i in range(7):
        assert torch.equal(values[f"b.first.weight[{i}]"], moved["first.weight"][i])
    values = other.state_dict()["starting_values"]
    assert torch.equal(values["b.second.weight.T"], moved["second.weight"].T)


def test_frozen_groups_are_refused():
    lasso = Regularize(
        "group_lasso", Ties("b.*.weight", exclude=["*.norm.*"]), 100.0, keep_zeros=True
    )
    with pytest.raises(AlignError, match=r"frozen groups of 'b\.\w+\.weight'.*epoch=None"):
        fit(Lit(), lasso, Align(PAIR, epoch=1), data=loader())
    lasso = Regularize(
        "group_lasso", Ties("a.*.weight", exclude=["*.norm.*"]), 100.0, keep_zeros=True
    )
    aligned = Align(PAIR, epoch=1)
    fit(Lit(), lasso, aligned, data=loader())
    assert aligned.report is not None


def test_shared_parameters_stay():
    module, aligned = Lit(), Align(PAIR)
    early = r"Share\(.*shares 'weight' before Align\(.*write epoch=1 in Share"
    with pytest.warns(UserWarning, match=early):
        fit(module, aligned, Share(Ties("a.first.*", "b.first.*")), data=loader(), epochs=1)
    assert module.a.first.weight is module.b.first.weight
    assert [axis.name for axis in aligned.report.axes] == ["second.weight[0]"]


def test_nothing_to_align_is_a_warning():
    nothing = pytest.warns(UserWarning, match="nothing to align in a, b: no units may be permuted")
    with nothing, pytest.warns(UserWarning, match="write epoch=1 in Share"):
        fit(Lit(), Share(PAIR), Align(PAIR), data=loader(), epochs=1)


@pytest.mark.parametrize(("epoch", "first"), [(None, 1), (1, 2)])
def test_sharing_after_aligning_is_no_warning(epoch, first):
    for share in (Share(PAIR, epoch=first), Share(PAIR, where="equal")):
        with warnings.catch_warnings(record=True) as warned:
            fit(Lit(), share, Align(PAIR, epoch=epoch), data=loader(), epochs=first + 1)
        assert not any("in Share" in str(warning.message) for warning in warned)


def test_sharing_at_a_later_epoch_shares_what_corresponds():
    module = Lit()
    fit(module, Align(PAIR), Share(PAIR, epoch=1), data=loader())
    assert module.a.first.weight is module.b.first.weight


def test_a_pair_of_independent_modules():
    torch.manual_seed(0)
    nets = [MLP((1, 8, 8), num_classes=10, hidden=[16]) for _ in range(2)]
    pair = Paired(**{n: Classifier(net, num_classes=10) for n, net in zip("ab", nets, strict=True)})
    rng = torch.Generator().manual_seed(7)
    images, labels = torch.randn(16, 1, 8, 8, generator=rng), torch.arange(16) % 10
    loaders = {name: DataLoader(TensorDataset(images, labels), 4) for name in "ab"}
    aligned = Align(["a.net.*", "b.net.*"], epoch=1)
    made = trainer(aligned, limit_val_batches=0)
    made.fit(pair, loaders, loaders)
    assert aligned.report.moved > 0
    assert made.callback_metrics.keys() >= {"a/train/loss", "b/train/loss"}


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_in_half_precision(precision):
    module, aligned = Lit(), Align(PAIR)
    fit(module, aligned, data=loader(), epochs=1, precision=precision)
    assert aligned.report.after == pytest.approx(1.0, abs=1e-2)


def test_a_compiled_submodule_is_run_as_it_is():
    module, aligned = Lit(), Align(PAIR)
    module.dropout = torch.compile(module.dropout, backend="eager")
    fit(module, aligned, data=loader(), epochs=1)
    assert aligned.report.after == pytest.approx(1.0)


class Skipping(Lit):
    def training_step(self, batch, batch_idx):
        return self.a(batch[0]).sum() + self.b.first(batch[0]).sum()


class NeedsGradients(Lit):
    def training_step(self, batch, batch_idx):
        (gradient,) = torch.autograd.grad(self.a(batch[0]).sum(), [self.a.first.weight])
        return self.b(batch[0]).sum() + gradient.sum()


class FromTheLoader(Lit):
    def training_step(self, dataloader_iter):
        batch, *_ = next(dataloader_iter)
        return super().training_step(batch, 0)


@pytest.mark.filterwarnings("ignore:You are using the `dataloader_iter` step flavor")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Manual, "Manual has manual optimization, .*: give inputs="),
        (FromTheLoader, "takes dataloader_iter, .*: give inputs="),
        (Skipping, "training_step did not call 'b': give inputs=.*or write patterns"),
        (NeedsGradients, r"before it called 'b' \(RuntimeError: .*: give inputs="),
    ],
)
def test_inputs_that_cannot_be_noted(make, message):
    module = make()
    state = copy.deepcopy(module.state_dict())
    data = {} if make is Manual else {"data": loader()}
    with pytest.raises(AlignError, match=message):
        fit(module, Align(PAIR), **data)
    assert_same(dict(module.state_dict()), dict(state))
    assert module.training
    assert not module.a._forward_pre_hooks


def test_arguments_without_names_are_refused():
    class Many(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = Net()

        def forward(self, *inputs, scale):
            return self.net(inputs[0], scale)

    class Called(Lit):
        def __init__(self):
            super().__init__()
            self.a, self.b = Many(), Many()

        def training_step(self, batch, batch_idx):
            return sum(net(batch[0], scale=2.0).sum() for net in (self.a, self.b))

    with pytest.raises(AlignError, match="positional arguments that have no names: give inputs="):
        fit(Called(), Align(PAIR), data=loader())


def test_wrong_arguments():
    with pytest.raises(ValueError, match="unknown by 'numbers': write one of 'weights', 'activ"):
        Align(PAIR, by="numbers")
    with pytest.raises(ValueError, match="unknown reference 'last'"):
        Align(PAIR, reference="last")
    for epoch in (-1, 0.5):
        with pytest.raises(ValueError, match="epoch must be a whole number >= 0 or None"):
            Align(PAIR, epoch=epoch)
    with pytest.raises(AlignError, match="'a' names no submodule to align"):
        Align(Ties("a", "b"))
    with pytest.raises(TieError, match=r"pattern 'c\.\*' matches no parameter"):
        fit(Lit(), Align(Ties("a.*", "c.*")), data=loader())


def test_averages_that_cannot_follow():
    ema, swa = EMAWeightAveraging(), StochasticWeightAveraging(0.01)
    with pytest.raises(AlignError, match=r"EMAWeightAveraging cannot follow Align.*epoch=None"):
        fit(Lit(), ema, Align(PAIR, epoch=1), data=loader())
    with pytest.raises(AlignError, match=r"StochasticWeightAveraging cannot.*before the fit"):
        fit(Lit(), swa, Align(PAIR), data=loader())


def test_averages_follow_an_alignment_before_training():
    expected, module = Lit(), Lit()
    align(expected, PAIR, INPUTS)
    for each, callbacks in ((expected, []), (module, [Align(PAIR)])):
        torch.manual_seed(1)
        fit(each, EMAWeightAveraging(decay=0.5), *callbacks, data=loader())
    assert_same(dict(expected.state_dict()), dict(module.state_dict()))


def test_strategies_that_shard_are_refused(mesh):
    with pytest.raises(ValueError, match=r"cannot serve FSDPStrategy.*align checkpoints"):
        Align(PAIR).setup(
            type("T", (), {"strategy": FSDPStrategy(), "global_step": 0, "callbacks": []})(),
            Lit(),
            "fit",
        )

    class Sharded(Lit):
        def configure_model(self):
            fully_shard(self.b, mesh=mesh)

    with pytest.raises(AlignError, match="is sharded: align before fully_shard"):
        fit(Sharded(), Align(PAIR), data=loader())


def test_an_epoch_that_never_comes_is_a_warning():
    aligned = Align(PAIR, epoch=5)
    with pytest.warns(UserWarning, match="training ended before epoch 5, so Align"):
        fit(Lit(), aligned, data=loader())


def test_unaligned_members_are_told_of_unless_they_will_be_aligned(caplog):
    def told(*callbacks, ties=PAIR):
        caplog.clear()
        with caplog.at_level("INFO", "lightning.pytorch.utilities.rank_zero"):
            fit(Two(), *callbacks, Regularize("soft_tie", ties, strength=0.1))
        return "start from unrelated weights" in caplog.text

    assert told()
    assert "with lit_share.align or the callback lit_share.Align" in caplog.text
    inputs = torch.randn(3, 4, dtype=torch.float64)
    assert not told(Align(PAIR, inputs=inputs))
    with pytest.warns(UserWarning, match="nothing to align in a.2, b.2"):
        assert told(Align(["a.2.*", "b.2.*"], inputs=inputs[:, :3]))


SCRIPT = """
    import torch
    from lightning.pytorch import Trainer
    from lightning.pytorch.strategies import DDPStrategy
    from tests.callbacks.test_align import PAIR, Align, Lit, Notes, loader
    from torch import distributed

    if __name__ == "__main__":
        for by in ("weights", "activations"):
            module, notes, aligned = Lit(), Notes(), Align(PAIR, by=by, epoch=1)
            trainer = Trainer(
                accelerator="cpu", devices=2, strategy=DDPStrategy(process_group_backend="gloo"),
                max_epochs=2, logger=False, enable_checkpointing=False, enable_progress_bar=False,
                enable_model_summary=False, callbacks=[aligned, notes],
            )
            trainer.fit(module, loader())
            assert aligned.report.moved > 0
            for p in module.parameters():
                both = module.all_gather(p.detach())
                assert torch.equal(both[0], both[1])
            for momentum in notes.momenta[1].values():
                both = module.all_gather(momentum)
                assert torch.equal(both[0], both[1])
            print("trained on rank", trainer.global_rank, flush=True)
"""


@pytest.mark.slow
@pytest.mark.multiprocess
def test_two_processes_find_the_same_permutations(tmp_path):
    """Each has batches of its own, so that activations differ between them."""
    script = tmp_path / "train.py"
    script.write_text(dedent(SCRIPT))
    environment = os.environ | {
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "OMP_NUM_THREADS": "1",
    }
    done = run([script], env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("trained on rank") == 4
