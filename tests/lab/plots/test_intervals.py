import pytest

from lit_share.lab.plots import Interval, intervals, styles

POINTS = {
    "none": Interval(0.8, 0.7, 0.9, "0.80 ± 0.10", [0.75, 0.85]),
    "soft_tie": Interval(0.9, text="0.9", values=[0.9]),
}


def drawn(points=POINTS, **keywords):
    return intervals(points, styles(points), "b/test/acc", **keywords)


def test_a_dot_an_interval_and_the_seeds():
    seeds, none, soft = drawn().data
    assert list(seeds.x) == [0.75, 0.85]
    assert seeds.y[0] > none.y[0]
    assert (none.name, list(none.x), list(none.y)) == ("none", [0.8], [0])
    assert none.error_x.array[0] == pytest.approx(0.1)
    assert none.error_x.arrayminus[0] == pytest.approx(0.1)
    assert none.text[0] == "0.80 ± 0.10"
    # One seed has no interval, and its dot is the seed.
    assert soft.error_x.array is None


def test_the_first_is_on_top():
    axis = drawn().layout.yaxis
    assert list(zip(axis.ticktext, axis.tickvals, strict=True)) == [("none", 0), ("soft_tie", 1)]
    assert axis.range[0] > axis.range[1]


def test_sizes_begin_at_zero():
    assert drawn(from_zero=True).layout.xaxis.rangemode == "tozero"
    (trace,) = drawn({"none": Interval(1.0, -1.0, 3.0)}, from_zero=True).data
    assert (trace.error_x.arrayminus[0], trace.error_x.array[0]) == (1.0, 2.0)


def test_colours_are_those_given():
    look = styles(POINTS)
    assert {trace.marker.color for trace in drawn().data} == {
        look["none"].color,
        look["soft_tie"].color,
    }


def test_names_are_not_read_as_tags():
    points = {"<b>x</b>": Interval(1.0, text="<i>1</i>")}
    figure = drawn(points, title="<u>t</u>")
    (trace,) = figure.data
    assert figure.layout.yaxis.ticktext[0] == trace.name == "&lt;b&gt;x&lt;/b&gt;"
    assert figure.layout.title.text == "&lt;u&gt;t&lt;/u&gt;"
    assert trace.text[0] == "&lt;i&gt;1&lt;/i&gt;"


def test_texts_at_the_edges_turn_inwards():
    points = {"a": Interval(0.0), "b": Interval(0.5), "c": Interval(1.0)}
    assert [trace.textposition for trace in drawn(points).data] == [
        "top right",
        "top center",
        "top left",
    ]


def test_nothing_to_draw():
    assert drawn({}).data == ()
