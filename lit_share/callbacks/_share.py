"""`Share`: hard sharing in a Trainer."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import Strategy
from typing_extensions import override

from lit_share.callbacks._optimizers import remove_duplicate_parameters
from lit_share.sharing import Tie, TieError, Ties, share
from lit_share.sharing._hard import Init

# What a Trainer calls on its strategy once the module is complete, and no callback can see: with a checkpoint it is
# loaded first, then the module is wrapped and optimizers are made.
_AFTER_CONFIGURE_MODEL = ("load_model_state_dict", "setup")


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
        # The module may not be complete yet: it is shared again when it is, and if the ties are wrong, that raises.
        with suppress(TieError):
            share(pl_module, self.ties, self.init)
        for name in _AFTER_CONFIGURE_MODEL:
            method = getattr(trainer.strategy, name)
            setattr(trainer.strategy, name, partial(self._share_first, trainer.strategy, name, method, pl_module))

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        remove_duplicate_parameters(trainer.optimizers)

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.found = []
        _unwrap(trainer.strategy)

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        _unwrap(trainer.strategy)

    def _share_first(
        self, strategy: Strategy, name: str, method: Callable, module: LightningModule, *args: Any, **kwargs: Any
    ) -> Any:
        setattr(strategy, name, method)
        self.found = share(module, self.ties, self.init)
        return method(*args, **kwargs)


def _unwrap(strategy: Strategy) -> None:
    for name in _AFTER_CONFIGURE_MODEL:
        vars(strategy).pop(name, None)
