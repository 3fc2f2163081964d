"""Killed while it writes a file: earlier files are intact, and training resumes from them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lit_share import load_compact
from lit_share.lab.sweeps import checkpoint_to_resume

from .._programs import run
from . import _killed
from ._training import Lit, assert_bitwise
from ._uninterrupted import assert_resumes, uninterrupted

pytestmark = [pytest.mark.slow, pytest.mark.multiprocess]


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """Where those that were killed have left their files."""
    base = tmp_path_factory.mktemp("killed")
    paths = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(paths),
        "OMP_NUM_THREADS": "1",
        "TMPDIR": str(base),
    }
    done = run(["-m", "tests.resume._killed", base], cwd=base, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    return base


@pytest.mark.parametrize("kill", _killed.KILLS)
@pytest.mark.parametrize("name", _killed.NAMES)
def test_training_goes_on_from_the_checkpoint_before(name, kill, killed, tmp_path_factory):
    whole = uninterrupted(name, tmp_path_factory.getbasetemp())
    folder = _killed.folder_of(killed, name, kill) / "checkpoints"
    assert_resumes(name, whole, folder / "epoch=1.ckpt")


@pytest.mark.parametrize("kill", _killed.KILLS)
def test_last_checkpoint_of_a_sweep_is_whole(kill, killed, tmp_path_factory):
    name = _killed.NAMES[0]
    whole = uninterrupted(name, tmp_path_factory.getbasetemp())
    assert_resumes(name, whole, checkpoint_to_resume(_killed.folder_of(killed, name, kill)))


@pytest.mark.parametrize("kill", _killed.COMPACT_KILLS)
def test_compact_file_is_the_one_before(kill, killed):
    module = Lit(seeds=(5, 6))
    load_compact(_killed.folder_of(killed, kill) / "pair.safetensors", module)
    assert_bitwise(dict(module.state_dict()), dict(Lit(seeds=(1, 2)).state_dict()))
