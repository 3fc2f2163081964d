"""The metrics are those of the monitor for Lightning."""

from __future__ import annotations

import pytest

import lit_share as ls
from lit_share.huggingface import Regularize, SharingMonitor

from ._training import EPOCHS, hugging_face, lightning

TIES = ls.Ties("a.*", "b.*")


@pytest.mark.parametrize("penalty", ["soft_tie", "layer_tie"])
def test_the_metrics_are_those_of_lightning(penalty):
    ours = Regularize(penalty, TIES, 0.2)
    trainer = hugging_face(ours, SharingMonitor(TIES, [ours]))
    _, other = lightning(ls.Regularize(penalty, TIES, 0.2), ls.SharingMonitor())
    logged = [entry for entry in trainer.state.log_history if "sharing/distance" in entry]
    assert [entry["epoch"] for entry in logged] == [1, 2, 3]
    assert logged[0]["sharing/distance"] != logged[-1]["sharing/distance"]
    theirs = {k: float(v) for k, v in other.callback_metrics.items() if k.startswith("sharing")}
    assert theirs.keys() == logged[-1].keys() - {"epoch", "step"}
    assert "sharing/distance_of/0.weight" in theirs
    for name, value in theirs.items():
        assert logged[-1][name] == pytest.approx(value, rel=1e-5), name


def test_the_log_of_the_trainer_gets_them():
    monitor, seen = SharingMonitor(TIES, per_tie=False), []
    monitor.log = seen.append
    trainer = hugging_face(monitor)
    assert len(seen) == EPOCHS
    assert set(seen[0]) == {
        f"sharing/{name}"
        for name in ("sparsity", "unique", "compression", "distance", "tied", "clusters")
    }
    assert not any("sharing/distance" in entry for entry in trainer.state.log_history)


def test_wrong_patterns():
    with pytest.raises(ls.TieError, match=r"c\.\*"):
        hugging_face(SharingMonitor(["a.*", "c.*"]))
