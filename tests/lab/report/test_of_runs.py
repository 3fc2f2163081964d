"""What runs of the application leave is what the page shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from lit_share.lab.results import read_results

from ..._programs import run

ROOT = Path(__file__).parents[3]
TIES = ["trunk.linear0.weight", "trunk.linear0.bias", "trunk.linear1.weight", "trunk.linear1.bias"]
TIES += ["head.weight", "head.bias"]
NUMBERS = 17_940  # of a pair of networks


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Three runs of two epochs, by strategy, and the directory of their sweep."""
    directory = tmp_path_factory.mktemp("sweep")
    options = [
        "debug=fast",
        "trainer.max_epochs=2",
        "callbacks=quiet",
        "logger=none",
        f"hydra.sweep.dir={directory}",
    ]
    strategies = "regularizer=none,hard_tie,soft_tie"
    run([ROOT / "train.py", "-m", strategies, *options], cwd=directory, check=True)
    return {result.strategy: result for result in read_results([directory])}, directory


@pytest.mark.slow
def test_distances_are_of_the_start_and_all_epochs(sweep):
    results, _ = sweep
    for result in results.values():
        assert list(result.distances) == TIES
        assert {len(history) for history in result.distances.values()} == {3}
    assert all(history[0] == 0.0 for history in results["none"].distances.values())
    assert any(history[-1] > 0.0 for history in results["none"].distances.values())
    assert all(history == [0.0] * 3 for history in results["hard_tie"].distances.values())


@pytest.mark.slow
def test_tied_fractions(sweep):
    results, _ = sweep
    assert results["hard_tie"].tied == dict.fromkeys(TIES, 1.0)
    assert list(results["none"].tied) == TIES
    assert all(0.0 <= fraction < 1.0 for fraction in results["none"].tied.values())


@pytest.mark.slow
def test_clusters(sweep):
    results, _ = sweep
    for name, labels in (("hard_tie", [0, 0]), ("none", [0, 1])):
        assert list(results[name].clusters) == TIES
        for tie in TIES:
            assert list(results[name].clusters[tie].values()) == labels


@pytest.mark.slow
def test_training_bytes_are_of_each_number_once(sweep):
    """Adam has two numbers for each, beside the number and its gradient, and a step per tensor."""
    results, _ = sweep
    assert results["none"].training_bytes == 4 * (4 * NUMBERS + 2 * len(TIES))
    assert results["hard_tie"].training_bytes == 4 * (4 * NUMBERS // 2 + len(TIES))


@pytest.mark.slow
def test_the_page_shows_them(sweep):
    _, directory = sweep
    html = (directory / "report.html").read_text()
    for text in (*TIES, "287,088", "143,544", "regularizer=soft_tie", "max_epochs: 2"):
        assert text in html
