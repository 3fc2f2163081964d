"""Nothing grows with the number of steps; `python -m benchmarks.long_run` measures time too."""

import tracemalloc

import pytest

from benchmarks.long_run import train


@pytest.mark.slow
@pytest.mark.long
def test_memory_stays(tmp_path):
    tracemalloc.start()
    try:
        traced = train(800, str(tmp_path / "run")).traced
    finally:
        tracemalloc.stop()
    kibibytes = 1024 * (traced[-1] - traced[2])
    # The monitor's history is a number for each tie and epoch, of 64 steps, and torch keeps dozens
    # of freed tensors' objects; 64 bytes that are kept in every step would be 35.
    assert kibibytes < 32, traced
