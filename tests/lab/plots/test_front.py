import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_share.lab.plots import Interval, Point, pareto_front, score_against_size, styles

points = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=8)


def bettered(point, other, mode):
    """The definition: nowhere worse and somewhere better."""
    better = (lambda a, b: a > b) if mode == "max" else (lambda a, b: a < b)
    worse_nowhere = other[0] <= point[0] and not better(point[1], other[1])
    return worse_nowhere and (other[0] < point[0] or better(other[1], point[1]))


@given(points, st.sampled_from(["min", "max"]))
def test_the_front_is_what_nothing_betters(points, mode):
    expected = {
        i for i, p in enumerate(points) if not any(bettered(p, other, mode) for other in points)
    }
    front = pareto_front(points, mode)
    assert set(front) == expected
    assert [points[i][0] for i in front] == sorted(points[i][0] for i in front)


def test_a_score_that_is_not_a_number_is_not_on_it():
    assert pareto_front([(1, math.nan), (2, 0.5)]) == [1]


POINTS = [
    Point("none", 200, Interval(0.8, 0.7, 0.9)),
    Point("hard_tie", 100, Interval(0.85), "strength 1"),
    Point("l2", 300, Interval(0.7)),
]
LOOK = styles([point.strategy for point in POINTS])


def test_the_front_is_marked():
    front, *traces = score_against_size(POINTS, LOOK, "b/test/acc").data
    assert (front.name, list(front.x), list(front.y)) == ("Pareto front", [100], [0.85])
    assert [trace.name for trace in traces] == ["none", "hard_tie", "l2"]
    assert traces[0].error_y.array[0] == pytest.approx(0.1)


def test_small_scores_can_be_good():
    front = score_against_size(POINTS, LOOK, "b/test/loss", "min").data[0]
    assert list(front.x) == [100, 200, 300]


def test_no_front_where_it_is_not_known_what_is_good():
    assert [trace.name for trace in score_against_size(POINTS, LOOK, "x", None).data] == [
        "none",
        "hard_tie",
        "l2",
    ]


def test_what_was_not_chosen_is_not_on_the_front():
    others = [Point("l2", 1, Interval(1.0))]
    front, other, *_ = score_against_size(POINTS, LOOK, "x", others=others).data
    assert list(front.x) == [100]
    assert other.showlegend is False


@pytest.mark.parametrize(("size", "type_"), [(200, "linear"), (5000, "log")])
def test_the_axis_is_logarithmic_where_sizes_span_a_decade(size, type_):
    figure = score_against_size([*POINTS, Point("none", size, Interval(0.1))], LOOK, "x")
    assert figure.layout.xaxis.type == type_
