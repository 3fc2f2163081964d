import pytest

from lit_share.lab.plots import KnotPoint, knot_path, styles

LOOK = styles(["soft_tie"])["soft_tie"]
KNOTS = [
    KnotPoint(0.0, 0.7, 0.05, 0.9, 0.0),
    KnotPoint(0.1, 0.8, None, 0.4, 0.25),
    KnotPoint(1.0, 0.6, 0.04, 0.0, 1.0),
]


def test_the_score_is_above_what_is_equal():
    score, distance, tied = knot_path(KNOTS, 1, LOOK, "acc").data
    assert list(score.y) == [0.7, 0.8, 0.6]
    assert list(score.error_y.array) == [0.05, 0.0, 0.04]
    assert list(distance.y) == [0.9, 0.4, 0.0]
    assert list(tied.y) == [0.0, 0.25, 1.0]
    assert (score.yaxis, distance.yaxis, tied.yaxis) == ("y", "y2", "y2")


def test_the_chosen_knot_is_filled():
    score, *_ = knot_path(KNOTS, 2, LOOK, "acc").data
    assert [symbol.endswith("-open") for symbol in score.marker.symbol] == [True, True, False]
    assert list(score.text) == ["", "", ", chosen"]


def test_axes():
    layout = knot_path(KNOTS, 1, LOOK, "a<b>", title="one").layout
    assert layout.xaxis2.type == "log"
    assert list(layout.xaxis2.ticktext) == ["0", "0.1", "1"]
    assert list(layout.xaxis2.tickvals) == pytest.approx([0.01, 0.1, 1.0])
    assert layout.yaxis.title.text == "a&lt;b&gt;"
    assert layout.title.text == "one"


def test_without_ties_there_is_one_panel():
    figure = knot_path([KnotPoint(0.0, 0.7), KnotPoint(0.1, 0.8)], 0, LOOK, "acc")
    assert len(figure.data) == 1
    assert figure.layout.xaxis.title.text == "strength"
