"""Finding out about a misspelt objective before training, not after its first epoch, and about its test metric."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden

from lit_share.lab.report import default_metric
from lit_share.paired import Paired


class ObjectiveIsKnown(Callback):
    """Raises if the few batches of validation before training log other metrics, but not the objective.

    Args:
        objective: Name of a validation metric.
    """

    def __init__(self, objective: str) -> None:
        self.objective = objective

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Look for the objective.

        Raises:
            ValueError: If it is not there.
        """
        if not trainer.sanity_checking or trainer._results is None:
            return
        # Metrics as they were logged: `trainer.callback_metrics` is empty here, if there are several loaders.
        known = dict.fromkeys(metric.meta.name for metric in trainer._results.values())
        name = self.objective.partition("/dataloader_idx_")[
            0
        ]  # what Lightning adds to names, and its "_epoch"
        if known and not {self.objective, name, name.removesuffix("_epoch")} & known.keys():
            raise ValueError(unknown_objective(self.objective, known))


def unknown_objective(objective: str, known: Iterable[str]) -> str:
    """The message that names what could be meant."""
    return f"objective={objective} is not among the validation metrics: write one of {', '.join(known)}"


def can_be_tested(model: LightningModule, data: LightningDataModule) -> bool:
    """Whether there is something to run in tests, and data for it."""
    has_data = is_overridden("test_dataloader", data) or is_overridden("test_dataloader", model)
    return is_overridden("test_step", model) and has_data


def model_of(objective: str, model: LightningModule) -> tuple[LightningModule, str]:
    """The model that logs the objective, a child of a `Paired` or the model itself, and where that is."""
    child = objective.partition("/")[0]
    if isinstance(model, Paired) and child in model.child_names:
        return model.get_submodule(child), f"the test_step of {child!r}"  # type: ignore[return-value]
    return model, "test_step"


def missing_test_metric(
    objective: str, test: Collection[str], model: LightningModule
) -> str | None:
    """The message that names what is to be logged in tests, by which runs are compared; `None` if it was."""
    metric = default_metric(objective)
    if metric in test:
        return None
    owner, where = model_of(objective, model)
    name = metric if owner is model else metric.partition("/")[2]
    return (
        f"there is no test metric {metric!r}, by which runs are compared: write self.log({name!r}, ...) in {where}, "
        "for which the data module needs a test_dataloader, and run anew what has finished without it"
    )
