"""Your own tables in `train.py`, without code: regression and labels, by any metrics."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lit_share.lab.app.run import run
from lit_share.lab.report import compare
from lit_share.lab.results import read_results

from .conftest import Compose

FAST = ("debug=fast", "logger=none", "callbacks=quiet", "ties.patterns=[old.net.*,new.net.*]")


@pytest.fixture
def tables(tmp_path: Path) -> tuple[str, ...]:
    """Two files with the columns x, z, y and two labels; the override that names them."""
    rng = np.random.default_rng(0)
    for name in ("old", "new"):
        x = rng.normal(size=(40, 2))
        y = x @ [1.0, -2.0]
        rows = np.column_stack([x, y, y > 0, x[:, 0] > 0])
        np.savetxt(
            tmp_path / f"{name}.csv", rows, "%.4f", ",", header="x,z,y,up,right", comments=""
        )
    files = f"data.files={{old:{tmp_path}/old.csv,new:{tmp_path}/new.csv}}"
    return ("data=tables", files, "data.n_val=8", "data.n_test=10")


def result_of(compose: Compose, folder: Path, *overrides: str) -> dict[str, Any]:
    run(compose(*FAST, *overrides, output_dir=folder), folder, [])
    content: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return content


@pytest.mark.slow
def test_numbers_by_an_error_of_all_models(
    compose_config: Compose, tmp_path: Path, tables: tuple[str, ...]
) -> None:
    own = ("data.targets=[y]", "data.ignore=[up,right]", "model=regression")
    max_error = "+model.learner.metrics.mae._target_=torchmetrics.MeanAbsoluteError"
    objective = ("objective=mean/val/mae", "mode=min")
    found = result_of(compose_config, tmp_path / "0", *tables, *own, max_error, *objective)
    for metric in ("loss", "mse", "r2", "mae"):
        both = [found["test"][f"{name}/test/{metric}"] for name in ("old", "new")]
        assert found["test"][f"mean/test/{metric}"] == pytest.approx(sum(both) / 2)
    assert found["better"]["new/test/r2"] == "max"
    assert found["better"]["mean/test/mae"] == "min"
    assert found["versions"]["torch"]
    results = read_results([tmp_path / "0"])
    assert compare(results).better == "min"
    # Its direction is known, although runs were chosen by another metric.
    assert compare(results, "new/test/r2").better == "max"


def test_several_labels(compose_config: Compose, tmp_path: Path, tables: tuple[str, ...]) -> None:
    own = ("data.targets=[up,right]", "data.ignore=[y]", "data.kind=labels", "model=multilabel")
    objective = ("objective=new/val/f1", "mode=max")
    found = result_of(compose_config, tmp_path / "0", *tables, *own, *objective)
    assert {"new/test/f1", "old/test/acc", "old/test/auroc"} <= found["test"].keys()


def test_a_metric_says_which_direction_is_worse(
    compose_config: Compose, tmp_path: Path, tables: tuple[str, ...]
) -> None:
    own = ("data.targets=[y]", "data.ignore=[up,right]", "model=regression")
    for objective, mode in (("new/val/r2", "min"), ("mean/val/r2", "min")):
        with pytest.raises(ValueError, match=f"objective={objective} mode=min would .* mode=max"):
            result_of(
                compose_config,
                tmp_path / "0",
                *tables,
                *own,
                f"objective={objective}",
                f"mode={mode}",
            )
