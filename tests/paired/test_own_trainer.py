import copy

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.loggers import CSVLogger
from torch.optim.lr_scheduler import OneCycleLR

from lit_share.callbacks import Share
from lit_share.paired import Paired
from lit_share.paired._loaders import Owner, find_owners
from lit_share.paired._own_trainer import OwnMetrics
from lit_share.ties import Ties


def as_alone(kit, children, tmp_path, val=(9, 5)):
    """Train `children` together and alone; return the pair."""
    pair = Paired(**copy.deepcopy(children))
    loaders = {name: kit.loader(seed) for seed, name in enumerate(children)}
    val_loaders = {name: kit.loader(7, n) for n, name in zip(val, children, strict=True)}
    kit.fit(pair, loaders, val_loaders, logger=CSVLogger(tmp_path / "pair"), max_epochs=1)
    for name, child in children.items():
        own = CSVLogger(tmp_path / name)
        kit.fit(child, loaders[name], val_loaders[name], logger=own, max_epochs=1)
        kit.assert_same(getattr(pair, name).state_dict(), child.state_dict())
    return pair


def test_child_reads_from_its_trainer_what_it_reads_alone(kit, tmp_path):
    class Reading(kit.Lit):
        def on_train_epoch_end(self):
            trainer = self.trainer
            assert isinstance(trainer, Trainer)
            assert trainer.model is trainer.lightning_module is self
            assert trainer.strategy.model is trainer.strategy.lightning_module is self
            assert trainer.strategy.root_device == self.device
            metrics = {key: float(value) for key, value in trainer.callback_metrics.items()}
            self.seen = [
                metrics,
                {key: float(value) for key, value in trainer.logged_metrics.items()},
                {key: float(value) for key, value in trainer.progress_bar_metrics.items()},
                trainer.num_training_batches,
                trainer.num_val_batches,
                trainer.num_sanity_val_batches,
                trainer.estimated_stepping_batches,
                trainer.current_epoch,
                len(trainer.train_dataloader.dataset),
                len(trainer.val_dataloaders.dataset),
                [type(each).__name__ for each in trainer.optimizers],
                [each.scheduler.get_last_lr() for each in trainer.lr_scheduler_configs],
                [each.__class__.__name__ for each in trainer.loggers],
                trainer.datamodule,
            ]

    children = {"a": Reading(seed=1), "b": Reading(optimizer="sgd", seed=2)}
    pair = as_alone(kit, children, tmp_path)
    for name, child in children.items():
        assert getattr(pair, name).seen == child.seen
        assert child.seen[0]


def test_optimizer_of_all_parameters_of_the_trainers_model(kit, tmp_path):
    class Scheduled(kit.Lit):
        def configure_optimizers(self):
            optimizer = torch.optim.Adam(self.trainer.model.parameters(), lr=self.hparams.lr)
            steps = self.trainer.estimated_stepping_batches
            scheduler = OneCycleLR(optimizer, max_lr=0.1, total_steps=steps)
            return [optimizer], [{"scheduler": scheduler, "interval": "step"}]

    as_alone(kit, {"a": Scheduled(lr=1e-3, seed=1), "b": Scheduled(lr=1e-1, seed=2)}, tmp_path)


def test_weights_that_are_not_shared_keep_their_childs_learning_rate(kit):
    class Idiom(kit.Lit):
        def configure_optimizers(self):
            return torch.optim.SGD(self.trainer.model.parameters(), lr=self.hparams.lr)

    pair = Paired(a=Idiom(lr=1e-3, seed=1), b=Idiom(lr=1e-1, seed=2))
    share = Share(Ties("a.net.0.*", "b.net.0.*"), init="first")
    loaders = {"a": kit.loader(1), "b": kit.loader(2)}
    with pytest.warns(UserWarning, match="were given to several optimizers, whose options differ"):
        trainer = kit.fit(pair, loaders, callbacks=[share])
    rates = {
        parameter: group["lr"]
        for group in trainer.optimizers[0].param_groups
        for parameter in group["params"]
    }
    assert pair.b.net[0].weight is pair.a.net[0].weight
    assert rates[pair.a.net[0].weight] == rates[pair.a.net[3].weight] == 1e-3
    assert rates[pair.b.net[3].weight] == 1e-1


def test_what_children_write_to_loggers_and_metrics_is_kept_apart(kit, tmp_path):
    class Writing(kit.Lit):
        def on_train_epoch_end(self):
            self.logger.log_metrics({"direct": self.hparams.lr}, step=self.global_step)
            self.trainer.callback_metrics["written"] = torch.tensor(self.hparams.lr)
            with pytest.raises(AttributeError, match="sets optimizers of a Trainer"):
                self.trainer.optimizers = []

    pair = Paired(a=Writing(lr=0.1), b=Writing(lr=0.2))
    loaders = {"a": kit.loader(1), "b": kit.loader(2)}
    trainer = kit.fit(pair, loaders, logger=CSVLogger(tmp_path))
    written = {(key, value) for _, key, value in kit.logged(trainer.logger) if "direct" in key}
    assert written == {("a/direct", "0.1"), ("b/direct", "0.2")}
    assert trainer.callback_metrics["a/written"] == pytest.approx(0.1)
    assert trainer.callback_metrics["b/written"] == pytest.approx(0.2)


def test_child_may_override_log(kit, tmp_path):
    class Renaming(kit.Lit):
        def log(self, name, value, *args, **kwargs):
            super().log(f"mine/{name}", value, *args, **kwargs)

        def log_dict(self, dictionary, *args, **kwargs):
            super().log_dict({f"dict-{k}": v for k, v in dictionary.items()}, *args, **kwargs)

    pair = as_alone(kit, {"a": Renaming(seed=1), "b": kit.Lit(seed=2)}, tmp_path)
    metrics = set(pair.trainer.callback_metrics)
    assert {"a/mine/train/mae", "a/mine/dict-val/mae", "b/val/mae"} <= metrics
    assert "a/train/mae" not in metrics


def test_child_trains_alone_after_a_pair_and_in_another_pair(kit):
    pair = Paired(a=kit.Lit(seed=1), b=kit.Lit(seed=2))
    kit.fit(pair, {"a": kit.loader(1), "b": kit.loader(2)}, max_epochs=1)
    # Metrics are found by their ids, which a copy does not have.
    child = copy.deepcopy(pair.a)
    kit.fit(child, kit.loader(1), max_epochs=1)
    assert child.trainer.model is child
    again = Paired(c=child, b=pair.b)
    trainer = kit.fit(again, {"c": kit.loader(1), "b": kit.loader(2)}, max_epochs=1)
    assert child.trainer.model is child
    assert {key.partition("/")[0] for key in trainer.callback_metrics} == {"b", "c"}


def test_child_of_a_trained_pair_transfers_its_own_batches(kit):
    class Negating(kit.Lit):
        def on_after_batch_transfer(self, batch, dataloader_idx):
            return [-batch[0], batch[1]]

    pair = Paired(a=Negating(), b=kit.Lit())
    kit.fit(pair, {"a": kit.loader(1), "b": kit.loader(2)}, max_epochs=1)
    batch = [torch.ones(1, 4), torch.ones(1, 1)]
    # `to_onnx` and the like call it.
    assert pair.a._apply_batch_transfer_handler(batch)[0].eq(-1).all()
    assert pair.b._apply_batch_transfer_handler(batch)[0].eq(1).all()


def test_owners_of_loaders(kit):
    loaders = {"a": [kit.loader(1), kit.loader(2)], "b": kit.loader(3)}
    assert find_owners(loaders) == [
        Owner("a", 0, True),
        Owner("a", 1, True),
        Owner("b", 0, False),
    ]


def test_own_metrics_write_through():
    whole = {"a/loss": 1.0, "b/loss": 2.0, "lr": 0.1}
    own = OwnMetrics(whole, "a", ("a", "b"))
    assert dict(own) == {"lr": 0.1, "loss": 1.0}
    own.update(acc=0.5)
    del own["loss"]
    assert whole == {"b/loss": 2.0, "lr": 0.1, "a/acc": 0.5}
