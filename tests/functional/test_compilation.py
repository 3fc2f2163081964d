"""Loops are compiled once, and say so."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

STEP = """
import sys, torch
from lit_share.functional import Penalty, TieBatch, TieTensors, prox_owl
from lit_share.functional import _fused
assert "numba" not in sys.modules
_fused._LONG = {long}
pair = [torch.ones(3), torch.zeros(3)]
tie = TieTensors(pair, grads=[torch.zeros(3), torch.zeros(3)], steps=[0.1, 0.1])
for norm, groups in (("squared", "element"), ("l1", "element")):
    batch = TieBatch(Penalty(norm, groups, "mean"), [tie])
    batch.add_gradient_(0.5) if norm == "squared" else batch.prox_()
assert [grad.tolist() for grad in tie.grads] == [[0.5] * 3, [-0.5] * 3]
assert prox_owl(torch.tensor([3.0, -2.5, 0.5]), torch.ones(3)).tolist() == [2.0, -1.5, 0.0]
assert "numba" in sys.modules
"""


# Directories that begin with `writable` are the only ones that files can be made in.
READ_ONLY = """
import tempfile
make = tempfile.TemporaryFile

def make_or_raise(*args, dir=None, **kwargs):
    if not str(dir).startswith({writable!r}):
        raise OSError(30, "Read-only file system", dir)
    return make(*args, dir=dir, **kwargs)

tempfile.TemporaryFile = make_or_raise
"""


def run(code, long, **variables):
    """Run code in which compilations are announced after ``long`` seconds; return its log."""
    environment = {k: v for k, v in os.environ.items() if k != "NUMBA_CACHE_DIR"} | variables
    command = [sys.executable, "-c", code.format(long=long)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    return done.stderr


def times_of(directory):
    return {path: path.stat().st_mtime_ns for path in directory.rglob("*.nbc")}


def assert_cached_once(code, directory, **variables):
    """Check that one run announces what it compiles, and that the next one compiles nothing."""
    assert "it is cached for later runs" in run(code, long=0, **variables)
    cached = times_of(directory)
    assert cached
    assert run(code, long=60, **variables) == ""
    assert times_of(directory) == cached


@pytest.mark.slow
@pytest.mark.multiprocess
def test_what_takes_long_is_said_once_for_a_machine(tmp_path):
    assert_cached_once(STEP, tmp_path, NUMBA_CACHE_DIR=str(tmp_path))


@pytest.mark.slow
@pytest.mark.multiprocess
def test_read_only_installs_are_cached_in_the_home_directory(tmp_path):
    code = READ_ONLY.format(writable=str(tmp_path)) + STEP
    directories = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    assert_cached_once(code, tmp_path, **directories)


@pytest.mark.slow
@pytest.mark.multiprocess
def test_loops_are_compiled_where_nothing_can_be_written():
    code = READ_ONLY.format(writable="/nowhere") + STEP
    assert "set NUMBA_CACHE_DIR to a writable directory" in run(code, long=0)


@pytest.mark.slow
@pytest.mark.multiprocess
def test_loops_are_compiled_where_the_disk_is_full(tmp_path):
    """Numba finds that it can make a file, but cannot write to it."""
    full = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
"""
    log = run(full + STEP, long=60, NUMBA_CACHE_DIR=str(tmp_path))
    assert "cannot be cached" in log
    assert "set NUMBA_CACHE_DIR to a directory with free space" in log


def test_without_numba_the_plain_path_is_taken(tmp_path):
    (tmp_path / "numba.py").write_text("raise ImportError")
    code = STEP.format(long=2).replace(
        'assert "numba" in sys.modules', 'assert "numba" not in sys.modules'
    )
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
