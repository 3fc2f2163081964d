"""`TieRows`: codebook layers in a Trainer, before training or before a later epoch."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import (
    EMAWeightAveraging,
    ModelCheckpoint,
    StochasticWeightAveraging,
)
from lightning.pytorch.strategies import FSDPStrategy
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from lit_share.callbacks import Regularize, Share, TieRows
from lit_share.codebooks import CodebookLinear, tie_rows
from lit_share.functional import Penalty
from lit_share.penalties import Ramp
from lit_share.ties import TieError, Ties

from .._two_processes import errors_of
from . import _tie_rows_in_two
from ._modules import assert_same, fit, trainer
from ._tie_rows_in_two import FIRST, Lit, data, loader


class Validated(Lit):
    def validation_step(self, batch, _):
        self.log("val", nn.functional.mse_loss(self.net(batch[0]), batch[1]))


def tied(**options):
    """Return a module of which rows were tied before any Trainer."""
    module = Lit(**options)
    tie_rows(module.net, Ties("0.weight"), 0.9, by="data", inputs=[data()[0].tensors[0]])
    return module


@pytest.mark.parametrize("inputs", [None, [data()[0].tensors[0]]], ids=["steps", "inputs"])
def test_training_is_as_if_rows_were_tied_before(inputs):
    callback = TieRows(FIRST, "data", 0.9, inputs=inputs)
    fit(module := Lit(), callback, data=loader(shuffle=True))
    fit(other := tied(), data=loader(shuffle=True))
    assert [layer.clusters for layer in callback.report] == [3]
    assert isinstance(module.net[0], CodebookLinear)
    assert_same(module.state_dict(), other.state_dict())


def test_the_pass_over_the_data_leaves_no_trace():
    module = Lit()
    trained = fit(module, TieRows(FIRST, "data", 0.9), data=loader(), epochs=1)
    assert module.steps == 6  # those of training
    assert module.net[1].num_batches_tracked == 6
    assert set(trained.logged_metrics) == {"loss"}


def test_with_a_number_of_clusters_and_of_batches():
    callback = TieRows(FIRST, "data", clusters=2, batches=3)
    module = Lit()
    fit(module, callback, data=loader())
    other, x = Lit(), data()[0].tensors[0][:12]
    assert callback.report is not None
    tie_rows(other.net, Ties("0.weight"), by="data", inputs=[x], clusters=2)
    assert torch.equal(other.net[0].assignment, module.net[0].assignment)


class EndlessData(IterableDataset):
    def __iter__(self):
        while True:
            yield torch.randn(6), torch.zeros(2)


def test_data_without_an_end_need_a_number_of_batches():
    endless = DataLoader(EndlessData(), 4)
    with pytest.raises(ValueError, match=r"would read the training data for ever.*write batches="):
        fit(Lit(), TieRows(FIRST, "data"), data=endless, max_steps=3)
    callback = TieRows(FIRST, "data", clusters=2, batches=4)
    fit(Lit(), callback, data=endless, max_steps=3)
    assert callback.report is not None


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
def test_before_a_later_epoch(optimizer):
    callback = TieRows(FIRST, "data", 0.9, epoch=1)
    module = Lit(optimizer)
    shapes = []

    class Note(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            (optimizer,) = trainer.optimizers
            owned = {p for group in optimizer.param_groups for p in group["params"]}
            assert owned == set(pl_module.parameters())
            shapes.append(tuple(pl_module.net[0].weight.shape))

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the optimizer's state of .* has another shape")
        fit(module, callback, Note(), data=loader(), epochs=3)
    assert shapes == [(5, 6), (5, 3), (5, 3)]


def test_a_penalty_and_then_its_clusters_in_one_fit():
    """GrOWL in one training: the penalty ends at the epoch at which rows are tied."""
    penalty = Regularize(
        Penalty("l1", "input", "zero"),
        FIRST,
        3.0,
        schedule=Ramp(duration=1, stop=2, unit="epochs"),
    )
    callback = TieRows(FIRST, "weights", 0.6, epoch=2)
    module = Lit()
    fit(module, penalty, callback, data=loader(), epochs=4)
    assert [layer.zero > 0 for layer in callback.report] == [True]
    assert isinstance(module.net[0], CodebookLinear)


@pytest.mark.parametrize("epoch", [0, 1])
@pytest.mark.parametrize("stopped", [1, 2])
def test_a_training_that_was_stopped_goes_on_bitwise(tmp_path, epoch, stopped):
    def train(module, epochs, ckpt_path=None):
        callback = TieRows(FIRST, "data", 0.9, epoch=epoch)
        return fit(module, callback, data=loader(), epochs=epochs, ckpt_path=ckpt_path)

    train(whole := Lit(), 3)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "training ended before epoch 1")
        train(Lit(), stopped).save_checkpoint(tmp_path / "stopped.ckpt")
    train(resumed := Lit(), 3, tmp_path / "stopped.ckpt")
    assert_same(resumed.state_dict(), whole.state_dict())


def test_checkpoints_are_evaluated_by_a_new_module_and_by_one_of_a_later_epoch(tmp_path):
    module = Validated()
    save = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1, monitor="val")
    callback = TieRows(FIRST, "data", 0.9, epoch=1)
    made = trainer(callback, save, enable_checkpointing=True)
    made.fit(module, loader(), loader())
    expected = {}
    for epoch in (0, 1):
        path = tmp_path / f"epoch={epoch}.ckpt"
        other = trainer(TieRows(FIRST, "data", epoch=1), save, enable_checkpointing=True)
        options = {"ckpt_path": path, "verbose": False}
        (expected[epoch],) = other.validate(Validated(), loader(), **options)
        # The module that was trained has codebooks, which that of the first epoch had not.
        (again,) = made.validate(module, loader(), **options)
        assert again == expected[epoch]
        # What a checkpoint has is reported, too.
        assert [layer.clusters for layer in callback.report or ()] == [3] * epoch
        assert isinstance(module.net[0], CodebookLinear) == (epoch == 1)
    assert expected[0] != expected[1]


def test_several_layers_and_one_that_has_nothing_to_share():
    callback = TieRows(Ties("net.*.weight", exclude=["net.1.*"]), "data", 0.9)
    module = Lit()
    fit(module, callback, data=loader(), epochs=1)
    first, second = callback.report
    assert (first.replaced, first.clusters) == (True, 3)
    assert second.replaced == isinstance(module.net[3], CodebookLinear)


def test_it_ends_before_its_epoch():
    with pytest.warns(UserWarning, match=r"training ended before epoch 5, so .* tied nothing"):
        fit(Lit(), TieRows(FIRST, "data", epoch=5), data=loader())


def test_a_second_fit_begins_anew():
    callback = TieRows(FIRST, "data", 0.9)
    for _ in range(2):
        module = Lit()
        fit(module, callback, data=loader())
        assert isinstance(module.net[0], CodebookLinear)


def test_a_second_fit_of_the_same_module_is_refused_by_name():
    module, callback = Lit(), TieRows(FIRST, "data", 0.9)
    fit(module, callback, data=loader())
    with pytest.raises(TieError, match=r"'net\.0\.weight' is a codebook already"):
        fit(module, TieRows(FIRST, "data", 0.9), data=loader())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TieRows(FIRST, "input"), "unknown by 'input'"),
        (lambda: TieRows(FIRST, "data", 2.0), "0 < similarity <= 1"),
        (lambda: TieRows(FIRST, "data", clusters=0), "clusters must be"),
        (lambda: TieRows(FIRST, "data", batches=0), "batches must be"),
        (lambda: TieRows(FIRST, "data", method="ward"), "unknown method 'ward'"),
        (lambda: TieRows(FIRST, "data", epoch=-1), "epoch must be"),
        (lambda: TieRows(FIRST, "weights", clusters=3), "clusters has no effect"),
        (lambda: TieRows(FIRST, "weights", inputs=[]), "inputs has no effect"),
        (lambda: TieRows(FIRST, "data", inputs=iter([])), "can be read only once"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_at_once(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "average", [EMAWeightAveraging(), StochasticWeightAveraging(swa_lrs=0.1)], ids=["ema", "swa"]
)
def test_averages_of_weights_are_refused(average):
    with pytest.raises(TieError, match=r"cannot follow TieRows.*call lit_share.tie_rows before"):
        fit(Lit(), average, TieRows(FIRST, "data"), data=loader())


def test_penalties_that_remember_numbers_are_refused_for_a_later_epoch():
    penalty = Regularize("l2_sp", FIRST, 0.1)
    with pytest.raises(TieError, match=r"net\.0\.weight"):
        fit(Lit(), penalty, TieRows(FIRST, "data", epoch=1), data=loader())
    fit(Lit(), Regularize("l2_sp", FIRST, 0.1), TieRows(FIRST, "data"), data=loader())


def test_a_flattening_strategy_is_refused():
    with pytest.raises(ValueError, match="TieRows cannot serve FSDPStrategy"):
        TieRows(FIRST, "data").setup(
            type("T", (), {"strategy": FSDPStrategy(), "callbacks": []})(), Lit(), "fit"
        )


def test_a_step_that_cannot_run_alone_says_what_to_give():
    class Strange(Lit):
        def training_step(self, batch, batch_idx):
            assert self.training
            return super().training_step(batch, batch_idx)

    with pytest.raises(ValueError, match=r"(?s)training_step failed .* give inputs="):
        fit(Strange(), TieRows(FIRST, "data"), data=loader())


@pytest.mark.parametrize("frozen", [False, True])
def test_layers_that_read_what_is_trained_are_left_alone(frozen):
    module = Lit()
    module.net[0].requires_grad_(not frozen)
    module.net[1].requires_grad_(not frozen)
    callback = TieRows(Ties("net.*.weight", min_ndim=2), "data", clusters=2, hidden=False)
    fit(module, callback, data=loader(), epochs=1)
    first, second = callback.report
    assert (first.replaced, second.replaced) == (True, frozen)


def test_if_all_layers_read_what_is_trained_a_warning_says_so():
    callback = TieRows(Ties("net.3.weight"), "data", hidden=False)
    with pytest.warns(UserWarning, match="ties nothing, as the inputs of all layers depend"):
        fit(Lit(), callback, data=loader(), epochs=1)


def test_it_is_used_with_share():
    class Two(Lit):
        def __init__(self):
            super().__init__()
            self.other = copy.deepcopy(self.net)

        def training_step(self, batch, batch_idx):
            x, y = batch
            return nn.functional.mse_loss(self.net(x) + self.other(x), y)

    share = Share(["net.3.*", "other.3.*"])
    module = Two()
    fit(module, share, TieRows(FIRST, "data", 0.9), data=loader())
    assert isinstance(module.net[0], CodebookLinear)
    assert module.net[3].weight is module.other[3].weight


@pytest.mark.multiprocess
@pytest.mark.parametrize("name", _tie_rows_in_two.TABLE)
def test_two_processes(name, tmp_path_factory):
    directory = tmp_path_factory.getbasetemp()
    errors = errors_of(_tie_rows_in_two.__name__, _tie_rows_in_two.TABLE, directory)
    assert errors[name] is None, errors[name]
