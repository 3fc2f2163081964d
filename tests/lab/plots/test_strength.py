import pytest

from lit_share.lab.plots import Curve, StrengthPath, strength_path, styles

SCORE = Curve([0.1, 1.0, 10.0], [0.6, 0.8, 0.7], [0.5, None, 0.6], [0.7, None, 0.8])
DISTANCE = Curve([0.1, 1.0, 10.0], [0.9, 0.4, 0.0])
PATHS = {"soft_tie": StrengthPath(SCORE, DISTANCE, [1.0, 1.0, 10.0, 1.0])}
LOOK = styles(["none", "hard_tie", "soft_tie"])


def lines(figure):
    return [trace for trace in figure.data if trace.name]


def test_the_score_is_above_the_distance():
    score, distance = lines(strength_path(PATHS, LOOK, "acc"))
    assert list(score.y) == [0.6, 0.8, 0.7]
    assert list(distance.y) == [0.9, 0.4, 0.0]
    assert (score.yaxis, distance.yaxis) == ("y", "y2")
    assert (score.showlegend, distance.showlegend) == (True, False)
    assert score.line.color == distance.line.color == LOOK["soft_tie"].color


def test_axes():
    layout = strength_path(PATHS, LOOK, "acc", title="all").layout
    assert layout.xaxis.type == layout.xaxis2.type == "log"
    assert layout.xaxis.matches == "x2"
    assert (layout.yaxis.title.text, layout.yaxis2.title.text) == ("acc", "relative distance")
    assert (layout.xaxis.title.text, layout.xaxis2.title.text) == ("", "strength")
    assert list(layout.xaxis2.ticktext) == ["0.1", "1", "10"]
    assert layout.title.text == "all"


def test_what_was_chosen_is_marked():
    score, distance = lines(strength_path(PATHS, LOOK, "acc"))
    symbol = LOOK["soft_tie"].symbol
    for line in (score, distance):
        assert list(line.marker.symbol) == [f"{symbol}-open", symbol, symbol]
        none, most, few = line.marker.size
        assert none < few < most
        assert list(line.text) == ["", ", chosen for 3 of 4 seeds", ", chosen for 1 of 4 seeds"]


def test_bands_are_where_there_are_intervals():
    (band,) = [trace for trace in strength_path(PATHS, LOOK, "acc").data if not trace.name]
    assert list(band.x) == [0.1, 10.0, 10.0, 0.1]
    assert list(band.y) == [0.7, 0.8, 0.6, 0.5]


def test_strategies_without_a_strength_are_level():
    figure = strength_path(PATHS, LOOK, "acc", {"none": (0.65, 0.95), "hard_tie": (0.75, None)})
    levels = [trace for trace in lines(figure) if trace.name != "soft_tie"]
    assert [(level.name, list(level.x), list(level.y)) for level in levels] == [
        ("none", [0.1, 10.0], [0.65, 0.65]),
        ("hard_tie", [0.1, 10.0], [0.75, 0.75]),
        ("none", [0.1, 10.0], [0.95, 0.95]),
    ]
    assert {level.mode for level in levels} == {"lines"}


def test_without_distances_there_is_one_panel():
    figure = strength_path({"soft_tie": StrengthPath(SCORE)}, LOOK, "acc", {"none": (0.65, 0.9)})
    assert [trace.name for trace in lines(figure)] == ["none", "soft_tie"]
    assert figure.layout.xaxis.title.text == "strength"
    assert "yaxis2" not in figure.to_dict()["layout"]


def test_zero_stands_at_the_left():
    (line,) = strength_path(
        {"soft_tie": StrengthPath(Curve([0.0, 0.5], [1, 2]), chosen=[0.0])}, LOOK, "acc"
    ).data
    assert list(line.x) == [pytest.approx(0.05), 0.5]
    assert line.marker.symbol[0] == LOOK["soft_tie"].symbol
    axis = strength_path(
        {"soft_tie": StrengthPath(Curve([0.0, 0.5], [1, 2]))}, LOOK, "acc"
    ).layout.xaxis
    assert list(axis.ticktext) == ["0", "0.5"]
    (line,) = strength_path({"soft_tie": StrengthPath(Curve([0.0], [1]))}, LOOK, "acc").data
    assert list(line.x) == [pytest.approx(0.1)]


def test_zero_is_labelled_zero_among_many_strengths():
    many = Curve([0.0, *(10.0**k for k in range(11))], range(12))
    axis = strength_path({"soft_tie": StrengthPath(many)}, LOOK, "acc").layout.xaxis
    assert axis.ticktext[:2] == ("0", "1")
    assert axis.tickvals[:2] == (0.1, 1.0)


def test_numbers_at_the_axis_have_room():
    close = Curve([0.01, 0.03, 0.1 / 3, 0.1, 0.0999999, 10.0], range(6))
    axis = strength_path({"soft_tie": StrengthPath(close)}, LOOK, "acc").layout.xaxis
    assert list(axis.ticktext) == ["0.01", "0.03", "0.1", "10"]


def test_names_are_not_read_as_tags():
    name = "<b>x</b>"
    figure = strength_path(
        {name: StrengthPath(SCORE)}, styles([name]), "<i>m</i>", title="<u>t</u>"
    )
    assert lines(figure)[0].name == "&lt;b&gt;x&lt;/b&gt;"
    assert figure.layout.yaxis.title.text == "&lt;i&gt;m&lt;/i&gt;"
    assert figure.layout.title.text == "&lt;u&gt;t&lt;/u&gt;"


def test_nothing_to_draw():
    assert strength_path({}, {}, "acc").data == ()
    assert strength_path({}, LOOK, "acc", {"none": (0.5, 0.5)}).data == ()
