"""`Path` in a Trainer: what each knot is, what is chosen, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path as File
from pickle import UnpicklingError

import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, WeightAveraging
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts, StepLR
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MeanMetric

from lit_share.callbacks import PATH_FILE, Regularize, Share
from lit_share.penalties import Path, Ramp
from lit_share.ties import Ties

from .._two_processes import errors_of
from ._modules import Two, assert_same, loader, sgd, trainer, weights

TIES = Ties("a.*", "b.*")


class Validated(Two):
    """Logs a loss, a metric, and a number at the end of validation."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, seeds=(0, 0), **kwargs)
        self.error = MeanMetric()
        self.seen = []

    def validation_step(self, batch, batch_idx):
        loss = sum(self.losses(batch))
        self.error.update(loss.detach(), len(batch[0]))
        self.seen.append(float(loss.detach()))
        self.log("val/loss", loss, sync_dist=True)
        self.log("val/error", self.error)

    def on_validation_epoch_end(self):
        self.log("val/end", sum(self.seen) / len(self.seen), sync_dist=True)
        self.seen.clear()


@pytest.fixture
def path(tmp_path):
    return Path(0.01, 1.0, steps=3, epochs=1, first=2, dirpath=str(tmp_path / "knots"))


class Resumable(DataLoader):
    """Knows how many batches are done, as Lightning asks of loaders."""

    done = skipped = 0

    def __iter__(self):
        skipped, self.skipped = self.skipped, 0
        for self.done, batch in enumerate(super().__iter__(), start=1):
            if self.done > skipped:
                yield batch

    def state_dict(self):
        return {"done": self.done}

    def load_state_dict(self, state):
        self.skipped = state["done"] % len(self)


def validation(batches=12, size=3):
    return loader(batches, size)


def fit(module, *callbacks, epochs=5, data=None, ckpt_path=None, **options):
    made = trainer(*callbacks, epochs=epochs, num_sanity_val_steps=0, **options)
    training = Resumable(loader().dataset, 4)
    made.fit(module, training, validation() if data is None else data, ckpt_path=ckpt_path)
    return made


def saved(knot):
    return torch.load(knot.checkpoint, weights_only=True)["state_dict"]


def losses_by_hand(module, batches):
    with torch.no_grad():
        return [float(sum(module.losses(batch))) for batch in batches]


@pytest.mark.parametrize("penalty", ["soft_tie", "exact_tie"])
def test_training_is_that_of_the_same_strengths_by_hand(path, penalty):
    walking = Regularize(penalty, TIES, path)
    fit(Validated(), walking)
    by_hand = Validated()
    fit(by_hand, Regularize(penalty, TIES, 1.0, schedule=lambda _, epoch: path.at(epoch)))
    # Bit by bit: scoring has no effect on training.
    assert_same(
        {k: v for k, v in saved(walking.path.knots[-1]).items() if k[:2] in ("a.", "b.")},
        weights(by_hand),
    )


def test_the_chosen_weights_are_in_the_module(path):
    walking, module = Regularize("soft_tie", TIES, replace(path, choose="best")), Validated()
    made = fit(module, walking)
    walk = walking.path
    scores = [knot.score for knot in walk.knots]
    assert walk.chosen == scores.index(min(scores))
    assert walk.best_path == walk.knots[walk.chosen].checkpoint
    assert_same(dict(module.state_dict()), saved(walk.knots[walk.chosen]))
    # The score of what is loaded is the score that was chosen.
    (metrics,) = made.validate(module, validation(), verbose=False)
    assert metrics["val/loss"] == pytest.approx(min(scores))
    content = json.loads((File(path.dirpath) / PATH_FILE).read_text())
    assert content["score"] == "validation loss"
    assert content["chosen"] == walk.chosen
    assert content["knots"][2]["strength"] == pytest.approx(0.1)


def test_the_state_of_penalties_is_that_of_the_chosen_weights(path):
    # Nothing is tied at the chosen knot, and everything at the last one.
    path = replace(path, low=0.001, high=30.0, choose="best")
    walking = Regularize("exact_tie", Ties("a.0.*", "b.0.*"), path, keep_tied=True)
    beside = Regularize("unit_tie", Ties("a.2.*", "b.2.*"), 0.01, every="epoch", keep_tied=True)
    module = Validated()
    fit(module, walking, beside)
    walk = walking.path
    assert set(walk.knots[walk.chosen].tied.values()) == {0.0}
    assert set(walk.knots[-1].tied.values()) == {1.0}
    states = torch.load(walk.best_path, weights_only=True)["callbacks"]
    for penalty in (walking, beside):
        expected = states[penalty.state_key]["frozen"]
        assert_same(penalty.state_dict()["frozen"], expected)
    last = torch.load(walk.knots[-1].checkpoint, weights_only=True)["callbacks"]
    assert last[walking.state_key]["frozen"]


def test_checkpoints_have_any_hyperparameters(path):
    class Configured(Validated):
        def __init__(self, make):
            super().__init__()
            self.save_hyperparameters()

    walking, module = Regularize("soft_tie", TIES, path), Configured(partial(torch.nn.Linear, 3))
    fit(module, walking)
    with pytest.raises(UnpicklingError):
        torch.load(walking.path.best_path, weights_only=True)
    content = torch.load(walking.path.best_path, weights_only=False)
    assert_same(dict(module.state_dict()), content["state_dict"])


def test_score_and_standard_error_are_those_of_the_formula(path):
    walking, data = Regularize("soft_tie", TIES, path), loader(12, 3)
    # The last batch is smaller.
    data = DataLoader(TensorDataset(*(t[:34] for t in data.dataset.tensors)), 3)
    fit(Validated(), walking, data=data)
    for knot in walking.path.knots:
        module = Validated()
        module.load_state_dict(saved(knot))
        losses = losses_by_hand(module, data)
        sizes = [3] * 11 + [1]
        mean = sum(n * loss for n, loss in zip(sizes, losses, strict=True)) / 34
        squares = sum((n / 34 * (loss - mean)) ** 2 for n, loss in zip(sizes, losses, strict=True))
        assert knot.score == pytest.approx(mean)
        assert knot.error == pytest.approx((12 / 11 * squares) ** 0.5)


def test_few_batches_are_split(path):
    walking = Regularize("soft_tie", TIES, path)
    fit(Validated(), walking, data=loader(1, 30))
    module, (batch,) = Validated(), loader(1, 30)
    module.load_state_dict(saved(walking.path.knots[0]))
    losses = torch.tensor(losses_by_hand(module, zip(*(t.split(3) for t in batch), strict=True)))
    assert walking.path.knots[0].score == pytest.approx(float(losses.mean()))
    assert walking.path.knots[0].error == pytest.approx(float(losses.std()) / 10**0.5)


@pytest.mark.parametrize("monitor", ["val/loss", "val/error"])
def test_what_is_logged_of_each_batch_is_a_score(path, monitor):
    of_loss, monitored = (
        Regularize("soft_tie", TIES, p) for p in (path, replace(path, monitor=monitor))
    )
    fit(Validated(), of_loss)
    fit(Validated(), monitored)
    for expected, knot in zip(of_loss.path.knots, monitored.path.knots, strict=True):
        assert (knot.score, knot.error) == pytest.approx((expected.score, expected.error), rel=1e-6)


def test_what_is_logged_at_the_end_has_no_standard_error(path):
    of_loss = Regularize("soft_tie", TIES, replace(path, choose="best"))
    at_end = Regularize("soft_tie", TIES, replace(path, monitor="val/end"))
    fit(Validated(), of_loss)
    with pytest.warns(UserWarning, match="scores have no standard error, so the best"):
        fit(Validated(), at_end)
    expected = [knot.score for knot in of_loss.path.knots]
    assert [knot.score for knot in at_end.path.knots] == pytest.approx(expected)
    assert [knot.error for knot in at_end.path.knots] == [None] * 4
    assert at_end.path.chosen == of_loss.path.chosen


def test_when_members_become_equal(path):
    walking = Regularize("exact_tie", Ties("a.0.*", "b.0.*"), replace(path, low=0.1, high=30.0))
    fit(Validated(), walking)
    first, *_, last = walking.path.knots
    assert set(first.clusters.values()) == {2}
    assert set(last.clusters.values()) == {1}
    assert set(last.tied.values()) == {1.0}
    assert first.distance > 0.0
    assert last.distance == 0.0


def test_penalties_walk_together_and_beside_a_constant(path):
    # Each is measured after the proximal steps of all, which an epoch's end takes.
    both = [
        Regularize("soft_tie", Ties("a.0.*", "b.0.*"), path),
        Regularize("exact_tie", Ties("a.2.*", "b.2.*"), path, every="epoch"),
    ]
    constant = Regularize("lasso", Ties("*.weight"), 0.01, every="epoch")
    module = Validated()
    fit(module, *both, constant)
    assert both[0].path is both[1].path
    assert constant.path is None
    assert len(both[0].path.knots[0].clusters) == 4
    by_hand = Validated()
    schedule = {"schedule": lambda _, epoch: path.at(epoch)}
    fit(
        by_hand,
        Regularize("soft_tie", Ties("a.0.*", "b.0.*"), 1.0, **schedule),
        Regularize("exact_tie", Ties("a.2.*", "b.2.*"), 1.0, every="epoch", **schedule),
        Regularize("lasso", Ties("*.weight"), 0.01, every="epoch"),
    )
    last = saved(both[0].path.knots[-1])
    assert_same({name: last[name] for name in weights(by_hand)}, weights(by_hand))


def test_a_schedule_multiplies(path):
    walking = Regularize("soft_tie", TIES, path, schedule=Ramp(4, unit="epochs"))
    assert [walking.strength_at(0, epoch) for epoch in range(5)] == pytest.approx(
        [0.0, 0.0, 0.01 * 2 / 4, 0.1 * 3 / 4, 1.0]
    )


@pytest.mark.slow
@pytest.mark.parametrize("monitor", [None, "val/end"])
@pytest.mark.parametrize("penalty", ["soft_tie", "exact_tie"])
@pytest.mark.filterwarnings("ignore:the Path's scores have no standard error")
@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_resumed_paths_are_the_same_bit_by_bit(path, penalty, monitor, tmp_path):
    path, folder = replace(path, monitor=monitor), tmp_path / "all"
    often = ModelCheckpoint(folder, filename="{step}", save_top_k=-1, every_n_train_steps=5)
    ends = ModelCheckpoint(folder, filename="end-{step}", save_top_k=-1)
    whole, module = Regularize(penalty, TIES, path), Validated()
    fit(module, whole, often, ends, enable_checkpointing=True)
    files = sorted(folder.iterdir())
    assert len(files) == 15
    for file in [*files, *(File(knot.checkpoint) for knot in whole.path.knots)]:
        resumed, again = Regularize(penalty, TIES, path), Validated()
        fit(again, resumed, ckpt_path=file)
        assert resumed.path.knots == whole.path.knots, file
        assert resumed.path.chosen == whole.path.chosen
        assert_same(weights(again), weights(module))


def test_paths_resume_from_knots_of_resumed_paths(path):
    whole, module = Regularize("soft_tie", TIES, path), Validated()
    fit(module, whole)
    for knot in whole.path.knots:
        # Each training writes the later knots anew.
        resumed, again = Regularize("soft_tie", TIES, path), Validated()
        fit(again, resumed, ckpt_path=knot.checkpoint)
        assert resumed.path.knots == whole.path.knots
        assert_same(weights(again), weights(module))


def test_a_path_resumes_from_the_last_batch_of_a_knot(path, tmp_path):
    last = ModelCheckpoint(
        tmp_path / "all", filename="{step}", save_top_k=-1, every_n_train_steps=10
    )
    whole, module = Regularize("soft_tie", TIES, path), Validated()
    fit(module, whole, last, enable_checkpointing=True)
    # As if the process had ended before the knot was saved.
    File(whole.path.knots[1].checkpoint).unlink()
    resumed, again = Regularize("soft_tie", TIES, path), Validated()
    with pytest.warns(UserWarning, match="Be aware that when using `ckpt_path`"):
        fit(again, resumed, ckpt_path=tmp_path / "all" / "step=30.ckpt")
    assert resumed.path.knots == whole.path.knots
    assert_same(saved(resumed.path.knots[1]), saved(whole.path.knots[1]))
    assert_same(weights(again), weights(module))


@pytest.mark.parametrize("step", [30, 50])
@pytest.mark.filterwarnings("ignore:the Path's scores have no standard error")
@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_a_knot_whose_checkpoint_precedes_its_validation_is_validated(path, step, tmp_path):
    path = replace(path, monitor="val/end")
    last = ModelCheckpoint(
        tmp_path / "all", filename="{step}", save_top_k=-1, every_n_train_steps=10
    )
    whole, module = Regularize("soft_tie", TIES, path), Validated()
    fit(module, whole, last, enable_checkpointing=True)
    resumed, again = Regularize("soft_tie", TIES, path), Validated()
    fit(again, resumed, ckpt_path=tmp_path / "all" / f"step={step}.ckpt")
    assert resumed.path.knots == whole.path.knots
    assert_same(weights(again), weights(module))


def test_tests_of_a_knot_leave_the_path_as_it_is(path):
    walking, module = Regularize("soft_tie", TIES, path), Validated()
    made = fit(module, walking)
    before = list(walking.path.knots)
    made.validate(module, validation(), ckpt_path=before[0].checkpoint, verbose=False)
    assert walking.path.knots == before


def test_a_second_training_walks_anew(path):
    walking = Regularize("soft_tie", TIES, path)
    fit(Validated(), walking)
    before = walking.path
    fit(Validated(), walking)
    assert walking.path is not before
    assert walking.path.knots == before.knots


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 7}, r"needs 5 epochs, 2 without a penalty and 1 for each of 3 .* max_epochs=7"),
        ({"max_steps": 49}, r"needs 5 epochs of 10 steps, but the Trainer has max_steps=49"),
        ({"limit_val_batches": 0}, r"does not validate, .* write Path\(loader=...\)"),
    ],
    ids=str,
)
def test_trainers_that_do_not_fit(path, options, message):
    module = Validated()
    with pytest.raises(ValueError, match=message):
        fit(module, Regularize("soft_tie", TIES, path), **options)
    assert module.steps_taken == 0


def test_modules_without_validation(path):
    with pytest.raises(ValueError, match="Two has no validation_step"):
        trainer(Regularize("soft_tie", TIES, path), epochs=5).fit(Two(seeds=(0, 0)), loader())


def test_enough_steps(path):
    walking = Regularize("soft_tie", TIES, path)
    fit(Validated(), walking, max_steps=50)
    assert len(walking.path.knots) == 4


@pytest.mark.parametrize(
    ("callback", "message"),
    [
        (lambda: WeightAveraging(), "WeightAveraging averages weights of several strengths"),
        (lambda: Share(TIES, epoch=1), "shares parameters in training, into which"),
        (lambda: Regularize("l2", ["a.*"], Path(1.0, 2.0)), "one training walks one path"),
    ],
)
def test_callbacks_that_do_not_fit(path, callback, message):
    with pytest.raises(ValueError, match=message):
        fit(Validated(), Regularize("soft_tie", TIES, path), callback())


def test_an_unknown_metric(path):
    walking = Regularize("soft_tie", TIES, replace(path, monitor="val/los"))
    with pytest.raises(ValueError, match=r"Path\(monitor='val/los'\): .* one of 'val/loss', "):
        fit(Validated(), walking)


@pytest.mark.parametrize("place", ["knots", "."])
def test_a_path_whose_folder_was_moved(path, tmp_path, place):
    """It resumes from a knot, or from a checkpoint in the folder above."""
    path = replace(path, dirpath=str(tmp_path / "before" / "knots"))
    whole = Regularize("soft_tie", TIES, path)
    fit(Validated(), whole)
    (tmp_path / "before").rename(tmp_path / "after")
    file = tmp_path / "after" / place / "knot_1.ckpt"
    if place == ".":
        file.hardlink_to(tmp_path / "after" / "knots" / "knot_1.ckpt")
    path = replace(path, dirpath=str(tmp_path / "after" / "knots"))
    resumed = Regularize("soft_tie", TIES, path)
    fit(Validated(), resumed, ckpt_path=str(file))
    assert resumed.path.chosen == whole.path.chosen
    assert [knot.score for knot in resumed.path.knots] == [k.score for k in whole.path.knots]
    folders = {File(knot.checkpoint).parent for knot in resumed.path.knots}
    assert folders == {tmp_path / "after" / "knots"}


def test_a_checkpoint_of_a_resumed_path_that_is_gone(path, tmp_path):
    walking = Regularize("soft_tie", TIES, path)
    fit(Validated(), walking)
    first, second, *_ = (File(knot.checkpoint) for knot in walking.path.knots)
    first.unlink()
    with pytest.raises(ValueError, match=r"knot_0.ckpt, which is not there any more"):
        fit(Validated(), Regularize("soft_tie", TIES, path), ckpt_path=second)


def test_training_that_ends_early(path):
    walking = Regularize("soft_tie", TIES, path)
    stop = EarlyStopping("val/end", mode="max", patience=1)
    with (
        pytest.warns(UserWarning, match="EarlyStopping may end the Path before its largest"),
        pytest.warns(UserWarning, match="training ended after 1 of the 4 knots"),
    ):
        fit(Validated(), walking, stop)
    assert walking.path.chosen == 0


class Recorded(Validated):
    """Notes whether the weights that it validates are finite."""

    def __init__(self):
        super().__init__()
        self.finite = []

    def on_validation_epoch_start(self):
        self.finite.append(all(p.isfinite().all() for p in self.parameters()))


def test_a_strength_at_which_training_diverges(path, tmp_path):
    path = replace(path, low=1.0, high=1e200)
    # The penalty before the path finds it out first.
    other = Regularize("l2", ["a.0.*"], 0.01)
    module, walking = Recorded(), Regularize("soft_tie", TIES, path)
    last = ModelCheckpoint(tmp_path / "last", filename="last")
    message = "after 2 of the 4 knots of the Path because it diverged at strength 1e\\+100"
    with pytest.warns(UserWarning, match=message):
        made = fit(module, other, walking, last, enable_checkpointing=True)
    assert made.current_epoch == 4
    assert module.finite == [True] * 4
    walk = walking.path
    assert json.loads((File(path.dirpath) / PATH_FILE).read_text())["chosen"] == walk.chosen
    assert_same(dict(module.state_dict()), saved(walk.knots[walk.chosen]))
    # What resumes from the choice has ended, too.
    resumed, again = Regularize("soft_tie", TIES, path), Validated()
    other = Regularize("l2", ["a.0.*"], 0.01)
    with pytest.warns(UserWarning, match="Be aware that when using `ckpt_path`"):
        fit(again, other, resumed, ckpt_path=last.best_model_path)
    assert again.steps_taken == 0
    assert resumed.path.chosen == walk.chosen
    assert_same(weights(again), weights(module))


def test_training_that_diverges_without_a_penalty(path):
    walking = Regularize("soft_tie", TIES, path)
    module = Validated(optimizer=lambda own: sgd(own, lr=1e300))
    with pytest.raises(ValueError, match="so training has diverged"):
        fit(module, walking)
    assert walking.path.knots == []


@pytest.mark.parametrize(
    ("scheduler", "warns"),
    [
        (lambda optimizer: StepLR(optimizer, 2), True),
        (lambda optimizer: CosineAnnealingWarmRestarts(optimizer, 1), False),
        (lambda optimizer: CosineAnnealingWarmRestarts(optimizer, 2), True),
    ],
)
def test_learning_rates_that_decay(path, scheduler, warns, recwarn):
    def optimizers(module):
        optimizer = sgd(module)
        return [optimizer], [scheduler(optimizer)]

    path = replace(path, first=1)
    fit(Validated(optimizer=optimizers), Regularize("soft_tie", TIES, path), epochs=4)
    found = [str(w.message) for w in recwarn if "may change learning rates" in str(w.message)]
    assert len(found) == warns


def test_epochs_whose_last_batches_are_skipped(path):
    class Skips(Validated):
        def on_train_batch_start(self, batch, batch_idx):
            return -1 if batch_idx == 7 else None

    walking, module = Regularize("exact_tie", TIES, path, every="epoch"), Skips()
    fit(module, walking)
    assert [knot.step for knot in walking.path.knots] == [14, 21, 28, 35]
    by_hand = Skips()
    same = Regularize(
        "exact_tie", TIES, 1.0, schedule=lambda _, epoch: path.at(epoch), every="epoch"
    )
    fit(by_hand, same)
    last = saved(walking.path.knots[-1])
    assert_same({name: last[name] for name in weights(by_hand)}, weights(by_hand))


def test_a_metric_of_training_is_no_score(path):
    class LogsTraining(Validated):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            self.log("train/loss", loss)
            return loss

    walking = Regularize("soft_tie", TIES, replace(path, monitor="train/loss"))
    with pytest.raises(ValueError, match=r"logged in validation: write one of .*'val/end'") as info:
        fit(LogsTraining(), walking)
    assert "'train/loss'" not in str(info.value).split("one of")[1]


def test_an_earlier_path_is_kept(path, tmp_path):
    path = replace(path, dirpath=None)
    first, second = (Regularize("soft_tie", TIES, path) for _ in range(2))
    for walking in (first, second):
        fit(Validated(), walking, default_root_dir=tmp_path)
    folders = [File(walking.path.best_path).parent.name for walking in (first, second)]
    assert folders == ["path", "path-v1"]
    # A resumed path goes on where its knots are.
    resumed = Regularize("soft_tie", TIES, path)
    knot = second.path.knots[0].checkpoint
    fit(Validated(), resumed, default_root_dir=tmp_path, ckpt_path=knot)
    assert File(resumed.path.best_path).parent.name == "path-v1"


def test_a_knot_that_was_not_validated_has_no_score(path):
    walking = Regularize("soft_tie", TIES, replace(path, epochs=2, steps=1, monitor="val/end"))
    message = r"1 of the 2 knots of the Path: the choice"
    # Epochs 0 to 2 are not validated, and the knot of epoch 1 is not that of epoch 3.
    with (
        pytest.warns(UserWarning, match=message),
        pytest.warns(UserWarning, match="scores have no standard error"),
    ):
        fit(Validated(), walking, epochs=4, check_val_every_n_epoch=4)
    assert [knot.epoch for knot in walking.path.knots] == [3]
    late = Regularize("soft_tie", TIES, replace(path, epochs=2, steps=1, monitor="val/end"))
    message = (
        r"before the first of the 2 knots .* \(the last one has no 'val/end'.* nothing is chosen"
    )
    with pytest.warns(UserWarning, match=message):
        fit(Validated(), late, epochs=4, check_val_every_n_epoch=3)
    assert late.path.chosen is None


def test_trials_walk_no_path(path):
    walking = Regularize("soft_tie", TIES, path)
    fit(Validated(), walking, fast_dev_run=True)
    assert walking.path.knots == []
    assert not File(path.dirpath).exists()


def test_the_folder_is_beside_checkpoints(path, tmp_path):
    walking = Regularize("soft_tie", TIES, replace(path, dirpath=None))
    fit(Validated(), walking, ModelCheckpoint(tmp_path / "x"), enable_checkpointing=True)
    assert walking.path.best_path.startswith(str(tmp_path / "x" / "path" / "knot_"))


def test_validation_that_is_not_of_every_epoch(path):
    walking = Regularize("soft_tie", TIES, path)
    fit(Validated(), walking, check_val_every_n_epoch=5)
    assert len(walking.path.knots) == 4


@pytest.mark.slow
def test_two_processes_walk_one_path(tmp_path_factory):
    from . import _path_two_processes

    names = _path_two_processes.table()
    module = "tests.callbacks._path_two_processes"
    errors = errors_of(module, names, tmp_path_factory.getbasetemp())
    assert errors == dict.fromkeys(names)
