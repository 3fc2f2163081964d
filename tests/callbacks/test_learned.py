"""Strengths that are learned in a Trainer."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MeanMetric

from lit_share import Learned, Paired, Ramp, Regularize, SharingMonitor, Ties

from .._two_processes import errors_of
from . import _learned_in_two
from ._learned_in_two import Gentle, Validated, held_out, learned_in
from ._modules import Two, loader, sgd, trainer, two_optimizers, weights

PAIR = Ties("a.*", "b.*")
# The logarithm of 1 is exact, and changes by this rate are lost in it.
AT_1 = partial(Learned, every=2, start=1.0, rate=1e-300)


class Busy(Validated):
    """A validation step with all the effects that one may have."""

    def __init__(self, **options):
        super().__init__(**options)
        self.norm, self.drop = nn.BatchNorm1d(4).double(), nn.Dropout(0.2)
        self.mean, self.outputs = MeanMetric(), []

    def losses(self, batch):
        return super().losses((self.drop(self.norm(batch[0])), *batch[1:]))

    def validation_step(self, batch, batch_idx):
        value = sum(self.losses(batch))
        self.mean.update(value)
        self.log("val/mean", self.mean)
        self.log_dict({"val/loss": value, "val/noise": torch.rand(1) + torch.tensor(0.0)})
        self.outputs.append(value)
        if self.logger is not None:
            self.logger.log_metrics({"own": float(value)})
        return {"loss": value}

    def on_validation_epoch_end(self):
        self.log("val/outputs", float(len(self.outputs)))
        self.outputs.clear()


def counting(steps):
    """A module that notes the steps after which strengths are learned, in a list of the test's."""

    class Counting(Validated):
        def validation_step(self, batch, batch_idx):
            if torch.is_grad_enabled():
                steps.append(self.trainer.global_step)
            return super().validation_step(batch, batch_idx)

    return Counting()


def fit(module, *callbacks, data=None, ckpt_path=None, **options):
    made = trainer(*callbacks, **options)
    made.fit(module, loader(), held_out() if data is None else data, ckpt_path=ckpt_path)
    return made


def strengths(callback):
    return {name: course[-1] for name, course in callback.steps.learned.course.items()}


@pytest.mark.parametrize("recipe", ["soft_tie", "layer_tie"])
@pytest.mark.parametrize("options", [
    {}, {"accumulate_grad_batches": 3}, {"precision": "bf16-mixed"},
    {"gradient_clip_val": 0.5}, {"num_sanity_val_steps": 0},
], ids=str)  # fmt: skip
def test_learning_has_no_side_effects(recipe, options, tmp_path):
    """A strength that stays trains as a given one, bit by bit, and logs the same."""
    found = []
    for strength in (1.0, AT_1()):
        torch.manual_seed(0)
        module = Busy()
        logger = CSVLogger(tmp_path, name=type(strength).__name__)
        callback = Regularize(recipe, PAIR, strength)
        made = fit(module, callback, logger=logger, log_every_n_steps=2, **options)
        rows = (tmp_path / type(strength).__name__ / "version_0" / "metrics.csv").read_text()
        found.append((weights(module), made.callback_metrics, rows, torch.rand(1)))
    (own, metrics, rows, random), (other, others, other_rows, other_random) = found
    for name, value in own.items():
        assert torch.equal(value, other[name])
    assert metrics == others
    assert rows == other_rows
    assert random == other_random


def test_strengths_are_those_of_a_plain_loop():
    """One batch of all validation data, so that their order does not matter."""
    for recipe in ("soft_tie", "layer_tie"):
        module, callback = Validated(), Regularize(recipe, PAIR, Gentle())
        fit(module, callback, data=held_out(batch_size=40))
        for name, strength in learned_in(recipe).items():
            assert math.isclose(strengths(callback)[name], strength, rel_tol=1e-4)
            assert strength != pytest.approx(0.1, rel=1e-3)


@pytest.mark.parametrize("recipe", ["soft_tie", "layer_tie"])
@pytest.mark.parametrize("epoch", [1, 2])
@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_resume(recipe, epoch, tmp_path):
    """Bit by bit, though the validation data are in the middle of a pass."""
    whole = without_dropout(recipe, tmp_path / "whole", epochs=3)
    part = without_dropout(recipe, tmp_path / "part", epochs=epoch)
    rest = without_dropout(recipe, tmp_path / "rest", epochs=3, ckpt_path=str(part[2]), seed=5)
    assert rest[1] == whole[1]
    for name, value in whole[0].items():
        assert torch.equal(value, rest[0][name])


def without_dropout(recipe, path, epochs, ckpt_path=None, seed=0):
    torch.manual_seed(seed)
    module, callback = Busy(), Regularize(recipe, PAIR, Gentle(every=3))
    # It draws from the global stream, which a checkpoint does not hold.
    module.drop = nn.Identity()
    saving = ModelCheckpoint(path, filename="last")
    made = fit(
        module, callback, saving, data=held_out(batch_size=9), epochs=epochs,
        ckpt_path=ckpt_path, enable_checkpointing=True,
    )  # fmt: skip
    return weights(module), callback.steps.learned.course, made.checkpoint_callback.best_model_path


@pytest.mark.parametrize("recipe", ["soft_tie", "layer_tie"])
def test_penalties_of_other_ties_resume(recipe, tmp_path):
    """Both learn from the same batches, also in the first update after resuming."""

    def train(epochs, ckpt_path=None):
        module = Validated()
        penalties = [
            Regularize(recipe, Ties(f"a.{i}.*", f"b.{i}.*"), Gentle(every=3)) for i in (0, 2)
        ]
        made = fit(
            module, *penalties, data=held_out(batch_size=9), epochs=epochs, ckpt_path=ckpt_path
        )
        made.save_checkpoint(tmp_path / f"{epochs}.ckpt")
        return weights(module), [penalty.steps.learned.course for penalty in penalties]

    train(1)
    resumed, whole = train(3, str(tmp_path / "1.ckpt")), train(3)
    assert resumed[1] == whole[1]
    for name, value in whole[0].items():
        assert torch.equal(value, resumed[0][name])


@pytest.mark.filterwarnings("ignore:Checkpoint directory", "ignore:The dirpath has changed")
def test_a_step_at_the_end_of_an_epoch_is_learned_from_at_once(tmp_path):
    def train(epochs, ckpt_path=None):
        module = Validated()
        callback = Regularize("layer_tie", PAIR, Gentle(), every="epoch")
        fit(module, callback, ModelCheckpoint(tmp_path, f"{epochs}"), epochs=epochs,
            ckpt_path=ckpt_path, enable_checkpointing=True)  # fmt: skip
        return callback.steps.learned.by_name(PAIR.find(Validated()))

    train(2)
    whole, resumed = train(4), train(4, str(tmp_path / "2.ckpt"))
    assert resumed == whole
    assert all(own != 0.1 for own in whole.values())


@pytest.mark.filterwarnings("ignore:no strength was learned in 10 steps")
def test_an_update_that_an_epoch_misses_by_a_step_waits_for_the_next(tmp_path):
    def train(epochs, ckpt_path=None):
        callback = Regularize("layer_tie", PAIR, Gentle(every=11), every="epoch")
        made = fit(Validated(), callback, epochs=epochs, ckpt_path=ckpt_path)
        made.save_checkpoint(tmp_path / f"{epochs}.ckpt")
        return callback.steps.learned.course

    train(1)
    whole = train(3)
    assert train(3, str(tmp_path / "1.ckpt")) == whole
    for first, second, third in whole.values():
        # Each epoch has 10 steps, so that an update is due after every other.
        assert first == pytest.approx(0.1)
        assert second == third != first


@pytest.mark.parametrize("cut", [{}, {"max_steps": 15}])
def test_the_course_has_the_update_of_an_epochs_step(cut):
    callback = Regularize("layer_tie", PAIR, Gentle(), every="epoch")
    found = {}

    class Looks(Validated):
        def on_train_end(self):
            found.update(callback.learned)

    fit(Looks(), callback, **cut)
    assert found == {name: course[-1] for name, course in callback.steps.learned.course.items()}
    assert found == callback.learned
    # Both epochs, also one that is cut off, are learned from at once.
    for first, second in callback.steps.learned.course.values():
        assert 0.1 != pytest.approx(first) != second


@pytest.mark.parametrize("last", [4, 99])
def test_penalties_learn_after_the_last_step_of_all(last):
    seen = []

    class Looks(Validated):
        def validation_step(self, batch, batch_idx):
            if torch.is_grad_enabled() and self.trainer.global_step:
                seen.append(weights(self))
            return super().validation_step(batch, batch_idx)

        def on_train_batch_start(self, batch, batch_idx):
            return -1 if batch_idx == last else None

        def on_train_epoch_end(self):
            for name, value in weights(self).items():
                assert torch.equal(value, seen[-1][name])

    first, second = (Ties(f"a.{i}.*", f"b.{i}.*") for i in (0, 2))
    callbacks = [Regularize("layer_tie", own, Gentle(), every="epoch") for own in (first, second)]
    fit(Looks(), *callbacks)
    assert len(seen) == 2
    # Another penalty learns after every other step, before an epoch is cut off.
    fit(Looks(), Regularize("soft_tie", second, Gentle()), callbacks[0])
    assert len(seen) > 6


def test_members_that_are_frozen_in_training():
    class Freezes(Validated):
        def on_train_epoch_start(self):
            self.b.requires_grad_(self.current_epoch == 0)

    for recipe in ("soft_tie", "layer_tie"):
        callback = Regularize(recipe, PAIR, Gentle())
        fit(Freezes(), callback)
        first, last = callback.steps.learned.course["0.weight"]
        assert first != last


def test_a_penalty_that_does_not_act_costs_nothing():
    ramp = Ramp(duration=1, begin=4, start=0.0, stop=9)
    for recipe in ("soft_tie", "layer_tie"):
        steps = []
        fit(counting(steps), Regularize(recipe, PAIR, Gentle(), schedule=ramp))
        assert steps[0] == 0
        assert 4 <= min(steps[1:]) <= max(steps) <= 10


def test_several_penalties_take_the_gradient_of_one_step():
    penalties = [
        Regularize("soft_tie", PAIR, Gentle()),
        Regularize("l2", Ties("*.weight"), Gentle(start=0.01)),
        Regularize("layer_tie", PAIR, Gentle(every=4)),
    ]
    steps = []
    fit(counting(steps), *penalties, SharingMonitor())
    # Each has a trial before training begins, which the first makes for all.
    assert steps == [0, *range(2, 21, 2)]
    for penalty in penalties:
        assert all(own != penalty.strength.start for own in strengths(penalty).values())


def test_two_optimizers():
    module = Validated(optimizer=partial(two_optimizers, make=torch.optim.SGD))
    module.automatic_optimization = False

    def training_step(batch, batch_idx):
        one, two = module.optimizers()
        for optimizer in (one, two):
            optimizer.zero_grad()
        module.manual_backward(sum(module.losses(batch)))
        for optimizer in (one, two):
            optimizer.step()

    module.training_step = training_step
    for recipe in ("soft_tie", "exact_tie"):
        callback = Regularize(recipe, PAIR, Gentle())
        fit(module, callback)
        assert all(own != 0.1 for own in strengths(callback).values())


def test_averaged_weights():
    """Validation reads the average, but strengths are learned at the weights in training."""
    callback = Regularize("soft_tie", PAIR, Gentle())
    fit(Validated(), callback, EMAWeightAveraging(), data=held_out(batch_size=40))
    expected = learned_in("soft_tie")
    assert strengths(callback) == pytest.approx(expected, rel=1e-4)


def test_a_pair_of_modules():
    """Validation runs the children's loaders one after the other."""

    class Child(LightningModule):
        def __init__(self, target):
            super().__init__()
            self.net, self.target = nn.Linear(4, 2).double(), target

        def training_step(self, batch):
            return nn.functional.mse_loss(self.net(batch[0]), batch[self.target])

        def validation_step(self, batch):
            self.log("val/loss", self.training_step(batch))

        def configure_optimizers(self):
            return sgd(self)

    pair = Paired(a=Child(1), b=Child(2))
    callback = Regularize("soft_tie", ["a.*", "b.*"], Gentle())
    monitor = SharingMonitor()
    made = trainer(callback, monitor)
    made.fit(pair, {"a": loader(), "b": loader()}, {"a": held_out(), "b": held_out()})
    assert set(strengths(callback)) == {"net.weight", "net.bias"}
    logged = {key for key in made.callback_metrics if "strength_of" in key}
    assert logged == {"sharing/strength_of/net.weight", "sharing/strength_of/net.bias"}


@pytest.mark.parametrize("where", ["fit", "loader"])
@pytest.mark.filterwarnings("ignore:.*no `val_dataloader`")
def test_loader(where):
    """Given to the penalty where the Trainer has none."""
    data = held_out()
    options = {"loader": data} if where == "loader" else {}
    callback = Regularize("soft_tie", PAIR, Gentle(**options))
    made = trainer(callback, **({"limit_val_batches": 0} if where == "loader" else {}))
    made.fit(Validated(), loader(), None if where == "loader" else data)
    assert all(own != 0.1 for own in strengths(callback).values())


def logs(*names):
    class Logs(Validated):
        def validation_step(self, batch, batch_idx):
            for i, name in enumerate(names):
                self.log(name, (i + 1.0) * sum(self.losses(batch)))

    return Logs


class Without(Two):
    pass


class Detached(Validated):
    def validation_step(self, batch, batch_idx):
        with torch.no_grad():
            self.log("val/loss", sum(self.losses(batch)))


class Numpy(Validated):
    def validation_step(self, batch, batch_idx):
        value = sum(self.losses(batch))
        value.numpy()
        return value


class Iterates(Validated):
    def validation_step(self, dataloader_iter):
        return super().validation_step(*next(dataloader_iter)[:2])


@pytest.mark.parametrize(("module", "learned", "words"), [
    (Without, Gentle(), r"Without has no validation_step, .*write one that returns its loss"),
    (Detached, Gentle(), r"nor logs a loss with a gradient \(it logs 'val/loss'\): return"),
    (logs("a/one", "a/two"), Gentle(), r"several values .*, 'one', 'two', of which none"),
    (logs("a/loss", "b/loss"), Gentle(), r"several values .*, 'a/loss', 'b/loss', of which"),
    (logs("a/loss"), Gentle(loss="b/loss"), r"Learned\(loss='b/loss'\): .*write one of 'loss'"),
    (Numpy, Gentle(), r"Numpy fails with gradients switched on .*detach what is no part of"),
    (Numpy, Gentle(loss=lambda *_: torch.ones(())), "returned no tensor with a gradient"),
    (Iterates, Gentle(), r"validation_step\(dataloader_iter\) draws its own batches"),
])  # fmt: skip
@pytest.mark.filterwarnings("ignore:.*dataloader_iter", "ignore:.*no `validation_step`")
def test_errors_before_training(module, learned, words):
    own = module()
    with pytest.raises(ValueError, match=words):
        fit(own, Regularize("soft_tie", PAIR, learned), num_sanity_val_steps=0)
    assert own.steps_taken == 0


def test_strengths_that_are_never_due():
    with pytest.warns(UserWarning, match=r"no strength was learned in 20 steps, .*every=\.\.\."):
        fit(Validated(), Regularize("soft_tie", PAIR, Gentle(every=21)), data=held_out(), epochs=2)


@pytest.mark.filterwarnings("ignore:.*no `val_dataloader`")
def test_no_validation_data():
    made = trainer(Regularize("soft_tie", PAIR, Gentle()))
    with pytest.raises(ValueError, match=r"does not validate, .*write Learned\(loader=...\)"):
        made.fit(Validated(), loader())


@pytest.mark.parametrize("module", [Numpy, Without, Iterates])
@pytest.mark.filterwarnings("ignore:.*dataloader_iter", "ignore:.*no `validation_step`")
def test_a_function_in_place_of_the_step(module):
    learned = Gentle(loader=held_out(40), loss=lambda module, batch: sum(module.losses(batch)))
    callback = Regularize("soft_tie", PAIR, learned)
    fit(module(), callback, limit_val_batches=0)
    assert strengths(callback) == pytest.approx(learned_in("soft_tie"), rel=1e-4)


@pytest.mark.parametrize(("names", "learned"), [
    (("x",), Gentle()), (("val/loss", "accuracy"), Gentle()),
    (("a/loss", "b/loss"), Gentle(loss="b/loss")),
])  # fmt: skip
def test_which_logged_value_is_the_loss(names, learned):
    callback = Regularize("soft_tie", PAIR, learned)
    fit(logs(*names)(), callback)
    assert all(own != 0.1 for own in strengths(callback).values())


def test_course_is_logged():
    callback, monitor = Regularize("soft_tie", PAIR, Gentle()), SharingMonitor()
    made = fit(Validated(), callback, monitor)
    assert all(len(course) == 2 for course in callback.steps.learned.course.values())
    for name, strength in callback.learned.items():
        assert float(made.callback_metrics[f"sharing/strength_of/{name}"]) == pytest.approx(
            strength
        )
    # After training, the callback still says what it has learned.
    assert callback.found == []
    assert callback.learned == strengths(callback)


@pytest.mark.slow
@pytest.mark.multiprocess
@pytest.mark.parametrize("name", _learned_in_two.TABLE)
def test_two_processes(name, tmp_path_factory):
    error = errors_of(
        _learned_in_two.__name__, _learned_in_two.TABLE, tmp_path_factory.getbasetemp()
    )[name]
    assert error is None, error


def test_loaders_that_the_trainer_gets_later():
    callback = Regularize("soft_tie", PAIR, Gentle())
    fit(Validated(), callback, check_val_every_n_epoch=2, num_sanity_val_steps=0)
    assert all(own != 0.1 for own in strengths(callback).values())


def test_hooks_of_a_datamodule():
    class Data(LightningDataModule):
        train_dataloader, val_dataloader = staticmethod(loader), staticmethod(held_out)

        def on_before_batch_transfer(self, batch, dataloader_idx):
            return {"batch": batch}

    class Unpacks(Validated):
        def losses(self, batch):
            return super().losses(batch["batch"])

    callback = Regularize("soft_tie", PAIR, Gentle())
    trainer(callback).fit(Unpacks(), datamodule=Data())
    assert all(own != 0.1 for own in strengths(callback).values())


def test_the_index_of_a_batch_is_that_of_its_pass():
    found = []

    class Indexed(Validated):
        def validation_step(self, batch, batch_idx):
            if torch.is_grad_enabled():
                found.append(batch_idx)
            return super().validation_step(batch, batch_idx)

    fit(Indexed(), Regularize("soft_tie", PAIR, Gentle()))
    assert set(found) == set(range(len(held_out())))


def test_loggers_are_read_and_not_written_to(tmp_path):
    found, logger = [], CSVLogger(tmp_path, name="own")

    class Reads(Validated):
        def validation_step(self, batch, batch_idx):
            own = self.logger
            assert isinstance(own, CSVLogger)
            found.append((self.trainer.log_dir, own.log_dir, own.save_dir, own.name, own.version))
            if torch.is_grad_enabled():
                own.log_metrics({"never": 1.0})
                own.experiment.log_metrics({"never": 1.0}, 1)
                own[0].experiment.add_image("never", 1)
            return super().validation_step(batch, batch_idx)

    callback = Regularize("soft_tie", PAIR, Gentle())
    fit(Reads(), callback, logger=logger, log_every_n_steps=2)
    folder = str(tmp_path / "own" / "version_0")
    assert set(found) == {(folder, folder, str(tmp_path), "own", 0)}
    assert "never" not in (tmp_path / "own" / "version_0" / "metrics.csv").read_text()


@pytest.mark.filterwarnings("ignore:no strength was learned in 20 steps")
def test_batches_without_a_loss_are_skipped():
    class Skips(Validated):
        def validation_step(self, batch, batch_idx, dataloader_idx=0):
            if self.trainer.global_step > 0 and dataloader_idx in self.left_out:
                return None
            return sum(self.losses(batch))

    found = []
    for left_out, loaders in (({0}, 1), ({1}, 2), ({}, 1)):
        module, callback = Skips(), Regularize("soft_tie", PAIR, Gentle())
        module.left_out = left_out
        fit(module, callback, data=[held_out(batch_size=40)] * loaders)
        found.append(strengths(callback))
    none, half, whole = found
    assert all(own == pytest.approx(0.1) for own in none.values())
    assert half == whole != none


def test_loaders_without_a_batch():
    callback = Regularize("soft_tie", PAIR, Gentle(loader=[]))
    with pytest.raises(ValueError, match=r"without a batch: .*write Learned\(loader=...\)"):
        fit(Validated(), callback)


def test_loaders_that_are_made_again():
    """Lightning makes them at the end of an epoch, where it validates."""
    found = set()

    class Data(LightningDataModule):
        made = 0
        train_dataloader = staticmethod(loader)

        def val_dataloader(self):
            self.made += 1
            return DataLoader(TensorDataset(torch.full((4,), self.made)), 4)

    class Reads(Validated):
        def validation_step(self, batch, batch_idx):
            if torch.is_grad_enabled():
                found.add((self.current_epoch, int(batch[0][0])))
            return sum(own.sum() for own in self.parameters())

    callback = Regularize("soft_tie", PAIR, Gentle())
    made = trainer(callback, epochs=3, reload_dataloaders_every_n_epochs=1)
    made.fit(Reads(), datamodule=Data())
    assert found == {(0, 1), (1, 1), (2, 2)}


class Collects(Validated):
    def on_validation_epoch_start(self):
        self.outputs = []

    def on_validation_epoch_end(self):
        del self.outputs

    def validation_step(self, batch, batch_idx):
        self.outputs.append(batch_idx)
        return super().validation_step(batch, batch_idx)


def test_a_step_that_needs_hooks():
    words = r"Collects fails .*without on_validation_epoch_start .*Learned\(loss=function\)"
    with pytest.raises(ValueError, match=words):
        fit(Collects(), Regularize("soft_tie", PAIR, Gentle()))
