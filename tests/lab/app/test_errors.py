"""User errors are printed as one line, others with their traceback."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hydra.utils import instantiate
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer

import lit_share as ls
from lit_share.lab.errors import UserError, one_line, user_errors_in_one_line

TARGET = "lit_share.Regularize"


@pytest.fixture(autouse=True)
def _main(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if this file were `train.py`."""
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    monkeypatch.setitem(globals(), "__name__", "__main__")


def bad_ties() -> Any:
    ls.Ties()


def bad_config() -> Any:
    penalty = {"_target_": "lit_share.Penalty", "norm": "l1", "groups": "element", "center": "mean"}
    ties = {"_target_": "lit_share.Ties", "_args_": ["a.*", "b.*.*"]}
    instantiate(
        {"soft_tie": {"_target_": TARGET, "penalty": penalty, "ties": ties, "strength": 1.0}}
    )


def bad_trainer() -> Any:
    Trainer(
        accelerator="cpu", max_epochs=1, fast_dev_run=-1, logger=False, enable_checkpointing=False
    )


def own_error() -> Any:
    json.loads("{")  # a ValueError, but not a user error


def bug() -> Any:
    ls.Ties("a.*").find(None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("task", "told"),
    [
        (bad_ties, "Ties needs at least one pattern"),
        (bad_config, "soft_tie.ties: the patterns of one Ties must have the same number of stars"),
        (bad_trainer, "fast_dev_run"),
    ],
)
def test_what_is_to_be_changed_is_told_alone(
    task: Any, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=told), user_errors_in_one_line():
        task()
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with (
        pytest.raises(Exception, match=told.rpartition(": ")[2]) as caught,
        user_errors_in_one_line(),
    ):
        task()
    assert not isinstance(caught.value, UserError)


@pytest.mark.parametrize("task", [own_error, bug, lambda: [].pop()])
def test_other_errors_keep_their_traceback(task: Any) -> None:
    with pytest.raises((ValueError, TypeError, IndexError)), user_errors_in_one_line():
        task()


def test_errors_that_pass_through_the_users_own_code_keep_their_traceback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(globals(), "__name__", "my_models")
    with pytest.raises(ValueError, match="at least one pattern"), user_errors_in_one_line():
        bad_ties()


def test_what_hydra_wraps_is_unwrapped() -> None:
    with pytest.raises(Exception, match="same number of stars") as caught:
        bad_config()
    assert one_line(caught.value).startswith(
        "lit_share.ties._error.TieError: the patterns of one Ties"
    )
    assert one_line(MisconfigurationException("no")).endswith("MisconfigurationException: no")
