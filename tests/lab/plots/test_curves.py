import pytest

from lit_share.lab.plots import Curve, curves, styles

LINES = {
    "none": Curve([20, 100], [0.6, 0.8], [0.5, 0.7], [0.7, 0.9]),
    "soft_tie": Curve([20, 100], [0.7, 0.8], [None, 0.75], [None, 0.85]),
}
LOOK = styles(LINES)


def test_a_line_per_strategy_in_its_style():
    lines = [trace for trace in curves(LINES, LOOK, "n", "acc").data if trace.name]
    assert [(line.name, list(line.x), list(line.y)) for line in lines] == [
        ("none", [20, 100], [0.6, 0.8]),
        ("soft_tie", [20, 100], [0.7, 0.8]),
    ]
    assert [line.line.color for line in lines] == [LOOK[name].color for name in LINES]
    assert len({line.line.dash for line in lines}) == 2


def test_bands_are_where_there_are_intervals():
    bands = [trace for trace in curves(LINES, LOOK, "n", "acc").data if not trace.name]
    assert [(list(band.x), list(band.y)) for band in bands] == [
        ([20, 100, 100, 20], [0.7, 0.9, 0.7, 0.5]),
        ([100, 100], [0.85, 0.75]),
    ]


def test_no_intervals_no_bands():
    assert len(curves({"none": Curve([0, 1], [1.0, 0.5])}, LOOK, "epoch", "distance").data) == 1


@pytest.mark.parametrize(("last", "type_"), [(100, None), (200, "log")])
def test_the_axis_is_logarithmic_where_numbers_span_a_decade(last, type_):
    figure = curves({"none": Curve([20, 50, last], [1, 2, 3])}, LOOK, "n", "acc")
    assert figure.layout.xaxis.type == type_
    assert list(figure.layout.xaxis.tickvals) == [20, 50, last]


def test_without_markers_only_the_end_has_one():
    (line,) = curves(
        {"none": Curve([0, 1, 2], [1, 2, 3])}, LOOK, "epoch", "distance", markers=False
    ).data
    assert list(line.marker.size) == [0, 0, 9]


def test_names_are_not_read_as_tags():
    name = "<b>x</b>"
    (line,) = curves({name: Curve([1], [1])}, styles([name]), "<n>", "<m>").data
    assert line.name == "&lt;b&gt;x&lt;/b&gt;"
