"""The Trainer as seen by one child, as it would be if the child were trained alone."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from lit_share.paired._data import PairedData
from lit_share.paired._loaders import comes_by_name, find_owners
from lit_share.paired._optimizer import PairedOptimizer
from lit_share.paired._view import View

if TYPE_CHECKING:
    from lit_share.paired._hooks import Delegating

# Attributes of a Trainer, of which a child sees only its own.
_METRICS = ("callback_metrics", "logged_metrics", "progress_bar_metrics")
_LOADERS = ("train_dataloader", "val_dataloaders", "test_dataloaders", "predict_dataloaders")
# Numbers of batches for each loader, and the attribute with these loaders.
_COUNTS = {
    "num_sanity_val_batches": "val_dataloaders",
    "num_val_batches": "val_dataloaders",
    "num_test_batches": "test_dataloaders",
    "num_predict_batches": "predict_dataloaders",
}


class OwnMetrics(UserDict):
    """A child's metrics by the names that the child gave them, and those of no child.

    What is written goes to `whole`, too, under the child's name.

    Example:
        >>> whole = {"a/loss": 0.1, "b/loss": 0.2, "lr": 0.01}
        >>> own = OwnMetrics(whole, "a", ["a", "b"])
        >>> own["acc"] = 0.9
        >>> own, whole["a/acc"]
        ({'lr': 0.01, 'loss': 0.1, 'acc': 0.9}, 0.9)
    """

    def __init__(self, whole: dict[str, Any], child_name: str, child_names: Iterable[str]) -> None:
        self._whole, self._prefix = whole, f"{child_name}/"
        prefixes = tuple(f"{name}/" for name in child_names)
        common = {key: value for key, value in whole.items() if not key.startswith(prefixes)}
        own = {
            key.removeprefix(self._prefix): value
            for key, value in whole.items()
            if key.startswith(self._prefix)
        }
        # `UserDict.__init__` would write everything to `whole` again.
        self.data = {**common, **own}

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        self._whole[self._prefix + key] = value

    def __delitem__(self, key: str) -> None:
        super().__delitem__(key)
        self._whole.pop(self._prefix + key, None)


def view_trainer(pair: Delegating, trainer: Any, name: str) -> View:
    """Return a Trainer's view for one child of the pair.

    The view has the child as `model`, and the child's optimizers, schedulers, loaders, datamodule,
    logged values and metrics. Loggers write the child's metrics under `name/`. All else is common,
    such as the numbers of epochs and steps: the child is in fact trained for these.
    """
    child = pair.by_name()[name]

    def optimizers() -> list[Any]:
        return [each.parts[name] for each in trainer.optimizers if _is_paired(each)]

    def schedulers() -> list[Any]:
        own = optimizers()
        return [c for c in trainer.lr_scheduler_configs if c.scheduler.optimizer in own]

    def strategy() -> View:
        own = {
            **dict.fromkeys(("model", "lightning_module"), lambda: child),
            **dict.fromkeys(("optimizers", "_lightning_optimizers"), optimizers),
        }
        return View(trainer.strategy, own, name)

    def metrics(kind: str) -> OwnMetrics:
        return OwnMetrics(getattr(trainer, kind), name, pair.child_names)

    def loaders(kind: str) -> Any:
        whole = getattr(trainer, kind)
        # A single loader of joint batches is common to all children.
        if isinstance(whole, Mapping) and set(whole) <= set(pair.child_names):
            return whole.get(name)
        return whole

    def counts(kind: str) -> Any:
        whole, by_name = getattr(trainer, kind), getattr(trainer, _COUNTS[kind])
        if not isinstance(by_name, Mapping) or not isinstance(whole, list):
            return whole
        # Before loaders are set up, the list is empty.
        pairs = zip(whole, find_owners(by_name), strict=False)
        return [count for count, owner in pairs if owner.name == name]

    def results() -> View | None:
        whole = trainer._results
        if whole is None:
            return None
        return View(whole, {"log": lambda: partial(_log, pair, whole, name)}, name)

    def datamodule() -> Any:
        whole = trainer.datamodule
        if isinstance(whole, PairedData):
            return whole.by_name().get(name)
        return whole

    def data_connector() -> View:
        connector = trainer._data_connector

        # It finds who transfers a batch, for exports of a child that the pair has trained.
        def selector() -> Any:
            return type(connector._datahook_selector)(child, datamodule())

        return View(connector, {"_datahook_selector": selector}, name)

    def logger() -> View | None:
        return trainer.logger and _view_logger(trainer.logger, name)

    def loggers() -> list[View]:
        return [_view_logger(each, name) for each in trainer.loggers]

    own: dict[str, Callable[[], Any]] = {
        **dict.fromkeys(("model", "lightning_module"), lambda: child),
        "datamodule": datamodule,
        "_data_connector": data_connector,
        "strategy": strategy,
        "optimizers": optimizers,
        "lr_scheduler_configs": schedulers,
        "logger": logger,
        "loggers": loggers,
        "_results": results,
        **{kind: partial(metrics, kind) for kind in _METRICS},
        **{kind: partial(loaders, kind) for kind in _LOADERS},
        **{kind: partial(counts, kind) for kind in _COUNTS},
    }
    return View(trainer, own, name)


def _is_paired(optimizer: Any) -> bool:
    return isinstance(optimizer, PairedOptimizer)


def _log(
    pair: Delegating, results: Any, name: str, fx: str, key: str, value: Any, **options: Any
) -> None:
    """Log a child's value in the results of the pair's loop, under the child's name."""
    if options["add_dataloader_idx"] and results.dataloader_idx is not None:
        owner = pair.owner_of_loader(results.dataloader_idx)
        if owner.has_several:
            key += f"/dataloader_idx_{owner.index}"
    # Lightning would add the loader's index among those of all children.
    options["add_dataloader_idx"] = False
    if options["metric_attribute"] is not None:
        options["metric_attribute"] = f"{name}.{options['metric_attribute']}"
    # Lightning weights logged values by the size of this batch, which it computes only when
    # `batch_size` is None.
    full_batch = results.batch
    if isinstance(full_batch, Mapping) and comes_by_name(pair.loader()):
        results.batch = full_batch.get(name)
    results.batch_size = None
    try:
        results.log(fx, f"{name}/{key}", value, **options)
    finally:
        results.batch, results.batch_size = full_batch, None


def _view_logger(logger: Any, name: str) -> View:
    def log_metrics(metrics: Mapping[str, Any], *args: Any, **kwargs: Any) -> None:
        prefixed = {f"{name}/{key}": value for key, value in metrics.items()}
        logger.log_metrics(prefixed, *args, **kwargs)

    return View(logger, {"log_metrics": lambda: log_metrics}, name)
