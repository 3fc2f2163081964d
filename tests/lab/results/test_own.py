"""Runs of scripts that are not `train.py` are compared like its own."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import lit_share as ls
from lit_share.lab.report import advise, compare
from lit_share.lab.results import read_results, write_result
from lit_share.metrics import sharing_stats
from lit_share.ties import TieError

SCORES: dict[str, Any] = {"validation": {"new/val/loss": 0.2}, "test": {"new/test/loss": 0.3}}
HEAD: dict[str, Any] = {"strategy": "none", "seed": 0}


def pair() -> nn.ModuleDict:
    layer = nn.Linear(3, 2)
    return nn.ModuleDict({"old": layer, "new": copy.deepcopy(layer)})


def test_what_is_shared_is_measured(tmp_path: Path) -> None:
    model, ties = pair(), ls.Ties("old.*", "new.*")
    nn.init.zeros_(model["new"].bias)
    written = write_result(tmp_path / "a" / "b", **HEAD, **SCORES, module=model, ties=ties)
    (read,) = read_results([tmp_path])
    assert read == written
    assert read.failure is None
    stats = sharing_stats(model, ties)
    assert (read.sharing["unique"], read.sharing["bytes"]) == (stats.unique, stats.bytes)
    assert read.sharing["distance"] > 0
    assert read.tied == {"weight": 1.0, "bias": 0.0}
    assert read.clusters["weight"] == {"old.weight": 0, "new.weight": 0}


def test_tensors_and_settings(tmp_path: Path) -> None:
    scores = {
        key: {k: torch.tensor(v, requires_grad=True) for k, v in own.items()}
        for key, own in SCORES.items()
    }
    more: dict[str, Any] = {"strength": torch.tensor(0.5), "settings": {"data.n_new": 20}}
    write_result(tmp_path, **HEAD, **scores, **more)
    content = json.loads((tmp_path / "result.json").read_text())
    assert content["validation"]["new/val/loss"] == pytest.approx(0.2)
    assert (content["strength"], content["overrides"]) == (0.5, ["data.n_new=20"])
    assert content["sharing"] == {}


def test_three_seeds_of_two_strategies_are_compared(tmp_path: Path) -> None:
    for seed in range(3):
        for strategy, loss in (("none", 0.5 + 0.02 * seed**2), ("soft_tie", 0.3 + 0.01 * seed)):
            own: dict[str, Any] = {"validation": {"val/loss": loss}, "test": {"test/loss": loss}}
            write_result(
                tmp_path / f"{strategy}-{seed}", strategy=strategy, seed=seed, module=pair(), **own
            )
    comparison = compare(read_results([tmp_path]))
    assert [(row.strategy, row.failed) for row in comparison.rows] == [("none", 0), ("soft_tie", 0)]
    ((_, sentences),) = advise(comparison)
    assert sentences[0].startswith("Use `soft_tie`: it is better than `none`")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"validation": {}}, r"^validation: write the metrics by name, validation=\{'loss': 0\.1"),
        ({"test": [{"test/loss": 1.0}]}, r"^test: write .* got \[\{.* return a list of such dicts"),
        ({"validation": {"a": 1.0, "b": 2.0}}, r"^objective: name the metric .*\.\.\.\}: a, b$"),
        ({"objective": "new/val/los"}, r"^objective='new/val/los' .*did you mean 'new/val/loss'"),
        ({"mode": "least"}, r"^mode='least': write 'min' if a small new/val/loss is better"),
        ({"test": {"a": "good"}}, r"^test\['a'\] must be a number, got a str$"),
        ({"test": {"a": torch.ones(2)}}, r"^test\['a'\] must be a number, got a Tensor$"),
        ({"ties": ls.Ties("a.*", "b.*")}, r"^ties are those of a model: add module=model"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, changed: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        write_result(tmp_path / "new", **{**HEAD, **SCORES, **changed})
    assert not (tmp_path / "new").exists()


def test_ties_of_another_model(tmp_path: Path) -> None:
    with pytest.raises(TieError, match=r"'a\.\*' matches no parameter"):
        write_result(tmp_path, **HEAD, **SCORES, module=pair(), ties=ls.Ties("a.*", "new.*"))
