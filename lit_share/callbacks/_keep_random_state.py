"""`KeepRandomState`, a callback that keeps the states of random number generators."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import distributed
from typing_extensions import override

from lit_share.callbacks._generators import random_states, set_random_states
from lit_share.lightnings import Callback

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer


class KeepRandomState(Callback):
    """Keep the states of all random number generators in checkpoints, and restore them.

    Lightning 2.6 keeps none, so that a resumed training has other dropout masks and another order
    of its data than an uninterrupted one. This callback keeps the generators of PyTorch (CPU and
    all devices of the Trainer's type), NumPy and Python, and those that training loaders and their
    samplers were given as ``generator=``. Seeds of worker processes come from these. Each process
    of a distributed training has its own. They add about 12 kB per process to a checkpoint.

    States are restored when a `fit` with ``ckpt_path`` resumes training, after all
    ``on_train_start`` hooks, wherever the callback is in the list. Training then is bitwise as if
    it had not been interrupted,

    - from the end of an epoch, or from a validation at its end: always;
    - from within an epoch: if the loaders keep their place, with ``state_dict`` and
      ``load_state_dict``, as Lightning asks of them;
    - from the last batch of an epoch before its validation: unless the global generator shuffles
      the data, as Lightning leaves out this validation.

    Warns:
        UserWarning: If the checkpoint has states of another number of processes, devices or
            loaders, which are not restored; or none at all.

    Example:
        >>> trainer = Trainer(callbacks=[KeepRandomState()])  # doctest: +SKIP
        >>> trainer.fit(module, ckpt_path="last.ckpt")  # doctest: +SKIP
    """

    def __init__(self) -> None:
        # The states of each process, from a checkpoint that is being resumed.
        self._ranks: list[Mapping[str, Any]] = []
        self._is_first_epoch = False

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        # Whatever an evaluation has loaded, or a training that an exception ended has left.
        self._ranks, self._is_first_epoch = [], False
        for loop, method in _hooked(trainer):
            vars(loop).pop(method, None)

    @override
    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        # `state_dict` does not know of the Trainer's processes and loaders.
        own = random_states(trainer.strategy.root_device, trainer.train_dataloader)
        ranks = [own]
        if trainer.world_size > 1 and distributed.is_available() and distributed.is_initialized():
            ranks = [own] * trainer.world_size
            distributed.all_gather_object(ranks, own)
        checkpoint["callbacks"][self.state_key] = {"ranks": ranks}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._ranks = list(state_dict["ranks"])

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._ranks:
            if trainer.ckpt_path is not None:
                rank_zero_warn(
                    "the checkpoint has no states of random number generators, so that training "
                    "resumes with other random numbers: save checkpoints with KeepRandomState"
                )
            return
        self._is_first_epoch = True
        # The next thing that Lightning does after all hooks of this name.
        (fit_loop, method), _ = _hooked(trainer)
        _call_once_before(fit_loop, method, lambda: self._restore(trainer))

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._is_first_epoch and trainer.current_epoch:
            # Lightning made the iterator of this epoch before states were restored, but draws the
            # order of the data and the seeds of workers when it makes one.
            _, (epoch_loop, method) = _hooked(trainer)
            _call_once_before(epoch_loop, method, iter)

    @override
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._is_first_epoch = False

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # A checkpoint of a validation goes on with the end of its epoch.
        self._is_first_epoch = False

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Training had ended before it was resumed, and something else may follow.
        if self._ranks:
            self._restore(trainer)

    def _restore(self, trainer: Trainer) -> None:
        ranks, self._ranks = self._ranks, []
        if len(ranks) != trainer.world_size:
            problems = [f"{len(ranks)} processes (now {trainer.world_size})"]
        else:
            device = trainer.strategy.root_device
            own = ranks[trainer.global_rank]
            problems = set_random_states(own, device, trainer.train_dataloader)
        if problems:
            rank_zero_warn(
                f"the checkpoint has random states of {' and of '.join(problems)}, which are not "
                "restored: training resumes with other random numbers"
            )


def _hooked(trainer: Trainer) -> tuple[tuple[Any, str], tuple[Any, str]]:
    """Return where states are restored, and where the iterator of an epoch is made anew."""
    fit_loop = trainer.fit_loop
    return (fit_loop, "on_advance_start"), (fit_loop.epoch_loop, "on_run_start")


def _call_once_before(loop: Any, method: str, function: Callable[..., Any]) -> None:
    """Call a function before the next call of a loop's method, with the same arguments."""

    # Callbacks have no hook there, which comes neither before nor after those of others.
    def first(*args: Any) -> Any:
        del vars(loop)[method]
        function(*args)
        return getattr(loop, method)(*args)

    setattr(loop, method, first)
