"""Finding out about a misspelt objective before training, not after its first epoch."""

from __future__ import annotations

from collections.abc import Iterable

from lightning.pytorch import Callback, LightningModule, Trainer


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
        name = self.objective.partition("/dataloader_idx_")[0]  # what Lightning adds to names, and its "_epoch"
        if known and not {self.objective, name, name.removesuffix("_epoch")} & known.keys():
            raise ValueError(unknown_objective(self.objective, known))


def unknown_objective(objective: str, known: Iterable[str]) -> str:
    """The message that names what could be meant."""
    return f"objective={objective} is not among the validation metrics: write one of {', '.join(known)}"
