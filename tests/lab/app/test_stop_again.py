"""A run that early stopping had ended is not trained on."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch.callbacks import EarlyStopping

from lit_share.lab.app._stop_again import StopAgain


@pytest.mark.parametrize(
    ("patience", "state", "stops"),
    [
        (0, {}, False),
        (2, {}, False),
        (2, {"wait_count": 1}, False),
        (2, {"wait_count": 2, "stopped_epoch": 5}, True),
        (2, {"wait_count": 0, "stopped_epoch": 5}, True),  # by a threshold
        (1, {"wait_count": 1, "stopped_epoch": 0}, True),  # after the first epoch
    ],
)
def test_whether_it_stops(patience: int, state: dict[str, int], stops: bool) -> None:
    early: Any = EarlyStopping("val", patience=patience)
    early.load_state_dict({**early.state_dict(), **state})
    trainer: Any = SimpleNamespace(callbacks=[early], should_stop=False)
    StopAgain().on_train_start(trainer, None)  # type: ignore[arg-type]
    assert trainer.should_stop is stops
