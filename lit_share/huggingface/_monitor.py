"""`SharingMonitor`: metrics of sharing in `transformers.Trainer`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn
from typing_extensions import override

from lit_share.huggingface._regularize import Regularize
from lit_share.huggingface._transformers import TrainerCallback
from lit_share.metrics import measure_sharing
from lit_share.ties import Tie, Ties, as_ties, distinctly_named


class SharingMonitor(TrainerCallback):
    """Log metrics of sharing at the end of every epoch, as `lit_share.SharingMonitor` names them.

    The Trainer's ``state.log_history`` gets them. For W&B, TensorBoard and the other loggers of the
    Trainer, write ``monitor.log = trainer.log``.

    Args:
        ties: The parameters to compare, or a list of patterns for `Ties`.
        penalties: The `Regularize` callbacks of the Trainer, for ``sharing/penalty``. List them
            before the monitor in ``callbacks=``.
        per_tie: Whether each tie's distance is logged.

    Attributes:
        log: What is called with the metrics by name, in place of ``state.log_history``.

    Raises:
        TieError: When training begins, if the patterns do not fit the model; see `Ties.find`.

    Example:
        >>> monitor = SharingMonitor(["encoder.*.weight", "decoder.*.weight"])
        >>> trainer = Trainer(model, args, callbacks=[monitor])  # doctest: +SKIP
        >>> monitor.log = trainer.log  # doctest: +SKIP
    """

    def __init__(
        self, ties: Ties | Sequence[str], penalties: Sequence[Regularize] = (), per_tie: bool = True
    ) -> None:
        self.ties, self.penalties, self.per_tie = as_ties(ties), penalties, per_tie
        self.log: Callable[[dict[str, float]], Any] | None = None

    @override
    def on_train_begin(
        self, args: Any, state: Any, control: Any, model: nn.Module, **_: Any
    ) -> None:
        self._find(model)

    @override
    def on_epoch_end(self, args: Any, state: Any, control: Any, model: nn.Module, **_: Any) -> None:
        values = measure_sharing(model, self._find(model), self.per_tie)
        if self.penalties:
            values["sharing/penalty"] = sum(penalty.value() for penalty in self.penalties)
        if self.log is not None:
            self.log(values)
        elif state.is_world_process_zero:
            state.log_history.append({**values, "epoch": state.epoch, "step": state.global_step})

    def _find(self, model: nn.Module) -> list[Tie]:
        return distinctly_named([tie for tie in self.ties.find(model) if tie.compares])
