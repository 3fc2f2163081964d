"""Refuse a callback that a running Trainer has already."""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary, ref

from lit_share.lightnings import Callback

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

# Beside the callbacks rather than in them, so that their copies belong to no Trainer.
_TRAINERS: WeakKeyDictionary[Callback, ref[Trainer]] = WeakKeyDictionary()
_LOCK = Lock()


def refuse_two_trainers(callback: Callback, trainer: Trainer) -> None:
    """Raise `ValueError` if another Trainer that is still running has this callback.

    A callback knows one module and its optimizers. The second Trainer would take it from the first
    one, whose training would continue without it.
    """
    # Trainers may run in threads.
    with _LOCK:
        known = _TRAINERS.get(callback)
        other = None
        if known is not None:
            other = known()
        # A Trainer that has failed says so, too, and needs no call to let its callbacks go.
        if other is not None and other is not trainer and other.state.status == "running":
            raise ValueError(
                f"another Trainer that is still running has this {type(callback).__name__}: give "
                "each Trainer callbacks of its own, such as copy.deepcopy(callback)"
            )
        _TRAINERS[callback] = ref(trainer)


def is_of(callback: Callback, trainer: Trainer) -> bool:
    """Whether a callback is that of this Trainer, which was not refused for another one's sake."""
    known = _TRAINERS.get(callback)
    return known is not None and known() is trainer
