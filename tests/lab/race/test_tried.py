"""The outcomes of trials, as results have them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from lit_share.lab.race import Tried, tried_in

LAYERS = {"a.head": ["a.head.*"]}


def test_a_paused_trial_has_the_best_objective(tmp_path: Path, write: Any) -> None:
    write(tmp_path, status="pruned", course=[0.5, 0.625], layers=LAYERS)
    assert tried_in(tmp_path) == Tried(0.625, LAYERS)


def test_a_trial_that_ended_early_has_that_of_its_checkpoint(tmp_path: Path, write: Any) -> None:
    write(tmp_path, val=0.75, course=[0.5], layers=LAYERS)
    assert tried_in(tmp_path) == Tried(0.75, LAYERS)


@pytest.mark.parametrize(
    "ended", [{"status": "failed"}, {"status": "pruned", "course": [math.nan]}]
)
def test_failures_have_no_score(tmp_path: Path, write: Any, ended: dict[str, Any]) -> None:
    write(tmp_path, **({"layers": LAYERS} | ended))
    outcome = tried_in(tmp_path)
    assert outcome is not None
    assert outcome.score is None


@pytest.mark.parametrize("text", ["", "[]", '{"status": "pruned"}'])
def test_other_files_are_no_outcomes(tmp_path: Path, text: str) -> None:
    assert tried_in(tmp_path) is None
    (tmp_path / "result.json").write_text(text)
    assert tried_in(tmp_path) is None
