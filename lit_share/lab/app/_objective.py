"""Find a misspelt objective or a missing test metric before training."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, Literal, TypeAlias

from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from typing_extensions import override

from lit_share.lab.report import default_metric
from lit_share.lightnings import Callback, is_overridden
from lit_share.paired import Paired

Mode: TypeAlias = Literal["min", "max"]
# By torchmetrics' `higher_is_better`.
MODES: dict[bool, Mode] = {False: "min", True: "max"}


class ObjectiveIsKnown(Callback):
    """Raises if Lightning's sanity check logs metrics, but not the objective, or one to be turned.

    Args:
        objective: The name of a validation metric.
        mode: Whether it is maximised or minimised.

    Attributes:
        better: For metrics of torchmetrics that were logged as objects, whether a large or a small
            one is better, by name.
    """

    def __init__(self, objective: str, mode: Mode) -> None:
        self.objective = objective
        self.mode = mode
        self.better: dict[str, Mode] = {}

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Raise `ValueError` if no validation metric is the objective, or it has another mode."""
        self._note(trainer)
        if not trainer.sanity_checking or trainer._results is None:
            return
        # The metrics are read as they were logged, because `trainer.callback_metrics` is still
        # empty if there are several loaders.
        known = dict.fromkeys(metric.meta.name for metric in trainer._results.values())
        # Lightning appends these two suffixes to names that it reports.
        name = self.objective.partition("/dataloader_idx_")[0]
        if known and not {self.objective, name, name.removesuffix("_epoch")} & known.keys():
            raise ValueError(unknown_objective(self.objective, known))
        if self.better.get(name, self.mode) != self.mode:
            better = self.better[name]
            raise ValueError(
                f"objective={self.objective} mode={self.mode} would choose the worst checkpoint, "
                f"as this metric of torchmetrics says: write mode={better}"
            )

    @override
    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note which test metrics are better large or small."""
        self._note(trainer)

    def _note(self, trainer: Trainer) -> None:
        if trainer._results is None:
            return
        own: dict[str, Mode] = {}
        for result in trainer._results.values():
            # Of a metric that was logged as a number, nothing is known.
            is_better_large = getattr(result.value, "higher_is_better", None)
            if is_better_large is not None:
                own[result.meta.name] = MODES[is_better_large]
        # What all models log alike is the same in their mean.
        suffixes: dict[str, set[Mode]] = {}
        for name, mode in own.items():
            suffixes.setdefault(name.partition("/")[2], set()).add(mode)
        means = {f"mean/{name}": mode for name, (mode, *more) in suffixes.items() if not more}
        self.better |= {name: mode for name, mode in means.items() if name not in own} | own


def better_of(trainer: Trainer) -> dict[str, Mode]:
    """Return whether large or small metrics are better, of those that a trainer has noted."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    found: dict[str, Mode] = {}
    for callback in callbacks:
        if isinstance(callback, ObjectiveIsKnown):
            found |= callback.better
    return found


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
