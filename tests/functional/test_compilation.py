"""Loops are compiled once, and say so."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

STEP = """
import sys, torch
from lit_share.functional import Penalty, TieBatch, TieTensors
from lit_share.functional import _fused
assert "numba" not in sys.modules
_fused._LONG = {long}
pair = [torch.ones(3), torch.zeros(3)]
tie = TieTensors(pair, grads=[torch.zeros(3), torch.zeros(3)], steps=[0.1, 0.1])
for norm, groups in (("squared", "element"), ("l1", "element")):
    batch = TieBatch(Penalty(norm, groups, "mean"), [tie])
    batch.add_gradient_(0.5) if norm == "squared" else batch.prox_()
assert [grad.tolist() for grad in tie.grads] == [[0.5] * 3, [-0.5] * 3]
assert "numba" in sys.modules
"""


@pytest.mark.slow
@pytest.mark.multiprocess
def test_what_takes_long_is_said_once_for_a_machine(tmp_path):
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}

    def run(long):
        command = [sys.executable, "-c", STEP.format(long=long)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
        return done.stderr

    assert "compiling a loop of the penalties" in run(long=0)
    cached = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nbc")}
    assert cached
    assert run(long=60) == ""
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nbc")} == cached


def test_without_numba_the_plain_path_is_taken(tmp_path):
    (tmp_path / "numba.py").write_text("raise ImportError")
    code = STEP.format(long=2).replace(
        'assert "numba" in sys.modules', 'assert "numba" not in sys.modules'
    )
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
