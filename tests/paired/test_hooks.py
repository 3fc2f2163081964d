import copy
from collections import Counter

import pytest
import torch
from lightning import LightningDataModule, LightningModule
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.core.hooks import CheckpointHooks, DataHooks, ModelHooks
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import CombinedLoader
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch.utils.data import DataLoader
from torchmetrics import MeanAbsoluteError, MeanSquaredError, MetricCollection

from lit_share.paired import Paired
from lit_share.paired._hooks import ARGUMENTS, REFUSED, SPECIAL, STEPS

OWN = {"configure_optimizers", "lr_scheduler_step", "on_save_checkpoint", "on_load_checkpoint"}

# Lightning inspects the signatures of the steps, and a loader hook that is overridden is called.
RECORDED = {hook for hook in (*ARGUMENTS, *SPECIAL) if not hook.endswith("_dataloader")}
RECORDED -= set(STEPS.values())


def recording(kit):
    """Return a module class that records hooks' arguments, as far as runs can be compared."""

    def record(hook):
        def method(self, *args, **kwargs):
            seen = [value for value in (*args, *kwargs.values()) if not isinstance(value, dict)]
            # Lightning derives a class from that of the optimizer which it passes to some hooks.
            optimizers = [
                value.__class__.__name__.removeprefix("Lightning")
                for value in seen
                if isinstance(value, torch.optim.Optimizer)
            ]
            plain = [value for value in seen if isinstance(value, (int, str, list, torch.Tensor))]
            vars(self).setdefault("calls", []).append((hook, plain, optimizers))
            return getattr(kit.Lit, hook)(self, *args, **kwargs)

        return method

    return type("Recording", (kit.Lit,), {hook: record(hook) for hook in RECORDED})


def test_every_hook_is_delegated_handled_or_refused():
    public = {
        hook
        for hooks in (ModelHooks, DataHooks, CheckpointHooks)
        for hook in vars(hooks)
        if hook[0] != "_"
    }
    public |= set(STEPS.values()) | {
        *[
            "configure_optimizers",
            "configure_callbacks",
            "configure_gradient_clipping",
            "backward",
            "lr_scheduler_step",
        ],
        *["optimizer_step", "optimizer_zero_grad"],
    }
    handled = [*ARGUMENTS, *REFUSED, *SPECIAL, *OWN]
    assert public == set(handled)
    assert len(handled) == len(set(handled))


def test_children_get_the_hooks_that_they_get_alone(kit):
    Recording = recording(kit)
    children = {"a": Recording(optimizer="adam", seed=1), "b": Recording(optimizer="sgd", seed=2)}
    loaders = {"a": kit.loader(1), "b": kit.loader(2)}
    val_loaders = {"a": kit.loader(3, 9), "b": kit.loader(4, 5)}
    pair = Paired(**copy.deepcopy(children))

    def run(module, train, val):
        trainer = kit.fit(module, train, val, gradient_clip_val=1.0, accumulate_grad_batches=2)
        trainer.test(module, val, verbose=False)
        trainer.predict(module, val)

    run(pair, loaders, val_loaders)
    for name, child in children.items():
        run(child, loaders[name], val_loaders[name])
        calls = getattr(pair, name).calls
        assert {hook for hook, *_ in child.calls} == RECORDED
        assert Counter(hook for hook, *_ in calls) == Counter(hook for hook, *_ in child.calls)
        by_hook = lambda calls: sorted(calls, key=lambda call: call[0])  # noqa: E731
        kit.assert_same(by_hook(calls), by_hook(child.calls))


def test_pair_overrides_what_its_children_override(kit):
    class Hooked(kit.Lit):
        def on_train_epoch_end(self): ...

    pair = Paired(a=kit.Lit(), b=Hooked())
    assert is_overridden("on_train_epoch_end", pair)
    assert not is_overridden("on_train_epoch_start", pair)
    assert not is_overridden("val_dataloader", pair)
    with pytest.warns(UserWarning, match="Skipping val loop"):
        kit.fit(pair, {"a": kit.loader(1), "b": kit.loader(2)}, max_epochs=1)


def test_subclass_of_the_pair_may_add_to_a_hook(kit):
    class Hooked(kit.Lit):
        def on_train_start(self):
            self.started = True

    class Pair(Paired):
        def on_train_start(self):
            super().on_train_start()
            self.own_start = True

    pair = Pair(a=Hooked())
    kit.fit(pair, {"a": kit.loader(1)}, max_epochs=1)
    assert pair.own_start
    assert pair.a.started


@pytest.mark.parametrize("hook", REFUSED)
def test_hooks_without_a_meaning_for_one_child_are_refused(kit, hook):
    child = type("Overriding", (kit.Lit,), {hook: lambda self, *args, **kwargs: None})()
    with pytest.raises(ValueError, match=f"child 'b' overrides {hook}, but ") as error:
        Paired(a=kit.Lit(), b=child)
    # The message is the code that makes it work.
    *code, last = [line[4:] for line in str(error.value).splitlines() if line.startswith("    ")]
    assert last == "pair = Paired(b=InPair(...), ...)"
    scope = {"Overriding": type(child), "LightningModule": LightningModule}
    exec("\n".join(code), scope)
    assert Paired(a=kit.Lit(), b=scope["InPair"]()).child_names == ("a", "b")


def test_dataloader_iter_is_refused(kit):
    class Iterating(kit.Lit):
        def training_step(self, dataloader_iter): ...

    with pytest.raises(ValueError, match="training_step of child 'a' takes dataloader_iter"):
        Paired(a=Iterating())


def test_skipping_the_rest_of_the_epoch_is_refused(kit):
    class Skipping(kit.Lit):
        def on_train_batch_start(self, batch, batch_idx):
            return -1

    with pytest.raises(ValueError, match="child 'b' skips the rest of the epoch"):
        kit.fit(Paired(a=kit.Lit(), b=Skipping()), {"a": kit.loader(1), "b": kit.loader(2)})


def test_steps_may_leave_out_the_batch_index(kit):
    class Short(kit.Lit):
        def training_step(self, batch):
            return super().training_step(batch, 0)

        def validation_step(self, batch):
            return super().validation_step(batch, 0)

    trainer = kit.fit(
        Paired(a=kit.Lit(), b=Short()),
        {"a": kit.loader(1), "b": kit.loader(2)},
        {"a": kit.loader(1), "b": kit.loader(2)},
    )
    assert "b/val/loss" in trainer.callback_metrics


def test_children_find_what_they_find_alone(kit, tmp_path):
    class Curious(kit.Lit):
        def on_train_epoch_end(self):
            optimizer = self.optimizers().param_groups[0]["lr"]
            self.found = (
                optimizer,
                self.lr_schedulers().get_last_lr(),
                self.current_epoch,
                self.global_step,
            )
            self.found += self.trainer.max_epochs, self.device, self.hparams.seed
            self.logger.log_metrics({"direct": 1.0})

    children = {"a": Curious(lr=0.1, seed=1), "b": Curious(lr=0.2, seed=2)}
    loaders = {"a": kit.loader(1), "b": kit.loader(2)}
    pair = Paired(**copy.deepcopy(children))
    kit.fit(pair, loaders, logger=CSVLogger(tmp_path / "pair"))
    for name, child in children.items():
        kit.fit(child, loaders[name], logger=CSVLogger(tmp_path / name))
        assert getattr(pair, name).found == child.found


def test_attribute_of_a_child_that_is_named_like_a_method_stays(kit):
    class Named(kit.Lit):
        def __init__(self):
            super().__init__()
            self.optimizers = ["mine"]

        def on_train_epoch_end(self):
            assert self.optimizers == ["mine"]

    pair = Paired(a=Named())
    kit.fit(pair, {"a": kit.loader(1)}, max_epochs=1)
    assert pair.a.optimizers == ["mine"]


def test_child_may_copy_itself_in_a_hook(kit):
    class Copying(kit.Lit):
        def on_train_start(self):
            self.ema = [copy.deepcopy(self)]

    pair = Paired(a=Copying(), b=kit.Lit())
    kit.fit(pair, {"a": kit.loader(1), "b": kit.loader(2)}, max_epochs=1)
    assert pair.a.ema[0]._trainer is None


def test_own_scheduler_step(kit):
    class Stepping(kit.Lit):
        def lr_scheduler_step(self, scheduler, metric):
            self.stepped = getattr(self, "stepped", 0) + 1
            scheduler.step()

    pair = Paired(a=kit.Lit(), b=Stepping())
    trainer = kit.fit(pair, {"a": kit.loader(1), "b": kit.loader(2)}, max_epochs=3)
    assert pair.b.stepped == 3
    assert [group["lr"] for group in trainer.optimizers[0].param_groups] == [0.05 / 8] * 2


def test_own_clipping(kit):
    class Clipping(kit.Lit):
        def configure_gradient_clipping(
            self, optimizer, gradient_clip_val, gradient_clip_algorithm
        ):
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.grad.zero_()

    pair, alone = Paired(a=kit.Lit(seed=1), b=Clipping(optimizer="sgd", seed=2)), kit.Lit(seed=1)
    before = copy.deepcopy(dict(pair.b.named_parameters()))
    kit.fit(pair, {"a": kit.loader(1), "b": kit.loader(2)}, gradient_clip_val=0.1)
    kit.fit(alone, kit.loader(1), gradient_clip_val=0.1)
    kit.assert_same(dict(pair.b.named_parameters()), before)
    kit.assert_same(pair.a.state_dict(), alone.state_dict())


# Loaders


class Seeing(LightningModule):
    """Remembers the first input of each sample that it is shown."""

    def __init__(self):
        super().__init__()
        self.seen = []
        self.layer = torch.nn.Linear(4, 1)

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        self.seen += [(batch_idx, dataloader_idx, value) for value in batch[0][:, 0].tolist()]
        self.log("size", len(batch[0]), on_epoch=True, reduce_fx="sum")
        self.log("mean", batch[0].mean())
        return batch[0].sum()

    def on_validation_batch_end(self, outputs, batch, batch_idx, dataloader_idx=0):
        assert torch.equal(outputs, batch[0].sum())

    def predict_step(self, batch, batch_idx):
        return batch[0][:, 0]


@pytest.mark.filterwarnings("ignore:You called `self.log:UserWarning")
@pytest.mark.parametrize("combine", [dict, lambda loaders: CombinedLoader(loaders, "max_size")])
def test_validation_sees_each_sample_once(kit, combine):
    loaders = {"a": kit.loader(1, 11), "b": kit.loader(2, 5), "c": kit.loader(3, 1)}
    pair = Paired(a=Seeing(), b=Seeing(), c=Seeing())
    metrics = {}
    trainer = kit.trainer()
    results = trainer.validate(pair, combine(loaders), verbose=False)
    for name, loader in loaders.items():
        alone = Seeing()
        (result,) = kit.trainer().validate(alone, loader, verbose=False)
        assert getattr(pair, name).seen == alone.seen
        metrics |= {f"{name}/{key}": value for key, value in result.items()}
    assert {key: value for result in results for key, value in result.items()} == metrics


@pytest.mark.filterwarnings("ignore:You called `self.log:UserWarning")
def test_child_with_several_loaders_of_its_own(kit):
    loaders = {"a": [kit.loader(1, 11), kit.loader(2, 3)], "b": kit.loader(3, 5)}
    pair, alone = Paired(a=Seeing(), b=Seeing()), Seeing()
    results = kit.trainer().validate(pair, loaders, verbose=False)
    expected = kit.trainer().validate(alone, loaders["a"], verbose=False)
    assert pair.a.seen == alone.seen
    assert {index for _, index, _ in pair.b.seen} == {0}
    for result, own in zip(results, expected, strict=False):
        assert result == {f"a/{key}": value for key, value in own.items()}
    assert set(results[2]) == {"b/size", "b/mean"}


def test_limits_hold_for_each_loader(kit):
    pair = Paired(a=Seeing(), b=Seeing())
    loaders = {"a": kit.loader(1, 11), "b": kit.loader(2, 16)}
    kit.trainer(limit_val_batches=2).validate(pair, loaders, verbose=False)
    assert len(pair.a.seen) == len(pair.b.seen) == 8


def test_predictions_are_listed_by_loader(kit):
    loaders = {"a": kit.loader(1, 6), "b": kit.loader(2, 3)}
    predictions = kit.trainer().predict(Paired(a=Seeing(), b=Seeing()), loaders)
    assert [len(torch.cat(own)) for own in predictions] == [6, 3]
    assert torch.equal(torch.cat(predictions[1]), loaders["b"].dataset.tensors[0][:, 0])


def test_datamodule_and_one_loader_of_joint_batches(kit):
    class Data(LightningDataModule):
        def train_dataloader(self):
            batches = [{"a": batch, "b": batch} for batch in kit.loader(1)]
            return DataLoader(batches, batch_size=None)

        def val_dataloader(self):
            return {"a": kit.loader(3, 5), "b": kit.loader(4, 7)}

    pair, alone = Paired(a=kit.Lit(seed=1), b=kit.Lit(seed=2)), kit.Lit(seed=2)
    trainer = kit.trainer()
    trainer.fit(pair, datamodule=Data())
    solo = kit.fit(alone, kit.loader(1), kit.loader(4, 7))
    kit.assert_same(pair.b.state_dict(), alone.state_dict())
    assert torch.equal(trainer.callback_metrics["b/val/mae"], solo.callback_metrics["val/mae"])


def test_children_with_loaders_of_their_own(kit):
    class WithData(kit.Lit):
        def train_dataloader(self):
            return kit.loader(self.hparams.seed, 12)

        def val_dataloader(self):
            return kit.loader(self.hparams.seed, 5)

    children = {"a": WithData(seed=1), "b": WithData(seed=2)}
    pair = Paired(**copy.deepcopy(children))
    trainer = kit.fit(pair, None)
    for name, child in children.items():
        alone = kit.fit(child, None)
        kit.assert_same(getattr(pair, name).state_dict(), child.state_dict())
        assert torch.equal(
            trainer.callback_metrics[f"{name}/val/mae"], alone.callback_metrics["val/mae"]
        )


@pytest.mark.parametrize(
    ("loaders", "found"),
    [
        (lambda loader: loader, "a batch is a list"),
        (lambda loader: [loader, loader], "a batch is a list"),
        (lambda loader: {"a": loader}, r"the names are \['a'\]"),
        (lambda loader: {"a": loader, "c": loader}, r"the names are \['a', 'c'\]"),
        (
            lambda loader: {"a": loader, "b": CombinedLoader([loader, loader])},
            "one of them is a CombinedLoader",
        ),
    ],
)
def test_loaders_that_do_not_fit_are_refused(kit, loaders, found):
    pair = Paired(a=kit.Lit(), b=kit.Lit())
    with pytest.raises(
        ValueError, match=rf"training_step needs loaders .* {{'a': ..., 'b': ...}}, but {found}"
    ):
        kit.fit(pair, loaders(kit.loader(1)))
    with pytest.raises(
        ValueError, match=rf"validation_step needs loaders .* {{'a': ..., 'b': ...}}, but {found}"
    ):
        kit.trainer().validate(pair, loaders(kit.loader(1)), verbose=False)


def test_loaders_are_for_the_children_that_have_the_step(kit):
    class Untested(kit.Lit):
        test_step = LightningModule.test_step

    pair = Paired(a=kit.Lit(), b=Untested())
    assert kit.trainer().test(pair, {"a": kit.loader(1)}, verbose=False)
    with pytest.raises(
        ValueError, match=r"test_step needs loaders .* {'a': ...}, but the names are \['a', 'b'\]"
    ):
        kit.trainer().test(pair, {"a": kit.loader(1), "b": kit.loader(1)}, verbose=False)


def test_batch_transfer_of_a_child(kit):
    class Negating(kit.Lit):
        def on_after_batch_transfer(self, batch, dataloader_idx):
            return [batch[0], -batch[1]]

    loaders = {"a": kit.loader(1), "b": kit.loader(2)}
    children = {"a": kit.Lit(seed=1), "b": Negating(seed=2)}
    pair = Paired(**copy.deepcopy(children))
    trainer = kit.fit(pair, CombinedLoader(loaders, "max_size"), loaders)
    for name, child in children.items():
        alone = kit.fit(child, loaders[name], loaders[name])
        kit.assert_same(getattr(pair, name).state_dict(), child.state_dict())
        assert torch.equal(
            trainer.callback_metrics[f"{name}/val/loss"], alone.callback_metrics["val/loss"]
        )


# Logging


class Logging(LightningModule):
    """Logs in every way there is."""

    def __init__(self, offset):
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)
        torch.nn.init.constant_(self.layer.weight, offset)
        torch.nn.init.zeros_(self.layer.bias)
        self.metrics = MetricCollection(
            {"mae": MeanAbsoluteError(), "mse": MeanSquaredError()}, prefix="m/"
        )
        self.late = MeanAbsoluteError()

    def training_step(self, batch, batch_idx):
        loss = (self.layer(batch[0]) - batch[1]).square().mean()
        self.log("loss", loss, True, on_step=True, on_epoch=True)
        self.log("own size", loss, on_step=False, on_epoch=True, batch_size=batch_idx + 1)
        self.log("largest", loss, on_step=False, on_epoch=True, reduce_fx="max", sync_dist=True)
        self.log(name="named", value=loss, metric_attribute="layer")
        return loss

    def on_before_optimizer_step(self, optimizer):
        self.log("norm", self.layer.weight.grad.norm(), on_step=False, on_epoch=True)

    def on_train_epoch_end(self):
        self.log("epoch", float(self.current_epoch))

    def validation_step(self, batch, batch_idx):
        outputs = self.layer(batch[0])
        self.log_dict(self.metrics, on_epoch=True)
        self.metrics.update(outputs, batch[1])
        self.late.update(outputs, batch[1])
        self.log("both", outputs.mean(), on_step=True, on_epoch=True)

    def on_validation_epoch_end(self):
        self.log("late", self.late.compute())
        self.late.reset()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


def test_metrics_are_those_of_solo_runs(kit, tmp_path):
    children = {"a": Logging(0.5), "b": Logging(-0.5)}
    loaders = {"a": kit.loader(1, 22), "b": kit.loader(2, 21, batch_size=4)}
    val_loaders = {"a": kit.loader(3, 10), "b": kit.loader(4, 7)}
    pair = Paired(**copy.deepcopy(children))
    logger = CSVLogger(tmp_path / "pair")
    trainer = kit.fit(pair, loaders, val_loaders, logger=logger)
    metrics, rows = {}, set()
    for name, child in children.items():
        own = CSVLogger(tmp_path / name)
        alone = kit.fit(child, loaders[name], val_loaders[name], logger=own)
        metrics |= {f"{name}/{key}": value for key, value in alone.callback_metrics.items()}
        rows |= {
            (step, f"{name}/{key}", value)
            for step, key, value in kit.logged(own)
            if key not in ("step", "epoch")
        }
    kit.assert_same(dict(sorted(trainer.callback_metrics.items())), dict(sorted(metrics.items())))
    assert rows
    together = {row for row in kit.logged(logger) if row[1] not in ("step", "epoch")}
    assert {row for row in together if not row[1].endswith("/epoch")} == rows
    assert trainer.progress_bar_metrics.keys() >= {"a/loss_step", "b/loss_epoch"}


def test_one_name_in_two_children_does_not_merge(kit):
    pair = Paired(a=kit.Lit(seed=1), b=kit.Lit(seed=2))
    metrics = kit.fit(pair, {"a": kit.loader(1), "b": kit.loader(2)}).callback_metrics
    assert metrics["a/train/loss"] != metrics["b/train/loss"]
    assert not any(key.startswith(("train", "val")) for key in metrics)


def test_callbacks_monitor_the_prefixed_names(kit, tmp_path):
    pair = Paired(a=kit.Lit(lr=0.1), b=kit.Lit(lr=0.2, scheduler=None))
    loaders = {"a": kit.loader(1), "b": kit.loader(2)}
    logger = CSVLogger(tmp_path)
    best = ModelCheckpoint(tmp_path / "best", monitor="b/val/loss")
    stop = EarlyStopping("a/val/mae", patience=0, min_delta=100.0)
    callbacks = [best, stop, LearningRateMonitor()]
    trainer = kit.fit(
        pair,
        loaders,
        loaders,
        callbacks=callbacks,
        enable_checkpointing=True,
        logger=logger,
        max_epochs=9,
    )
    assert trainer.current_epoch == 2
    assert best.best_model_score == trainer.callback_metrics["b/val/loss"]
    assert trainer.callback_metrics["a/lr-Adam"] == pytest.approx(0.05)
