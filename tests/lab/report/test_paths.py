"""The figures of paths that runs have walked."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lit_share.lab.plots import styles
from lit_share.lab.report import _sections as charts
from lit_share.lab.report import compare
from lit_share.lab.results import read_results

STRENGTHS = [0.0, 0.01, 0.1]


@pytest.fixture
def results(sweep):
    return read_results([sweep])


def walked(run, chosen):
    knots = [
        {
            "strength": strength,
            "score": 0.5 + strength,
            "error": 0.02,
            "distance": 0.5 - strength,
            "tied": {"w": 10.0 * strength, "v": 0.0},
            "clusters": {"w": 3 - number},
        }
        for number, strength in enumerate(STRENGTHS)
    ]
    path = {"score": "b/val/acc", "chosen": chosen, "knots": knots}
    clusters = {"w": {"a.w": 0, "b.w": 0, "c.w": 1}}
    return replace(run, strategy="soft_tie path", strength_path=path, clusters=clusters)


def panels(results):
    comparison = compare(results)
    look = styles([row.strategy for row in comparison.rows], comparison.baseline)
    found = {section.key: section for section in charts.sections(comparison, look)}
    return [panel for group in found["paths"].groups for panel in group.panels]


def test_the_path_of_the_first_run_is_drawn(results):
    runs = [run for run in results if run.strategy == "soft_tie" and run.strength == 0.1]
    runs = [walked(run, chosen=1 + (run.seed == 0)) for run in runs]
    others = [run for run in results if run.strategy == "none"]
    first, second, *_ = panels([*others, *runs])
    score, distance, tied = first.figure.data
    assert list(score.x) == [0.001, 0.01, 0.1]
    assert list(score.y) == pytest.approx([0.5, 0.51, 0.6])
    assert list(score.error_y.array) == [0.02] * 3
    assert [symbol.endswith("-open") for symbol in score.marker.symbol] == [True, True, False]
    assert list(distance.y) == pytest.approx([0.5, 0.49, 0.4])
    assert list(tied.y) == pytest.approx([0.0, 0.05, 0.5])
    seeds = len({run.seed for run in runs})
    title = first.figure.layout.title.text
    assert title.endswith(f"seed 0, strength 0.1 chosen; the same in 1 of {seeds} seeds")
    assert [list(row) for row in second.figure.data[0].text] == [["3", "2", "1"]]


def test_runs_without_a_path(results):
    assert panels(results) == []
