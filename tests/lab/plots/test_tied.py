import pytest

from lit_share.lab.plots import tied_heatmap


def test_rows_are_ties_and_columns_are_strategies():
    (drawn,) = tied_heatmap({"none": {"w": 0.0, "v": 0.5}, "hard_tie": {"w": 1.0, "v": 1.0}}).data
    assert (list(drawn.x), list(drawn.y)) == (["none", "hard_tie"], ["w", "v"])
    assert [list(row) for row in drawn.z] == [[0.0, 1.0], [0.5, 1.0]]
    assert (drawn.zmin, drawn.zmax) == (0.0, 1.0)


def test_a_tie_that_one_strategy_has_not():
    (drawn,) = tied_heatmap({"a": {"w": 0.0}, "b": {"v": 1.0}}).data
    assert [list(row) for row in drawn.z] == [[0.0, None], [None, 1.0]]
    assert [list(row) for row in drawn.text] == [["0 %", ""], ["", "100 %"]]


@pytest.mark.parametrize(
    ("fraction", "text"),
    [(0.0, "0 %"), (1e-5, "&lt;1 %"), (0.1234, "12 %"), (0.99999, "99 %"), (1.0, "100 %")],
)
def test_only_nothing_is_0_and_only_all_is_100(fraction, text):
    assert tied_heatmap({"a": {"w": fraction}}).data[0].text[0][0] == text


def test_nothing_to_draw():
    assert list(tied_heatmap({}).data[0].z) == []
