from dataclasses import replace
from itertools import pairwise
from statistics import fmean

import pytest

from lit_share.lab.plots import styles
from lit_share.lab.report import _sections as charts
from lit_share.lab.report import compare
from lit_share.lab.results import read_results

KEYS = [
    "scores", "strengths", "paths", "sizes", "curves", "distances", "learned", "tied", "clusters",
    "costs",
]  # fmt: skip


def sections(results, **keywords):
    comparison = compare(results, **keywords)
    look = styles([row.strategy for row in comparison.rows], comparison.baseline)
    return {section.key: section for section in charts.sections(comparison, look)}


def figures(section):
    return [panel.figure for group in section.groups for panel in group.panels]


@pytest.fixture
def results(sweep):
    return read_results([sweep])


def test_a_figure_per_setting(results):
    found = sections(results)
    assert list(found) == KEYS
    for key in ("scores", "strengths", "sizes", "distances", "tied", "costs"):
        assert [group.title for group in found[key].groups] == ["data.n_b=20", "data.n_b=50"]
    # two ties; memory, bytes and time
    assert [len(group.panels) for group in found["distances"].groups] == [2, 2]
    assert [len(group.panels) for group in found["costs"].groups] == [3, 3]
    # The sweep ties pairs, by strengths that are given.
    assert [key for key, section in found.items() if section.missing] == [
        "paths", "learned", "clusters"
    ]  # fmt: skip


def test_the_same_strategy_has_the_same_colour_everywhere(results):
    expected = {name: style.color for name, style in styles(["none", "soft_tie"]).items()}
    seen = set()
    for section in sections(results).values():
        for figure in figures(section):
            for trace in figure.data:
                if trace.name in expected:
                    assert trace.marker.color == expected[trace.name]
                    seen.add((section.key, trace.name))
    assert len(seen) == 2 * len(set(KEYS) - {"paths", "learned", "tied", "clusters"})


def test_scores_are_those_of_the_table(results):
    comparison = compare(results)
    dots = [
        trace
        for figure in figures(sections(results)["scores"])
        for trace in figure.data
        if trace.name
    ]
    assert [dot.x[0] for dot in dots] == [row.score.mean for row in comparison.rows]
    assert [dot.error_x.array[0] for dot in dots] == pytest.approx(
        [row.score.margin for row in comparison.rows]
    )


def test_the_curve_is_over_the_number_that_varies(results):
    (figure,) = figures(sections(results)["curves"])
    lines = {trace.name: trace for trace in figure.data if trace.name}
    assert list(lines) == ["none", "soft_tie"]
    assert list(lines["none"].x) == [20, 50]
    assert list(lines["none"].y) == pytest.approx([0.53, 0.56])
    assert figure.layout.xaxis.title.text == "data.n_b"


def test_other_settings_have_panels_of_their_own(results):
    results += [replace(result, data="mnist") for result in results]
    (group,) = sections(results)["curves"].groups
    assert [panel.figure.layout.title.text for panel in group.panels] == [
        "data=digits",
        "data=mnist",
    ]


@pytest.mark.parametrize("value", ["relu", "20"])
def test_no_curve_over_words_or_one_number(results, value):
    results = [
        replace(r, overrides=[o.replace("data.n_b=50", f"data.n_b={value}") for o in r.overrides])
        for r in results
    ]
    curves = sections(results)["curves"]
    assert not curves.groups
    assert "No numeric override has several values" in curves.missing


def test_sizes_show_all_strengths_and_mark_the_chosen(results):
    front, *points = figures(sections(results)["sizes"])[0].data
    open_ = [trace for trace in points if trace.marker.symbol.endswith("-open")]
    assert [trace.text[0] for trace in open_] == [
        "soft_tie, strength 0.01",
        "soft_tie, strength 0.1",
    ]
    assert front.name == "Pareto front"


def test_the_strength_path(results):
    traces = figures(sections(results)["strengths"])[0].data
    score, distance = [trace for trace in traces if trace.name == "soft_tie"]
    assert list(score.x) == list(distance.x) == [0.01, 0.1]
    assert list(score.y) == pytest.approx([0.63, 0.63])
    assert list(distance.y) == [0.5, 0.5]
    # Validation chose the larger one for all seeds.
    assert list(score.marker.symbol) == ["square-open", "square"]
    # `none` has no strength, and is a level line.
    assert [list(trace.y) for trace in traces if trace.name == "none"] == [
        pytest.approx([0.53, 0.53]),
        [0.5, 0.5],
    ]


def test_no_strength_path_of_one_strength(results):
    found = sections([r for r in results if r.strength != 0.01])["strengths"]
    assert not found.groups
    assert "No strategy was tried with several strengths" in found.missing


def test_a_strength_path_without_distances(results):
    found = sections([replace(r, sharing={}) for r in results])["strengths"]
    assert [trace.name for trace in figures(found)[0].data if trace.name] == ["none", "soft_tie"]


def test_of_what_else_is_tuned_a_strength_has_the_best_run_of_each_seed(results):
    tuned = [replace(r, tune=["data.n_b"]) for r in results]
    (figure,) = figures(sections(tuned)["strengths"])
    score = next(trace for trace in figure.data if trace.name == "soft_tie")
    # 50 examples are better on validation data than 20.
    assert list(score.y) == pytest.approx([0.66, 0.66])


def test_distances_are_means_over_seeds_as_far_as_all_were_trained(results):
    histories = {0: [1.0, 0.5, 0.25], 1: [0.0, 0.5], 2: [2.0, 0.5, 0.5]}
    results = [
        replace(r, distances={"w": histories[r.seed]}) for r in results if r.strategy == "none"
    ]
    (line,) = figures(sections(results)["distances"])[0].data
    assert (list(line.x), list(line.y)) == ([0, 1], [fmean([1.0, 0.0, 2.0]), 0.5])


def test_tied_fractions_are_means_over_seeds(results):
    (drawn,) = figures(sections(results)["tied"])[0].data
    assert (list(drawn.x), list(drawn.y)) == (["none", "soft_tie"], ["trunk.weight", "head.weight"])
    assert [list(row) for row in drawn.z] == [[0.25, 1.0], [0.0, 0.0]]


def of_three(results, labels):
    """The results of soft_tie with clusters of three models: a function of seed and strength."""
    with_clusters = []
    for run in results:
        if run.strategy == "soft_tie":
            own = dict(zip(("a.w", "b.w", "c.w"), labels(run.seed, run.strength), strict=True))
            run = replace(run, clusters={"w": own, "pair": {"a.v": 0, "b.v": 1}})
        with_clusters.append(run)
    return with_clusters


def test_clusters_are_those_of_the_first_seed_and_their_number_over_the_strengths(results):
    labels = {0.01: {0: (0, 1, 2), 1: (0, 1, 2), 2: (0, 0, 1)}, 0.1: {0: (0, 0, 1), 1: (0, 0, 1)}}
    found = sections(of_three(results, lambda s, at: labels[at].get(s, (0, 0, 0))))["clusters"]
    assert [group.title for group in found.groups] == ["data.n_b=20", "data.n_b=50"]
    picture, path = [panel.figure for panel in found.groups[0].panels]
    assert picture.layout.title.text == "data.n_b=20: soft_tie"
    run = "seed 0, strength 0.1; the same in 2 of 3 seeds"
    assert picture.layout.xaxis.title.text == run
    assert list(picture.data[0].y) == ["w"]
    assert [list(row) for row in picture.data[0].z] == [[1, 1, 0]]
    assert list(path.data[0].x) == ["0.01", "0.1"]
    assert list(path.data[0].z[0]) == [fmean([3, 3, 2]), fmean([2, 2, 1])]
    assert found.missing == ""


def test_clusters_of_one_seed_and_one_strength(results):
    (one,) = [
        r
        for r in of_three(results, lambda *_: (0, 1, 1))
        if (r.strategy, r.seed, r.strength) == ("soft_tie", 0, 0.1) and "data.n_b=20" in r.overrides
    ]
    (picture,) = figures(sections([one])["clusters"])
    assert picture.layout.title.text == "soft_tie"
    assert picture.layout.xaxis.title.text == "seed 0, strength 0.1"


def test_strategies_after_which_no_members_are_equal_are_named(results):
    found = sections(of_three(results, lambda *_: (0, 1, 2)))["clusters"]
    assert not found.groups
    assert found.missing == "In some settings no members are equal after soft_tie."
    one = [r for r in of_three(results, lambda *_: (0, 1, 2)) if "data.n_b=20" in r.overrides]
    assert sections(one)["clusters"].missing == "No members are equal after soft_tie."


def test_clusters_of_many_members_are_not_drawn(results):
    many = {"w": {f"w[{i}]": i for i in range(charts.MOST_MEMBERS + 1)}}
    found = sections([replace(run, clusters=many) for run in results])["clusters"]
    assert not found.groups
    assert "No run ties three to 40 members" in found.missing


def test_learned_strengths(results):
    for i, result in enumerate(results):
        own = {"weight": [0.1, 0.2 * (1 + i % 2)]} if result.strategy == "soft_tie" else {}
        results[i] = replace(result, strengths=own)
    found = sections(results)["learned"]
    assert found.missing == ""
    (figure, *_) = figures(found)
    assert figure.layout.yaxis.type == "log"
    (line,) = figure.data
    assert line.name == "soft_tie"
    assert line.y[0] == pytest.approx(0.1)
    assert 0.2 <= line.y[1] <= 0.401


def test_of_many_ties_the_first_are_drawn(results):
    many = {f"layer{i}": [1.0, 0.5] for i in range(30)}
    found = sections([replace(result, distances=many) for result in results])["distances"]
    assert len(found.groups[0].panels) == charts.MOST_TIES
    assert "6 more ties are not drawn" in found.missing


def test_results_of_older_versions(results):
    old = [
        replace(r, distances={}, tied={}, training_bytes=None, sharing={}, seconds=None)
        for r in results
    ]
    found = sections(old)
    for key in ("sizes", "distances", "tied", "clusters", "costs"):
        assert not found[key].groups
        assert found[key].missing
    assert found["scores"].groups
    assert found["curves"].groups


def test_what_some_runs_lack(results):
    some = [
        replace(r, distances={}, tied={}, training_bytes=None) if r.strategy == "none" else r
        for r in results
    ]
    found = sections(some)
    assert [trace.name for trace in figures(found["distances"])[0].data] == ["soft_tie"]
    assert list(figures(found["tied"])[0].data[0].x) == ["soft_tie"]
    assert found["costs"].missing == ""


def test_one_seed_and_one_strategy(results):
    (one,) = [
        r for r in results if (r.strategy, r.seed) == ("none", 0) and "data.n_b=20" in r.overrides
    ]
    found = sections([one])
    assert [group.title for group in found["scores"].groups] == [""]
    (dot,) = figures(found["scores"])[0].data
    assert dot.error_x.array is None
    assert not found["curves"].groups


def test_all_runs_failed(results):
    found = sections([replace(result, status="failed", error="x") for result in results])
    assert not any(section.groups for section in found.values())
    assert all(section.missing for section in found.values())


def test_a_strategy_that_failed_everywhere_is_not_drawn(results):
    failed = [replace(r, status="failed") if r.strategy == "soft_tie" else r for r in results]
    (dot,) = [trace for trace in figures(sections(failed)["scores"])[0].data if trace.name]
    assert dot.name == "none"


def test_the_axis_of_curves_is_sorted(results):
    for figure in figures(sections(results)["curves"]):
        for trace in figure.data:
            if trace.name:
                assert all(a < b for a, b in pairwise(trace.x))
