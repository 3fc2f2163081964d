"""`Share`: hard sharing in a Trainer."""

from __future__ import annotations

from functools import partial
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from lit_share.callbacks._optimizers import remove_duplicate_parameters
from lit_share.sharing import Tie, TieError, Ties, share
from lit_share.sharing._hard import Init


class Share(Callback):
    """Makes the members of each tie one Parameter before training.

    Modules that are built in ``__init__`` are shared in ``setup``; modules that are built later, in the module's own
    ``setup`` or ``configure_model``, before the strategy wraps them and makes optimizers. Parameters that an
    optimizer was given twice are stepped once, in the group that had them first.

    Args:
        ties: Which parameters are shared.
        init: The shared value: the ``"mean"`` of the members, or the ``"first"`` member.

    Raises:
        TieError: Before training starts, if the ties do not fit the module, or cannot be shared; see `share`.

    Example:
        >>> trainer = Trainer(  # doctest: +SKIP
        ...     callbacks=[Share(Ties("encoder_a.*", "encoder_b.*"))]
        ... )
    """

    def __init__(self, ties: Ties, init: Init = "mean") -> None:
        self.ties, self.init = ties, init
        self.found: list[Tie] = []

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        try:
            self.found = share(pl_module, self.ties, self.init)
        except TieError:
            # The module may not be complete yet; if the ties are wrong, this raises again.
            strategy = trainer.strategy
            strategy.setup = partial(self._setup_strategy, strategy.setup, pl_module)  # type: ignore[method-assign]

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        remove_duplicate_parameters(trainer.optimizers)

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.found = []

    def _setup_strategy(self, setup: Any, pl_module: LightningModule, trainer: Trainer) -> None:
        trainer.strategy.setup = setup  # type: ignore[method-assign]
        self.found = share(pl_module, self.ties, self.init)
        setup(trainer)
