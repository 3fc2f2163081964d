"""Find a misspelt objective or a missing test metric before training."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden
from typing_extensions import override

from lit_share.lab.report import default_metric
from lit_share.paired import Paired


class ObjectiveIsKnown(Callback):
    """Raises if Lightning's sanity check logs metrics, but not the objective.

    Args:
        objective: The name of a validation metric.
    """

    def __init__(self, objective: str) -> None:
        self.objective = objective

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Raise `ValueError` if no validation metric is the objective."""
        if not trainer.sanity_checking or trainer._results is None:
            return
        # The metrics are read as they were logged, because `trainer.callback_metrics` is still
        # empty if there are several loaders.
        known = dict.fromkeys(metric.meta.name for metric in trainer._results.values())
        # Lightning appends these two suffixes to names that it reports.
        name = self.objective.partition("/dataloader_idx_")[0]
        if known and not {self.objective, name, name.removesuffix("_epoch")} & known.keys():
            raise ValueError(unknown_objective(self.objective, known))


def unknown_objective(objective: str, known: Iterable[str]) -> str:
    """Return an error message that lists the metrics that exist."""
    names = ", ".join(known)
    return f"objective={objective} is not among the validation metrics: write one of {names}"


def can_be_tested(model: LightningModule, data: LightningDataModule) -> bool:
    """Whether there are a ``test_step`` and a ``test_dataloader``."""
    has_data = is_overridden("test_dataloader", data) or is_overridden("test_dataloader", model)
    return is_overridden("test_step", model) and has_data


def model_of(objective: str, model: LightningModule) -> tuple[LightningModule, str]:
    """Return the model that logs the objective, and its test step in words.

    The model is a child of a `Paired`, or the model itself.
    """
    child = objective.partition("/")[0]
    if isinstance(model, Paired) and child in model.child_names:
        return model.by_name()[child], f"the test_step of {child!r}"
    return model, "test_step"


def missing_test_metric(
    objective: str, test: Collection[str], model: LightningModule
) -> str | None:
    """Return a warning about the test metric that compares runs; `None` if it was logged."""
    metric = default_metric(objective)
    if metric in test:
        return None
    owner, where = model_of(objective, model)
    name = metric
    if owner is not model:
        name = metric.partition("/")[2]
    return (
        f"there is no test metric {metric!r}, by which runs are compared: write"
        f" self.log({name!r}, ...) in {where}, for which the data module needs a test_dataloader,"
        " and repeat the runs that have finished without it"
    )
